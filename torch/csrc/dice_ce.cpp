// dice_ce.cpp: nnU-Net's loss of label maps, cross-entropy plus soft Dice of the softmax, in one
// pass over the logits, and its gradient in another. The softmax is recomputed for the gradient:
// nothing of the logits' size is saved.
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "channels.h"

using namespace lnt;

namespace {

constexpr int64_t kRun = 256;  // voxels per run, stored as one plane per channel for vectorisation

// exp for x ≤ 0, to about one unit in the last place (Cephes' polynomial). NaN stays NaN.
inline __attribute__((always_inline)) float exponential(float x) {
  x = x < -87.0F ? -87.0F : x;
  float shifted = x * 1.44269504F + 12582912.0F;  // rounds to a whole number in the lowest bits
  float n = shifted - 12582912.0F;
  float r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  float y = p * r * r + r + 1.0F;
  int32_t bits;
  std::memcpy(&bits, &y, sizeof bits);
  bits += static_cast<int32_t>(n) << 23;
  std::memcpy(&y, &bits, sizeof bits);
  return y;
}
inline __attribute__((always_inline)) double exponential(double x) { return std::exp(x); }

// The planes p (c, kRun) become the softmax over c; most and sum (kRun) are the maximum of the
// logits and the sum of the exponentials.
template <class num>
inline __attribute__((always_inline)) void softmax(num* p, int64_t c, num* most, num* sum) {
  for (int64_t v = 0; v < kRun; v++) most[v] = p[v];
  for (int64_t k = 1; k < c; k++) {
    for (int64_t v = 0; v < kRun; v++)
      most[v] = p[k * kRun + v] > most[v] ? p[k * kRun + v] : most[v];
  }
  for (int64_t v = 0; v < kRun; v++) sum[v] = 0;
  for (int64_t k = 0; k < c; k++) {
    for (int64_t v = 0; v < kRun; v++) {
      num e = exponential(p[k * kRun + v] - most[v]);
      p[k * kRun + v] = e;
      sum[v] += e;
    }
  }
  for (int64_t k = 0; k < c; k++) {
    for (int64_t v = 0; v < kRun; v++) p[k * kRun + v] /= sum[v];
  }
}

// dx (c, kRun) = p·(g - Σ g·p) + ce·(p - y), with g = a·y + b for all classes except background.
template <class num>
inline __attribute__((always_inline)) void gradient(const num* p, const int32_t* label, int64_t c,
                                                    const num* a, const num* b, num ce, num* dx) {
  num inner[kRun];
  for (int64_t v = 0; v < kRun; v++) inner[v] = 0;
  for (int64_t k = 1; k < c; k++) {
    for (int64_t v = 0; v < kRun; v++)
      inner[v] += (b[k] + (label[v] == k ? a[k] : num(0))) * p[k * kRun + v];
  }
  for (int64_t k = 0; k < c; k++) {
    for (int64_t v = 0; v < kRun; v++) {
      num hit = label[v] == k ? num(1) : num(0);
      num g = k == 0 ? num(0) : b[k] + hit * a[k];
      dx[k * kRun + v] = p[k * kRun + v] * (g - inner[v]) + ce * (p[k * kRun + v] - hit);
    }
  }
}

LNT_CLONES void softmax_f32(float* p, int64_t c, float* most, float* sum) {
  softmax(p, c, most, sum);
}
LNT_CLONES void gradient_f32(const float* p, const int32_t* label, int64_t c, const float* a,
                             const float* b, float ce, float* dx) {
  gradient(p, label, c, a, b, ce, dx);
}
inline void softmax_of(float* p, int64_t c, float* most, float* sum) {
  softmax_f32(p, c, most, sum);
}
inline void softmax_of(double* p, int64_t c, double* most, double* sum) {
  softmax(p, c, most, sum);
}
inline void gradient_of(const float* p, const int32_t* l, int64_t c, const float* a, const float* b,
                        float ce, float* dx) {
  gradient_f32(p, l, c, a, b, ce, dx);
}
inline void gradient_of(const double* p, const int32_t* l, int64_t c, const double* a,
                        const double* b, double ce, double* dx) {
  gradient(p, l, c, a, b, ce, dx);
}

// A run's logits as planes, with zeros for voxels past its end.
template <class E>
void planes(const typename E::mem* x, int64_t step, int64_t count, int64_t c, typename E::num* p) {
  for (int64_t k = 0; k < c; k++) {
    for (int64_t v = 0; v < count; v++) p[k * kRun + v] = E::scalar::get(x + v * step + k);
    for (int64_t v = count; v < kRun; v++) p[k * kRun + v] = 0;
  }
}

// Runs f(sample, first voxel, voxels, run) over all runs of all samples, in parallel.
template <class F>
void runs(int64_t samples, int64_t voxels, F f) {
  int64_t per = (voxels + kRun - 1) / kRun;
  at::parallel_for(0, samples * per, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      int64_t v = (i % per) * kRun;
      f(i / per, v, std::min(kRun, voxels - v), i);
    }
  });
}

