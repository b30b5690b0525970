// winograd.cpp: convolutions of 3×3 or 3×3×3 kernels with stride 1 and same padding, by Winograd's
// minimal filtering F(2, 3) along each axis: forward pass, gradients of input and weight.
//
// A tile of 2×2×2 outputs needs 4×4×4 inputs. Both are transformed by sums and differences, after
// which 64 products of (tiles × channels) by (channels × channels) matrices replace the 27·8 = 216
// of the plain sum: 3.4 times less arithmetic, 2.25 times for flat kernels. Rounding errors in
// float32 are similar to those of the plain sum (mostly smaller: fewer products are added in
// sequence). For bfloat16 tensors the transformed operands are rounded to bfloat16 if the CPU
// multiplies pairs of them; sums are float32, and the weight is not rounded before. Algorithm:
// Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015), §4; the gradients are
// its adjoints.
//
// All tensors are channels-last. A task is a block of tiles, transformed into a buffer that fits in
// a core's cache.
#include "winograd.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define LNT_WINOGRAD 1
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "channels.h"

namespace lnt::winograd {

#ifdef LNT_WINOGRAD

#define LNT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512cd,fma,bmi2")))
#define LNT_BF16 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512bf16,fma,bmi2")))
#define LNT_INLINE inline __attribute__((always_inline))

namespace {

using Num = Vector<float>::num;

constexpr int64_t kTiles = 32;  // per block
constexpr int64_t kRows = 8;    // per register block of a product
constexpr int64_t kPair = 32;   // its maximum number of columns: two vectors
constexpr int64_t kMost = 64;   // maximum number of points per tile

// Size of a weight gradient's sums from which they are not kept per core, and of the data then
// transformed at a time.
constexpr int64_t kCached = 1 << 20;
constexpr int64_t kTransformed = 1 << 23;

// The image as tiles of 2 by 2 (by 2, where NZ is 4; else the kernel is flat).
struct Grid {
  int64_t n, d, h, w;
  int64_t td, th, tw;
  bool deep;
  int64_t points() const { return deep ? 64 : 16; }
  int64_t tiles() const { return n * td * th * tw; }
  int64_t blocks() const { return (tiles() + kTiles - 1) / kTiles; }
};

Grid grid_of(const at::Tensor& x, bool deep) {
  Grid g{};
  g.n = x.size(0);
  g.d = x.dim() == 5 ? x.size(2) : 1;
  g.h = x.size(x.dim() - 2);
  g.w = x.size(x.dim() - 1);
  g.deep = deep;
  g.td = deep ? (g.d + 1) / 2 : g.d;
  g.th = (g.h + 1) / 2;
  g.tw = (g.w + 1) / 2;
  return g;
}

// The first output of a tile.
struct Place {
  int64_t n, z, y, x;
};

LNT_INLINE Place place_of(const Grid& g, int64_t tile) {
  int64_t x = tile % g.tw;
  tile /= g.tw;
  int64_t y = tile % g.th;
  tile /= g.th;
  int64_t z = tile % g.td;
  return {tile / g.td, g.deep ? 2 * z : z, 2 * y, 2 * x};
}

// Transforms of one tile, 16 channels. What they write or read has one vector per point, `step`
// values apart.

LNT_INLINE void in4(Num d0, Num d1, Num d2, Num d3, Num* t) {
  t[0] = d0 - d2;
  t[1] = d1 + d2;
  t[2] = d2 - d1;
  t[3] = d1 - d3;
}

// Inputs 4×4×4 at x, strides of its axes in elements.
template <class L, int NZ>
LNT_INLINE void input_tile(const typename L::mem* x, int64_t sz, int64_t sy, int64_t sx, float* v,
                           int64_t step) {
  Num t[NZ][4][4];
  for (int z = 0; z < NZ; z++) {
    Num a[4][4];
    for (int y = 0; y < 4; y++) {
      const auto* p = x + z * sz + y * sy;
      in4(L::get(p), L::get(p + sx), L::get(p + 2 * sx), L::get(p + 3 * sx), a[y]);
    }
    for (int i = 0; i < 4; i++) {
      Num b[4];
      in4(a[0][i], a[1][i], a[2][i], a[3][i], b);
      for (int y = 0; y < 4; y++) t[z][y][i] = b[y];
    }
  }
  for (int y = 0; y < 4; y++) {
    for (int i = 0; i < 4; i++) {
      float* to = v + (y * 4 + i) * step;
      if constexpr (NZ == 1) {
        Vector<float>::put(to, t[0][y][i]);
      } else {
        Num b[4];
        in4(t[0][y][i], t[1][y][i], t[2][y][i], t[3][y][i], b);
        for (int z = 0; z < 4; z++) Vector<float>::put(to + z * 16 * step, b[z]);
      }
    }
  }
}

// Outputs 2×2×2 of a tile's products, into out[z][y][x].
template <int NZ>
LNT_INLINE void output_tile(const float* m, int64_t step, Num out[][2][2]) {
  Num t[NZ][2][2];
  for (int z = 0; z < NZ; z++) {
    Num a[4][2];
    for (int y = 0; y < 4; y++) {
      const float* p = m + (z * 16 + y * 4) * step;
      Num m0 = Vector<float>::get(p), m1 = Vector<float>::get(p + step),
          m2 = Vector<float>::get(p + 2 * step), m3 = Vector<float>::get(p + 3 * step);
      a[y][0] = m0 + m1 + m2;
      a[y][1] = m1 - m2 - m3;
    }
    for (int i = 0; i < 2; i++) {
      t[z][0][i] = a[0][i] + a[1][i] + a[2][i];
      t[z][1][i] = a[1][i] - a[2][i] - a[3][i];
    }
  }
  for (int y = 0; y < 2; y++) {
    for (int i = 0; i < 2; i++) {
      if constexpr (NZ == 1) {
        out[0][y][i] = t[0][y][i];
      } else {
        out[0][y][i] = t[0][y][i] + t[1][y][i] + t[2][y][i];
        out[1][y][i] = t[1][y][i] - t[2][y][i] - t[3][y][i];
      }
    }
  }
}

LNT_INLINE void out4(Num y0, Num y1, Num* t) {
  t[0] = y0;
  t[1] = y0 + y1;
  t[2] = y0 - y1;
  t[3] = -y1;
}

// The adjoint of output_tile.
template <int NZ>
LNT_INLINE void gradient_tile(Num dy[][2][2], float* v, int64_t step) {
  Num t[NZ][2][2];
  for (int y = 0; y < 2; y++) {
    for (int i = 0; i < 2; i++) {
      if constexpr (NZ == 1) {
        t[0][y][i] = dy[0][y][i];
      } else {
        Num b[4];
        out4(dy[0][y][i], dy[1][y][i], b);
        for (int z = 0; z < 4; z++) t[z][y][i] = b[z];
      }
    }
  }
  for (int z = 0; z < NZ; z++) {
    Num a[2][4];
    for (int i = 0; i < 2; i++) out4(t[z][0][i], t[z][1][i], a[i]);
    for (int y = 0; y < 4; y++) {
      Num b[4];
      out4(a[0][y], a[1][y], b);
      for (int i = 0; i < 4; i++) Vector<float>::put(v + (z * 16 + y * 4 + i) * step, b[i]);
    }
  }
}

LNT_INLINE void filter4(Num g0, Num g1, Num g2, Num* t) {
  Num s = (g0 + g2) * 0.5F;
  Num h = g1 * 0.5F;
  t[0] = g0;
  t[1] = s + h;
  t[2] = s - h;
  t[3] = g2;
}

// The adjoint of filter4.
LNT_INLINE void filter3(Num u0, Num u1, Num u2, Num u3, Num* g) {
  Num s = (u1 + u2) * 0.5F;
  g[0] = u0 + s;
  g[1] = (u1 - u2) * 0.5F;
  g[2] = s + u3;
}

// Products.

// c = a·b, or c += a·b: kRows rows by N vectors. Row i, column k of a is a[i*ai + k*ak]. All are
// float32.
template <int N, bool Add>
LNT_AVX512 LNT_INLINE void product(const float* a, int64_t ai, int64_t ak, const float* b,
                                   int64_t ldb, float* c, int64_t ldc, int64_t depth) {
  __m512 s[kRows][N];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) s[i][j] = _mm512_setzero_ps();
  for (int64_t k = 0; k < depth; k++) {
    __m512 v[N];
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) v[j] = _mm512_loadu_ps(b + k * ldb + 16 * j);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i++) {
      __m512 f = _mm512_set1_ps(a[i * ai + k * ak]);
#pragma GCC unroll 2
      for (int j = 0; j < N; j++) s[i][j] = _mm512_fmadd_ps(f, v[j], s[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) {
      float* to = c + i * ldc + 16 * j;
      _mm512_storeu_ps(to, Add ? _mm512_add_ps(_mm512_loadu_ps(to), s[i][j]) : s[i][j]);
    }
}

// The same with pairs of bfloat16 as elements of a and b; both products are added.
template <int N, bool Add>
LNT_BF16 LNT_INLINE void product_pairs(const float* a, int64_t ai, int64_t ak, const float* b,
                                       int64_t ldb, float* c, int64_t ldc, int64_t depth) {
  __m512 s[kRows][N];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) s[i][j] = _mm512_setzero_ps();
  for (int64_t k = 0; k < depth; k++) {
    __m512bh v[N];
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) v[j] = (__m512bh)_mm512_loadu_ps(b + k * ldb + 16 * j);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i++) {
      __m512bh f = (__m512bh)_mm512_set1_ps(a[i * ai + k * ak]);
#pragma GCC unroll 2
      for (int j = 0; j < N; j++) s[i][j] = _mm512_dpbf16_ps(s[i][j], f, v[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) {
      float* to = c + i * ldc + 16 * j;
      _mm512_storeu_ps(to, Add ? _mm512_add_ps(_mm512_loadu_ps(to), s[i][j]) : s[i][j]);
    }
}

// What transforms have written, `points` vectors at `from`, rounded to bfloat16: 16 of them take
// eight numbers' room.
LNT_BF16 LNT_INLINE void round_points(const float* from, int64_t points, float* to, int64_t step) {
  for (int64_t p = 0; p < points; p++) {
    __m256bh h = _mm512_cvtneps_pbh(_mm512_load_ps(from + 16 * p));
    std::memcpy(to + p * step, &h, sizeof h);
  }
}

// Two of them as pairs, 16 numbers; b may be null.
LNT_BF16 LNT_INLINE void pair_points(const float* a, const float* b, int64_t points, float* to,
                                     int64_t step) {
  for (int64_t p = 0; p < points; p++) {
    __m512i low = _mm512_maskz_cvtepu16_epi32(
        0xffff, (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(a + 16 * p)));
    if (b != nullptr)
      low = _mm512_or_si512(
          low, _mm512_maskz_slli_epi32(
                   0xffff,
                   _mm512_maskz_cvtepu16_epi32(
                       0xffff, (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(b + 16 * p))),
                   16));
    _mm512_storeu_si512(to + p * step, low);
  }
}

// Blocks of tiles.

// A tile's inputs: in place if inside the image, otherwise copied to `edge` with zero padding.
template <class E>
struct Inputs {
  const typename E::mem* p;
  int64_t sz, sy, sx;
};

template <class E>
LNT_INLINE Inputs<E> inputs_of(const Grid& g, const Rows<E>& x, int64_t c, Place at,
                               typename E::mem* edge) {
  int64_t z0 = g.deep ? at.z - 1 : at.z, y0 = at.y - 1, x0 = at.x - 1;
  int64_t nz = g.deep ? 4 : 1;
  if (z0 >= 0 && z0 + nz <= g.d && y0 >= 0 && y0 + 4 <= g.h && x0 >= 0 && x0 + 4 <= g.w) {
    return {x.at(at.n, (z0 * g.h + y0) * g.w + x0), g.h * g.w * x.voxel, g.w * x.voxel, x.voxel};
  }
  for (int64_t z = 0; z < nz; z++) {
    for (int64_t y = 0; y < 4; y++) {
      for (int64_t i = 0; i < 4; i++) {
        auto* to = edge + ((z * 4 + y) * 4 + i) * c;
        bool in = z0 + z >= 0 && z0 + z < g.d && y0 + y >= 0 && y0 + y < g.h && x0 + i >= 0 &&
                  x0 + i < g.w;
        if (in) {
          std::memcpy(to, x.at(at.n, ((z0 + z) * g.h + y0 + y) * g.w + x0 + i), c * sizeof(*to));
        } else {
          std::memset(to, 0, c * sizeof(*to));
        }
      }
    }
  }
  return {edge, 16 * c, 4 * c, c};
}

// Layout of transformed values: for each point one row per tile with all channels, in float32. For
// CPUs that multiply pairs of bfloat16 they are rounded to bfloat16: pairs of channels in a tile's
// row for products over channels, or pairs of tiles in one row for products over tiles, in half the
// space.
enum Form { kFloat, kChannelPairs, kTilePairs };

// Distance between the rows of consecutive points: not a power of two, which would cause cache
// conflicts.
LNT_INLINE int64_t step_of(Form form, int64_t channels, int64_t tiles = kTiles) {
  return tiles * channels / (form == kFloat ? 1 : 2) + 16;
}

// Number of values in the rows of the given number of tiles.
LNT_INLINE int64_t rows_of(Form form, int64_t channels, int64_t tiles) {
  return form == kFloat ? tiles * channels : (tiles + 1) / 2 * channels;
}

template <class E, int NZ>
LNT_AVX512 void inputs_block(const Grid& g, const Rows<E>& x, int64_t c, int64_t first,
                             int64_t count, typename E::mem* edge, float* v, int64_t step) {
  for (int64_t t = 0; t < count; t++) {
    auto in = inputs_of<E>(g, x, c, place_of(g, first + t), edge);
    for (int64_t i = 0; i < c; i += kWidth)
      input_tile<typename E::vector, NZ>(in.p + i, in.sz, in.sy, in.sx, v + t * c + i, step);
  }
}

template <int NZ, Form F>
LNT_BF16 void inputs_block_bf16(const Grid& g, const Rows<BF16>& x, int64_t c, int64_t first,
                                int64_t count, uint16_t* edge, float* v, int64_t step) {
  alignas(64) float a[2][kMost * 16];
  for (int64_t t = 0; t < count; t += F == kTilePairs ? 2 : 1) {
    bool two = F == kTilePairs && t + 1 < count;
    auto in = inputs_of<BF16>(g, x, c, place_of(g, first + t), edge);
    Inputs<BF16> next{};
    if (two) next = inputs_of<BF16>(g, x, c, place_of(g, first + t + 1), edge + kMost * c);
    for (int64_t i = 0; i < c; i += kWidth) {
      input_tile<VectorBF16, NZ>(in.p + i, in.sz, in.sy, in.sx, a[0], 16);
      if (F == kChannelPairs) {
        round_points(a[0], NZ * 16, v + (t * c + i) / 2, step);
      } else {
        if (two) input_tile<VectorBF16, NZ>(next.p + i, next.sz, next.sy, next.sx, a[1], 16);
        pair_points(a[0], two ? a[1] : nullptr, NZ * 16, v + t / 2 * c + i, step);
      }
    }
  }
}

template <class E, int NZ>
LNT_INLINE void gradients_tile(const Grid& g, const Rows<E>& dy, int64_t j, Place at, float* v,
                               int64_t step, Num& sum) {
  constexpr int OZ = NZ == 4 ? 2 : 1;
  Num d[OZ][2][2];
  for (int z = 0; z < OZ; z++) {
    for (int y = 0; y < 2; y++) {
      for (int i = 0; i < 2; i++) {
        bool in = at.z + z < g.d && at.y + y < g.h && at.x + i < g.w;
        d[z][y][i] =
            in ? E::vector::get(dy.at(at.n, ((at.z + z) * g.h + at.y + y) * g.w + at.x + i) + j)
               : Num{};
        sum += d[z][y][i];
      }
    }
  }
  gradient_tile<NZ>(d, v, step);
}

// sums: of dy over the block.
template <class E, int NZ>
LNT_AVX512 void gradients_block(const Grid& g, const Rows<E>& dy, int64_t k, int64_t first,
                                int64_t count, float* v, int64_t step, float* sums) {
  for (int64_t j = 0; j < k; j += kWidth) {
    Num sum = Num{};
    for (int64_t t = 0; t < count; t++)
      gradients_tile<E, NZ>(g, dy, j, place_of(g, first + t), v + t * k + j, step, sum);
    Vector<float>::put(sums + j, sum);
  }
}

template <int NZ>
LNT_BF16 void gradients_block_bf16(const Grid& g, const Rows<BF16>& dy, int64_t k, int64_t first,
                                   int64_t count, float* v, int64_t step, float* sums) {
  alignas(64) float a[2][kMost * 16];
  for (int64_t j = 0; j < k; j += kWidth) {
    Num sum = Num{};
    for (int64_t t = 0; t < count; t += 2) {
      bool two = t + 1 < count;
      gradients_tile<BF16, NZ>(g, dy, j, place_of(g, first + t), a[0], 16, sum);
      if (two) gradients_tile<BF16, NZ>(g, dy, j, place_of(g, first + t + 1), a[1], 16, sum);
      pair_points(a[0], two ? a[1] : nullptr, NZ * 16, v + t / 2 * k + j, step);
    }
    Vector<float>::put(sums + j, sum);
  }
}

template <class E, int NZ>
LNT_AVX512 void outputs_block(const Grid& g, const Rows<E>& out, int64_t k0, int64_t width,
                              int64_t first, int64_t count, const float* m, const float* bias) {
  constexpr int OZ = NZ == 4 ? 2 : 1;
  for (int64_t t = 0; t < count; t++) {
    Place at = place_of(g, first + t);
    for (int64_t j = 0; j < width; j += kWidth) {
      Num y[OZ][2][2];
      output_tile<NZ>(m + t * width + j, step_of(kFloat, width), y);
      Num b = Vector<float>::get(bias + k0 + j);
      for (int z = 0; z < OZ; z++) {
        for (int r = 0; r < 2; r++) {
          for (int i = 0; i < 2; i++) {
            if (at.z + z < g.d && at.y + r < g.h && at.x + i < g.w) {
              E::vector::put(out.at(at.n, ((at.z + z) * g.h + at.y + r) * g.w + at.x + i) + k0 + j,
                             y[z][r][i] + b);
            }
          }
        }
      }
    }
  }
}

// row: values per row.
template <int N>
LNT_AVX512 void products_block(const float* v, int64_t row, int64_t step, const float* u, float* m,
                               int64_t points, int64_t count) {
  for (int64_t p = 0; p < points; p++) {
    for (int64_t t = 0; t < count; t += kRows) {
      product<N, false>(v + p * step + t * row, row, 1, u + p * row * 16 * N, 16 * N,
                        m + p * step_of(kFloat, 16 * N) + t * 16 * N, 16 * N, row);
    }
  }
}

// sum += vᵀ·d of one point, count rows.
LNT_AVX512 void weights_point(const float* v, int64_t c, const float* d, int64_t k, float* sum,
                              int64_t count) {
  int64_t j = 0;
  for (; j + kPair <= k; j += kPair) {
    for (int64_t i = 0; i < c; i += kRows)
      product<2, true>(v + i, 1, c, d + j, k, sum + i * k + j, k, count);
  }
  for (; j < k; j += kWidth) {
    for (int64_t i = 0; i < c; i += kRows)
      product<1, true>(v + i, 1, c, d + j, k, sum + i * k + j, k, count);
  }
}

template <int N>
LNT_BF16 void products_block_bf16(const float* v, int64_t row, int64_t step, const float* u,
                                  float* m, int64_t points, int64_t count) {
  for (int64_t p = 0; p < points; p++) {
    for (int64_t t = 0; t < count; t += kRows) {
      product_pairs<N, false>(v + p * step + t * row, row, 1, u + p * row * 16 * N, 16 * N,
                              m + p * step_of(kFloat, 16 * N) + t * 16 * N, 16 * N, row);
    }
  }
}

// sum += vᵀ·d of one point, count rows.
LNT_BF16 void weights_point_bf16(const float* v, int64_t c, const float* d, int64_t k, float* sum,
                                 int64_t count) {
  int64_t j = 0;
  for (; j + kPair <= k; j += kPair) {
    for (int64_t i = 0; i < c; i += kRows)
      product_pairs<2, true>(v + i, 1, c, d + j, k, sum + i * k + j, k, count);
  }
  for (; j < k; j += kWidth) {
    for (int64_t i = 0; i < c; i += kRows)
      product_pairs<1, true>(v + i, 1, c, d + j, k, sum + i * k + j, k, count);
  }
}

// The transformed kernel of input i and outputs o to o+15: a vector for each point, `step` numbers
// apart. w: (outputs, inputs, kernel) with strides so and si; backwards reverses the kernels.
template <int NZ>
LNT_INLINE void filter_tile(const float* w, int64_t so, int64_t si, bool backwards, int64_t o,
                            int64_t i, float* to, int64_t step) {
  constexpr int KZ = NZ == 4 ? 3 : 1;
  constexpr int taps = KZ * 9;
  alignas(64) float g[taps][16];
  for (int64_t l = 0; l < 16; l++) {
    const float* from = w + (o + l) * so + i * si;
    for (int t = 0; t < taps; t++) g[backwards ? taps - 1 - t : t][l] = from[t];
  }
  Num a[KZ][4][4];
  for (int z = 0; z < KZ; z++) {
    Num b[3][4];
    for (int y = 0; y < 3; y++) {
      const float* p = g[z * 9 + y * 3];
      filter4(Vector<float>::get(p), Vector<float>::get(p + 16), Vector<float>::get(p + 32), b[y]);
    }
    for (int x = 0; x < 4; x++) {
      Num t[4];
      filter4(b[0][x], b[1][x], b[2][x], t);
      for (int y = 0; y < 4; y++) a[z][y][x] = t[y];
    }
  }
  for (int y = 0; y < 4; y++) {
    for (int x = 0; x < 4; x++) {
      if constexpr (NZ == 1) {
        Vector<float>::put(to + (y * 4 + x) * step, a[0][y][x]);
      } else {
        Num t[4];
        filter4(a[0][y][x], a[1][y][x], a[2][y][x], t);
        for (int z = 0; z < 4; z++) Vector<float>::put(to + ((z * 4 + y) * 4 + x) * step, t[z]);
      }
    }
  }
}

template <int NZ>
LNT_AVX512 void filter_block(const float* w, int64_t so, int64_t si, bool backwards, int64_t o,
                             int64_t i, float* to, int64_t step) {
  filter_tile<NZ>(w, so, si, backwards, o, i, to, step);
}

// The same for inputs i and i+1, as pairs.
template <int NZ>
LNT_BF16 void filter_block_bf16(const float* w, int64_t so, int64_t si, bool backwards, int64_t o,
                                int64_t i, float* to, int64_t step) {
  alignas(64) float a[2][kMost * 16];
  for (int64_t l = 0; l < 2; l++) filter_tile<NZ>(w, so, si, backwards, o, i + l, a[l], 16);
  pair_points(a[0], a[1], NZ * 16, to, step);
}

// The kernels' gradient of input i and outputs o to o+15 from the sums of all parts, each (points,
// inputs, outputs).
template <int NZ>
LNT_AVX512 void unfilter_block(const float* sums, int64_t parts, int64_t part, int64_t inputs,
                               int64_t outputs, int64_t o, int64_t i, float* dw) {
  constexpr int KZ = NZ == 4 ? 3 : 1;
  constexpr int taps = KZ * 9;
  Num a[NZ][3][3];
  for (int z = 0; z < NZ; z++) {
    Num b[4][3];
    for (int y = 0; y < 4; y++) {
      Num u[4];
      for (int x = 0; x < 4; x++) {
        const float* p = sums + (((z * 4 + y) * 4 + x) * inputs + i) * outputs + o;
        u[x] = Vector<float>::get(p);
        for (int64_t k = 1; k < parts; k++) u[x] += Vector<float>::get(p + k * part);
      }
      filter3(u[0], u[1], u[2], u[3], b[y]);
    }
    for (int x = 0; x < 3; x++) {
      Num t[3];
      filter3(b[0][x], b[1][x], b[2][x], b[3][x], t);
      for (int y = 0; y < 3; y++) a[z][y][x] = t[y];
    }
  }
  alignas(64) float g[taps][16];
  for (int y = 0; y < 3; y++) {
    for (int x = 0; x < 3; x++) {
      if constexpr (NZ == 1) {
        Vector<float>::put(g[y * 3 + x], a[0][y][x]);
      } else {
        Num t[3];
        filter3(a[0][y][x], a[1][y][x], a[2][y][x], a[3][y][x], t);
        for (int z = 0; z < 3; z++) Vector<float>::put(g[z * 9 + y * 3 + x], t[z]);
      }
    }
  }
  for (int64_t l = 0; l < 16; l++) {
    float* to = dw + ((o + l) * inputs + i) * taps;
    for (int t = 0; t < taps; t++) to[t] = g[t][l];
  }
}

// Whole tensors.

at::Tensor buffer(int64_t parts, int64_t numbers) {
  return at::empty({parts, (numbers + 15) / 16 * 16}, at::kFloat);
}

// The transformed kernels: for each kPair outputs (the last block may have half) one matrix
// (inputs, outputs) per point, or (pairs of inputs, outputs). transposed: for the input gradient.
at::Tensor filters(const at::Tensor& w, bool transposed, bool deep, Form form) {
  int64_t outputs = w.size(0), inputs = w.size(1);
  int64_t taps = deep ? 27 : 9;
  int64_t so = inputs * taps, si = taps;
  if (transposed) {
    std::swap(outputs, inputs);
    std::swap(so, si);
  }
  int64_t at_once = form == kFloat ? 1 : 2, rows = inputs / at_once;
  int64_t points = deep ? 64 : 16;
  auto u = at::empty({points * rows * outputs}, at::kFloat);
  const float* from = w.data_ptr<float>();
  float* to = u.data_ptr<float>();
  auto* block = form == kFloat ? (deep ? filter_block<4> : filter_block<1>)
                               : (deep ? filter_block_bf16<4> : filter_block_bf16<1>);
  at::parallel_for(0, rows * outputs / 16, 16, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at++) {
      int64_t r = at % rows, o = at / rows * 16;
      int64_t first = o / kPair * kPair;
      int64_t width = std::min(kPair, outputs - first);
      block(from, so, si, transposed, o, r * at_once,
            to + first * rows * points + r * width + (o - first), rows * width);
    }
  });
  return u;
}

