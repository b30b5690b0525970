// conv_lean.cpp: the fastest convolutions available: minimal filtering (winograd.h) where
// applicable, and for frozen weights nothing that only their gradient needs.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "shim.h"
#include "winograd.h"

using namespace lnt;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// The gradient of the bias.
at::Tensor sum_of_channels(const at::Tensor& g) {
  std::vector<int64_t> axes = {0};
  for (int64_t i = 2; i < g.dim(); i++) axes.push_back(i);
  return g.sum(axes);
}

// libtorch's convolution saves its input for the weight gradient even if that is not needed, and
// oneDNN, its CPU backend, computes the weight gradient whenever the bias gradient is requested.
// Here the input is not saved, and the bias gradient is the sum of the output gradient. The input
// gradient is libtorch's, bit for bit.
struct LeanConv : torch::autograd::Function<LeanConv> {
  using Ints = std::vector<int64_t>;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& w,
                            const std::optional<at::Tensor>& b, Ints stride, Ints padding,
                            Ints dilation, int64_t groups) {
    ctx->save_for_backward({w});
    auto& saved = ctx->saved_data;
    saved["sizes"] = x.sizes().vec();
    saved["format"] = static_cast<int64_t>(x.suggest_memory_format());
    saved["stride"] = stride;
    saved["padding"] = padding;
    saved["dilation"] = dilation;
    saved["groups"] = groups;
    saved["bias"] = b.has_value();
    return at::convolution(x, w, b, stride, padding, dilation, /*transposed=*/false,
                           Ints(stride.size(), 0), groups);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(7);
    const at::Tensor& g = grads[0];
    if (!g.defined()) return out;
    auto& saved = ctx->saved_data;
    if (ctx->needs_input_grad(0)) {
      at::Tensor w = ctx->get_saved_variables()[0];
      auto stride = saved["stride"].toIntVector();
      // Only its sizes and layout are used.
      auto x = at::empty(
          saved["sizes"].toIntVector(),
          g.options().memory_format(static_cast<at::MemoryFormat>(saved["format"].toInt())));
      out[0] = std::get<0>(at::convolution_backward(g, x, w, c10::nullopt, stride,
                                                    saved["padding"].toIntVector(),
                                                    saved["dilation"].toIntVector(),
                                                    /*transposed=*/false, Ints(stride.size(), 0),
                                                    saved["groups"].toInt(), {true, false, false}));
    }
    if (saved["bias"].toBool() && ctx->needs_input_grad(2))
      out[2] = sum_of_channels(g);  // it counts only defined tensors
    return out;
  }
};

struct WinogradConv : torch::autograd::Function<WinogradConv> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& w,
                            const std::optional<at::Tensor>& b) {
    ctx->save_for_backward({w.requires_grad() ? x : at::Tensor(), w});
    ctx->saved_data["bias"] = b.has_value();
    return winograd::forward(x, w, b.value_or(at::Tensor()));
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(3);
    const at::Tensor& g = grads[0];
    if (!g.defined()) return out;
    auto saved = ctx->get_saved_variables();
    bool bias = ctx->saved_data["bias"].toBool() &&
                ctx->needs_input_grad(2);  // it counts only defined tensors
    if (ctx->needs_input_grad(1)) {
      auto [dw, db] = winograd::weight_gradient(g, saved[0], saved[1].sizes());
      out[1] = dw;
      if (bias) out[2] = db.to(at::kFloat);
    } else if (bias) {
      out[2] = sum_of_channels(g);
    }
    if (ctx->needs_input_grad(0)) out[0] = winograd::input_gradient(g, saved[1]);
    return out;
  }
};

