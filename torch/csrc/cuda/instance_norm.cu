// instance_norm.cu: instance_norm.cpp's operator on CUDA. As there, the forward pass reads its
// input twice and writes once, and the backward pass reads gradient, input and output twice and
// writes once.
//
// A thread block processes a run of voxels of one sample: threads of a row have neighbouring
// channels, rows take voxels in turn. Its statistics are float32 (means and squares about them,
// merged by Chan's rule), those of the blocks are merged in float64 in a fixed order. There are no
// atomics and nothing depends on the GPU model, so results are deterministic.
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <cstdint>

#include "kernels.h"

namespace {

constexpr int kThreads = 256;
constexpr int kMostBlocks = 512;  // per sample

template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
};

// Offset of sample n and voxel v in elements; channels are contiguous.
template <class T>
struct Rows {
  T* data;
  int64_t sample, voxel;
  __device__ T* at(int64_t n, int64_t v, int64_t i) const {
    return data + n * sample + v * voxel + i;
  }
};

template <class T, int N>
__device__ __forceinline__ void load(const T* p, float* out) {
  auto x = *reinterpret_cast<const Vec<T, N>*>(p);
#pragma unroll
  for (int i = 0; i < N; i++) out[i] = static_cast<float>(x.v[i]);
}

template <class T, int N>
__device__ __forceinline__ void store(T* p, const float* in) {
  Vec<T, N> x;
#pragma unroll
  for (int i = 0; i < N; i++) x.v[i] = static_cast<T>(in[i]);
  *reinterpret_cast<Vec<T, N>*>(p) = x;
}

// How the work is cut: columns·rows threads of a block are busy, column k with the N channels from
// (tile·columns + k)·N on.
struct Cut {
  int64_t samples, voxels, channels;
  int columns, rows, tiles, blocks;
  int64_t run;  // voxels per block

  Cut(int64_t samples, int64_t voxels, int64_t channels, int width)
      : samples(samples), voxels(voxels), channels(channels) {
    int64_t vectors = channels / width;
    columns = static_cast<int>(std::min<int64_t>(vectors, kThreads));
    rows = kThreads / columns;
    tiles = static_cast<int>((vectors + columns - 1) / columns);
    blocks =
        static_cast<int>(std::clamp<int64_t>((voxels + rows * 8 - 1) / (rows * 8), 1, kMostBlocks));
    run = (voxels + blocks - 1) / blocks;
  }
  dim3 grid() const { return dim3(blocks, static_cast<unsigned>(samples), tiles); }
};

// The work of one thread of a cut.
struct Place {
  int row;
  int64_t channel, sample, first, end;
  bool busy;

  __device__ Place(const Cut& c, int width) {
    row = threadIdx.x / c.columns;
    int64_t column = threadIdx.x % c.columns + static_cast<int64_t>(blockIdx.z) * c.columns;
    channel = column * width;
    sample = blockIdx.y;
    first = blockIdx.x * c.run;
    end = min(first + c.run, c.voxels);
    busy = row < c.rows && channel < c.channels;
  }
};

// Adds (nb, mb, sb) to (na, ma, sa): counts, means, sums of squares about the mean.
template <class num>
__device__ __forceinline__ void merge(num& na, num& ma, num& sa, num nb, num mb, num sb) {
  num n = na + nb;
  if (nb == 0) return;
  num part = nb / n;
  num d = mb - ma;
  ma += d * part;
  sa += sb + d * d * na * part;
  na = n;
}

// part: (samples, blocks, 2, channels), mean and sum of squares about it of each block's voxels.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) moments(Cut c, Rows<const T> x, float* part) {
  __shared__ float count[kThreads], means[kThreads][N], squares[kThreads][N];
  Place at(c, N);
  float n = 0, m[N] = {}, s[N] = {};
  if (at.busy) {
    for (int64_t v = at.first + at.row; v < at.end; v += c.rows) {
      float u[N];
      load<T, N>(x.at(at.sample, v, at.channel), u);
      n += 1;
      float share = 1 / n;
#pragma unroll
      for (int i = 0; i < N; i++) {
        float d = u[i] - m[i];
        m[i] += d * share;
        s[i] += d * (u[i] - m[i]);
      }
    }
  }
  for (int rows = c.rows; rows > 1;) {  // the upper half is added to the lower one
    int half = (rows + 1) / 2;
    if (at.row >= half && at.row < rows) {
      count[threadIdx.x] = n;
      for (int i = 0; i < N; i++) {
        means[threadIdx.x][i] = m[i];
        squares[threadIdx.x][i] = s[i];
      }
    }
    __syncthreads();
    if (at.row < rows - half) {
      int other = threadIdx.x + half * c.columns;
      float nb = count[other], na = n;
      for (int i = 0; i < N; i++) {
        na = n;
        merge(na, m[i], s[i], nb, means[other][i], squares[other][i]);
      }
      n = na;
    }
    __syncthreads();
    rows = half;
  }
  if (at.busy && at.row == 0) {
    float* out = part + (at.sample * c.blocks + blockIdx.x) * 2 * c.channels + at.channel;
    for (int i = 0; i < N; i++) {
      out[i] = m[i];
      out[c.channels + i] = s[i];
    }
  }
}

