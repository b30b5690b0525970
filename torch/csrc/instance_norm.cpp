// instance_norm.cpp: instance norm followed by LeakyReLU, channels-last, with its own backward
// pass.
//
// torch runs batch_norm on a view, an activation, and for the backward pass four more kernels with
// copies between layouts. Here the forward pass reads its input twice and writes once; the backward
// pass reads gradient and activation twice and writes once. Statistics are summed over fixed blocks
// of voxels, so the bits do not depend on the thread count.
//
// For the backward pass only the output is saved, which the next convolution saves anyway: the
// normalised input is computed from it, because LeakyReLU and the affine map are invertible. If the
// bias is so large relative to the weight that too many bits are lost, or if there is a residual,
// the input is saved.
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "channels.h"
#include "cuda/kernels.h"

using namespace lnt;

namespace {

// The largest |bias/weight| for which only the output is saved: the rounding error of the
// normalised input grows with it.
constexpr double kInvertible = 16;
constexpr double kInvertibleBF16 = 2;

// The kernels below process a run of voxels, as many channels as L holds, starting at channel i.

// Sums of x and of its squares about middle, which is the mean up to rounding.
template <class L, class num>
inline __attribute__((always_inline)) void moments(const typename L::mem* x, int64_t step,
                                                   int64_t voxels, int64_t i, num* middle, num* s1,
                                                   num* s2) {
  auto shift = L::get(x + i);
  auto a = L::zero();
  for (int64_t v = 0; v < voxels; v++) a += L::get(x + v * step + i) - shift;
  shift += a * (1 / static_cast<num>(voxels));
  a = L::zero();
  auto b = a;
  for (int64_t v = 0; v < voxels; v++) {
    auto d = L::get(x + v * step + i) - shift;
    a += d;
    b += d * d;
  }
  std::memcpy(middle + i, &shift, sizeof shift);
  std::memcpy(s1 + i, &a, sizeof a);
  std::memcpy(s2 + i, &b, sizeof b);
}

// y = leaky(a*x + b [+ r])
template <class L, bool Residual, class num>
inline __attribute__((always_inline)) void apply(const typename L::mem* x, int64_t xstep,
                                                 const typename L::mem* r, int64_t rstep,
                                                 typename L::mem* y, int64_t c, int64_t voxels,
                                                 int64_t i, const num* a, const num* b, num slope) {
  auto scale = L::load(a + i);
  auto bias = L::load(b + i);
  for (int64_t v = 0; v < voxels; v++) {
    auto z = L::get(x + v * xstep + i) * scale + bias;
    if (Residual) z += L::get(r + v * rstep + i);
    L::put(y + v * c + i, L::choose(z, z, z * slope));
  }
}

// The backward pass's terms of one voxel: the gradient dz before the rectifier, and the normalised
// input p*u + q, where u is the input, or the rectifier's input computed from the output.
template <class L, bool FromOutput, class num>
inline __attribute__((always_inline)) void before(const typename L::mem* dy,
                                                  const typename L::mem* y,
                                                  const typename L::mem* x, num slope, num inverse,
                                                  const typename L::num& p,
                                                  const typename L::num& q, typename L::num& dz,
                                                  typename L::num& normalised) {
  auto out = L::get(y);
  auto d = L::get(dy);
  dz = L::choose(out, d, d * slope);
  auto u = FromOutput ? L::choose(out, out, out * inverse) : L::get(x);
  normalised = p * u + q;
}

// Sums of dz and of dz times the normalised input.
template <class L, bool FromOutput, class num>
inline __attribute__((always_inline)) void gradient_sums(const typename L::mem* dy, int64_t dstep,
                                                         const typename L::mem* y, int64_t c,
                                                         const typename L::mem* x, int64_t xstep,
                                                         int64_t voxels, int64_t i, const num* p,
                                                         const num* q, num slope, num inverse,
                                                         num* s1, num* s2) {
  typename L::num pi = L::load(p + i);
  typename L::num qi = L::load(q + i);
  typename L::num a = L::zero();
  typename L::num b = a;
  for (int64_t v = 0; v < voxels; v++) {
    typename L::num dz;
    typename L::num h;
    before<L, FromOutput>(dy + v * dstep + i, y + v * c + i, x + v * xstep + i, slope, inverse, pi,
                          qi, dz, h);
    a += dz;
    b += dz * h;
  }
  std::memcpy(s1 + i, &a, sizeof a);
  std::memcpy(s2 + i, &b, sizeof b);
}

// dx = a*dz + e + f*normalised, and dz itself for a residual.
template <class L, bool FromOutput, bool Residual, class num>
inline __attribute__((always_inline)) void gradient_apply(const typename L::mem* dy, int64_t dstep,
                                                          const typename L::mem* y, int64_t c,
                                                          const typename L::mem* x, int64_t xstep,
                                                          typename L::mem* dx, typename L::mem* dr,
                                                          int64_t voxels, int64_t i, const num* p,
                                                          const num* q, const num* a, const num* e,
                                                          const num* f, num slope, num inverse) {
  typename L::num pi = L::load(p + i);
  typename L::num qi = L::load(q + i);
  auto ai = L::load(a + i);
  auto ei = L::load(e + i);
  auto fi = L::load(f + i);
  for (int64_t v = 0; v < voxels; v++) {
    typename L::num dz;
    typename L::num h;
    before<L, FromOutput>(dy + v * dstep + i, y + v * c + i, x + v * xstep + i, slope, inverse, pi,
                          qi, dz, h);
    L::put(dx + v * c + i, ai * dz + ei + fi * h);
    if (Residual) L::put(dr + v * c + i, dz);
  }
}

// One function for each element type and variant, compiled for each instruction set.
#define LNT_VARIANTS(E, T)                                                                         \
  LNT_CLONES void moments_##T(const E::mem* x, int64_t step, int64_t n, int64_t c, E::num* middle, \
                              E::num* s1, E::num* s2){LNT_CHANNELS(                                \
      E, moments<L>(x, step, n, i, middle, s1,                                                     \
                    s2))} LNT_CLONES void apply_##T(const E::mem* x, int64_t xs, const E::mem* r,  \
                                                    int64_t rs, E::mem* y, int64_t n, int64_t c,   \
                                                    const E::num* a, const E::num* b,              \
                                                    E::num slope) {                                \
    if (r != nullptr) {                                                                            \
      LNT_CHANNELS(E, (apply<L, true>(x, xs, r, rs, y, c, n, i, a, b, slope)))                     \
    } else {                                                                                       \
      LNT_CHANNELS(E, (apply<L, false>(x, xs, r, rs, y, c, n, i, a, b, slope)))                    \
    }                                                                                              \
  }                                                                                                \
  LNT_CLONES void sums_##T(const E::mem* dy, int64_t ds, const E::mem* y, const E::mem* x,         \
                           int64_t xs, int64_t n, int64_t c, const E::num* p, const E::num* q,     \
                           E::num slope, E::num inverse, E::num* s1, E::num* s2) {                 \
    if (x == nullptr) {                                                                            \
      LNT_CHANNELS(                                                                                \
          E, (gradient_sums<L, true>(dy, ds, y, c, x, xs, n, i, p, q, slope, inverse, s1, s2)))    \
    } else {                                                                                       \
      LNT_CHANNELS(                                                                                \
          E, (gradient_sums<L, false>(dy, ds, y, c, x, xs, n, i, p, q, slope, inverse, s1, s2)))   \
    }                                                                                              \
  }                                                                                                \
  LNT_CLONES void grad_##T(const E::mem* dy, int64_t ds, const E::mem* y, const E::mem* x,         \
                           int64_t xs, E::mem* dx, E::mem* dr, int64_t n, int64_t c,               \
                           const E::num* p, const E::num* q, const E::num* a, const E::num* e,     \
                           const E::num* f, E::num slope, E::num inverse) {                        \
    if (x == nullptr) {                                                                            \
      LNT_CHANNELS(E, (gradient_apply<L, true, false>(dy, ds, y, c, x, xs, dx, dr, n, i, p, q, a,  \
                                                      e, f, slope, inverse)))                      \
    } else if (dr == nullptr) {                                                                    \
      LNT_CHANNELS(E, (gradient_apply<L, false, false>(dy, ds, y, c, x, xs, dx, dr, n, i, p, q, a, \
                                                       e, f, slope, inverse)))                     \
    } else {                                                                                       \
      LNT_CHANNELS(E, (gradient_apply<L, false, true>(dy, ds, y, c, x, xs, dx, dr, n, i, p, q, a,  \
                                                      e, f, slope, inverse)))                      \
    }                                                                                              \
  }

