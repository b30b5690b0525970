// core.cpp: lifetime of tensors, data in and out, threads, modes, random numbers.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Formatting.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "cuda/kernels.h"
#include "shim.h"

namespace lnt {

std::atomic<int64_t> live{0};

namespace {

const CudaKernels* kernels = nullptr;  // set by lnt_init

}  // namespace

std::string folder_of(void* function) {
  Dl_info info;
  if (dladdr(function, &info) == 0 || info.dli_fname == nullptr) return "";
  std::string path(info.dli_fname);
  auto slash = path.rfind('/');
  return slash == std::string::npos ? "./" : path.substr(0, slash + 1);
}

void* open_optional(const std::string& path, int flags) {
  FILE* f = std::fopen(path.c_str(), "rb");
  if (f == nullptr) return nullptr;
  std::fclose(f);
  void* library = dlopen(path.c_str(), flags);
  if (library == nullptr) {
    std::string why = "open " + path + ": " + dlerror();
    throw std::runtime_error(why);
  }
  return library;
}

const CudaKernels* cuda_kernels() { return kernels; }

char* dup(const char* s) {
  size_t n = std::strlen(s);
  char* p = static_cast<char*>(std::malloc(n + 1));
  if (p != nullptr) std::memcpy(p, s, n + 1);
  return p;
}

}  // namespace lnt

using namespace lnt;

int64_t lnt_abi(void) { return LNT_ABI; }

// lnt_init opens libtorch_cuda if it is in the folder of libtorch_cpu: the shim links only
// libtorch_cpu, and the CUDA kernels are registered when their library is loaded. Then it opens our
// own kernels, if built.
char* lnt_init(void) {
  LNT_BODY({
    use_caching_allocator();
    void* torch_cuda =
        open_optional(folder_of(reinterpret_cast<void*>(&at::get_num_threads)) + "libtorch_cuda.so",
                      RTLD_NOW | RTLD_GLOBAL);
    if (torch_cuda == nullptr) return nullptr;
    void* ours = open_optional(folder_of(reinterpret_cast<void*>(&lnt_abi)) + "liblntorch_cuda.so",
                               RTLD_NOW | RTLD_LOCAL);
    if (ours == nullptr) return nullptr;
    auto get = reinterpret_cast<decltype(&lnt_cuda_kernels)>(dlsym(ours, "lnt_cuda_kernels"));
    TORCH_CHECK(get != nullptr, "liblntorch_cuda.so is of another build: run make shim again");
    kernels = get();
  })
}

char* lnt_version(char** out) { LNT_BODY(*out = dup(TORCH_VERSION)) }

char* lnt_cpu_capability(char** out) { LNT_BODY(*out = dup(at::get_cpu_capability().c_str())) }

void lnt_free_string(char* s) { std::free(s); }

void lnt_free(void** tensors, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    if (tensors[i] == nullptr) continue;
    try {
      delete static_cast<at::Tensor*>(tensors[i]);
    } catch (...) {
      // There is nothing to return from a throwing destructor; the handle is gone either way.
    }
    live.fetch_sub(1, std::memory_order_relaxed);
  }
}

int64_t lnt_live(void) { return live.load(std::memory_order_relaxed); }

// out: ndim, dtype, device type, device index, requires_grad, contiguous, numel, itemsize, then
// sizes and strides (ndim each). The caller provides space for 8 + 2*16 values.
char* lnt_info(void* t, int64_t* out) {
  LNT_BODY({
    const at::Tensor& x = T(t);
    TORCH_CHECK(x.dim() <= 16, "tensor of ", x.dim(), " dims: at most 16 are supported");
    out[0] = x.dim();
    out[1] = static_cast<int64_t>(x.scalar_type());
    out[2] = static_cast<int64_t>(x.device().type());
    out[3] = x.device().index();
    out[4] = x.requires_grad() ? 1 : 0;
    out[5] = x.is_contiguous() ? 1 : 0;
    out[6] = x.numel();
    out[7] = x.element_size();
    for (int64_t i = 0; i < x.dim(); i++) {
      out[8 + i] = x.size(i);
      out[24 + i] = x.stride(i);
    }
  })
}

char* lnt_data_ptr(void* t, void** out) {
  LNT_BODY({
    TORCH_CHECK(T(t).device().is_cpu() && T(t).is_contiguous(),
                "data pointer: tensor must be contiguous and on the CPU");
    *out = T(t).data_ptr();
  })
}

char* lnt_same_storage(void* a, void* b, int64_t* out) {
  LNT_BODY(*out = T(a).is_alias_of(T(b)) ? 1 : 0)
}

char* lnt_retain(void* t, void** out) { LNT_BODY(give(out, T(t))) }

// A handle that another binding deletes: lnt_live does not count it.
char* lnt_export(void* t, void** out) { LNT_BODY(*out = new at::Tensor(T(t))) }

