// pointwise.cpp: element by element.
#include "shim.h"

using namespace lnt;

char* lnt_add(void* a, void* b, double alpha, void** out) {
  LNT_BODY(give(out, at::add(T(a), T(b), alpha)))
}
char* lnt_sub(void* a, void* b, double alpha, void** out) {
  LNT_BODY(give(out, at::sub(T(a), T(b), alpha)))
}
char* lnt_mul(void* a, void* b, void** out) { LNT_BODY(give(out, at::mul(T(a), T(b)))) }
char* lnt_div(void* a, void* b, void** out) { LNT_BODY(give(out, at::div(T(a), T(b)))) }
char* lnt_add_(void* a, void* b, double alpha) { LNT_BODY(T(a).add_(T(b), alpha)) }
char* lnt_mul_(void* a, void* b) { LNT_BODY(T(a).mul_(T(b))) }
char* lnt_div_(void* a, void* b) { LNT_BODY(T(a).div_(T(b))) }
char* lnt_add_scalar(void* a, double b, void** out) { LNT_BODY(give(out, at::add(T(a), b))) }
char* lnt_mul_scalar(void* a, double b, void** out) { LNT_BODY(give(out, at::mul(T(a), b))) }
char* lnt_div_scalar(void* a, double b, void** out) { LNT_BODY(give(out, at::div(T(a), b))) }
char* lnt_mul_scalar_(void* a, double b) { LNT_BODY(T(a).mul_(b)) }
char* lnt_add_scalar_(void* a, double b) { LNT_BODY(T(a).add_(b)) }
char* lnt_div_scalar_(void* a, double b) { LNT_BODY(T(a).div_(b)) }
char* lnt_pow_scalar(void* a, double e, void** out) { LNT_BODY(give(out, at::pow(T(a), e))) }
char* lnt_neg(void* a, void** out) { LNT_BODY(give(out, at::neg(T(a)))) }
char* lnt_abs(void* a, void** out) { LNT_BODY(give(out, at::abs(T(a)))) }
char* lnt_exp(void* a, void** out) { LNT_BODY(give(out, at::exp(T(a)))) }
char* lnt_log(void* a, void** out) { LNT_BODY(give(out, at::log(T(a)))) }
char* lnt_sqrt(void* a, void** out) { LNT_BODY(give(out, at::sqrt(T(a)))) }
char* lnt_reciprocal(void* a, void** out) { LNT_BODY(give(out, at::reciprocal(T(a)))) }
char* lnt_sigmoid(void* a, void** out) { LNT_BODY(give(out, at::sigmoid(T(a)))) }
char* lnt_tanh(void* a, void** out) { LNT_BODY(give(out, at::tanh(T(a)))) }
char* lnt_erfinv(void* a, void** out) { LNT_BODY(give(out, at::erfinv(T(a)))) }
char* lnt_relu(void* a, void** out) { LNT_BODY(give(out, at::relu(T(a)))) }
char* lnt_gelu(void* a, void** out) { LNT_BODY(give(out, at::gelu(T(a)))) }
char* lnt_leaky_relu(void* a, double slope, void** out) {
  LNT_BODY(give(out, at::leaky_relu(T(a), slope)))
}
char* lnt_leaky_relu_(void* a, double slope, void** out) {
  LNT_BODY(give(out, at::leaky_relu_(T(a), slope)))
}
char* lnt_clamp(void* a, double lo, double hi, int64_t use_lo, int64_t use_hi, void** out) {
  LNT_BODY({
    std::optional<at::Scalar> l;
    std::optional<at::Scalar> h;
    if (use_lo != 0) l = lo;
    if (use_hi != 0) h = hi;
    give(out, at::clamp(T(a), l, h));
  })
}

char* lnt_floor(void* a, void** out) { LNT_BODY(give(out, at::floor(T(a)))) }
char* lnt_round(void* a, void** out) { LNT_BODY(give(out, at::round(T(a)))) }
char* lnt_isfinite(void* a, void** out) { LNT_BODY(give(out, at::isfinite(T(a)))) }
char* lnt_logical_not(void* a, void** out) { LNT_BODY(give(out, at::logical_not(T(a)))) }

namespace {

// Operators in the order of Go's CompareOp.
template <class B>
at::Tensor compare(const at::Tensor& a, const B& b, int64_t op) {
  switch (op) {
    case 0:
      return at::eq(a, b);
    case 1:
      return at::ne(a, b);
    case 2:
      return at::lt(a, b);
    case 3:
      return at::le(a, b);
    case 4:
      return at::gt(a, b);
    case 5:
      return at::ge(a, b);
  }
  TORCH_CHECK(false, "compare: no operator ", op);
}

}  // namespace

char* lnt_compare(void* a, void* b, int64_t op, void** out) {
  LNT_BODY(give(out, compare(T(a), T(b), op)))
}
char* lnt_compare_scalar(void* a, double b, int64_t op, void** out) {
  LNT_BODY(give(out, compare(T(a), at::Scalar(b), op)))
}
char* lnt_where(void* cond, void* a, void* b, void** out) {
  LNT_BODY(give(out, at::where(T(cond), T(a), T(b))))
}
char* lnt_where_scalar(void* cond, void* a, double b, void** out) {
  LNT_BODY(give(out, at::where(T(cond), T(a), at::Scalar(b))))
}
char* lnt_masked_fill(void* a, void* mask, double v, void** out) {
  LNT_BODY(give(out, at::masked_fill(T(a), T(mask), v)))
}
char* lnt_maximum(void* a, void* b, void** out) { LNT_BODY(give(out, at::maximum(T(a), T(b)))) }
char* lnt_minimum(void* a, void* b, void** out) { LNT_BODY(give(out, at::minimum(T(a), T(b)))) }
