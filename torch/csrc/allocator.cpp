// allocator.cpp: main memory for tensors.
//
// A training step frees and allocates the same large blocks repeatedly. libtorch gets each from
// malloc, which maps new memory: the kernel clears every page on first access, which takes a third
// of a step on this workload. Here freed large blocks are cached, merged with their neighbours,
// split to size and reused. The cache is limited by the peak in use; lnt_empty_cache releases it.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <sys/mman.h>

#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

#include "shim.h"

namespace {

constexpr size_t kLarge = 1 << 18;     // smaller blocks come from malloc
constexpr size_t kStep = 1 << 16;      // sizes are multiples of it
constexpr size_t kHugePage = 2 << 20;  // from here on, ask for huge pages
constexpr size_t kSlack = 64UL << 20;  // memory held above the peak in use

class Cache {
 public:
  void* get(size_t want) {
    size_t size = (want + kStep - 1) / kStep * kStep;
    std::lock_guard<std::mutex> lock(mutex_);
    char* p = nullptr;
    auto it = sizes_.lower_bound({size, nullptr});  // the smallest that is large enough
    if (it != sizes_.end()) {
      auto [found, at] = *it;
      p = at;
      drop(at, found);
      if (found - size >= kLarge) {
        keep(at + size, found - size);
      } else {
        size = found;
      }
    } else {
      trim(std::max(peak_, in_use_ + size) + kSlack - size);
      p = map(size);
      if (p == nullptr) {  // cached blocks may be in the way
        trim(0);
        p = map(size);
      }
      TORCH_CHECK(p != nullptr, "CPU allocator: no memory for ", want, " bytes");
    }
    used_[p] = size;
    in_use_ += size;
    peak_ = std::max(peak_, in_use_);
    return p;
  }

  // False for a block that is not ours.
  bool put(void* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = used_.find(block);
    if (it == used_.end()) return false;
    char* p = static_cast<char*>(block);
    size_t size = it->second;
    used_.erase(it);
    in_use_ -= size;
    auto next = places_.lower_bound(p);
    if (next != places_.end() && next->first == p + size) {
      size_t more = next->second;
      drop(p + size, more);
      size += more;
    }
    auto previous = places_.lower_bound(p);
    if (previous != places_.begin()) {
      auto [at, length] = *--previous;
      if (at + length == p) {
        drop(at, length);
        p = at;
        size += length;
      }
    }
    keep(p, size);
    trim(peak_ + kSlack);
    return true;
  }

  void clear() {
    std::lock_guard<std::mutex> lock(mutex_);
    trim(0);
    peak_ = in_use_;
  }

  // Bytes in large blocks: in use, peak in use, cached.
  void statistics(int64_t* out) {
    std::lock_guard<std::mutex> lock(mutex_);
    out[0] = static_cast<int64_t>(in_use_);
    out[1] = static_cast<int64_t>(peak_);
    out[2] = static_cast<int64_t>(cached_);
  }

 private:
  static char* map(size_t size) {
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    if (size >= kHugePage) madvise(p, size, MADV_HUGEPAGE);  // a hint; failure does no harm
    return static_cast<char*>(p);
  }

  void keep(char* p, size_t size) {
    places_[p] = size;
    sizes_.insert({size, p});
    cached_ += size;
  }

  void drop(char* p, size_t size) {
    places_.erase(p);
    sizes_.erase({size, p});
    cached_ -= size;
  }

  // Unmaps cached blocks, largest first, until at most `total` bytes are held, in use and cached.
  void trim(size_t total) {
    while (cached_ > 0 && in_use_ + cached_ > total) {
      auto [size, p] = *sizes_.rbegin();
      drop(p, size);
      size_t gone = std::min(size, in_use_ + cached_ + size - total);
      gone = (gone + kStep - 1) / kStep * kStep;
      munmap(p + (size - gone), gone);
      if (size > gone) keep(p, size - gone);
    }
  }

  std::mutex mutex_;
  std::map<char*, size_t> places_;            // cached blocks by address
  std::set<std::pair<size_t, char*>> sizes_;  // and by size
  std::unordered_map<void*, size_t> used_;
  size_t in_use_ = 0;
  size_t peak_ = 0;
  size_t cached_ = 0;
};

// The cache outlives every tensor: it is never destroyed.
Cache& cache() {
  static Cache* c = new Cache;
  return *c;
}

// One function frees every block, small or large: oneDNN frees its scratchpads with only the
// pointer. Large blocks are page-aligned; few small ones are.
void release(void* p) {
  if (p == nullptr) return;
  if (reinterpret_cast<uintptr_t>(p) % 4096 == 0 && cache().put(p)) return;
  c10::free_cpu(p);
}

struct Allocator final : c10::Allocator {
  at::DataPtr allocate(size_t n) override {
    void* p = n < kLarge ? c10::alloc_cpu(n) : cache().get(n);
    return {p, p, &release, at::Device(at::DeviceType::CPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* dest, const void* src, std::size_t count) const override {
    default_copy_data(dest, src, count);
  }
};

}  // namespace

namespace lnt {

void use_caching_allocator() {
  static Allocator* a = new Allocator;
  c10::SetCPUAllocator(a, 1);
}

void empty_cpu_cache() { cache().clear(); }

void cpu_memory(int64_t* out) { cache().statistics(out); }

}  // namespace lnt
