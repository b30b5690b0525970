// loss.cpp: losses. reduction: 0 none, 1 mean, 2 sum.
#include "shim.h"

using namespace lnt;

char* lnt_cross_entropy(void* x, void* target, int64_t ignore_index, int64_t reduction,
                        void** out) {
  LNT_BODY(give(out, at::cross_entropy_loss(T(x), T(target), {}, reduction, ignore_index)))
}

char* lnt_bce_with_logits(void* x, void* target, int64_t reduction, void** out) {
  LNT_BODY(give(out, at::binary_cross_entropy_with_logits(T(x), T(target), {}, {}, reduction)))
}