// The kernels of an element type in a form.
template <class E, int NZ>
auto transform_inputs(Form form) {
  if constexpr (std::is_same_v<E, BF16>) {
    if (form == kChannelPairs) return &inputs_block_bf16<NZ, kChannelPairs>;
    if (form == kTilePairs) return &inputs_block_bf16<NZ, kTilePairs>;
  }
  return &inputs_block<E, NZ>;
}

template <class E, int NZ>
auto transform_gradients(Form form) {
  if constexpr (std::is_same_v<E, BF16>) {
    if (form != kFloat) return &gradients_block_bf16<NZ>;
  }
  return &gradients_block<E, NZ>;
}

template <class E, int NZ>
void convolve(const Grid& g, const at::Tensor& x, const at::Tensor& u, const float* bias, Form form,
              at::Tensor& y) {
  int64_t c = x.size(1), k = y.size(1);
  auto in = rows<E>(x);
  auto out = rows<E>(y);
  int64_t points = g.points();
  int64_t row = c / (form == kFloat ? 1 : 2), step = step_of(form, c);
  int64_t nv = points * step, nm = points * step_of(kFloat, kPair), ne = kMost * c;
  auto* transform = transform_inputs<E, NZ>(form);
  auto* wide = form == kFloat ? products_block<2> : products_block_bf16<2>;
  auto* narrow = form == kFloat ? products_block<1> : products_block_bf16<1>;
  int64_t threads = std::min<int64_t>(at::get_num_threads(), g.blocks());
  auto scratch = buffer(threads, nv + nm + ne);
  std::atomic<int64_t> next{0};  // slower threads take fewer blocks
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; thread++) {
      float* v = scratch.data_ptr<float>() + thread * scratch.size(1);
      float* m = v + nv;
      auto* edge = reinterpret_cast<typename E::mem*>(m + nm);
      std::memset(
          v, 0, nv * sizeof(float));  // rows of a last block that no tile fills are multiplied too
      for (int64_t b = next++; b < g.blocks(); b = next++) {
        int64_t first = b * kTiles;
        int64_t count = std::min(kTiles, g.tiles() - first);
        transform(g, in, c, first, count, edge, v, step);
        for (int64_t k0 = 0; k0 < k; k0 += kPair) {
          int64_t width = std::min(kPair, k - k0);
          (width == kPair ? wide : narrow)(v, row, step, u.data_ptr<float>() + k0 * row * points, m,
                                           points, count);
          outputs_block<E, NZ>(g, out, k0, width, first, count, m, bias);
        }
      }
    }
  });
}