__device__ double down(double x, int by) { return __shfl_down_sync(0xffffffffU, x, by); }

// One warp for each sample and channel.
__device__ bool warp_of(const Cut& c, int64_t& sample, int64_t& channel, int& lane) {
  int64_t warp = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  lane = threadIdx.x % 32;
  sample = warp / c.channels;
  channel = warp % c.channels;
  return sample < c.samples;
}

__global__ void finish_moments(Cut c, const float* part, double eps, float* mean, float* rstd) {
  int64_t sample, channel;
  int lane;
  if (!warp_of(c, sample, channel, lane)) return;
  double n = 0, m = 0, s = 0;
  for (int64_t b = lane; b < c.blocks; b += 32) {
    const float* p = part + (sample * c.blocks + b) * 2 * c.channels + channel;
    double voxels =
        static_cast<double>(max(static_cast<int64_t>(0), min(c.run, c.voxels - b * c.run)));
    merge(n, m, s, voxels, static_cast<double>(p[0]), static_cast<double>(p[c.channels]));
  }
  for (int by = 16; by > 0; by /= 2) {
    double nb = down(n, by), mb = down(m, by), sb = down(s, by);
    merge(n, m, s, nb, mb, sb);
  }
  if (lane == 0) {
    mean[sample * c.channels + channel] = static_cast<float>(m);
    rstd[sample * c.channels + channel] =
        static_cast<float>(1 / sqrt(s / static_cast<double>(c.voxels) + eps));
  }
}

// y = leaky((x - mean)*rstd*w + b [+ r])
template <class T, int N, bool Residual>
__global__ void __launch_bounds__(kThreads)
    apply(Cut c, Rows<const T> x, Rows<const T> r, Rows<T> y, const float* mean, const float* rstd,
          const float* w, const float* b, float slope) {
  Place at(c, N);
  if (!at.busy) return;
  float scale[N], shift[N], middle[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    int64_t k = at.sample * c.channels + at.channel + i;
    middle[i] = mean[k];
    scale[i] = rstd[k] * (w != nullptr ? w[at.channel + i] : 1.0f);
    shift[i] = b != nullptr ? b[at.channel + i] : 0.0f;
  }
#pragma unroll 4
  for (int64_t v = at.first + at.row; v < at.end; v += c.rows) {
    float u[N], z[N];
    load<T, N>(x.at(at.sample, v, at.channel), u);
    if (Residual) load<T, N>(r.at(at.sample, v, at.channel), z);
#pragma unroll
    for (int i = 0; i < N; i++) {
      float t = (u[i] - middle[i]) * scale[i] + shift[i] + (Residual ? z[i] : 0.0f);
      z[i] = t > 0 ? t : t * slope;
    }
    store<T, N>(y.at(at.sample, v, at.channel), z);
  }
}

// part: (samples, blocks, 2, channels), sums of the gradient before the rectifier, and of it times
// the normalised input.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    gradient_sums(Cut c, Rows<const T> dy, Rows<const T> y, Rows<const T> x, const float* mean,
                  const float* rstd, float slope, float* part) {
  __shared__ float first[kThreads][N], second[kThreads][N];
  Place at(c, N);
  float p[N] = {}, q[N] = {};
  if (at.busy) {
    float middle[N], scale[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
      int64_t k = at.sample * c.channels + at.channel + i;
      middle[i] = mean[k];
      scale[i] = rstd[k];
    }
#pragma unroll 2
    for (int64_t v = at.first + at.row; v < at.end; v += c.rows) {
      float d[N], o[N], u[N];
      load<T, N>(dy.at(at.sample, v, at.channel), d);
      load<T, N>(y.at(at.sample, v, at.channel), o);
      load<T, N>(x.at(at.sample, v, at.channel), u);
#pragma unroll
      for (int i = 0; i < N; i++) {
        float dz = o[i] > 0 ? d[i] : d[i] * slope;
        p[i] += dz;
        q[i] += dz * ((u[i] - middle[i]) * scale[i]);
      }
    }
  }
  for (int rows = c.rows; rows > 1;) {
    int half = (rows + 1) / 2;
    if (at.row >= half && at.row < rows) {
      for (int i = 0; i < N; i++) {
        first[threadIdx.x][i] = p[i];
        second[threadIdx.x][i] = q[i];
      }
    }
    __syncthreads();
    if (at.row < rows - half) {
      int other = threadIdx.x + half * c.columns;
      for (int i = 0; i < N; i++) {
        p[i] += first[other][i];
        q[i] += second[other][i];
      }
    }
    __syncthreads();
    rows = half;
  }
  if (at.busy && at.row == 0) {
    float* out = part + (at.sample * c.blocks + blockIdx.x) * 2 * c.channels + at.channel;
    for (int i = 0; i < N; i++) {
      out[i] = p[i];
      out[c.channels + i] = q[i];
    }
  }
}

