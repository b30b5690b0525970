// device.cpp: accelerators, through libtorch's device-generic interfaces and the CUDA runtime via
// dlsym, so that one shim works with and without CUDA and does not link it.
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <torch/version.h>
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9
#include <c10/core/CachingDeviceAllocator.h>
#define LNT_DEVICE_STATISTICS
#endif

#include "cuda/kernels.h"
#include "shim.h"

using namespace lnt;

namespace {

bool has(c10::DeviceType d) {
  return d == c10::DeviceType::CPU || c10::impl::hasDeviceGuardImpl(d);
}

// The calling thread's current stream on a device; index -1 is its current device.
c10::Stream current_stream(c10::DeviceType d, int64_t idx) {
  c10::impl::VirtualGuardImpl g(d);
  return g.getStream(idx < 0 ? g.getDevice() : device(static_cast<int64_t>(d), idx));
}

}  // namespace

char* lnt_device_count(int64_t dev, int64_t* out) {
  LNT_BODY({
    auto d = device_type(dev);
    *out = d == c10::DeviceType::CPU ? 1
           : has(d)                  ? c10::impl::VirtualGuardImpl(d).deviceCount()
                                     : 0;
  })
}

char* lnt_device_name(int64_t dev, int64_t idx, char** out) {
  LNT_BODY({
    std::string name = device(dev, idx).str();
    // cudaDeviceProp starts with `char name[256]` in every CUDA release; the rest of the struct is
    // not read.
    using props_fn = int (*)(void*, int);
    auto props = reinterpret_cast<props_fn>(dlsym(RTLD_DEFAULT, "cudaGetDeviceProperties_v2"));
    if (props == nullptr)
      props = reinterpret_cast<props_fn>(dlsym(RTLD_DEFAULT, "cudaGetDeviceProperties"));
    if (dev == static_cast<int64_t>(c10::DeviceType::CUDA) && props != nullptr) {
      std::vector<char> buf(16384, 0);
      if (props(buf.data(), static_cast<int>(idx)) == 0)
        name = std::string(buf.data(), strnlen(buf.data(), 256));
    }
    *out = dup(name.c_str());
  })
}

char* lnt_synchronize(int64_t dev, int64_t idx) {
  LNT_BODY({
    auto d = device_type(dev);
    if (d == c10::DeviceType::CPU) return nullptr;
    c10::impl::VirtualGuardImpl g(d);
    g.synchronizeStream(g.getStream(device(dev, idx)));
  })
}

// out: free and total bytes of the device; zeros if not available.
char* lnt_memory(int64_t dev, int64_t idx, int64_t* out) {
  LNT_BODY({
    out[0] = 0;
    out[1] = 0;
    if (dev != static_cast<int64_t>(c10::DeviceType::CUDA)) return nullptr;
    using info_fn = int (*)(size_t*, size_t*);
    auto info = reinterpret_cast<info_fn>(dlsym(RTLD_DEFAULT, "cudaMemGetInfo"));
    if (info == nullptr) return nullptr;
    c10::impl::VirtualGuardImpl g(c10::DeviceType::CUDA);
    auto previous = g.exchangeDevice(device(dev, idx));
    size_t free_bytes = 0;
    size_t total = 0;
    int rc = info(&free_bytes, &total);
    g.uncheckedSetDevice(previous);
    TORCH_CHECK(rc == 0, "cudaMemGetInfo: error ", rc);
    out[0] = static_cast<int64_t>(free_bytes);
    out[1] = static_cast<int64_t>(total);
  })
}

char* lnt_empty_cache(int64_t dev) {
  LNT_BODY({
    if (dev == static_cast<int64_t>(c10::DeviceType::CPU)) {
      empty_cpu_cache();
      return nullptr;
    }
    using fn = void (*)();
    auto f = reinterpret_cast<fn>(
        dlsym(RTLD_DEFAULT, "_ZN3c104cuda20CUDACachingAllocator10emptyCacheEv"));
    if (f != nullptr) f();
  })
}