LNT_VARIANTS(F32, f32)
LNT_VARIANTS(F64, f64)
LNT_VARIANTS(BF16, bf16)

template <class E>
struct Kernels;
#define LNT_KERNELS(E, T)                         \
  template <>                                     \
  struct Kernels<E> {                             \
    static constexpr auto moments = &moments_##T; \
    static constexpr auto apply = &apply_##T;     \
    static constexpr auto sums = &sums_##T;       \
    static constexpr auto grad = &grad_##T;       \
  };
LNT_KERNELS(F32, f32)
LNT_KERNELS(F64, f64)
LNT_KERNELS(BF16, bf16)

// Values per block and channel.
template <class num>
struct Sums {
  int64_t c, kinds;
  std::vector<num> part;

  Sums(int64_t samples, int64_t voxels, int64_t c, int64_t kinds)
      : c(c),
        kinds(kinds),
        part(
            static_cast<size_t>(kinds * samples * ((voxels + block_of(c) - 1) / block_of(c)) * c)) {
  }
  num* at(int64_t block, int64_t kind) { return part.data() + (kinds * block + kind) * c; }
};

struct Statistics {
  at::Tensor mean, rstd;  // double (n, c)
};

template <class E>
at::Tensor forward(const at::Tensor& x, const double* w, const double* b,
                   const at::Tensor& residual, double eps, double slope, Statistics& st) {
  using num = typename E::num;
  int64_t samples = x.size(0);
  int64_t c = x.size(1);
  int64_t voxels = x.numel() / (samples * c);
  auto in = rows<E>(x);
  Sums<num> sums(samples, voxels, c, 3);
  blocks(samples, voxels, c, [&](int64_t n, int64_t v, int64_t count, int64_t block) {
    Kernels<E>::moments(in.at(n, v), in.voxel, count, c, sums.at(block, 0), sums.at(block, 1),
                        sums.at(block, 2));
  });
  st.mean = at::zeros({samples, c}, at::kDouble);
  st.rstd = at::zeros({samples, c}, at::kDouble);
  double* mean = st.mean.data_ptr<double>();
  double* rstd = st.rstd.data_ptr<double>();
  int64_t size = block_of(c);
  int64_t block = 0;
  for (int64_t n = 0; n < samples;
       n++) {  // blocks in order: running mean and sum of squares about it
    for (int64_t v = 0; v < voxels; v += size, block++) {
      auto count = static_cast<double>(std::min(size, voxels - v));
      double part = count / (static_cast<double>(v) + count);
      for (int64_t i = 0; i < c; i++) {
        double s1 = static_cast<double>(sums.at(block, 1)[i]);
        double squares = static_cast<double>(sums.at(block, 2)[i]) - s1 * s1 / count;
        double delta = static_cast<double>(sums.at(block, 0)[i]) + s1 / count - mean[n * c + i];
        mean[n * c + i] += delta * part;
        rstd[n * c + i] += squares + delta * delta * static_cast<double>(v) * part;
      }
    }
  }
  std::vector<num> a(samples * c);
  std::vector<num> d(samples * c);
  for (int64_t i = 0; i < samples * c; i++) {
    rstd[i] = 1.0 / std::sqrt(rstd[i] / static_cast<double>(voxels) + eps);
    a[i] = static_cast<num>(w[i % c] * rstd[i]);
    d[i] = static_cast<num>(b[i % c] - mean[i] * w[i % c] * rstd[i]);
  }
  auto y = at::empty(x.sizes(), x.options().memory_format(channels_last(x)));
  auto out = rows<E>(y);
  Rows<E> res{nullptr, 0, 0};
  if (residual.defined()) res = rows<E>(residual);
  blocks(samples, voxels, c, [&](int64_t n, int64_t v, int64_t count, int64_t) {
    Kernels<E>::apply(in.at(n, v), in.voxel, res.data == nullptr ? nullptr : res.at(n, v),
                      res.voxel, out.data + (n * voxels + v) * c, count, c, &a[n * c], &d[n * c],
                      static_cast<num>(slope));
  });
  return y;
}

