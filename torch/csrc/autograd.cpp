// autograd.cpp: gradients.
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include "shim.h"

using namespace lnt;

char* lnt_requires_grad_(void* t, int64_t on) { LNT_BODY(T(t).requires_grad_(on != 0)) }

namespace {

// The end of a cut graph: the gradient that arrives there becomes that of holder.
struct CutBackward : public torch::autograd::Node {
  at::Tensor holder;
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    at::Tensor& g = holder.mutable_grad();
    if (grads[0].defined()) g = g.defined() ? g + grads[0] : grads[0];
    return {};
  }
  std::string name() const override { return "CutBackward"; }
};

// libtorch's pointer to a node: intrusively counted in newer versions, a shared_ptr in older ones.
template <class N>
auto make_node() {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, N>) {
    return c10::make_intrusive<N>();
  } else {
    return std::make_shared<N>();
  }
}

}  // namespace

// *out and *holder have the elements of t. A backward pass through *out ends there and stores the
// gradient unchanged in *holder: a leaf would copy it to its own memory format, which changes the
// bits of sums over it.
char* lnt_cut(void* t, void** out, void** holder) {
  LNT_BODY({
    auto node = make_node<CutBackward>();
    node->holder = T(t).detach();
    at::Tensor y = T(t).detach();
    torch::autograd::set_history(y, node);
    give(holder, node->holder);
    give(out, y);
  })
}

char* lnt_detach(void* t, void** out) { LNT_BODY(give(out, T(t).detach())) }

char* lnt_backward(void* t, void* grad, int64_t retain_graph) {
  LNT_BODY({
    at::Tensor g;
    if (grad != nullptr) g = T(grad);
    torch::autograd::backward({T(t)}, {g}, retain_graph != 0);
  })
}

// *out is NULL for a tensor without gradient.
char* lnt_grad(void* t, void** out) {
  LNT_BODY({
    *out = nullptr;
    const at::Tensor& g = T(t).grad();
    if (g.defined()) give(out, g);
  })
}

// mutable_grad does not check its value; a mismatched gradient might be detected only by the kernel
// that reads it, if at all.
char* lnt_set_grad(void* t, void* grad) {
  LNT_BODY({
    at::Tensor& x = T(t);
    if (grad == nullptr) {
      x.mutable_grad().reset();
      return nullptr;
    }
    at::Tensor& g = T(grad);
    TORCH_CHECK(
        g.sizes() == x.sizes() && g.scalar_type() == x.scalar_type() && g.device() == x.device(),
        "gradient is ", g.sizes(), " ", g.scalar_type(), " on ", g.device(), ", the tensor ",
        x.sizes(), " ", x.scalar_type(), " on ", x.device());
    x.mutable_grad() = g;
  })
}

char* lnt_clear_grads(void** ts, int64_t n) {
  LNT_BODY(for (int64_t i = 0; i < n; i++) T(ts[i]).mutable_grad().reset())
}
