// dropout.cpp: dropout without a saved mask. Whether an element is dropped depends on its position
// and one number from the generator, so the backward pass can recompute it: one pass over the
// tensor in each direction, on all threads, where torch draws, scales, multiplies and saves a mask
// as large as the input.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <mutex>

#include "shim.h"

using namespace lnt;

namespace {

constexpr int64_t kBlock = 4096;

// A permutation of 32 bits whose output looks random (lowbias32,
// https://github.com/skeeto/hash-prospector).
inline __attribute__((always_inline)) uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  x ^= x >> 16;
  return x;
}

// y = x·scale where the element is kept, else 0. a and b come from the seed and the block. Uses bit
// masks, because compilers do not vectorise a choice between 0 and a product.
template <class T, class U>
inline __attribute__((always_inline)) void drop(const T* x, T* y, int64_t n, uint32_t a, uint32_t b,
                                                uint32_t below, T scale) {
  for (int64_t i = 0; i < n; i++) {
    U stays = static_cast<U>(mix(mix(static_cast<uint32_t>(i) + a) ^ b) >= below);
    T v = x[i] * scale;
    U bits;
    std::memcpy(&bits, &v, sizeof v);
    bits &= U(0) - stays;
    std::memcpy(y + i, &bits, sizeof v);
  }
}

LNT_CLONES void drop_f32(const float* x, float* y, int64_t n, uint32_t a, uint32_t b,
                         uint32_t below, float scale) {
  drop<float, uint32_t>(x, y, n, a, b, below, scale);
}
LNT_CLONES void drop_f64(const double* x, double* y, int64_t n, uint32_t a, uint32_t b,
                         uint32_t below, double scale) {
  drop<double, uint64_t>(x, y, n, a, b, below, scale);
}

void drop_bf16(const at::BFloat16* x, at::BFloat16* y, int64_t n, uint32_t a, uint32_t b,
               uint32_t below, float scale) {
  float in[kBlock] = {};
  for (int64_t i = 0; i < n; i++) in[i] = static_cast<float>(x[i]);
  drop_f32(in, in, n, a, b, below, scale);
  for (int64_t i = 0; i < n; i++) y[i] = static_cast<at::BFloat16>(in[i]);
}

// x must be dense; the result has its layout. Elements are numbered in memory order.
at::Tensor dropped(const at::Tensor& x, double p, int64_t seed) {
  auto y = at::empty_like(x);
  auto below = static_cast<uint32_t>(std::min(p * 4294967296.0, 4294967295.0));
  double scale = p < 1 ? 1 / (1 - p) : 0;
  int64_t n = x.numel();
  at::parallel_for(0, (n + kBlock - 1) / kBlock, 4, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; k++) {
      int64_t at = k * kBlock;
      int64_t count = std::min(kBlock, n - at);
      // Keys of the block: neighbouring blocks have unrelated ones.
      auto a = mix(static_cast<uint32_t>(k) ^ mix(static_cast<uint32_t>(seed))) &
               ~static_cast<uint32_t>(kBlock - 1);
      auto b = mix(static_cast<uint32_t>(k >> 20) +
                   mix(static_cast<uint32_t>(k) + static_cast<uint32_t>(seed >> 32)));
      switch (x.scalar_type()) {
        case at::kFloat:
          drop_f32(x.data_ptr<float>() + at, y.data_ptr<float>() + at, count, a, b, below,
                   static_cast<float>(scale));
          break;
        case at::kDouble:
          drop_f64(x.data_ptr<double>() + at, y.data_ptr<double>() + at, count, a, b, below, scale);
          break;
        default:
          drop_bf16(x.data_ptr<at::BFloat16>() + at, y.data_ptr<at::BFloat16>() + at, count, a, b,
                    below, static_cast<float>(scale));
      }
    }
  });
  return y;
}

struct LeanDropout : torch::autograd::Function<LeanDropout> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, double p,
                            int64_t seed) {
    ctx->saved_data["p"] = p;
    ctx->saved_data["seed"] = seed;
    ctx->saved_data["strides"] = x.strides().vec();
    return dropped(x, p, seed);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    if (!grads[0].defined()) return {at::Tensor(), at::Tensor(), at::Tensor()};
    at::Tensor g = grads[0];
    auto strides = ctx->saved_data["strides"].toIntVector();
    if (g.strides() != at::IntArrayRef(strides))
      g = at::empty_strided(g.sizes(), strides, g.options())
              .copy_(g);  // elements are numbered as in the input
    return {dropped(g, ctx->saved_data["p"].toDouble(), ctx->saved_data["seed"].toInt()),
            at::Tensor(), at::Tensor()};
  }
};

}  // namespace

// The same generator gives another mask than lnt_dropout.
char* lnt_dropout_lean(void* xp, double p, int64_t train, void** out) {
  LNT_BODY({
    at::Tensor x = T(xp);
    TORCH_CHECK(p >= 0 && p <= 1, "dropout: probability ", p, ", expected one from 0 to 1");
    auto t = x.scalar_type();
    bool ours = train != 0 && p > 0 && x.device().is_cpu() &&
                (t == at::kFloat || t == at::kDouble || t == at::kBFloat16);
    if (!ours) {
      give(out, at::dropout(x, p, train != 0));
      return nullptr;
    }
    if (!x.is_non_overlapping_and_dense()) x = x.contiguous();
    auto gen = at::detail::getDefaultCPUGenerator();
    int64_t seed = 0;
    {
      std::lock_guard<std::mutex> lock(gen.mutex());
      seed = static_cast<int64_t>(at::check_generator<at::CPUGeneratorImpl>(gen)->random64());
    }
    give(out, LeanDropout::apply(x, p, seed));
  })
}