struct Gradients {
  at::Tensor dx, dw, db, dr;
};

// The requested gradients; dw and db are computed together.
struct Wanted {
  bool x, affine, residual;
};

template <class E>
Gradients backward(const at::Tensor& dy, const at::Tensor& y, const at::Tensor& x, const double* w,
                   const double* b, const Statistics& st, double slope, Wanted wanted) {
  using num = typename E::num;
  int64_t samples = y.size(0);
  int64_t c = y.size(1);
  int64_t voxels = y.numel() / (samples * c);
  const double* mean = st.mean.data_ptr<double>();
  const double* rstd = st.rstd.data_ptr<double>();
  auto g = rows<E>(dy);
  auto o = rows<E>(y);
  Rows<E> in{nullptr, 0, 0};
  if (x.defined()) in = rows<E>(x);
  std::vector<num> p(samples * c);
  std::vector<num> q(samples * c);
  for (int64_t i = 0; i < samples * c; i++) {
    if (x.defined()) {  // (x - mean)*rstd
      p[i] = static_cast<num>(rstd[i]);
      q[i] = static_cast<num>(-mean[i] * rstd[i]);
    } else {  // (u - b)/w
      p[i] = static_cast<num>(1 / w[i % c]);
      q[i] = static_cast<num>(-b[i % c] / w[i % c]);
    }
  }
  num s = static_cast<num>(slope);
  num inverse = static_cast<num>(slope != 0 ? 1 / slope : 0);
  Sums<num> sums(samples, voxels, c, 2);
  blocks(samples, voxels, c, [&](int64_t n, int64_t v, int64_t count, int64_t block) {
    Kernels<E>::sums(g.at(n, v), g.voxel, o.data + (n * voxels + v) * c,
                     in.data == nullptr ? nullptr : in.at(n, v), in.voxel, count, c, &p[n * c],
                     &q[n * c], s, inverse, sums.at(block, 0), sums.at(block, 1));
  });
  std::vector<double> s1(samples * c);
  std::vector<double> s2(samples * c);
  int64_t per = (voxels + block_of(c) - 1) / block_of(c);
  for (int64_t block = 0; block < samples * per; block++) {
    for (int64_t i = 0; i < c; i++) {
      s1[block / per * c + i] += static_cast<double>(sums.at(block, 0)[i]);
      s2[block / per * c + i] += static_cast<double>(sums.at(block, 1)[i]);
    }
  }
  std::vector<num> a(samples * c);
  std::vector<num> e(samples * c);
  std::vector<num> f(samples * c);
  Gradients out;
  out.dw = at::zeros({c}, at::kDouble);
  out.db = at::zeros({c}, at::kDouble);
  for (int64_t i = 0; i < samples * c; i++) {
    out.db.data_ptr<double>()[i % c] += s1[i];
    out.dw.data_ptr<double>()[i % c] += s2[i];
    double k = w[i % c] * rstd[i];
    a[i] = static_cast<num>(k);
    e[i] = static_cast<num>(-k * s1[i] / static_cast<double>(voxels));
    f[i] = static_cast<num>(-k * s2[i] / static_cast<double>(voxels));
  }
  if (!wanted.x && !wanted.residual) return out;
  out.dx = at::empty(y.sizes(), y.options().memory_format(channels_last(y)));
  if (wanted.residual) out.dr = at::empty(y.sizes(), y.options().memory_format(channels_last(y)));
  auto dx = rows<E>(out.dx);
  typename E::mem* dr =
      wanted.residual ? static_cast<typename E::mem*>(out.dr.data_ptr()) : nullptr;
  blocks(samples, voxels, c, [&](int64_t n, int64_t v, int64_t count, int64_t) {
    int64_t at = (n * voxels + v) * c;
    Kernels<E>::grad(g.at(n, v), g.voxel, o.data + at, in.data == nullptr ? nullptr : in.at(n, v),
                     in.voxel, dx.data + at, dr == nullptr ? nullptr : dr + at, count, c, &p[n * c],
                     &q[n * c], &a[n * c], &e[n * c], &f[n * c], s, inverse);
  });
  return out;
}