char* lnt_to_string(void* t, char** out) {
  LNT_BODY({
    std::ostringstream s;
    at::print(s, T(t), 100);
    *out = dup(s.str().c_str());
  })
}

char* lnt_copy_in(void* t, const void* data, int64_t nbytes) {
  LNT_BODY({
    at::Tensor& x = T(t);
    TORCH_CHECK(static_cast<int64_t>(x.nbytes()) == nbytes, "copy in: tensor holds ", x.nbytes(),
                " bytes, given ", nbytes);
    if (nbytes == 0) return nullptr;
    if (x.device().is_cpu() && x.is_contiguous()) {
      std::memcpy(x.data_ptr(), data, static_cast<size_t>(nbytes));
    } else {
      at::NoGradGuard guard;
      auto host = at::from_blob(const_cast<void*>(data), x.sizes(),
                                at::TensorOptions().dtype(x.scalar_type()));
      x.copy_(host);
    }
  })
}

char* lnt_copy_out(void* t, void* data, int64_t nbytes) {
  LNT_BODY({
    at::NoGradGuard guard;
    at::Tensor x = T(t).detach().to(at::kCPU).contiguous();
    TORCH_CHECK(static_cast<int64_t>(x.nbytes()) == nbytes, "copy out: tensor holds ", x.nbytes(),
                " bytes, asked for ", nbytes);
    if (nbytes > 0) std::memcpy(data, x.data_ptr(), static_cast<size_t>(nbytes));
  })
}

char* lnt_set_threads(int64_t n){LNT_BODY(at::set_num_threads(static_cast<int>(n)))}

int64_t lnt_get_threads(void) {
  return at::get_num_threads();
}

// The number of OS threads that at::parallel_for uses in code compiled here: 1 means that our
// kernels run serially.
char* lnt_parallel_probe(int64_t n, int64_t* threads){LNT_BODY({
  std::mutex m;
  std::set<std::thread::id> ids;
  at::parallel_for(0, n, 1, [&](int64_t, int64_t) {
    std::lock_guard<std::mutex> lock(m);
    ids.insert(std::this_thread::get_id());
  });
  *threads = static_cast<int64_t>(ids.size());
})}

int64_t lnt_grad_mode(int64_t enabled) {
  int64_t was = at::GradMode::is_enabled() ? 1 : 0;
  at::GradMode::set_enabled(enabled != 0);
  return was;
}

char* lnt_autocast_get(int64_t dev, int64_t* enabled, int64_t* dtype, int64_t* cache) {
  LNT_BODY({
    auto d = device_type(dev);
    *enabled = at::autocast::is_autocast_enabled(d) ? 1 : 0;
    *dtype = static_cast<int64_t>(at::autocast::get_autocast_dtype(d));
    *cache = at::autocast::is_autocast_cache_enabled() ? 1 : 0;
  })
}

char* lnt_autocast_set(int64_t dev, int64_t enabled, int64_t dtype, int64_t cache) {
  LNT_BODY({
    auto d = device_type(dev);
    at::autocast::set_autocast_enabled(d, enabled != 0);
    at::autocast::set_autocast_dtype(d, lnt::dtype(dtype));
    at::autocast::set_autocast_cache_enabled(cache != 0);
  })
}

char* lnt_autocast_nest(int64_t delta, int64_t* depth) {
  LNT_BODY({
    if (delta > 0) {
      *depth = at::autocast::increment_nesting();
    } else {
      *depth = at::autocast::decrement_nesting();
      if (*depth == 0) at::autocast::clear_cache();
    }
  })
}

char* lnt_set_deterministic(int64_t on) {
  LNT_BODY({
    at::globalContext().setDeterministicAlgorithms(on != 0, false);
    at::globalContext().setDeterministicCuDNN(on != 0);
  })
}

char* lnt_set_cudnn_benchmark(int64_t on) {
  LNT_BODY(at::globalContext().setBenchmarkCuDNN(on != 0))
}

char* lnt_manual_seed(uint64_t seed) { LNT_BODY(at::manual_seed(seed)) }

char* lnt_generator_new(int64_t dev, int64_t idx, uint64_t seed, void** out) {
  LNT_BODY({
    at::Generator g;
    if (dev == 0) {
      g = at::detail::createCPUGenerator(seed);
    } else {
      g = at::globalContext().defaultGenerator(device(dev, idx)).clone();
      g.set_current_seed(seed);
    }
    *out = new at::Generator(std::move(g));
  })
}

void lnt_generator_free(void* g) { delete static_cast<at::Generator*>(g); }

char* lnt_generator_state(void* g, void** out) {
  LNT_BODY(give(out, static_cast<at::Generator*>(g)->get_state()))
}

char* lnt_generator_set_state(void* g, void* state) {
  LNT_BODY(static_cast<at::Generator*>(g)->set_state(T(state)))
}