// The sums of the weights' gradient, (parts, points, inputs, outputs), and of dy. Each part sums a
// fixed share of the blocks, so the bits do not depend on scheduling.
template <class E, int NZ>
at::Tensor sums_by_blocks(const Grid& g, const at::Tensor& x, const at::Tensor& dy, Form form,
                          double* db) {
  int64_t c = x.size(1), k = dy.size(1);
  auto in = rows<E>(x);
  auto grad = rows<E>(dy);
  int64_t points = g.points();
  int64_t vstep = step_of(form, c), dstep = step_of(form, k);
  int64_t nv = points * vstep, nd = points * dstep, ne = 2 * kMost * c;
  auto* transform = transform_inputs<E, NZ>(form);
  auto* gradients = transform_gradients<E, NZ>(form);
  auto* add = form == kFloat ? weights_point : weights_point_bf16;
  int64_t parts = std::min<int64_t>(at::get_num_threads(), g.blocks());
  auto scratch = buffer(parts, nv + nd + ne + k);
  auto sums = buffer(parts, points * c * k);
  std::vector<double> bias(parts * k);
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; part++) {
      float* v = scratch.data_ptr<float>() + part * scratch.size(1);
      float* d = v + nv;
      auto* edge = reinterpret_cast<typename E::mem*>(d + nd);
      float* s = d + nd + ne;
      float* sum = sums.data_ptr<float>() + part * sums.size(1);
      std::memset(sum, 0, points * c * k * sizeof(float));
      for (int64_t b = g.blocks() * part / parts; b < g.blocks() * (part + 1) / parts; b++) {
        int64_t first = b * kTiles;
        int64_t count = std::min(kTiles, g.tiles() - first);
        transform(g, in, c, first, count, edge, v, vstep);
        gradients(g, grad, k, first, count, d, dstep, s);
        for (int64_t i = 0; i < k; i++) bias[part * k + i] += static_cast<double>(s[i]);
        for (int64_t p = 0; p < points; p++)
          add(v + p * vstep, c, d + p * dstep, k, sum + p * c * k, rows_of(form, 1, count));
      }
    }
  });
  for (int64_t i = 0; i < parts * k; i++) db[i % k] += bias[i];
  return sums;
}

