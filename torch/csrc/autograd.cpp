// autograd.cpp: gradients.
#include <torch/csrc/autograd/autograd.h>

#include "shim.h"

using namespace lnt;

char* lnt_requires_grad_(void* t, int64_t on) { LNT_BODY(T(t).requires_grad_(on != 0)) }

char* lnt_detach(void* t, void** out) { LNT_BODY(give(out, T(t).detach())) }

char* lnt_backward(void* t, void* grad, int64_t retain_graph) {
  LNT_BODY({
    at::Tensor g;
    if (grad != nullptr) g = T(grad);
    torch::autograd::backward({T(t)}, {g}, retain_graph != 0);
  })
}

// *out is NULL for a tensor that has no gradient.
char* lnt_grad(void* t, void** out) {
  LNT_BODY({
    *out = nullptr;
    const at::Tensor& g = T(t).grad();
    if (g.defined()) give(out, g);
  })
}

// mutable_grad takes anything; an unfitting gradient would be found, or not, by whatever kernel reads it.
char* lnt_set_grad(void* t, void* grad) {
  LNT_BODY({
    at::Tensor& x = T(t);
    if (grad == nullptr) {
      x.mutable_grad().reset();
      return nullptr;
    }
    at::Tensor& g = T(grad);
    TORCH_CHECK(g.sizes() == x.sizes() && g.scalar_type() == x.scalar_type() && g.device() == x.device(), "gradient is ", g.sizes(), " ",
                g.scalar_type(), " on ", g.device(), ", the tensor ", x.sizes(), " ", x.scalar_type(), " on ", x.device());
    x.mutable_grad() = g;
  })
}

char* lnt_clear_grads(void** ts, int64_t n) { LNT_BODY(for (int64_t i = 0; i < n; i++) T(ts[i]).mutable_grad().reset()) }
