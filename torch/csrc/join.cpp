// join.cpp: a decoder's upsampling in one operator: transposed convolution, bias, and concatenation
// with the skip connection along the channels.
//
// The bias is added during concatenation. Its gradient is summed while the gradient of the
// convolution's output is sliced from that of the result: oneDNN sums it voxel by voxel through a
// function pointer, which in bfloat16 is slower than the rest of the transposed convolution.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "channels.h"

using namespace lnt;

namespace {

// out = u + b for a run of voxels, from channel i on.
template <class L, class num>
inline __attribute__((always_inline)) void add_bias(const typename L::mem* u, int64_t ustep,
                                                    typename L::mem* out, int64_t step,
                                                    int64_t voxels, int64_t i, const num* b) {
  auto bias = L::load(b + i);
  for (int64_t v = 0; v < voxels; v++) L::put(out + v * step + i, L::get(u + v * ustep + i) + bias);
}

// du = dout, and its sum over the voxels.
template <class L, class num>
inline __attribute__((always_inline)) void cut(const typename L::mem* dout, int64_t step,
                                               typename L::mem* du, int64_t c, int64_t voxels,
                                               int64_t i, num* sum) {
  auto a = L::zero();
  for (int64_t v = 0; v < voxels; v++) {
    auto d = L::get(dout + v * step + i);
    a += d;
    L::put(du + v * c + i, d);
  }
  std::memcpy(sum + i, &a, sizeof a);
}

#define LNT_VARIANTS(E, T)                                                                        \
  LNT_CLONES void add_bias_##T(const E::mem* u, int64_t us, E::mem* out, int64_t step, int64_t n, \
                               int64_t c, const E::num* b){LNT_CHANNELS(                          \
      E, add_bias<L>(u, us, out, step, n, i,                                                      \
                     b))} LNT_CLONES void cut_##T(const E::mem* dout, int64_t step, E::mem* du,   \
                                                  int64_t n, int64_t c, E::num* sum) {            \
    LNT_CHANNELS(E, cut<L>(dout, step, du, c, n, i, sum))                                         \
  }

LNT_VARIANTS(F32, f32)
LNT_VARIANTS(F64, f64)
LNT_VARIANTS(BF16, bf16)

template <class E>
struct Kernels;
#define LNT_KERNELS(E, T)                           \
  template <>                                       \
  struct Kernels<E> {                               \
    static constexpr auto add_bias = &add_bias_##T; \
    static constexpr auto cut = &cut_##T;           \
  };
LNT_KERNELS(F32, f32)
LNT_KERNELS(F64, f64)
LNT_KERNELS(BF16, bf16)

// (u + b, skip) along the channels.
template <class E>
at::Tensor beside(const at::Tensor& u_in, const at::Tensor& bias, const at::Tensor& skip_in) {
  using num = typename E::num;
  at::Tensor u = as_rows(u_in);
  at::Tensor skip = as_rows(skip_in);
  int64_t cu = u.size(1);
  int64_t c = cu + skip.size(1);
  auto size = u.sizes().vec();
  size[1] = c;
  auto out = at::empty(size, u.options().memory_format(channels_last(u)));
  std::vector<num> b(static_cast<size_t>(cu), 0);
  if (bias.defined()) {
    auto t = bias.to(at::kDouble).contiguous();
    for (int64_t i = 0; i < cu; i++) b[i] = static_cast<num>(t.data_ptr<double>()[i]);
  }
  auto from = rows<E>(u);
  auto beside = rows<E>(skip);
  auto to = rows<E>(out);
  blocks(u.size(0), u.numel() / (u.size(0) * cu), c,
         [&](int64_t n, int64_t v, int64_t count, int64_t) {
           auto* o = to.at(n, v);
           Kernels<E>::add_bias(from.at(n, v), from.voxel, o, to.voxel, count, cu, b.data());
           const auto* s = beside.at(n, v);
           for (int64_t k = 0; k < count; k++)
             std::memcpy(o + k * to.voxel + cu, s + k * beside.voxel, (c - cu) * sizeof(*o));
         });
  return out;
}

// The first cu channels of dout, and their sums.
template <class E>
std::pair<at::Tensor, at::Tensor> apart(const at::Tensor& dout, int64_t cu) {
  using num = typename E::num;
  auto size = dout.sizes().vec();
  size[1] = cu;
  auto du = at::empty(size, dout.options().memory_format(channels_last(dout)));
  int64_t voxels = du.numel() / (du.size(0) * cu);
  int64_t count = dout.size(0) * ((voxels + block_of(cu) - 1) / block_of(cu));
  std::vector<num> sums(static_cast<size_t>(count * cu));
  auto from = rows<E>(dout);
  auto to = rows<E>(du);
  blocks(dout.size(0), voxels, cu, [&](int64_t n, int64_t v, int64_t run, int64_t block) {
    Kernels<E>::cut(from.at(n, v), from.voxel, to.at(n, v), run, cu, sums.data() + block * cu);
  });
  auto db = at::zeros({cu}, at::kDouble);
  for (int64_t k = 0; k < count * cu; k++)
    db.data_ptr<double>()[k % cu] += static_cast<double>(sums[k]);
  return {du, db};
}

