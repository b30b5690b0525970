// nccl.h: the interface of liblntorch_nccl.so. It is compiled where libtorch has CUDA and NCCL's
// header is there, without nvcc, and opened by lnt_group_nccl in the shim's folder.
#pragma once
#include <chrono>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace lnt {

struct Nccl {
  c10::intrusive_ptr<c10d::Backend> (*make)(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                            int size, std::chrono::milliseconds limit);
  // Ends collectives under way, on the device too, and what watches them. Called before the end of
  // every group.
  void (*abort)(c10d::Backend& backend);
  // Whether no collective has failed: one that did ends on the device with any values.
  bool (*sound)(c10d::Backend& backend);
};

}  // namespace lnt

// The one symbol of liblntorch_nccl.so.
extern "C" __attribute__((visibility("default"))) const lnt::Nccl* lnt_nccl();