// sums: (2, samples, channels)
__global__ void finish_sums(Cut c, const float* part, float* sums) {
  int64_t sample, channel;
  int lane;
  if (!warp_of(c, sample, channel, lane)) return;
  double p = 0, q = 0;
  for (int64_t b = lane; b < c.blocks; b += 32) {
    const float* at = part + (sample * c.blocks + b) * 2 * c.channels + channel;
    p += at[0];
    q += at[c.channels];
  }
  for (int by = 16; by > 0; by /= 2) {
    p += down(p, by);
    q += down(q, by);
  }
  if (lane == 0) {
    sums[sample * c.channels + channel] = static_cast<float>(p);
    sums[(c.samples + sample) * c.channels + channel] = static_cast<float>(q);
  }
}

// dx = rstd*w*(dz - mean of dz - normalised*mean of dz*normalised), and dz itself for a residual.
template <class T, int N, bool Residual>
__global__ void __launch_bounds__(kThreads)
    gradient_apply(Cut c, Rows<const T> dy, Rows<const T> y, Rows<const T> x, Rows<T> dx,
                   Rows<T> dr, const float* mean, const float* rstd, const float* w,
                   const float* sums, float slope) {
  Place at(c, N);
  if (!at.busy) return;
  float middle[N], scale[N], a[N], e[N], f[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    int64_t k = at.sample * c.channels + at.channel + i;
    middle[i] = mean[k];
    scale[i] = rstd[k];
    a[i] = rstd[k] * (w != nullptr ? w[at.channel + i] : 1.0f);
    e[i] = sums[k] / static_cast<float>(c.voxels);
    f[i] = sums[c.samples * c.channels + k] / static_cast<float>(c.voxels);
  }
#pragma unroll 2
  for (int64_t v = at.first + at.row; v < at.end; v += c.rows) {
    float d[N], o[N], u[N];
    load<T, N>(dy.at(at.sample, v, at.channel), d);
    load<T, N>(y.at(at.sample, v, at.channel), o);
    load<T, N>(x.at(at.sample, v, at.channel), u);
#pragma unroll
    for (int i = 0; i < N; i++) {
      d[i] = o[i] > 0 ? d[i] : d[i] * slope;
      u[i] = a[i] * (d[i] - e[i] - (u[i] - middle[i]) * scale[i] * f[i]);
    }
    store<T, N>(dx.at(at.sample, v, at.channel), u);
    if (Residual) store<T, N>(dr.at(at.sample, v, at.channel), d);
  }
}

template <class T>
Rows<T> rows(const at::Tensor& t) {
  if (!t.defined()) return {nullptr, 0, 0};
  return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(t.dim() - 1)};
}

// Whether the rows of t start at multiples of N elements.
template <class T, int N>
bool aligned(const at::Tensor& t) {
  return !t.defined() || (reinterpret_cast<uintptr_t>(t.data_ptr()) % (sizeof(T) * N) == 0 &&
                          t.stride(0) % N == 0 && t.stride(t.dim() - 1) % N == 0);
}

const float* floats(const at::Tensor& t) { return t.defined() ? t.data_ptr<float>() : nullptr; }

at::Tensor like(const at::Tensor& x) {
  return at::empty(x.sizes(),
                   x.options().memory_format(x.dim() == 5 ? at::MemoryFormat::ChannelsLast3d
                                                          : at::MemoryFormat::ChannelsLast));
}