struct ConvTransposeCat : torch::autograd::Function<ConvTransposeCat> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                            const at::Tensor& w, const std::optional<at::Tensor>& b,
                            const at::Tensor& skip, at::IntArrayRef stride) {
    std::vector<int64_t> none(stride.size(), 0);
    std::vector<int64_t> one(stride.size(), 1);
    auto u = at::convolution(x, w, {}, stride, none, one, true, none, 1);
    TORCH_CHECK(u.dim() == skip.dim() && u.size(0) == skip.size(0) &&
                    u.sizes().slice(2) == skip.sizes().slice(2),
                "conv_transpose_cat: skip connection ", skip.sizes(), " beside ", u.sizes());
    at::Tensor bias = b.value_or(at::Tensor());
    at::Tensor out;
    switch (u.scalar_type()) {
      case at::kFloat:
        out = beside<F32>(u, bias, skip);
        break;
      case at::kDouble:
        out = beside<F64>(u, bias, skip);
        break;
      case at::kBFloat16:
        out = beside<BF16>(u, bias, skip);
        break;
      default:
        TORCH_CHECK(false, "conv_transpose_cat: ", u.scalar_type(),
                    " is not supported: float32, float64 and bfloat16 are");
    }
    ctx->saved_data["stride"] = stride.vec();
    ctx->saved_data["channels"] = u.size(1);
    ctx->save_for_backward({x, w, bias});
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto stride = ctx->saved_data["stride"].toIntVector();
    int64_t cu = ctx->saved_data["channels"].toInt();
    at::Tensor dout = as_rows(grads[0]);
    // needs_input_grad counts only defined tensors.
    size_t skip = saved[2].defined() ? 3 : 2;
    bool up = false;
    for (size_t i = 0; i < skip; i++) up = up || ctx->needs_input_grad(i);
    at::Tensor dx, dw, db, dskip;
    if (up) {
      std::pair<at::Tensor, at::Tensor> first;
      switch (dout.scalar_type()) {
        case at::kFloat:
          first = apart<F32>(dout, cu);
          break;
        case at::kDouble:
          first = apart<F64>(dout, cu);
          break;
        default:
          first = apart<BF16>(dout, cu);
          break;
      }
      std::vector<int64_t> none(stride.size(), 0);
      std::vector<int64_t> one(stride.size(), 1);
      bool x = ctx->needs_input_grad(0);
      bool w = ctx->needs_input_grad(1);
      if (x || w) {
        std::tie(dx, dw, std::ignore) =
            at::convolution_backward(first.first, saved[0], saved[1], at::OptionalIntArrayRef(),
                                     stride, none, one, true, none, 1, {x, w, false});
      }
      if (saved[2].defined() && ctx->needs_input_grad(2))
        db = first.second.to(saved[2].scalar_type());
    }
    if (ctx->needs_input_grad(skip)) dskip = dout.narrow(1, cu, dout.size(1) - cu);
    return {dx, dw, db, dskip, at::Tensor()};
  }
};

}  // namespace

char* lnt_conv_transpose_cat(void* x, void* w, void* b, void* skip, const int64_t* stride,
                             int64_t nd, void** out) {
  LNT_BODY({
    at::Tensor low = T(x);
    at::Tensor weight = T(w);
    at::Tensor beside = T(skip);
    TORCH_CHECK((nd == 2 || nd == 3) && low.dim() == nd + 2, "conv_transpose_cat: input ",
                low.sizes(), " with ", nd, " strides, expected (n, c, …) with 2 or 3 spatial axes");
    TORCH_CHECK(beside.dim() == nd + 2, "conv_transpose_cat: skip connection ", beside.sizes(),
                " for ", nd, " spatial axes");
    TORCH_CHECK(
        b == nullptr || (weight.dim() > 1 && T(b).dim() == 1 && T(b).size(0) == weight.size(1)),
        "conv_transpose_cat: the bias does not fit the weight ", weight.sizes());
    auto device = low.device().type();
    if (at::autocast::is_autocast_enabled(device)) {
      auto type = at::autocast::get_autocast_dtype(device);
      low = at::autocast::cached_cast(type, low, device);
      weight = at::autocast::cached_cast(type, weight, device);
    }
    auto s = dims(stride, nd);
    if (!low.device().is_cpu()) {
      auto u = nd == 3 ? at::conv_transpose3d(low, weight, O(b), s)
                       : at::conv_transpose2d(low, weight, O(b), s);
      give(out, at::cat({u, beside.to(u.scalar_type())}, 1));
      return nullptr;
    }
    give(out, ConvTransposeCat::apply(low, weight, O(b), beside.to(low.scalar_type()), s));
  })
}
