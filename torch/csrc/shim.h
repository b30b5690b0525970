// shim.h: shared by all files of the shim: the guard and the conversion between handles and
// tensors.
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "lntorch.h"

// The compiler generates a version of a loop for each of these instruction sets; the loader selects
// the best supported one. A processor's name, as in arch=haswell, would select its version on that
// very processor alone. GCC knows x86-64-v3 (AVX2) and x86-64-v4 (AVX-512) from version 12 on.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define LNT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define LNT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LNT_CLONES
#endif

namespace lnt {

char* dup(const char* s);
extern std::atomic<int64_t> live;

inline at::Tensor& T(void* p) {
  if (p == nullptr) throw std::invalid_argument("tensor is null");
  return *static_cast<at::Tensor*>(p);
}

inline std::optional<at::Tensor> O(void* p) {
  if (p == nullptr) return std::nullopt;
  return *static_cast<at::Tensor*>(p);
}

inline void give(void** out, at::Tensor t) {
  *out = new at::Tensor(std::move(t));
  live.fetch_add(1, std::memory_order_relaxed);
}

inline at::IntArrayRef dims(const int64_t* p, int64_t n) {
  return at::IntArrayRef(p, static_cast<size_t>(n < 0 ? 0 : n));
}

inline std::vector<at::Tensor> list(void** ts, int64_t n) {
  std::vector<at::Tensor> v;
  v.reserve(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; i++) v.push_back(T(ts[i]));
  return v;
}

// Enum values are checked here: some of ATen's noexcept functions abort on unknown ones.
inline at::ScalarType dtype(int64_t d) {
  TORCH_CHECK(d >= 0 && d < static_cast<int64_t>(at::ScalarType::Undefined), "no element type ", d);
  return static_cast<at::ScalarType>(d);
}

inline c10::DeviceType device_type(int64_t d) {
  TORCH_CHECK(d >= 0 && d < static_cast<int64_t>(c10::COMPILE_TIME_MAX_DEVICE_TYPES),
              "no device type ", d);
  return static_cast<c10::DeviceType>(d);
}

inline c10::Device device(int64_t type, int64_t index) {
  TORCH_CHECK(index >= -1 && index < 128, "no device index ", index);
  return c10::Device(device_type(type), static_cast<c10::DeviceIndex>(index));
}

// core.cpp. folder_of is the folder of the library that contains a function, with a trailing slash;
// links are not followed. open_optional opens a library that may be missing; null if it is.
std::string folder_of(void* function);
void* open_optional(const std::string& path, int flags);

// allocator.cpp
void use_caching_allocator();
void empty_cpu_cache();
void cpu_memory(int64_t* out);

}  // namespace lnt

// LNT_BODY wraps the whole body of an exported function: any exception becomes the returned
// message.
#define LNT_BODY(...)                            \
  try {                                          \
    __VA_ARGS__;                                 \
    return nullptr;                              \
  } catch (const c10::Error& e) {                \
    return lnt::dup(e.what_without_backtrace()); \
  } catch (const std::exception& e) {            \
    return lnt::dup(e.what());                   \
  } catch (...) {                                \
    return lnt::dup("unknown C++ exception");    \
  }