bool by_winograd(void* xp, void* wp, void* bp, const int64_t* stride, const int64_t* padding,
                 const int64_t* dilation, int64_t nd, int64_t groups) {
  if (xp == nullptr || wp == nullptr || (nd != 2 && nd != 3)) return false;
  const at::Tensor& x = T(xp);
  const at::Tensor& w = T(wp);
  if (x.dim() != nd + 2 || w.dim() != nd + 2) return false;
  auto type = at::autocast::is_autocast_enabled(at::kCPU)
                  ? at::autocast::get_autocast_dtype(at::kCPU)
                  : x.scalar_type();
  if (bp != nullptr && (T(bp).dim() != 1 || T(bp).size(0) != w.size(0) ||
                        T(bp).scalar_type() != at::kFloat || !T(bp).device().is_cpu()))
    return false;
  return winograd::serves(x, type, w, dims(stride, nd), dims(padding, nd), dims(dilation, nd),
                          groups);
}

// Under autocast to bfloat16, libtorch 2.4.1's weight gradient reads uninitialised memory if the
// input has fewer slices than the kernel (a patch of 64 voxels after five halvings). Such layers
// are small and run in float32.
bool too_shallow(void* xp, void* wp, int64_t nd) {
  return xp != nullptr && wp != nullptr && nd == 3 && T(xp).dim() == 5 && T(wp).dim() == 5 &&
         T(xp).device().is_cpu() && T(xp).size(2) < T(wp).size(2) &&
         at::autocast::is_autocast_enabled(at::kCPU) &&
         at::autocast::get_autocast_dtype(at::kCPU) == at::kBFloat16;
}

}  // namespace

// Otherwise lnt_conv if the weight trains or nothing does.
char* lnt_conv_lean(void* xp, void* wp, void* bp, const int64_t* stride, const int64_t* padding,
                    const int64_t* dilation, int64_t nd, int64_t groups, void** out) {
  if (by_winograd(xp, wp, bp, stride, padding, dilation, nd, groups)) {
    LNT_BODY({
      at::Tensor x = T(xp);
      if (at::autocast::is_autocast_enabled(at::kCPU))
        x = x.to(at::autocast::get_autocast_dtype(
            at::kCPU));  // it sums in float32 and does not convert the weight
      give(out, WinogradConv::apply(x, T(wp), O(bp)));
    })
  }
  const bool lean = xp != nullptr && wp != nullptr && at::GradMode::is_enabled() &&
                    !T(wp).requires_grad() &&
                    (T(xp).requires_grad() || (bp != nullptr && T(bp).requires_grad()));
  if (!lean && too_shallow(xp, wp, nd)) {
    LNT_BODY({
      c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
      auto ints = [nd](const int64_t* p) { return dims(p, nd).vec(); };
      at::Tensor x = T(xp).to(at::kBFloat16).to(at::kFloat);
      give(out, at::convolution(x, T(wp), O(bp), ints(stride), ints(padding), ints(dilation), false,
                                std::vector<int64_t>(nd, 0), groups)
                    .to(at::kBFloat16));
    })
  }
  if (!lean) return lnt_conv(xp, wp, bp, stride, padding, dilation, nd, groups, out);
  LNT_BODY({
    at::Tensor x = T(xp);
    at::Tensor w = T(wp);
    std::optional<at::Tensor> b = O(bp);
    TORCH_CHECK(x.dim() == nd + 2 && w.dim() == nd + 2, "convolution over ", nd,
                " axes: input has ", x.dim(), " dims, weight ", w.dim(), ", expected ", nd + 2);
    const auto device = x.device().type();
    std::optional<c10::impl::ExcludeDispatchKeyGuard> no_autocast;
    if (at::autocast::is_autocast_enabled(
            device)) {  // autograd records the casts; forward and backward use one dtype
      auto type = at::autocast::get_autocast_dtype(device);
      x = x.to(type);
      w = w.to(type);
      if (b.has_value()) b = b->to(type);
      no_autocast.emplace(at::autocast::get_autocast_dispatch_key_from_device_type(device));
    }
    auto ints = [nd](const int64_t* p) { return dims(p, nd).vec(); };
    give(out, LeanConv::apply(x, w, b, ints(stride), ints(padding), ints(dilation), groups));
  })
}