// out: peak bytes of the device's tensors since the last call with reset; 0 if libtorch (before
// 2.9) or the device does not report it.
char* lnt_device_peak(int64_t dev, int64_t idx, int64_t reset, int64_t* out) {
  LNT_BODY({
    *out = 0;
    auto d = device(dev, idx);
    if (d.is_cpu() || !has(d.type())) return nullptr;
#ifdef LNT_DEVICE_STATISTICS
    auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(d.type()));
    if (allocator == nullptr || !allocator->initialized()) return nullptr;
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *out = allocator->getDeviceStats(d.index()).allocated_bytes[all].peak;
    if (reset != 0) allocator->resetPeakStats(d.index());
#else
    (void)reset;
#endif
  })
}

// out: 1 if the shim's own operators have kernels for the device: the CPU, and CUDA with
// liblntorch_cuda.so.
char* lnt_has_kernels(int64_t dev, int64_t* out) {
  LNT_BODY({
    auto d = device_type(dev);
    *out = d == c10::DeviceType::CPU || (d == c10::DeviceType::CUDA && cuda_kernels() != nullptr)
               ? 1
               : 0;
  })
}

// out: bytes of large blocks in use, peak in use since the last lnt_empty_cache, and cached for
// reuse.
char* lnt_cpu_memory(int64_t* out) { LNT_BODY(cpu_memory(out)) }

char* lnt_event_new(int64_t dev, int64_t timed, void** out) {
  LNT_BODY(*out = new c10::Event(device_type(dev), timed != 0 ? c10::EventFlag::BACKEND_DEFAULT
                                                              : c10::EventFlag::PYTORCH_DEFAULT))
}

// On the calling thread's current stream of the device.
char* lnt_event_record(void* e, int64_t idx) {
  LNT_BODY({
    auto* event = static_cast<c10::Event*>(e);
    event->record(current_stream(event->device_type(), idx));
  })
}

// The calling thread's current stream of the device waits.
char* lnt_event_block(void* e, int64_t idx) {
  LNT_BODY({
    auto* event = static_cast<c10::Event*>(e);
    event->block(current_stream(event->device_type(), idx));
  })
}

char* lnt_event_synchronize(void* e) { LNT_BODY(static_cast<c10::Event*>(e)->synchronize()) }

// out: milliseconds that the device took from one timed event to a later one, both over.
char* lnt_event_elapsed(void* first, void* last, double* out) {
  LNT_BODY(*out = static_cast<c10::Event*>(first)->elapsedTime(*static_cast<c10::Event*>(last)))
}

void lnt_event_free(void* e) { delete static_cast<c10::Event*>(e); }

// A stream is three numbers: id, device index and device type.
char* lnt_stream_new(int64_t dev, int64_t idx, int64_t* out) {
  LNT_BODY({
    c10::impl::VirtualGuardImpl g(device_type(dev));
    auto s = g.getStreamFromGlobalPool(device(dev, idx), false).pack3();
    out[0] = s.stream_id;
    out[1] = s.device_index;
    out[2] = static_cast<int64_t>(s.device_type);
  })
}

// Makes a stream the calling thread's current one of its device; previous is the one before.
char* lnt_stream_exchange(const int64_t* stream, int64_t* previous) {
  LNT_BODY({
    c10::impl::VirtualGuardImpl g(device_type(stream[2]));
    auto s = g.exchangeStream(c10::Stream::unpack3(
                                  stream[0], static_cast<c10::DeviceIndex>(stream[1]), g.type()))
                 .pack3();
    previous[0] = s.stream_id;
    previous[1] = s.device_index;
    previous[2] = static_cast<int64_t>(s.device_type);
  })
}

// The calling thread's current stream of t's device uses t, too.
char* lnt_record_stream(void* t) {
  LNT_BODY({
    auto d = T(t).device();
    if (!d.is_cpu()) T(t).record_stream(current_stream(d.type(), d.index()));
  })
}