std::vector<double> doubles(const at::Tensor& t, int64_t channels, double absent) {
  if (!t.defined()) return std::vector<double>(static_cast<size_t>(channels), absent);
  auto d = t.to(at::kDouble).contiguous();
  const double* p = d.data_ptr<double>();
  return std::vector<double>(p, p + d.numel());
}

struct InstanceNormLeakyReLU : torch::autograd::Function<InstanceNormLeakyReLU> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x_in,
                            const std::optional<at::Tensor>& weight,
                            const std::optional<at::Tensor>& bias,
                            const std::optional<at::Tensor>& residual, double eps, double slope) {
    at::Tensor x = as_rows(x_in);
    at::Tensor w = weight.value_or(at::Tensor());
    at::Tensor b = bias.value_or(at::Tensor());
    auto wd = doubles(w, x.size(1), 1);
    auto bd = doubles(b, x.size(1), 0);
    at::Tensor r;
    if (residual) r = as_rows(*residual);
    Statistics st;
    at::Tensor y;
    switch (x.scalar_type()) {
      case at::kFloat:
        y = ::forward<F32>(x, wd.data(), bd.data(), r, eps, slope, st);
        break;
      case at::kDouble:
        y = ::forward<F64>(x, wd.data(), bd.data(), r, eps, slope, st);
        break;
      case at::kBFloat16:
        y = ::forward<BF16>(x, wd.data(), bd.data(), r, eps, slope, st);
        break;
      default:
        TORCH_CHECK(false, "instance_norm_leaky_relu: ", x.scalar_type(),
                    " is not supported: float32, float64 and bfloat16 are");
    }
    double most = x.scalar_type() == at::kBFloat16 ? kInvertibleBF16 : kInvertible;
    bool invertible = !r.defined() && slope > 0;
    for (size_t i = 0; i < wd.size(); i++)
      invertible =
          invertible && std::fabs(wd[i]) > 1e-12 && std::fabs(bd[i]) <= most * std::fabs(wd[i]);
    ctx->saved_data["slope"] = slope;
    ctx->saved_data["residual"] = r.defined();
    ctx->save_for_backward({y, invertible ? at::Tensor() : x, w, b, st.mean, st.rstd});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const at::Tensor& y = saved[0];
    auto wd = doubles(saved[2], y.size(1), 1);
    auto bd = doubles(saved[3], y.size(1), 0);
    Statistics st{saved[4], saved[5]};
    double slope = ctx->saved_data["slope"].toDouble();
    // needs_input_grad counts only defined tensors.
    size_t next = 1;
    bool affine = false;
    for (int i : {2, 3}) affine = (saved[i].defined() && ctx->needs_input_grad(next++)) || affine;
    Wanted wanted{ctx->needs_input_grad(0), affine,
                  ctx->saved_data["residual"].toBool() && ctx->needs_input_grad(next)};
    at::Tensor dy = as_rows(grads[0].to(y.scalar_type()));
    Gradients g;
    switch (y.scalar_type()) {
      case at::kFloat:
        g = ::backward<F32>(dy, y, saved[1], wd.data(), bd.data(), st, slope, wanted);
        break;
      case at::kDouble:
        g = ::backward<F64>(dy, y, saved[1], wd.data(), bd.data(), st, slope, wanted);
        break;
      default:
        g = ::backward<BF16>(dy, y, saved[1], wd.data(), bd.data(), st, slope, wanted);
        break;
    }
    auto like = [](const at::Tensor& gradient, const at::Tensor& of) {
      return of.defined() ? gradient.to(of.scalar_type()) : at::Tensor();
    };
    return {wanted.x ? g.dx : at::Tensor(),
            like(g.dw, saved[2]),
            like(g.db, saved[3]),
            g.dr,
            at::Tensor(),
            at::Tensor()};
  }
};