// The same if the sums exceed a core's cache: many blocks are transformed before the product of
// each point is added to the sums.
template <class E, int NZ>
at::Tensor sums_by_points(const Grid& g, const at::Tensor& x, const at::Tensor& dy, Form form,
                          double* db) {
  int64_t c = x.size(1), k = dy.size(1);
  auto in = rows<E>(x);
  auto grad = rows<E>(dy);
  int64_t points = g.points();
  int64_t many = std::clamp<int64_t>(kTransformed / (points * (c + k) * kTiles), 1,
                                     g.blocks());  // blocks at a time
  int64_t vstep = step_of(form, c, many * kTiles), dstep = step_of(form, k, many * kTiles);
  auto* transform = transform_inputs<E, NZ>(form);
  auto* gradients = transform_gradients<E, NZ>(form);
  auto* add = form == kFloat ? weights_point : weights_point_bf16;
  auto v = buffer(1, points * vstep), d = buffer(1, points * dstep),
       edges = buffer(at::get_num_threads(), 2 * kMost * c);
  auto sums = buffer(1, points * c * k), bias = buffer(g.blocks(), k);
  float *vp = v.data_ptr<float>(), *dp = d.data_ptr<float>(), *sum = sums.data_ptr<float>();
  sums.zero_();
  for (int64_t b0 = 0; b0 < g.blocks(); b0 += many) {
    int64_t blocks = std::min(many, g.blocks() - b0);
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      auto* edge = reinterpret_cast<typename E::mem*>(edges.data_ptr<float>() +
                                                      at::get_thread_num() * edges.size(1));
      for (int64_t b = begin; b < end; b++) {
        int64_t first = (b0 + b) * kTiles;
        int64_t count = std::min(kTiles, g.tiles() - first);
        transform(g, in, c, first, count, edge, vp + rows_of(form, c, b * kTiles), vstep);
        gradients(g, grad, k, first, count, dp + rows_of(form, k, b * kTiles), dstep,
                  bias.data_ptr<float>() + (b0 + b) * bias.size(1));
      }
    });
    int64_t count = std::min(blocks * kTiles, g.tiles() - b0 * kTiles);
    at::parallel_for(0, points, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; p++)
        add(vp + p * vstep, c, dp + p * dstep, k, sum + p * c * k, rows_of(form, 1, count));
    });
  }
  for (int64_t b = 0; b < g.blocks(); b++) {
    for (int64_t i = 0; i < k; i++)
      db[i] += static_cast<double>(bias.data_ptr<float>()[b * bias.size(1) + i]);
  }
  return sums;
}

