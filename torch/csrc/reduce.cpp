// reduce.cpp: reductions, softmax, single values.
#include "shim.h"

using namespace lnt;

namespace {

at::OptionalIntArrayRef some(const int64_t* d, int64_t n) {
  if (n < 0) return std::nullopt;
  return at::OptionalIntArrayRef(dims(d, n));
}

}  // namespace

// Without dims the whole-tensor overload runs, as in Python; its order of summation differs.
char* lnt_sum(void* a, const int64_t* d, int64_t n, int64_t keepdim, void** out) {
  LNT_BODY(give(out, n < 0 ? at::sum(T(a)) : at::sum(T(a), some(d, n), keepdim != 0)))
}

// The sum of all elements, added up and given as dtype.
char* lnt_sum_as(void* a, int64_t type, void** out) {
  LNT_BODY(give(out, at::sum(T(a), dtype(type))))
}

char* lnt_mean(void* a, const int64_t* d, int64_t n, int64_t keepdim, void** out) {
  LNT_BODY(give(out, n < 0 ? at::mean(T(a)) : at::mean(T(a), some(d, n), keepdim != 0)))
}

char* lnt_amax(void* a, const int64_t* d, int64_t n, int64_t keepdim, void** out) {
  LNT_BODY(give(out, at::amax(T(a), dims(d, n), keepdim != 0)))
}

char* lnt_amin(void* a, const int64_t* d, int64_t n, int64_t keepdim, void** out) {
  LNT_BODY(give(out, at::amin(T(a), dims(d, n), keepdim != 0)))
}

char* lnt_argmax(void* a, int64_t dim, int64_t keepdim, void** out) {
  LNT_BODY(give(out, at::argmax(T(a), dim, keepdim != 0)))
}
char* lnt_all(void* a, void** out) { LNT_BODY(give(out, at::all(T(a)))) }
char* lnt_any(void* a, void** out) { LNT_BODY(give(out, at::any(T(a)))) }
char* lnt_vector_norm(void* a, double ord, void** out) {
  LNT_BODY(give(out, at::linalg_vector_norm(T(a), ord)))
}
char* lnt_softmax(void* a, int64_t dim, void** out) { LNT_BODY(give(out, at::softmax(T(a), dim))) }
char* lnt_log_softmax(void* a, int64_t dim, void** out) {
  LNT_BODY(give(out, at::log_softmax(T(a), dim)))
}

char* lnt_topk(void* a, int64_t k, int64_t dim, void** values, void** indices) {
  LNT_BODY({
    auto r = at::topk(T(a), k, dim, true, true);
    give(values, std::get<0>(r));
    give(indices, std::get<1>(r));
  })
}

char* lnt_item(void* a, double* out) { LNT_BODY(*out = T(a).item().toDouble()) }
char* lnt_equal(void* a, void* b, int64_t* out) { LNT_BODY(*out = at::equal(T(a), T(b)) ? 1 : 0) }