// The same with the kernels of cuda/instance_norm.cu. Whether the output suffices for the backward
// pass depends on weights on the GPU; to avoid synchronising, the input is always saved.
struct InstanceNormLeakyReLUCUDA : torch::autograd::Function<InstanceNormLeakyReLUCUDA> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x_in,
                            const std::optional<at::Tensor>& weight,
                            const std::optional<at::Tensor>& bias,
                            const std::optional<at::Tensor>& residual, double eps, double slope) {
    auto single = [](const std::optional<at::Tensor>& t) {
      return t ? t->to(at::kFloat).contiguous() : at::Tensor();
    };
    at::Tensor x = as_rows(x_in);
    at::Tensor r = residual ? as_rows(*residual) : at::Tensor();
    auto [y, mean, rstd] =
        cuda_kernels()->norm_forward(x, single(weight), single(bias), r, eps, slope);
    ctx->saved_data["slope"] = slope;
    ctx->saved_data["residual"] = r.defined();
    ctx->save_for_backward(
        {y, x, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), mean, rstd});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const at::Tensor& y = saved[0];
    at::Tensor w = saved[2].defined() ? saved[2].to(at::kFloat).contiguous() : saved[2];
    at::Tensor dy = as_rows(grads[0].to(y.scalar_type()));
    bool residual = ctx->saved_data["residual"].toBool();
    auto [dx, dw, db, dr] = cuda_kernels()->norm_backward(
        dy, y, saved[1], w, saved[4], saved[5], ctx->saved_data["slope"].toDouble(), residual);
    auto like = [](const at::Tensor& gradient, const at::Tensor& of) {
      return of.defined() ? gradient.to(of.scalar_type()) : at::Tensor();
    };
    return {dx, like(dw, saved[2]), like(db, saved[3]), dr, at::Tensor(), at::Tensor()};
  }
};

