// conv.cpp: convolutions, pooling, matrix products. The named 2d and 3d entry points are used
// because autocast's lists name them.
#include "shim.h"

using namespace lnt;

char* lnt_conv(void* x, void* w, void* b, const int64_t* stride, const int64_t* padding,
               const int64_t* dilation, int64_t nd, int64_t groups, void** out) {
  LNT_BODY({
    auto f = nd == 3 ? static_cast<at::Tensor (*)(
                           const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                           at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t)>(at::conv3d)
                     : static_cast<at::Tensor (*)(
                           const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                           at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t)>(at::conv2d);
    give(out, f(T(x), T(w), O(b), dims(stride, nd), dims(padding, nd), dims(dilation, nd), groups));
  })
}

char* lnt_conv_transpose(void* x, void* w, void* b, const int64_t* stride, const int64_t* padding,
                         const int64_t* output_padding, const int64_t* dilation, int64_t nd,
                         int64_t groups, void** out) {
  LNT_BODY({
    auto s = dims(stride, nd);
    auto p = dims(padding, nd);
    auto op = dims(output_padding, nd);
    auto d = dims(dilation, nd);
    give(out, nd == 3 ? at::conv_transpose3d(T(x), T(w), O(b), s, p, op, groups, d)
                      : at::conv_transpose2d(T(x), T(w), O(b), s, p, op, groups, d));
  })
}

char* lnt_avg_pool(void* x, const int64_t* kernel, const int64_t* stride, int64_t nd, void** out) {
  LNT_BODY(give(out, nd == 3 ? at::avg_pool3d(T(x), dims(kernel, nd), dims(stride, nd))
                             : at::avg_pool2d(T(x), dims(kernel, nd), dims(stride, nd))))
}

char* lnt_linear(void* x, void* w, void* b, void** out) {
  LNT_BODY(give(out, at::linear(T(x), T(w), O(b))))
}
char* lnt_matmul(void* a, void* b, void** out) { LNT_BODY(give(out, at::matmul(T(a), T(b)))) }

char* lnt_sdpa(void* q, void* k, void* v, void* mask, double dropout, double scale, void** out) {
  LNT_BODY(
      give(out, at::scaled_dot_product_attention(T(q), T(k), T(v), O(mask), dropout, false, scale)))
}
