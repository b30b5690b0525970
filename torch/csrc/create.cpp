// create.cpp: new tensors, filling, copying, conversion.
#include "shim.h"

using namespace lnt;

namespace {

std::optional<at::Generator> generator(void* g) {
  if (g == nullptr) return std::nullopt;
  return *static_cast<at::Generator*>(g);
}

at::TensorOptions options(int64_t type, int64_t dev, int64_t idx) {
  return at::TensorOptions().dtype(dtype(type)).device(device(dev, idx));
}

}  // namespace

char* lnt_empty(const int64_t* size, int64_t n, int64_t dtype, int64_t dev, int64_t idx,
                int64_t pinned, void** out) {
  LNT_BODY(give(out, at::empty(dims(size, n), options(dtype, dev, idx).pinned_memory(pinned != 0))))
}

char* lnt_full(const int64_t* size, int64_t n, double value, int64_t dtype, int64_t dev,
               int64_t idx, void** out) {
  LNT_BODY(give(out, at::full(dims(size, n), value, options(dtype, dev, idx))))
}

char* lnt_arange(double start, double end, double step, int64_t dtype, int64_t dev, int64_t idx,
                 void** out) {
  LNT_BODY(give(out, at::arange(start, end, step, options(dtype, dev, idx))))
}

char* lnt_zeros_like(void* x, void** out) { LNT_BODY(give(out, at::zeros_like(T(x)))) }

char* lnt_normal_(void* x, double mean, double std, void* gen) {
  LNT_BODY({
    at::NoGradGuard guard;
    T(x).normal_(mean, std, generator(gen));
  })
}

char* lnt_uniform_(void* x, double from, double to, void* gen) {
  LNT_BODY({
    at::NoGradGuard guard;
    T(x).uniform_(from, to, generator(gen));
  })
}

char* lnt_randperm(int64_t n, void* gen, void** out) {
  LNT_BODY(give(out, at::randperm(n, generator(gen), at::TensorOptions().dtype(at::kLong))))
}

char* lnt_fill_(void* x, double v) {
  LNT_BODY({
    at::NoGradGuard guard;
    T(x).fill_(v);
  })
}

char* lnt_copy_(void* dst, void* src, int64_t non_blocking) {
  LNT_BODY({
    at::NoGradGuard guard;
    T(dst).copy_(T(src), non_blocking != 0);
  })
}

char* lnt_to(void* x, int64_t dtype, int64_t dev, int64_t idx, int64_t non_blocking, int64_t copy,
             void** out) {
  LNT_BODY(give(out, T(x).to(device(dev, idx), lnt::dtype(dtype), non_blocking != 0, copy != 0)))
}

char* lnt_clone(void* x, void** out) { LNT_BODY(give(out, T(x).clone())) }

char* lnt_contiguous(void* x, int64_t memory_format, void** out) {
  LNT_BODY({
    TORCH_CHECK(
        memory_format >= 0 && memory_format < static_cast<int64_t>(at::MemoryFormat::NumOptions),
        "no memory format ", memory_format);
    auto format = static_cast<at::MemoryFormat>(memory_format);
    at::Tensor t = T(x).contiguous(format);
    // With one channel both formats are the same, and contiguous() keeps strides from which
    // operators would infer the other.
    bool unclear = format != at::MemoryFormat::Contiguous && t.suggest_memory_format() != format;
    give(out, unclear ? t.clone(format) : t);
  })
}
