// channels.h: helpers for kernels on channels-last tensors: access to one channel or one vector of
// channels at a time, and blocks of voxels for parallel loops.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "shim.h"

namespace lnt {

// Channels per vector.
constexpr int64_t kWidth = 16;

// Element types in memory and in arithmetic: one channel at a time, or W of them.
template <class T>
struct Scalar {
  using mem = T;
  using num = T;
  static constexpr int64_t width = 1;
  static inline __attribute__((always_inline)) num get(const mem* p) { return *p; }
  static inline __attribute__((always_inline)) void put(mem* p, num v) { *p = v; }
  static inline __attribute__((always_inline)) num load(const T* p) { return *p; }
  static inline __attribute__((always_inline)) num zero() { return 0; }
  static inline __attribute__((always_inline)) num choose(num test, num a, num b) {
    return test > 0 ? a : b;
  }
};

template <class T, int64_t W = kWidth>
struct Vector {
  using mem = T;
  typedef T num __attribute__((vector_size(W * sizeof(T))));
  static constexpr int64_t width = W;
  static inline __attribute__((always_inline)) num get(const mem* p) {
    num v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static inline __attribute__((always_inline)) void put(mem* p, num v) {
    std::memcpy(p, &v, sizeof v);
  }
  static inline __attribute__((always_inline)) num load(const T* p) { return get(p); }
  static inline __attribute__((always_inline)) num zero() { return num{}; }
  // choose is a where test > 0 and b elsewhere, on bits: some compilers scalarise vector
  // comparisons. Taken as an integer, a positive test has its sign bit clear and that of its
  // negative set.
  static inline __attribute__((always_inline)) num choose(num test, num a, num b) {
    typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> whole;
    typedef whole bits __attribute__((vector_size(W * sizeof(T))));
    typedef std::make_unsigned_t<whole> positive;
    typedef positive unsigned_bits __attribute__((vector_size(W * sizeof(T))));
    auto u = reinterpret_cast<unsigned_bits>(test);
    bits mask = reinterpret_cast<bits>(-u & ~u) >> (8 * sizeof(T) - 1);
    return reinterpret_cast<num>((mask & reinterpret_cast<bits>(a)) |
                                 (~mask & reinterpret_cast<bits>(b)));
  }
};

// bfloat16 is the upper half of a float32; it is rounded to nearest, ties to even.
struct ScalarBF16 : Scalar<float> {
  using mem = uint16_t;
  static inline __attribute__((always_inline)) float get(const uint16_t* p) {
    uint32_t u = static_cast<uint32_t>(*p) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
  static inline __attribute__((always_inline)) void put(uint16_t* p, float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    *p = static_cast<uint16_t>(f == f ? (u + 0x7fffU + ((u >> 16) & 1U)) >> 16 : 0x7fc0U);
  }
};

struct VectorBF16 : Vector<float> {
  using mem = uint16_t;
  typedef uint16_t half __attribute__((vector_size(kWidth * 2)));
  typedef uint32_t word __attribute__((vector_size(kWidth * 4)));
  static inline __attribute__((always_inline)) num get(const uint16_t* p) {
    half h;
    std::memcpy(&h, p, sizeof h);
    return reinterpret_cast<num>(__builtin_convertvector(h, word) << 16);
  }
  static inline __attribute__((always_inline)) void put(uint16_t* p, num f) {
    word u = reinterpret_cast<word>(f);
    word r = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
    half h = __builtin_convertvector(
        r, half);  // NaN stays NaN, except where rounding overflows its bits
    std::memcpy(p, &h, sizeof h);
  }
};

// GCC converts no vectors whose type depends on a parameter: lane by lane here.
template <int64_t W>
struct NarrowBF16 : Vector<float, W> {
  using mem = uint16_t;
  using num = typename Vector<float, W>::num;
  static inline __attribute__((always_inline)) num get(const uint16_t* p) {
    num v;
    for (int64_t k = 0; k < W; k++) v[k] = ScalarBF16::get(p + k);
    return v;
  }
  static inline __attribute__((always_inline)) void put(uint16_t* p, num f) {
    for (int64_t k = 0; k < W; k++) ScalarBF16::put(p + k, f[k]);
  }
};

// All of them for one element type. The narrow ones are for networks with few channels.
template <class M, class N, class S, class V, class V8 = S, class V4 = S, class V2 = S>
struct Element {
  using mem = M;
  using num = N;
  using scalar = S;
  using vector = V;
  using vector8 = V8;
  using vector4 = V4;
  using vector2 = V2;
};
using F32 = Element<float, float, Scalar<float>, Vector<float>, Vector<float, 8>, Vector<float, 4>,
                    Vector<float, 2>>;
using F64 = Element<double, double, Scalar<double>, Vector<double>, Vector<double, 8>,
                    Vector<double, 4>, Vector<double, 2>>;
using BF16 =
    Element<uint16_t, float, ScalarBF16, VectorBF16, NarrowBF16<8>, NarrowBF16<4>, NarrowBF16<2>>;

// A channels-last tensor (n, c, …): the address of sample n and voxel v.
template <class E>
struct Rows {
  typename E::mem* data;
  int64_t sample;
  int64_t voxel;
  typename E::mem* at(int64_t n, int64_t v) const { return data + n * sample + v * voxel; }
};

// Runs STATEMENT over all c channels, wide vectors first; L is the access type and i the first
// channel. A channel's arithmetic is the same at each width, and so are its bits.
#define LNT_CHANNELS(E, STATEMENT)       \
  int64_t i = 0;                         \
  for (; i + kWidth <= c; i += kWidth) { \
    using L = E::vector;                 \
    STATEMENT;                           \
  }                                      \
  if (i + 8 <= c) {                      \
    using L = E::vector8;                \
    STATEMENT;                           \
    i += 8;                              \
  }                                      \
  if (i + 4 <= c) {                      \
    using L = E::vector4;                \
    STATEMENT;                           \
    i += 4;                              \
  }                                      \
  if (i + 2 <= c) {                      \
    using L = E::vector2;                \
    STATEMENT;                           \
    i += 2;                              \
  }                                      \
  if (i < c) {                           \
    using L = E::scalar;                 \
    STATEMENT;                           \
  }

inline at::MemoryFormat channels_last(const at::Tensor& t) {
  return t.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
}

// Whether the channels of a voxel are contiguous and voxels have a constant stride: channels-last
// tensors, and slices of them along the channels.
inline bool rowwise(const at::Tensor& t) {
  if (t.stride(1) != 1 && t.size(1) != 1) return false;
  int64_t step = t.stride(t.dim() - 1);
  for (int64_t d = t.dim() - 1; d >= 2; d--) {
    if (t.size(d) != 1 && t.stride(d) != step) return false;
    step *= t.size(d);
  }
  return true;
}

inline at::Tensor as_rows(const at::Tensor& t) {
  return rowwise(t) ? t : t.contiguous(channels_last(t));
}

template <class E>
Rows<E> rows(const at::Tensor& t) {
  return {static_cast<typename E::mem*>(t.data_ptr()), t.stride(0), t.stride(t.dim() - 1)};
}

// Voxels of a block: they are summed in the element type's arithmetic, blocks in double. A block is
// read twice for its variance, so it must fit in a core's cache. Its size depends only on the
// channels, so the bits do not depend on threads.
inline int64_t block_of(int64_t channels) {
  return std::clamp<int64_t>(32768 / channels, 64, 1024);
}

// Runs f(sample, first voxel, voxels, block) over all blocks of all samples, in parallel.
template <class F>
void blocks(int64_t samples, int64_t voxels, int64_t c, F f) {
  int64_t size = block_of(c);
  int64_t per = (voxels + size - 1) / size;
  at::parallel_for(0, samples * per, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      int64_t v = (i % per) * size;
      f(i / per, v, std::min(size, voxels - v), i);
    }
  });
}

}  // namespace lnt