// Whether the kernels apply: separate operators handle other dtypes and tensors that are not
// channels-last.
bool has_cuda_kernel(const at::Tensor& x) {
  auto t = x.scalar_type();
  return x.is_cuda() && cuda_kernels() != nullptr && rowwise(x) &&
         (t == at::kFloat || t == at::kHalf || t == at::kBFloat16);
}

}  // namespace

char* lnt_instance_norm_leaky_relu(void* x, void* w, void* b, void* residual, double eps,
                                   double slope, void** out) {
  LNT_BODY({
    const at::Tensor& t = T(x);
    TORCH_CHECK(t.dim() == 4 || t.dim() == 5, "instance_norm_leaky_relu: ", t.dim(),
                " axes, expected (n, c, …) with 2 or 3 spatial ones");
    TORCH_CHECK(t.numel() > t.size(0) * t.size(1), "instance_norm_leaky_relu: input ", t.sizes(),
                ": expected more than one value per channel");
    for (void* p : {w, b}) {
      TORCH_CHECK(p == nullptr || (T(p).dim() == 1 && T(p).size(0) == t.size(1)),
                  "instance_norm_leaky_relu: weight or bias ", T(p).sizes(), " for ", t.size(1),
                  " channels");
    }
    std::optional<at::Tensor> r = O(residual);
    if (r) {
      TORCH_CHECK(r->sizes() == t.sizes(), "instance_norm_leaky_relu: residual ", r->sizes(),
                  " for an input ", t.sizes());
      r = r->to(t.scalar_type());
    }
    if (has_cuda_kernel(t)) {
      give(out, InstanceNormLeakyReLUCUDA::apply(t, O(w), O(b), r, eps, slope));
      return nullptr;
    }
    if (!t.device().is_cpu()) {
      at::Tensor z = at::instance_norm(t, O(w), O(b), {}, {}, true, 0.1, eps,
                                       at::globalContext().userEnabledCuDNN());
      if (r) z = z + *r;
      give(out, slope == 1 ? z : at::leaky_relu(z, slope));
      return nullptr;
    }
    give(out, InstanceNormLeakyReLU::apply(t, O(w), O(b), r, eps, slope));
  })
}
