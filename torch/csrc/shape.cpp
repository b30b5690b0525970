// shape.cpp: views, concatenation and indexing.
#include "shim.h"

using namespace lnt;

char* lnt_reshape(void* a, const int64_t* size, int64_t n, void** out) {
  LNT_BODY(give(out, T(a).reshape(dims(size, n))))
}
char* lnt_expand(void* a, const int64_t* size, int64_t n, void** out) {
  LNT_BODY(give(out, T(a).expand(dims(size, n))))
}
char* lnt_permute(void* a, const int64_t* d, int64_t n, void** out) {
  LNT_BODY(give(out, T(a).permute(dims(d, n))))
}
char* lnt_transpose(void* a, int64_t d0, int64_t d1, void** out) {
  LNT_BODY(give(out, T(a).transpose(d0, d1)))
}
char* lnt_squeeze(void* a, int64_t dim, void** out) { LNT_BODY(give(out, T(a).squeeze(dim))) }
char* lnt_unsqueeze(void* a, int64_t dim, void** out) { LNT_BODY(give(out, T(a).unsqueeze(dim))) }
char* lnt_flip(void* a, const int64_t* d, int64_t n, void** out) {
  LNT_BODY(give(out, at::flip(T(a), dims(d, n))))
}

char* lnt_roll(void* a, const int64_t* shifts, const int64_t* d, int64_t n, void** out) {
  LNT_BODY(give(out, at::roll(T(a), dims(shifts, n), dims(d, n))))
}

char* lnt_narrow(void* a, int64_t dim, int64_t start, int64_t length, void** out) {
  LNT_BODY(give(out, T(a).narrow(dim, start, length)))
}

char* lnt_select(void* a, int64_t dim, int64_t index, void** out) {
  LNT_BODY(give(out, T(a).select(dim, index)))
}

char* lnt_slice(void* a, int64_t dim, int64_t start, int64_t end, int64_t step, void** out) {
  LNT_BODY(give(out, T(a).slice(dim, start, end, step)))
}

char* lnt_cat(void** ts, int64_t n, int64_t dim, void** out) {
  LNT_BODY(give(out, at::cat(list(ts, n), dim)))
}
char* lnt_stack(void** ts, int64_t n, int64_t dim, void** out) {
  LNT_BODY(give(out, at::stack(list(ts, n), dim)))
}

char* lnt_pad(void* a, const int64_t* pad, int64_t n, double value, void** out) {
  LNT_BODY(give(out, at::constant_pad_nd(T(a), dims(pad, n), value)))
}

char* lnt_index(void* a, void* index, void** out) {
  LNT_BODY({
    TORCH_CHECK(T(index).scalar_type() == at::kLong, "the index is ", T(index).scalar_type(),
                ", expected int64");
    give(out, T(a).index({T(index)}));
  })
}

char* lnt_index_select(void* a, int64_t dim, void* index, void** out) {
  LNT_BODY(give(out, at::index_select(T(a), dim, T(index))))
}
char* lnt_gather(void* a, int64_t dim, void* index, void** out) {
  LNT_BODY(give(out, at::gather(T(a), dim, T(index))))
}

char* lnt_scatter_scalar(void* a, int64_t dim, void* index, double v, void** out) {
  LNT_BODY(give(out, at::scatter(T(a), dim, T(index), at::Scalar(v))))
}

char* lnt_scatter_scalar_(void* a, int64_t dim, void* index, double v) {
  LNT_BODY(T(a).scatter_(dim, T(index), at::Scalar(v)))
}