struct Shape {
  int64_t samples, c, voxels, runs;
  explicit Shape(const at::Tensor& x)
      : samples(x.size(0)),
        c(x.size(1)),
        voxels(x.numel() / (x.size(0) * x.size(1))),
        runs(samples * ((voxels + kRun - 1) / kRun)) {}
};

// The gradient's terms of a sample (or of the batch): Dice's a and b of each class, not yet times
// the output gradient.
struct Dice {
  std::vector<double> a, b;
};

// The loss, and a and b for each sample (n, c).
template <class E>
double forward(const at::Tensor& x, const at::Tensor& labels, bool batch, double smooth,
               Dice& dice) {
  using num = typename E::num;
  Shape s(x);
  auto in = rows<E>(x);
  const int32_t* label = labels.data_ptr<int32_t>();
  int64_t width =
      3 * s.c + 1;  // per run: intersection, prediction, truth of each class, and the cross-entropy
  std::vector<double> part(static_cast<size_t>(s.runs * width));
  runs(s.samples, s.voxels, [&](int64_t n, int64_t first, int64_t count, int64_t run) {
    std::vector<num> p(s.c * kRun);
    std::vector<num> most(kRun);
    std::vector<num> sum(kRun);
    planes<E>(in.at(n, first), in.voxel, count, s.c, p.data());
    const int32_t* l = label + n * s.voxels + first;
    double* out = part.data() + run * width;
    double entropy = 0;
    for (int64_t v = 0; v < count; v++) entropy -= static_cast<double>(p[l[v] * kRun + v]);
    softmax_of(p.data(), s.c, most.data(), sum.data());
    for (int64_t v = 0; v < count;) {  // Σ log sum, a few factors at a time
      double product = 1;
      for (int64_t stop = std::min(count, v + 16); v < stop; v++) {
        product *= static_cast<double>(sum[v]);
        entropy += static_cast<double>(most[v]);
      }
      entropy += std::log(product);
    }
    out[3 * s.c] = entropy;
    for (int64_t k = 1; k < s.c; k++) {
      double intersection = 0;
      double prediction = 0;
      int64_t truth = 0;
      for (int64_t v = 0; v < count; v++) {
        prediction += static_cast<double>(p[k * kRun + v]);
        if (l[v] == k) {
          intersection += static_cast<double>(p[k * kRun + v]);
          truth++;
        }
      }
      out[k] = intersection;
      out[s.c + k] = prediction;
      out[2 * s.c + k] = static_cast<double>(truth);
    }
  });
  std::vector<double> total(static_cast<size_t>(s.samples * width));
  int64_t per = s.runs / s.samples;
  for (int64_t run = 0; run < s.runs; run++) {
    for (int64_t i = 0; i < width; i++)
      total[(batch ? 0 : run / per) * width + i] += part[run * width + i];
  }
  int64_t groups = batch ? 1 : s.samples;
  double value = 0;
  double entropy = 0;
  dice.a.assign(s.samples * s.c, 0);
  dice.b.assign(s.samples * s.c, 0);
  double count = static_cast<double>(groups * (s.c - 1));
  for (int64_t g = 0; g < groups; g++) {
    const double* t = total.data() + g * width;
    entropy += t[3 * s.c];
    for (int64_t k = 1; k < s.c; k++) {
      double numerator = 2 * t[k] + smooth;
      double denominator = std::max(t[s.c + k] + t[2 * s.c + k] + smooth, 1e-8);
      value -= numerator / denominator / count;
      for (int64_t n = batch ? 0 : g; n < (batch ? s.samples : g + 1); n++) {
        dice.a[n * s.c + k] = -2 / denominator / count;
        dice.b[n * s.c + k] = numerator / denominator / denominator / count;
      }
    }
  }
  return value + entropy / static_cast<double>(s.samples * s.voxels);
}

