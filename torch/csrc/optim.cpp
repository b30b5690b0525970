// optim.cpp: optimizer steps, gradient clipping, gradient scaling; whole parameter lists in one
// call.
#include "shim.h"

using namespace lnt;

namespace {

enum Impl : int64_t { kSingle = 0, kForeach = 1, kFused = 2 };
enum Rule : int64_t { kDense = 0, kGradMasked = 1, kUpdateMasked = 2, kPlain = 3 };

struct SGD {
  double lr;
  double momentum;
  double dampening;
  double weight_decay;
  bool nesterov;
};

// make_buffer stores a new momentum buffer in the caller's slot and returns a reference to it.
at::Tensor& make_buffer(void** slot, at::Tensor t) {
  give(slot, std::move(t));
  return T(*slot);
}

// The sequence of torch.optim.sgd._single_tensor_sgd, operation by operation.
void sgd_dense(at::Tensor& p, at::Tensor grad, void** slot, const SGD& o) {
  if (o.weight_decay != 0) grad = grad.add(p, o.weight_decay);
  if (o.momentum != 0) {
    if (*slot == nullptr) {
      make_buffer(slot, grad.clone().detach());
    } else {
      T(*slot).mul_(o.momentum).add_(grad, 1 - o.dampening);
    }
    grad = o.nesterov ? grad.add(T(*slot), o.momentum) : T(*slot);
  }
  p.add_(grad, -o.lr);
}

at::Tensor flat(at::Tensor& t, const char* what) {
  TORCH_CHECK(t.is_contiguous(), what, " of a masked parameter must be contiguous");
  return t.view(-1);
}

// Grad-masked: the gradient is zeroed outside the mask; momentum and decay apply to every entry.
void sgd_grad_masked(at::Tensor& p, at::Tensor& grad, const at::Tensor& index, void** slot,
                     const SGD& o) {
  auto g = flat(grad, "gradient");
  auto kept = g.index_select(0, index);
  g.zero_();
  g.index_copy_(0, index, kept);
  sgd_dense(p, grad, slot, o);
}

// Update-masked ("strict"): d = (g + wd*w)*m; buf = momentum*buf + d; w -= lr*(d + momentum*buf)*m.
void sgd_update_masked(at::Tensor& p, at::Tensor& grad, const at::Tensor& index, void** slot,
                       const SGD& o) {
  auto w = flat(p, "value");
  auto wi = w.index_select(0, index);
  auto d = flat(grad, "gradient").index_select(0, index).add(wi, o.weight_decay);
  if (o.momentum != 0) {
    at::Tensor bi;
    if (*slot == nullptr) {
      make_buffer(slot, at::zeros_like(p));
      bi = d.clone();
    } else {
      T(*slot).mul_(o.momentum);
      bi = T(*slot).view(-1).index_select(0, index).add_(d, 1 - o.dampening);
    }
    T(*slot).view(-1).index_copy_(0, index, bi);
    d = o.nesterov ? d.add(bi, o.momentum) : bi;
  }
  w.index_copy_(0, index, wi.add_(d, -o.lr));
}

// Plain ("paper"): w -= lr*g on the mask, without momentum or decay.
void sgd_plain(at::Tensor& p, at::Tensor& grad, const at::Tensor& index, const SGD& o) {
  auto w = flat(p, "value");
  auto wi = w.index_select(0, index);
  w.index_copy_(0, index, wi.add_(flat(grad, "gradient").index_select(0, index), -o.lr));
}

void sgd_foreach(std::vector<at::Tensor>& ps, std::vector<at::Tensor> gs,
                 std::vector<void**>& slots, const SGD& o) {
  if (o.weight_decay != 0) gs = at::_foreach_add(gs, ps, o.weight_decay);
  if (o.momentum != 0) {
    std::vector<at::Tensor> old;
    std::vector<at::Tensor> old_grads;
    for (size_t i = 0; i < ps.size(); i++) {
      if (*slots[i] == nullptr) {
        make_buffer(slots[i], gs[i].clone().detach());
      } else {
        old.push_back(T(*slots[i]));
        old_grads.push_back(gs[i]);
      }
    }
    if (!old.empty()) {
      at::_foreach_mul_(old, o.momentum);
      at::_foreach_add_(old, old_grads, 1 - o.dampening);
    }
    std::vector<at::Tensor> bufs;
    for (auto* slot : slots) bufs.push_back(T(*slot));
    gs = o.nesterov ? at::_foreach_add(gs, bufs, o.momentum) : bufs;
  }
  at::_foreach_add_(ps, gs, -o.lr);
}

// If found_inf is not 0, the kernel changes nothing. It would also leave a new buffer
// uninitialised, so new buffers start at 0: without dampening, momentum*0 + gradient is the result
// of a first step.
void sgd_fused(std::vector<at::Tensor>& ps, std::vector<at::Tensor>& gs, std::vector<void**>& slots,
               const SGD& o, const std::optional<at::Tensor>& found_inf) {
  if (found_inf && o.momentum != 0) {
    TORCH_CHECK(o.dampening == 0, "a step that may be skipped on the device cannot have dampening");
    for (size_t i = 0; i < ps.size(); i++) {
      if (*slots[i] == nullptr) make_buffer(slots[i], at::zeros_like(ps[i]));
    }
  }
  // _fused_sgd_ has one "first step" flag per list, so new and existing buffers need two calls.
  for (bool first : {true, false}) {
    std::vector<at::Tensor> p;
    std::vector<at::Tensor> g;
    std::vector<void**> s;
    for (size_t i = 0; i < ps.size(); i++) {
      if ((o.momentum != 0 && *slots[i] == nullptr) != first) continue;
      p.push_back(ps[i]);
      g.push_back(gs[i]);
      s.push_back(slots[i]);
    }
    if (p.empty()) continue;
    std::vector<at::Tensor> b;
    if (o.momentum != 0) {
      for (size_t i = 0; i < p.size(); i++)
        b.push_back(*s[i] == nullptr ? at::empty_like(p[i]) : T(*s[i]));
    }
    at::_fused_sgd_(p, g, b, o.weight_decay, o.momentum, o.lr, o.dampening, o.nesterov,
                    /*maximize=*/false, first, {}, found_inf);
    if (o.momentum != 0 && first) {
      for (size_t i = 0; i < p.size(); i++) make_buffer(s[i], b[i]);
    }
    // Buffers just created must not count as existing in the second round.
    if (first) {
      std::vector<at::Tensor> rp;
      std::vector<at::Tensor> rg;
      std::vector<void**> rs;
      for (size_t i = 0; i < ps.size(); i++) {
        bool done = false;
        for (auto* x : s) done = done || x == slots[i];
        if (done) continue;
        rp.push_back(ps[i]);
        rg.push_back(gs[i]);
        rs.push_back(slots[i]);
      }
      ps = rp;
      gs = rg;
      slots = rs;
    }
  }
}

// The fused kernels check neither sizes nor strides of gradients and state. fits refuses mismatched
// state, aligned gives a gradient the layout of its parameter.
void fits(const at::Tensor& p, void* state, int64_t i, const char* what, int64_t impl) {
  if (state == nullptr) return;
  const at::Tensor& b = T(state);
  TORCH_CHECK(
      b.sizes() == p.sizes() && b.scalar_type() == p.scalar_type() && b.device() == p.device(),
      "parameter ", i, ": ", what, " is ", b.sizes(), " ", b.scalar_type(), " on ", b.device(),
      ", the parameter ", p.sizes(), " ", p.scalar_type(), " on ", p.device());
  TORCH_CHECK(impl != kFused || b.strides() == p.strides(), "parameter ", i, ": ", what,
              " has strides ", b.strides(), ", the parameter ", p.strides());
}

at::Tensor aligned(const at::Tensor& p, const at::Tensor& grad) {
  return grad.strides() == p.strides() ? grad : at::empty_like(p).copy_(grad);
}

}  // namespace