template <class E, int NZ>
void weights(const Grid& g, const at::Tensor& x, const at::Tensor& dy, Form form, at::Tensor& dw,
             double* db) {
  int64_t c = x.size(1), k = dy.size(1);
  auto sums = (g.points() * c * k > kCached ? sums_by_points<E, NZ>
                                            : sums_by_blocks<E, NZ>)(g, x, dy, form, db);
  const float* from = sums.template data_ptr<float>();
  at::parallel_for(0, c * k / 16, 16, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at++) {
      int64_t i = at % c, o = at / c * 16;
      unfilter_block<NZ>(from, sums.size(0), sums.size(1), c, k, o, i, dw.data_ptr<float>());
    }
  });
}

bool deep(const at::Tensor& w) { return w.dim() == 5 && w.size(2) == 3; }

// Whether products use pairs of bfloat16.
bool pairs(const at::Tensor& x) {
  static const bool runs = __builtin_cpu_supports("avx512bf16");
  return runs && x.scalar_type() == at::kBFloat16;
}

template <class F>
void typed(const at::Tensor& x, bool deep, F f) {
  bool single = x.scalar_type() == at::kFloat;
  if (single && deep) f(F32{}, std::integral_constant<int, 4>{});
  if (single && !deep) f(F32{}, std::integral_constant<int, 1>{});
  if (!single && deep) f(BF16{}, std::integral_constant<int, 4>{});
  if (!single && !deep) f(BF16{}, std::integral_constant<int, 1>{});
}

}  // namespace

