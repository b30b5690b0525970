// select.cpp: DGST's selection kernel, the entries of largest |g| in every row.
#include <ATen/Parallel.h>

#include <algorithm>

#include "shim.h"

using namespace lnt;

namespace {

// The largest k for insertion; above it sorting is faster.
constexpr int64_t kInsertion = 32;
constexpr int64_t kBlock = 128;

// The bits of |g|: as integers they have the order of the floats; from those of infinity on they
// are not finite.
constexpr int32_t kMagnitude = 0x7fffffff;
constexpr int32_t kInfinity = 0x7f800000;

int32_t magnitude(const float* g) {
  int32_t bits;
  std::memcpy(&bits, g, sizeof bits);
  return bits & kMagnitude;
}

// The largest magnitude of a whole block.
LNT_CLONES int32_t most_of(const float* g) {
  int32_t bits[kBlock];
  std::memcpy(bits, g, sizeof bits);
  int32_t most = 0;
  for (int64_t i = 0; i < kBlock; i++) most = std::max(most, bits[i] & kMagnitude);
  return most;
}

// Rows of a contiguous float tensor. For each, the flat indices of the k entries of largest |g|,
// largest first, ties to the lowest index. Blocks whose maximum does not exceed the smallest entry
// kept so far are skipped, so a row costs about one vectorised read. False if a value is not
// finite.
bool rows_cpu(const float* g, int64_t rows, int64_t width, int64_t k, int64_t* out) {
  std::atomic<bool> finite{true};
  at::parallel_for(0, rows, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, width)),
                   [&](int64_t begin, int64_t end) {
                     int32_t value[kInsertion];
                     int64_t index[kInsertion];
                     for (int64_t r = begin; r < end; r++) {
                       const float* row = g + r * width;
                       int64_t have = 0;
                       int32_t least =
                           -1;  // below every magnitude, so that the first k entries come in
                       for (int64_t b = 0; b < width; b += kBlock) {
                         int64_t stop = std::min(width, b + kBlock);
                         int32_t most = 0;
                         if (stop - b == kBlock) {
                           most = most_of(row + b);
                         } else {
                           for (int64_t i = b; i < stop; i++)
                             most = std::max(most, magnitude(row + i));
                         }
                         if (most >= kInfinity) {
                           finite.store(false, std::memory_order_relaxed);
                           break;
                         }
                         if (have == k && most <= least) continue;
                         for (int64_t i = b; i < stop; i++) {
                           int32_t a = magnitude(row + i);
                           if (have == k && a <= least) continue;
                           int64_t at = have < k ? have++ : k - 1;
                           while (at > 0 && value[at - 1] < a) {
                             value[at] = value[at - 1];
                             index[at] = index[at - 1];
                             at--;
                           }
                           value[at] = a;
                           index[at] = i;
                           if (have == k) least = value[k - 1];
                         }
                       }
                       for (int64_t i = 0; i < have; i++) out[r * k + i] = r * width + index[i];
                     }
                   });
  return finite.load();
}

}  // namespace

// out: int64 (rows, min(k, width)).
char* lnt_topk_rows(void* gp, int64_t k, void** out) {
  LNT_BODY({
    at::NoGradGuard guard;
    at::Tensor g = T(gp).detach();
    TORCH_CHECK(g.dim() >= 2, "topk_rows: gradient has ", g.dim(), " dims, at least 2 are needed");
    TORCH_CHECK(k >= 1, "topk_rows: k is ", k, ", at least 1 is needed");
    g = g.reshape({g.size(0), -1}).contiguous();
    int64_t rows = g.size(0);
    int64_t width = g.size(1);
    k = std::min(k, width);
    if (g.device().is_cpu() && g.scalar_type() == at::kFloat && k <= kInsertion) {
      auto index = at::empty({rows, k}, at::TensorOptions().dtype(at::kLong));
      TORCH_CHECK(rows_cpu(g.data_ptr<float>(), rows, width, k, index.data_ptr<int64_t>()),
                  "topk_rows: gradient is not finite");
      give(out, index);
      return nullptr;
    }
    if (k <= kInsertion && !g.device().is_cpu()) {  // k reads of the rows instead of a sort; max()
                                                    // gives the lowest of equal entries
      at::Tensor left = g.abs();
      std::vector<at::Tensor> chosen;
      for (int64_t i = 0; i < k; i++) {
        auto [value, index] = at::max(left, 1, /*keepdim=*/true);
        if (i == 0)
          TORCH_CHECK(at::isfinite(value).all().item<bool>(), "topk_rows: gradient is not finite");
        left.scatter_(1, index, -1);
        chosen.push_back(index);
      }
      auto order = at::cat(chosen, 1);
      give(out, order + at::arange(rows, order.options()).unsqueeze(1) * width);
      return nullptr;
    }
    TORCH_CHECK(at::isfinite(g).all().item<bool>(), "topk_rows: gradient is not finite");
    auto order = std::get<1>(at::sort(g.abs(), /*stable=*/true, /*dim=*/1, /*descending=*/true))
                     .narrow(1, 0, k);
    give(out, order + at::arange(rows, order.options()).unsqueeze(1) * width);
  })
}