template <class T, int N>
void forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, const at::Tensor& r,
             double eps, double slope, at::Tensor& y, at::Tensor& mean, at::Tensor& rstd) {
  Cut c(x.size(0), x.numel() / (x.size(0) * x.size(1)), x.size(1), N);
  auto stream = c10::cuda::getCurrentCUDAStream();
  auto part = at::empty({c.samples, c.blocks, 2, c.channels}, mean.options());
  auto in = rows<const T>(x);
  moments<T, N><<<c.grid(), kThreads, 0, stream>>>(c, in, part.data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  int warps = static_cast<int>((c.samples * c.channels * 32 + kThreads - 1) / kThreads);
  finish_moments<<<warps, kThreads, 0, stream>>>(c, part.data_ptr<float>(), eps,
                                                 mean.data_ptr<float>(), rstd.data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  auto kernel = r.defined() ? apply<T, N, true> : apply<T, N, false>;
  kernel<<<c.grid(), kThreads, 0, stream>>>(c, in, rows<const T>(r), rows<T>(y),
                                            mean.data_ptr<float>(), rstd.data_ptr<float>(),
                                            floats(w), floats(b), static_cast<float>(slope));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <class T, int N>
void backward(const at::Tensor& dy, const at::Tensor& y, const at::Tensor& x, const at::Tensor& w,
              const at::Tensor& mean, const at::Tensor& rstd, double slope, at::Tensor& dx,
              at::Tensor& dr, at::Tensor& sums) {
  Cut c(x.size(0), x.numel() / (x.size(0) * x.size(1)), x.size(1), N);
  auto stream = c10::cuda::getCurrentCUDAStream();
  auto part = at::empty({c.samples, c.blocks, 2, c.channels}, mean.options());
  auto g = rows<const T>(dy), out = rows<const T>(y), in = rows<const T>(x);
  gradient_sums<T, N><<<c.grid(), kThreads, 0, stream>>>(
      c, g, out, in, mean.data_ptr<float>(), rstd.data_ptr<float>(), static_cast<float>(slope),
      part.data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  int warps = static_cast<int>((c.samples * c.channels * 32 + kThreads - 1) / kThreads);
  finish_sums<<<warps, kThreads, 0, stream>>>(c, part.data_ptr<float>(), sums.data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  auto kernel = dr.defined() ? gradient_apply<T, N, true> : gradient_apply<T, N, false>;
  kernel<<<c.grid(), kThreads, 0, stream>>>(
      c, g, out, in, rows<T>(dx), rows<T>(dr), mean.data_ptr<float>(), rstd.data_ptr<float>(),
      floats(w), sums.data_ptr<float>(), static_cast<float>(slope));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// Runs STATEMENT with T the element type and N the channels that a thread reads at once, 16 bytes
// of them where all of TENSORS allow it.
#define LNT_TYPES(X, STATEMENT, ...)                                                       \
  switch (X.scalar_type()) {                                                               \
    case at::kFloat:                                                                       \
      LNT_WIDTHS(float, 4, X, STATEMENT, __VA_ARGS__) break;                               \
    case at::kHalf:                                                                        \
      LNT_WIDTHS(c10::Half, 8, X, STATEMENT, __VA_ARGS__) break;                           \
    case at::kBFloat16:                                                                    \
      LNT_WIDTHS(c10::BFloat16, 8, X, STATEMENT, __VA_ARGS__) break;                       \
    default:                                                                               \
      TORCH_CHECK(false, "instance_norm_leaky_relu: ", X.scalar_type(), " has no kernel"); \
  }
#define LNT_WIDTHS(TYPE, WIDTH, X, STATEMENT, ...)                                 \
  {                                                                                \
    using T = TYPE;                                                                \
    bool wide = X.size(1) % WIDTH == 0;                                            \
    for (const at::Tensor& t : {__VA_ARGS__}) wide = wide && aligned<T, WIDTH>(t); \
    if (wide) {                                                                    \
      constexpr int N = WIDTH;                                                     \
      STATEMENT;                                                                   \
    } else {                                                                       \
      constexpr int N = 1;                                                         \
      STATEMENT;                                                                   \
    }                                                                              \
  }

std::tuple<at::Tensor, at::Tensor, at::Tensor> norm_forward(const at::Tensor& x,
                                                            const at::Tensor& w,
                                                            const at::Tensor& b,
                                                            const at::Tensor& r, double eps,
                                                            double slope) {
  c10::cuda::CUDAGuard guard(x.device());
  at::Tensor y = like(x);
  at::Tensor mean = at::empty({x.size(0), x.size(1)}, x.options().dtype(at::kFloat));
  at::Tensor rstd = at::empty_like(mean);
  LNT_TYPES(x, (forward<T, N>(x, w, b, r, eps, slope, y, mean, rstd)), x, r, y)
  return {y, mean, rstd};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> norm_backward(
    const at::Tensor& dy, const at::Tensor& y, const at::Tensor& x, const at::Tensor& w,
    const at::Tensor& mean, const at::Tensor& rstd, double slope, bool residual) {
  c10::cuda::CUDAGuard guard(x.device());
  at::Tensor dx = like(x);
  at::Tensor dr = residual ? like(x) : at::Tensor();
  at::Tensor sums = at::empty({2, x.size(0), x.size(1)}, mean.options());
  LNT_TYPES(x, (backward<T, N>(dy, y, x, w, mean, rstd, slope, dx, dr, sums)), dy, y, x, dx, dr)
  at::Tensor total = sums.sum(1);
  return {dx, total[1], total[0], dr};
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const lnt::CudaKernels* lnt_cuda_kernels() {
  static const lnt::CudaKernels kernels{norm_forward, norm_backward};
  return &kernels;
}
