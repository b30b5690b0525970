// dropout.cpp: dropout without a saved mask. Whether an element is dropped depends on its position
// and one number from the generator, so the backward pass can recompute it: one pass over the
// tensor in each direction, on all threads, where torch draws, scales, multiplies and saves a mask
// as large as the input. A tensor that holds some rows of a batch gets the mask that these rows
// have in the whole batch.
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

// x must be dense; the result has its layout. Elements are numbered in memory order, from first on.
at::Tensor dropped(const at::Tensor& x, double p, int64_t seed, int64_t first) {
  auto y = at::empty_like(x);
  auto below = static_cast<uint32_t>(std::min(p * 4294967296.0, 4294967295.0));
  double scale = p < 1 ? 1 / (1 - p) : 0;
  int64_t last = first + x.numel();
  at::parallel_for(
      first / kBlock, (last + kBlock - 1) / kBlock, 4, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; k++) {
          int64_t from = std::max(first, k * kBlock);
          int64_t at = from - first;
          int64_t count = std::min(last, (k + 1) * kBlock) - from;
          // Keys of the block: neighbouring blocks have unrelated ones.
          auto a = (mix(static_cast<uint32_t>(k) ^ mix(static_cast<uint32_t>(seed))) &
                    ~static_cast<uint32_t>(kBlock - 1)) +
                   static_cast<uint32_t>(from - k * kBlock);
          auto b = mix(static_cast<uint32_t>(k >> 20) +
                       mix(static_cast<uint32_t>(k) + static_cast<uint32_t>(seed >> 32)));
          switch (x.scalar_type()) {
            case at::kFloat:
              drop_f32(x.data_ptr<float>() + at, y.data_ptr<float>() + at, count, a, b, below,
                       static_cast<float>(scale));
              break;
            case at::kDouble:
              drop_f64(x.data_ptr<double>() + at, y.data_ptr<double>() + at, count, a, b, below,
                       scale);
              break;
            default:
              drop_bf16(x.data_ptr<at::BFloat16>() + at, y.data_ptr<at::BFloat16>() + at, count, a,
                        b, below, static_cast<float>(scale));
          }
        }
      });
  return y;
}

struct LeanDropout : torch::autograd::Function<LeanDropout> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, double p,
                            int64_t seed, int64_t first) {
    ctx->saved_data["p"] = p;
    ctx->saved_data["seed"] = seed;
    ctx->saved_data["first"] = first;
    ctx->saved_data["strides"] = x.strides().vec();
    return dropped(x, p, seed, first);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    if (!grads[0].defined()) return {at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    at::Tensor g = grads[0];
    auto strides = ctx->saved_data["strides"].toIntVector();
    if (g.strides() != at::IntArrayRef(strides))
      g = at::empty_strided(g.sizes(), strides, g.options())
              .copy_(g);  // elements are numbered as in the input
    return {dropped(g, ctx->saved_data["p"].toDouble(), ctx->saved_data["seed"].toInt(),
                    ctx->saved_data["first"].toInt()),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// Rows of a batch: count of them, from first on, of all; all 0 if there are no others.
struct Rows {
  int64_t first, count, all;

  // How many entries of axis 0 a row has.
  int64_t entries(const at::Tensor& x) const {
    TORCH_CHECK(first >= 0 && count > 0 && first + count <= all, "dropout: rows ", first,
                " to before ", first + count, " of ", all);
    TORCH_CHECK(x.dim() > 0 && x.size(0) % count == 0, "dropout: ", x.sizes(),
                ", expected a first axis that ", count, " rows share");
    return x.size(0) / count;
  }
};

// x times what draw makes of ones of the whole batch's shape; spatial: with axes after the second,
// which otherwise have one entry.
template <class F>
at::Tensor drawn(const at::Tensor& x, const Rows& r, bool spatial, F draw) {
  int64_t k = r.entries(x);
  auto sizes = x.sizes().vec();
  sizes[0] = k * r.all;
  for (size_t axis = 2; axis < sizes.size() && !spatial; axis++) sizes[axis] = 1;
  at::Tensor noise;
  {
    at::NoGradGuard guard;
    // Not at::ones, which ignores the format in libtorch 2.15.
    auto ones = at::empty(sizes, x.options(), x.suggest_memory_format()).fill_(1);
    noise = draw(ones).narrow(0, k * r.first, k * r.count).clone();
  }
  return x * noise;
}

// Whether the entries of axis 0 follow each other in memory.
bool in_rows(const at::Tensor& x) {
  if (x.dim() == 0 || !x.is_non_overlapping_and_dense()) return false;
  return x.size(0) < 2 || x.stride(0) == x.numel() / x.size(0);
}

}  // namespace

// Rows first, count and all are those of the batch that x holds; all 0: x is whole.
char* lnt_dropout(void* xp, double p, int64_t train, int64_t first, int64_t count, int64_t all,
                  void** out) {
  LNT_BODY({
    const at::Tensor& x = T(xp);
    auto draw = [&](const at::Tensor& t) { return at::dropout(t, p, train != 0); };
    give(out, all == 0 || train == 0 ? draw(x) : drawn(x, {first, count, all}, true, draw));
  })
}

char* lnt_feature_dropout(void* xp, double p, int64_t train, int64_t first, int64_t count,
                          int64_t all, void** out) {
  LNT_BODY({
    const at::Tensor& x = T(xp);
    auto draw = [&](const at::Tensor& t) { return at::feature_dropout(t, p, train != 0); };
    give(out, all == 0 || train == 0 ? draw(x) : drawn(x, {first, count, all}, false, draw));
  })
}

// The same generator gives another mask than lnt_dropout.
char* lnt_dropout_lean(void* xp, double p, int64_t train, int64_t first, int64_t count, int64_t all,
                       void** out) {
  LNT_BODY({
    at::Tensor x = T(xp);
    TORCH_CHECK(p >= 0 && p <= 1, "dropout: probability ", p, ", expected one from 0 to 1");
    auto t = x.scalar_type();
    bool ours = train != 0 && p > 0 && x.device().is_cpu() &&
                (t == at::kFloat || t == at::kDouble || t == at::kBFloat16);
    if (!ours) return lnt_dropout(xp, p, train, first, count, all, out);
    if (!in_rows(x)) x = x.contiguous();
    int64_t before = 0;
    if (all != 0) {
      Rows r{first, count, all};
      r.entries(x);
      before = x.numel() / r.count * r.first;
    }
    auto gen = at::detail::getDefaultCPUGenerator();
    int64_t seed = 0;
    {
      std::lock_guard<std::mutex> lock(gen.mutex());
      seed = static_cast<int64_t>(at::check_generator<at::CPUGeneratorImpl>(gen)->random64());
    }
    give(out, LeanDropout::apply(x, p, seed, before));
  })
}