// Whether the CPU has bfloat16 matrix units: with them the plain sum is faster.
bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1) != 0;
}

bool serves(const at::Tensor& x, at::ScalarType type, const at::Tensor& w, at::IntArrayRef stride,
            at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  static const bool matrices = has_amx();
  static const bool runs = __builtin_cpu_supports("avx512f") &&
                           __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
  if (!runs || groups != 1 || x.dim() != w.dim() || (x.dim() != 4 && x.dim() != 5) ||
      !x.device().is_cpu() || !w.device().is_cpu())
    return false;
  if ((type != at::kFloat && (type != at::kBFloat16 || matrices)) || w.scalar_type() != at::kFloat)
    return false;
  if (x.size(1) != w.size(1) || w.size(0) % kWidth != 0 || w.size(1) % kWidth != 0 ||
      x.numel() == 0 || w.numel() == 0)
    return false;
  for (int64_t i = 0; i < w.dim() - 2; i++) {
    int64_t k = w.size(i + 2);
    bool flat = w.dim() == 5 && i == 0 && k == 1;
    if (!(k == 3 || flat) || stride[i] != 1 || dilation[i] != 1 || padding[i] != k / 2)
      return false;
  }
  // Last tiles may exceed the image, and the kernels must be transformed: small images use the
  // plain sum.
  Grid g = grid_of(x, deep(w));
  return g.h > 3 && g.w > 3 && g.tiles() >= kLeast;
}

