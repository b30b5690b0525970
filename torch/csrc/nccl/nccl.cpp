// nccl.cpp: c10d's NCCL backend. See nccl.h.
#define USE_C10D_NCCL
#include "nccl.h"

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace {

c10::intrusive_ptr<c10d::Backend> make(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                       int size, std::chrono::milliseconds limit) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = limit;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
}

void abort(c10d::Backend& backend) { static_cast<c10d::ProcessGroupNCCL&>(backend).abort(); }

}  // namespace

const lnt::Nccl* lnt_nccl() {
  static const lnt::Nccl nccl{&make, &abort};
  return &nccl;
}
