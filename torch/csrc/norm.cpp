// norm.cpp: normalisation.
#include "shim.h"

using namespace lnt;

// Statistics of the input, no running statistics; the other arguments are those of
// torch.nn.InstanceNorm.
char* lnt_instance_norm(void* x, void* w, void* b, double eps, void** out) {
  LNT_BODY(give(out, at::instance_norm(T(x), O(w), O(b), {}, {}, true, 0.1, eps,
                                       at::globalContext().userEnabledCuDNN())))
}

char* lnt_layer_norm(void* x, const int64_t* shape, int64_t n, void* w, void* b, double eps,
                     void** out) {
  LNT_BODY(give(out, at::layer_norm(T(x), dims(shape, n), O(w), O(b), eps,
                                    at::globalContext().userEnabledCuDNN())))
}