at::Tensor forward(const at::Tensor& x_in, const at::Tensor& w_in, const at::Tensor& b) {
  at::Tensor x = as_rows(x_in), w = w_in.contiguous();
  int64_t k = w.size(0);
  std::vector<float> bias(k, 0);
  if (b.defined()) {
    auto t = b.to(at::kFloat).contiguous();
    std::memcpy(bias.data(), t.data_ptr<float>(), k * sizeof(float));
  }
  auto size = x.sizes().vec();
  size[1] = k;
  auto y = at::empty(size, x.options().memory_format(channels_last(x)));
  bool three = deep(w);
  Form form = pairs(x) ? kChannelPairs : kFloat;
  auto u = filters(w, false, three, form);
  typed(x, three, [&](auto e, auto nz) {
    convolve<decltype(e), nz.value>(grid_of(x, three), x, u, bias.data(), form, y);
  });
  return y;
}

at::Tensor input_gradient(const at::Tensor& dy_in, const at::Tensor& w_in) {
  at::Tensor dy = as_rows(dy_in), w = w_in.contiguous();
  int64_t c = w.size(1);
  std::vector<float> none(c, 0);
  auto size = dy.sizes().vec();
  size[1] = c;
  auto dx = at::empty(size, dy.options().memory_format(channels_last(dy)));
  bool three = deep(w);
  Form form = pairs(dy) ? kChannelPairs : kFloat;
  auto u = filters(w, true, three, form);
  typed(dy, three, [&](auto e, auto nz) {
    convolve<decltype(e), nz.value>(grid_of(dy, three), dy, u, none.data(), form, dx);
  });
  return dx;
}

