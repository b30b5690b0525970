// nccl.cpp: c10d's NCCL backend. See nccl.h.
#define USE_C10D_NCCL
#include "nccl.h"

#include <cstdlib>
#include <mutex>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <type_traits>

namespace {

using Group = c10d::ProcessGroupNCCL;

// How much later than ours c10d's own time limit is: ours names the rank that does not answer, and
// needs a few seconds for that.
constexpr std::chrono::seconds later{30};

// c10d's watchdog ends the process when a collective fails, by std::terminate, before anybody can
// say which rank was lost. It only ends the communicators (CleanUpOnly), unless the user's
// environment wants something else; lnt::Nccl::sound tells that it has. Newer libtorches have it
// sleep four times the second value first, 60 s, while collectives cannot be queued.
void keep_the_process() {
  if (std::getenv("NCCL_ASYNC_ERROR_HANDLING") == nullptr) {  // the old name
    setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2", 0);
  }
  setenv("TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC", "250", 0);
}

c10::intrusive_ptr<c10d::Backend> make(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                       int size, std::chrono::milliseconds limit) {
  keep_the_process();
  auto options = Group::Options::create();
  options->timeout = limit + later;
  return c10::make_intrusive<Group>(store, rank, size, options);
}

// Ends the communicators and the watchdog. In libtorch 2.4 that is shutdown: abort, which returns a
// bool there, leaves the watchdog at work, which takes the end for an error. Later it is abort, and
// shutdown waits for collectives.
template <class G>
void end(G& group) {
  if constexpr (std::is_void_v<decltype(group.abort())>) {
    group.abort();
  } else {
    group.shutdown();
  }
}

void abort(c10d::Backend& backend) { end(static_cast<Group&>(backend)); }

template <class G, class = void>
struct reports : std::false_type {};
template <class G>
struct reports<G, std::void_t<decltype(std::declval<G&>().getError())>> : std::true_type {};

// Reaches the communicators of a libtorch that does not report errors (2.4).
template <class G>
struct Communicators : G {
  static bool sound(G& group) {
    std::lock_guard<std::mutex> lock(group.*(&Communicators::mutex_));
    for (auto& c : group.*(&Communicators::devNCCLCommMap_)) {
      if (c.second->isAborted()) return false;
    }
    return true;
  }
};

template <class G>
bool intact(G& group) {
  if constexpr (reports<G>::value) {
    return static_cast<int>(group.getError()) == 0;  // ErrorType::SUCCESS
  } else {
    return Communicators<G>::sound(group);
  }
}

bool sound(c10d::Backend& backend) { return intact(static_cast<Group&>(backend)); }

}  // namespace

const lnt::Nccl* lnt_nccl() {
  static const lnt::Nccl nccl{&make, &abort, &sound};
  return &nccl;
}
