// allocator.cpp: main memory for tensors.
//
// A training step frees and asks for the same large blocks again and again. libtorch gets each from malloc, which maps it
// anew: the kernel clears every page at its first touch, and on this workload that is a third of a step. Here large blocks
// that were freed are kept and handed out again. What is kept is bounded by what was in use at the most; lnt_empty_cache
// gives it back.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <sys/mman.h>

#include <map>
#include <mutex>
#include <unordered_map>

#include "shim.h"

namespace {

constexpr size_t kLarge = 1 << 18;      // smaller blocks are malloc's matter
constexpr size_t kHugePage = 2 << 20;   // from here on, ask for huge pages
constexpr size_t kSlack = 256UL << 20;  // what may be kept beyond the high-water mark of what is in use

class Cache {
 public:
  void* get(size_t want) {
    size_t size = round(want);
    std::lock_guard<std::mutex> lock(mutex_);
    void* p = nullptr;
    auto it = free_.lower_bound(size);
    if (it != free_.end() && it->first <= size + size / 4) {
      size = it->first;
      p = it->second;
      free_.erase(it);
      cached_ -= size;
    } else {
      p = map(size);
      if (p == nullptr) {  // perhaps what is kept is in the way
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
  bool put(void* p) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = used_.find(p);
    if (it == used_.end()) return false;
    size_t size = it->second;
    used_.erase(it);
    in_use_ -= size;
    free_.emplace(size, p);
    cached_ += size;
    size_t limit = peak_ + kSlack;
    if (in_use_ + cached_ > limit) trim(limit > in_use_ ? limit - in_use_ : 0);
    return true;
  }

  void clear() {
    std::lock_guard<std::mutex> lock(mutex_);
    trim(0);
    peak_ = in_use_;
  }

  // Bytes in large blocks: in use, in use at the most, kept.
  void statistics(int64_t* out) {
    std::lock_guard<std::mutex> lock(mutex_);
    out[0] = static_cast<int64_t>(in_use_);
    out[1] = static_cast<int64_t>(peak_);
    out[2] = static_cast<int64_t>(cached_);
  }

 private:
  // Sizes in steps of an eighth, so that blocks of nearly the same size can stand in for each other.
  static size_t round(size_t n) {
    size_t step = 4096;
    while (step * 16 <= n) step *= 2;
    return (n + step - 1) / step * step;
  }

  static void* map(size_t size) {
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    if (size >= kHugePage) madvise(p, size, MADV_HUGEPAGE);  // a wish: no harm where it is not granted
    return p;
  }

  // Unmaps kept blocks, largest first, until at most `keep` bytes are kept.
  void trim(size_t keep) {
    while (cached_ > keep && !free_.empty()) {
      auto it = std::prev(free_.end());
      munmap(it->second, it->first);
      cached_ -= it->first;
      free_.erase(it);
    }
  }

  std::mutex mutex_;
  std::multimap<size_t, void*> free_;
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

// One function frees every block, small or large: oneDNN's scratchpads are freed by pointer alone. Large blocks begin on a
// page; few small ones do.
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
  void copy_data(void* dest, const void* src, std::size_t count) const override { default_copy_data(dest, src, count); }
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