std::pair<at::Tensor, at::Tensor> weight_gradient(const at::Tensor& dy_in, const at::Tensor& x_in,
                                                  at::IntArrayRef size) {
  at::Tensor dy = as_rows(dy_in), x = as_rows(x_in);
  auto dw = at::empty(size, at::kFloat);
  auto db = at::zeros({dw.size(0)}, at::kDouble);
  bool three = deep(dw);
  typed(x, three, [&](auto e, auto nz) {
    weights<decltype(e), nz.value>(grid_of(x, three), x, dy, pairs(x) ? kTilePairs : kFloat, dw,
                                   db.template data_ptr<double>());
  });
  return {dw, db};
}

#else

bool serves(const at::Tensor&, at::ScalarType, const at::Tensor&, at::IntArrayRef, at::IntArrayRef,
            at::IntArrayRef, int64_t) {
  return false;
}
at::Tensor forward(const at::Tensor&, const at::Tensor&, const at::Tensor&) { return {}; }
at::Tensor input_gradient(const at::Tensor&, const at::Tensor&) { return {}; }
std::pair<at::Tensor, at::Tensor> weight_gradient(const at::Tensor&, const at::Tensor&,
                                                  at::IntArrayRef) {
  return {};
}

#endif

}  // namespace lnt::winograd