template <class E>
at::Tensor backward(const at::Tensor& x, const at::Tensor& labels, const at::Tensor& dice,
                    double grad) {
  using num = typename E::num;
  Shape s(x);
  auto in = rows<E>(x);
  auto dx = at::empty(x.sizes(), x.options().memory_format(channels_last(x)));
  auto out = rows<E>(dx);
  const int32_t* label = labels.data_ptr<int32_t>();
  const double* ab = dice.data_ptr<double>();
  num ce = static_cast<num>(grad / static_cast<double>(s.samples * s.voxels));
  runs(s.samples, s.voxels, [&](int64_t n, int64_t first, int64_t count, int64_t) {
    std::vector<num> p(s.c * kRun);
    std::vector<num> d(s.c * kRun);
    std::vector<num> most(kRun);
    std::vector<num> sum(kRun);
    std::vector<num> a(s.c);
    std::vector<num> b(s.c);
    for (int64_t k = 0; k < s.c; k++) {
      a[k] = static_cast<num>(grad * ab[n * s.c + k]);
      b[k] = static_cast<num>(grad * ab[(s.samples + n) * s.c + k]);
    }
    planes<E>(in.at(n, first), in.voxel, count, s.c, p.data());
    softmax_of(p.data(), s.c, most.data(), sum.data());
    int32_t l[kRun] = {};
    std::memcpy(l, label + n * s.voxels + first, count * sizeof(int32_t));
    gradient_of(p.data(), l, s.c, a.data(), b.data(), ce, d.data());
    for (int64_t k = 0; k < s.c; k++) {
      for (int64_t v = 0; v < count; v++) E::scalar::put(out.at(n, first + v) + k, d[k * kRun + v]);
    }
  });
  return dx;
}

struct DiceCE : torch::autograd::Function<DiceCE> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& logits,
                            const at::Tensor& labels, bool batch, double smooth) {
    at::Tensor x = as_rows(logits);
    Dice dice;
    double value = 0;
    switch (x.scalar_type()) {
      case at::kFloat:
        value = ::forward<F32>(x, labels, batch, smooth, dice);
        break;
      case at::kDouble:
        value = ::forward<F64>(x, labels, batch, smooth, dice);
        break;
      case at::kBFloat16:
        value = ::forward<BF16>(x, labels, batch, smooth, dice);
        break;
      default:
        TORCH_CHECK(false, "dice_ce: ", x.scalar_type(),
                    " is not supported: float32, float64 and bfloat16 are");
    }
    auto ab = at::empty({2, x.size(0), x.size(1)}, at::kDouble);
    std::copy(dice.a.begin(), dice.a.end(), ab.data_ptr<double>());
    std::copy(dice.b.begin(), dice.b.end(), ab.data_ptr<double>() + dice.a.size());
    ctx->save_for_backward({x, labels, ab});
    return at::scalar_tensor(value, x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    auto saved = ctx->get_saved_variables();
    double g = grads[0].item<double>();
    at::Tensor dx;
    switch (saved[0].scalar_type()) {
      case at::kFloat:
        dx = ::backward<F32>(saved[0], saved[1], saved[2], g);
        break;
      case at::kDouble:
        dx = ::backward<F64>(saved[0], saved[1], saved[2], g);
        break;
      default:
        dx = ::backward<BF16>(saved[0], saved[1], saved[2], g);
        break;
    }
    return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

// If a label is not a class, *wrong is set and there is no result.
char* lnt_dice_ce(void* x, void* target, int64_t batch, double smooth, int64_t* wrong, void** out) {
  LNT_BODY({
    const at::Tensor& logits = T(x);
    const at::Tensor& t = T(target);
    TORCH_CHECK(logits.device().is_cpu() && t.device().is_cpu(),
                "dice_ce: it runs on the CPU alone");
    TORCH_CHECK(
        (logits.dim() == 4 || logits.dim() == 5) && logits.size(1) >= 2 && logits.numel() > 0,
        "dice_ce: logits ", logits.sizes(),
        ", expected (n, c, …) with at least 2 classes and 2 or 3 spatial axes");
    TORCH_CHECK(t.dim() == logits.dim() && t.size(1) == 1 && t.size(0) == logits.size(0) &&
                    t.sizes().slice(2) == logits.sizes().slice(2),
                "dice_ce: labels ", t.sizes(), " for logits ", logits.sizes());
    TORCH_CHECK(at::isIntegralType(t.scalar_type(), false), "dice_ce: labels are ", t.scalar_type(),
                ", expected whole numbers");
    auto labels = t.to(at::kInt).contiguous();
    const int32_t* l = labels.data_ptr<int32_t>();
    int32_t all = 0;  // the largest as unsigned: negative labels are larger than every class
    for (int64_t i = 0; i < labels.numel(); i++)
      all = static_cast<int32_t>(std::max(static_cast<uint32_t>(all), static_cast<uint32_t>(l[i])));
    *wrong = static_cast<uint32_t>(all) >= static_cast<uint64_t>(logits.size(1)) ? 1 : 0;
    if (*wrong == 0) give(out, DiceCE::apply(logits, labels, batch != 0, smooth));
  })
}