char* lnt_sgd_step(void** params, void** buffers, void** masks, const int64_t* rules, int64_t n,
                   double lr, double momentum, double dampening, double weight_decay,
                   int64_t nesterov, int64_t impl, void* found_inf) {
  LNT_BODY({
    at::NoGradGuard guard;
    TORCH_CHECK(found_inf == nullptr || (impl == kFused && rules == nullptr),
                "only a fused step without masks can be skipped on the device");
    SGD o{lr, momentum, dampening, weight_decay, nesterov != 0};
    std::vector<at::Tensor> ps;
    std::vector<at::Tensor> gs;
    std::vector<void**> slots;
    for (int64_t i = 0; i < n; i++) {
      at::Tensor& p = T(params[i]);
      at::Tensor grad = p.grad();
      if (!grad.defined()) continue;
      fits(p, buffers[i], i, "momentum buffer", impl);
      int64_t rule = rules == nullptr ? kDense : rules[i];
      if (rule == kDense) {
        if (impl == kSingle) {
          sgd_dense(p, grad, &buffers[i], o);
        } else {
          ps.push_back(p);
          gs.push_back(impl == kFused ? aligned(p, grad) : grad);
          slots.push_back(&buffers[i]);
        }
        continue;
      }
      TORCH_CHECK(masks != nullptr && masks[i] != nullptr, "parameter ", i, ": rule ", rule,
                  " needs a mask");
      const at::Tensor& index = T(masks[i]);
      if (!grad.is_contiguous()) {
        grad = grad.contiguous();
        p.mutable_grad() = grad;
      }
      switch (rule) {
        case kGradMasked:
          sgd_grad_masked(p, grad, index, &buffers[i], o);
          break;
        case kUpdateMasked:
          sgd_update_masked(p, grad, index, &buffers[i], o);
          break;
        case kPlain:
          sgd_plain(p, grad, index, o);
          break;
        default:
          TORCH_CHECK(false, "parameter ", i, ": no rule ", rule);
      }
    }
    if (ps.empty()) return nullptr;
    if (impl == kForeach) {
      sgd_foreach(ps, gs, slots, o);
    } else {
      sgd_fused(ps, gs, slots, o, O(found_inf));
    }
  })
}

