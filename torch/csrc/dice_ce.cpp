// dice_ce.cpp: nnU-Net's loss of label maps, cross-entropy plus soft Dice of the softmax, in one
// pass over the logits, and its gradient in another. The softmax is recomputed for the gradient:
// nothing of the logits' size is saved. For ranks that share a batch there are the sums alone.
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

// How many sums there are: intersection, prediction and truth of each class, and the cross-entropy.
inline int64_t width_of(int64_t c) { return 3 * c + 1; }

// The sums of each sample (n, width), or of the batch in the first row. Those of class 0 are 0.
template <class E>
std::vector<double> sums(const at::Tensor& x, const at::Tensor& labels, bool batch) {
  using num = typename E::num;
  Shape s(x);
  auto in = rows<E>(x);
  const int32_t* label = labels.data_ptr<int32_t>();
  int64_t width = width_of(s.c);
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
  return total;
}

// The loss, and a and b for each sample (n, c).
template <class E>
double forward(const at::Tensor& x, const at::Tensor& labels, bool batch, double smooth,
               Dice& dice) {
  Shape s(x);
  int64_t width = width_of(s.c);
  std::vector<double> total = sums<E>(x, labels, batch);
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

// The gradient of the logits from Dice's terms, and entropy, that of the summed cross-entropy.
template <class E>
at::Tensor backward(const at::Tensor& x, const at::Tensor& labels, const Dice& dice,
                    double entropy) {
  using num = typename E::num;
  Shape s(x);
  auto in = rows<E>(x);
  auto dx = at::empty(x.sizes(), x.options().memory_format(channels_last(x)));
  auto out = rows<E>(dx);
  const int32_t* label = labels.data_ptr<int32_t>();
  num ce = static_cast<num>(entropy);
  runs(s.samples, s.voxels, [&](int64_t n, int64_t first, int64_t count, int64_t) {
    std::vector<num> p(s.c * kRun);
    std::vector<num> d(s.c * kRun);
    std::vector<num> most(kRun);
    std::vector<num> sum(kRun);
    std::vector<num> a(s.c);
    std::vector<num> b(s.c);
    for (int64_t k = 0; k < s.c; k++) {
      a[k] = static_cast<num>(dice.a[n * s.c + k]);
      b[k] = static_cast<num>(dice.b[n * s.c + k]);
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

// f with the element type of x.
template <class F>
auto typed(const at::Tensor& x, F f) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return f(F32());
    case at::kDouble:
      return f(F64());
    case at::kBFloat16:
      return f(BF16());
    default:
      TORCH_CHECK(false, "dice_ce: ", x.scalar_type(),
                  " is not supported: float32, float64 and bfloat16 are");
  }
}

struct DiceCE : torch::autograd::Function<DiceCE> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& logits,
                            const at::Tensor& labels, bool batch, double smooth) {
    at::Tensor x = as_rows(logits);
    Dice dice;
    double value =
        typed(x, [&](auto e) { return ::forward<decltype(e)>(x, labels, batch, smooth, dice); });
    auto ab = at::empty({2, x.size(0), x.size(1)}, at::kDouble);
    std::copy(dice.a.begin(), dice.a.end(), ab.data_ptr<double>());
    std::copy(dice.b.begin(), dice.b.end(), ab.data_ptr<double>() + dice.a.size());
    ctx->save_for_backward({x, labels, ab});
    return at::scalar_tensor(value, x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    double g = grads[0].item<double>();
    Dice dice;
    const double* ab = saved[2].data_ptr<double>();
    int64_t n = x.size(0) * x.size(1);
    for (int64_t i = 0; i < n; i++) {
      dice.a.push_back(g * ab[i]);
      dice.b.push_back(g * ab[n + i]);
    }
    double entropy = g / static_cast<double>(saved[1].numel());
    return {typed(x, [&](auto e) { return ::backward<decltype(e)>(x, saved[1], dice, entropy); }),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

struct DiceCESums : torch::autograd::Function<DiceCESums> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& logits,
                            const at::Tensor& labels) {
    at::Tensor x = as_rows(logits);
    auto total = typed(x, [&](auto e) { return ::sums<decltype(e)>(x, labels, true); });
    ctx->save_for_backward({x, labels});
    auto out = at::empty({width_of(x.size(1))}, at::kDouble);
    std::copy_n(total.begin(), out.numel(), out.data_ptr<double>());
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    int64_t c = x.size(1);
    at::Tensor grad = grads[0].to(at::kDouble).contiguous();
    const double* g = grad.data_ptr<double>();
    Dice dice;
    for (int64_t n = 0; n < x.size(0); n++) {
      dice.a.insert(dice.a.end(), g, g + c);
      dice.b.insert(dice.b.end(), g + c, g + 2 * c);
    }
    return {typed(x, [&](auto e) { return ::backward<decltype(e)>(x, saved[1], dice, g[3 * c]); }),
            at::Tensor()};
  }
};

// The labels of logits as int32, dense; wrong where one is not a class.
at::Tensor classes_of(const at::Tensor& logits, const at::Tensor& t, int64_t* wrong) {
  TORCH_CHECK(logits.device().is_cpu() && t.device().is_cpu(), "dice_ce: it runs on the CPU alone");
  TORCH_CHECK((logits.dim() == 4 || logits.dim() == 5) && logits.size(1) >= 2 && logits.numel() > 0,
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
  return labels;
}

}  // namespace

// If a label is not a class, *wrong is set and there is no result.
char* lnt_dice_ce(void* x, void* target, int64_t batch, double smooth, int64_t* wrong, void** out) {
  LNT_BODY({
    auto labels = classes_of(T(x), T(target), wrong);
    if (*wrong == 0) give(out, DiceCE::apply(T(x), labels, batch != 0, smooth));
  })
}

// The sums of lnt_dice_ce over the batch, float64: intersection, prediction and truth of c classes,
// and the cross-entropy.
char* lnt_dice_ce_sums(void* x, void* target, int64_t* wrong, void** out) {
  LNT_BODY({
    auto labels = classes_of(T(x), T(target), wrong);
    if (*wrong == 0) give(out, DiceCESums::apply(T(x), labels));
  })
}