// torch.nn.utils.clip_grad_norm_: L2 norm of the per-tensor L2 norms; gradients times min(1,
// max_norm/(total+1e-6)), always.
char* lnt_clip_grad_norm(void** params, int64_t n, double max_norm, void** total_norm) {
  LNT_BODY({
    at::NoGradGuard guard;
    std::vector<at::Tensor> grads;
    for (int64_t i = 0; i < n; i++) {
      const at::Tensor& g = T(params[i]).grad();
      if (g.defined()) grads.push_back(g);
    }
    if (grads.empty()) {
      give(total_norm, at::zeros({}, at::TensorOptions().dtype(at::kFloat)));
      return nullptr;
    }
    auto total = at::linalg_vector_norm(at::stack(at::_foreach_norm(grads, 2)), 2);
    auto factor = at::clamp((total + 1e-6).reciprocal() * max_norm, std::nullopt, at::Scalar(1.0));
    at::_foreach_mul_(grads, factor);
    give(total_norm, total);
  })
}

char* lnt_amp_unscale(void** params, int64_t n, void* inv_scale, void* found_inf) {
  LNT_BODY({
    at::NoGradGuard guard;
    std::vector<at::Tensor> grads;
    for (int64_t i = 0; i < n; i++) {
      const at::Tensor& g = T(params[i]).grad();
      if (g.defined()) grads.push_back(g);
    }
    if (!grads.empty())
      at::_amp_foreach_non_finite_check_and_unscale_(grads, T(found_inf), T(inv_scale));
  })
}

char* lnt_amp_update_scale(void* scale, void* growth_tracker, void* found_inf, double growth,
                           double backoff, int64_t interval) {
  LNT_BODY({
    at::NoGradGuard guard;
    at::_amp_update_scale_(T(scale), T(growth_tracker), T(found_inf), growth, backoff, interval);
  })
}
