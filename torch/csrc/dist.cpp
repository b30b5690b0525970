// dist.cpp: process groups of c10d, and its Reducer, which averages gradients.
//
// Every wait for another rank can be given up: c10d's Gloo has no abort, so its backend is wrapped
// in one whose collectives end with an error as soon as lnt_group_abort is called. Gloo's threads
// go on waiting until their own time limit; nobody waits for them.
#define USE_C10D_GLOO
#include <dlfcn.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <mutex>
#include <sstream>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include "nccl/nccl.h"
#include "shim.h"

using namespace lnt;
using std::chrono::milliseconds;

namespace {

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// A collective under way, which ends when c10d's does or when it is given up. The tensors it works
// on belong to c10d's work, which lives on in Gloo's queue.
class Collective : public c10d::Work {
 public:
  explicit Collective(const c10::TypePtr& type)
      : future_(c10::make_intrusive<c10::ivalue::Future>(type)) {}

  static c10::intrusive_ptr<Collective> follow(const c10::intrusive_ptr<c10d::Work>& work) {
    auto future = work->getFuture();
    auto c = c10::make_intrusive<Collective>(future->elementType());
    future->addCallback([c](c10::ivalue::Future& f) {
      if (f.hasError()) {
        c->end(f.exception_ptr(), {});
      } else {
        c->end(nullptr, f.constValue());
      }
    });
    return c;
  }

  void end(std::exception_ptr error, c10::IValue value) {
    if (ending_.exchange(true)) return;
    ended_.store(now());
    if (error) {
      future_->setError(error);
    } else {
      future_->markCompleted(std::move(value));
    }
    finish(error);
  }

  // Waits at most limit; false if it is still under way. Throws what ended it.
  bool poll(milliseconds limit) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!cv_.wait_for(lock, limit, [this] { return completed_; })) return false;
    if (exception_) std::rethrow_exception(exception_);
    return true;
  }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }

  int64_t ended() const { return ended_.load(); }  // 0: not yet

 private:
  c10::intrusive_ptr<c10::ivalue::Future> future_;
  std::atomic<bool> ending_{false};
  std::atomic<int64_t> ended_{0};
};

// Passes collectives on to c10d's backend, and can give up those that are under way. NCCL can do
// that itself: its collectives, which are over for the host as soon as they are queued, are passed
// on as they are.
class Interruptible : public c10d::Backend {
 public:
  Interruptible(c10::intrusive_ptr<c10d::Backend> inner, const Nccl* nccl)
      : Backend(inner->getRank(), inner->getSize()), inner_(std::move(inner)), nccl_(nccl) {}

  ~Interruptible() override {
    if (nccl_ == nullptr) return;
    try {
      nccl_->abort(*inner_);
    } catch (...) {
    }
  }

  const std::string getBackendName() const override { return inner_->getBackendName(); }

  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override {
    return start([&] { return inner_->allreduce(tensors, options); });
  }

  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors,
                                           const c10d::BroadcastOptions& options) override {
    return start([&] { return inner_->broadcast(tensors, options); });
  }

  c10::intrusive_ptr<c10d::Work> allgather(std::vector<std::vector<at::Tensor>>& out,
                                           std::vector<at::Tensor>& in,
                                           const c10d::AllgatherOptions& options) override {
    return start([&] { return inner_->allgather(out, in, options); });
  }

  void abort(const std::string& why) {
    std::vector<c10::intrusive_ptr<Collective>> running;
    {
      std::lock_guard<std::mutex> lock(running_mutex_);
      if (!aborted_.empty()) return;
      aborted_ = why;
      running.swap(running_);
    }
    for (auto& c : running) c->end(std::make_exception_ptr(std::runtime_error(why)), {});
    if (nccl_ != nullptr) nccl_->abort(*inner_);
  }

  // Throws what has ended the group's collectives. After values of theirs were read on the host
  // without an error here, they are right.
  void check() {
    {
      std::lock_guard<std::mutex> lock(running_mutex_);
      if (!aborted_.empty()) throw std::runtime_error(aborted_);
    }
    if (nccl_ != nullptr && !nccl_->sound(*inner_)) {
      throw std::runtime_error("NCCL: a collective failed; NCCL_DEBUG=WARN says why");
    }
  }

  // started: how many collectives there have been; waited: nanoseconds from the start of the last
  // one to the end of all.
  void clock(int64_t* started, int64_t* waited) {
    std::lock_guard<std::mutex> lock(running_mutex_);
    settle();
    *started = started_;
    *waited = running_.empty() ? std::max<int64_t>(0, last_end_ - last_start_) : 0;
  }

 private:
  template <class F>
  c10::intrusive_ptr<c10d::Work> start(F&& f) {
    {
      std::lock_guard<std::mutex> lock(running_mutex_);
      if (!aborted_.empty()) throw std::runtime_error(aborted_);
      started_++;
      last_start_ = now();
    }
    auto work = f();
    if (nccl_ != nullptr) return work;
    auto c = Collective::follow(work);
    std::string aborted;
    {
      std::lock_guard<std::mutex> lock(running_mutex_);
      settle();
      aborted = aborted_;
      if (aborted.empty()) running_.push_back(c);
    }
    if (!aborted.empty()) c->end(std::make_exception_ptr(std::runtime_error(aborted)), {});
    return c;
  }

  // Drops what is over.
  void settle() {
    auto over = [this](const c10::intrusive_ptr<Collective>& c) {
      int64_t t = c->ended();
      last_end_ = std::max(last_end_, t);
      return t != 0;
    };
    running_.erase(std::remove_if(running_.begin(), running_.end(), over), running_.end());
  }

  c10::intrusive_ptr<c10d::Backend> inner_;
  const Nccl* nccl_;  // null for Gloo
  std::mutex running_mutex_;
  std::vector<c10::intrusive_ptr<Collective>> running_;
  std::string aborted_;
  int64_t started_ = 0, last_start_ = 0, last_end_ = 0;
};

struct Group {
  c10::intrusive_ptr<Interruptible> backend;
  c10::intrusive_ptr<c10d::ProcessGroup> c10d;  // what the Reducer wants
};

Group& G(void* g) {
  TORCH_CHECK(g != nullptr, "the process group was closed");
  return *static_cast<Group*>(g);
}

using StorePtr = c10::intrusive_ptr<c10d::Store>;

StorePtr& S(void* s) {
  TORCH_CHECK(s != nullptr, "the store was closed");
  return *static_cast<StorePtr*>(s);
}

using WorkPtr = c10::intrusive_ptr<c10d::Work>;

void give_work(void** out, WorkPtr work) { *out = new WorkPtr(std::move(work)); }

void give_group(void** out, c10::intrusive_ptr<c10d::Backend> inner, const Nccl* nccl) {
  auto g = std::make_unique<Group>();
  g->backend = c10::make_intrusive<Interruptible>(std::move(inner), nccl);
  g->c10d = c10::make_intrusive<c10d::ProcessGroup>(g->backend->getRank(), g->backend->getSize());
  using Types = c10d::ProcessGroup::BackendType;
  g->c10d->setBackend(nccl == nullptr ? c10::DeviceType::CPU : c10::DeviceType::CUDA,
                      nccl == nullptr ? Types::GLOO : Types::NCCL,
                      c10::intrusive_ptr<c10d::Backend>(g->backend));
  *out = g.release();
}

}  // namespace

// listener: a socket that listens on port, for the rank that serves the store, which owns it from
// then on; -1 for a client.
char* lnt_store_new(const char* host, int64_t port, int64_t listener, const char* prefix,
                    int64_t limit_ms, void** out) {
  LNT_BODY({
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(port);
    options.isServer = listener >= 0;
    if (listener >= 0) options.masterListenFd = static_cast<int>(listener);
    options.useLibUV = false;  // whose server does not take a listener
    options.waitWorkers = false;
    options.timeout = milliseconds(limit_ms);
    StorePtr store = c10::make_intrusive<c10d::TCPStore>(host, options);
    if (prefix[0] != 0) store = c10::make_intrusive<c10d::PrefixStore>(prefix, store);
    *out = new StorePtr(std::move(store));
  })
}

char* lnt_store_set(void* store, const char* key, const void* data, int64_t n) {
  LNT_BODY({
    auto p = static_cast<const uint8_t*>(data);
    S(store)->set(key, std::vector<uint8_t>(p, p + n));
  })
}

// Waits at most limit_ms for the key. *out is malloc'd.
char* lnt_store_get(void* store, const char* key, int64_t limit_ms, char** out, int64_t* n) {
  LNT_BODY({
    S(store)->wait({key}, milliseconds(limit_ms));
    auto value = S(store)->get(key);
    *n = static_cast<int64_t>(value.size());
    *out = static_cast<char*>(std::malloc(value.size() + 1));
    if (*out == nullptr) throw std::bad_alloc();
    std::memcpy(*out, value.data(), value.size());
  })
}

void lnt_store_free(void* store) {
  try {
    delete static_cast<StorePtr*>(store);
  } catch (...) {
  }
}

// Connects to the other ranks. device is names of interfaces ("eth0,eth1"), or an address behind an
// @.
char* lnt_group_gloo(void* store, int64_t rank, int64_t size, const char* device, int64_t limit_ms,
                     void** out) {
  LNT_BODY({
    auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(limit_ms));
    if (device[0] == '@') {
      options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(device + 1));
    } else {
      std::istringstream names(device);
      for (std::string name; std::getline(names, name, ',');) {
        options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(name));
      }
    }
    options->threads = static_cast<int>(options->devices.size()) * 2;
    give_group(out,
               c10::make_intrusive<c10d::ProcessGroupGloo>(S(store), static_cast<int>(rank),
                                                           static_cast<int>(size), options),
               nullptr);
  })
}

char* lnt_group_nccl(void* store, int64_t rank, int64_t size, int64_t limit_ms, void** out) {
  LNT_BODY({
    std::string folder = folder_of(reinterpret_cast<void*>(&lnt_abi));
    void* library = open_optional(folder + "liblntorch_nccl.so", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      throw std::runtime_error("NCCL needs " + folder +
                               "liblntorch_nccl.so, which is missing: make shim CUDA=1 builds it");
    }
    auto get = reinterpret_cast<decltype(&lnt_nccl)>(dlsym(library, "lnt_nccl"));
    TORCH_CHECK(get != nullptr, "liblntorch_nccl.so is of another build: run make shim again");
    give_group(out,
               get()->make(S(store), static_cast<int>(rank), static_cast<int>(size),
                           milliseconds(limit_ms)),
               get());
  })
}

char* lnt_group_abort(void* group, const char* why) { LNT_BODY(G(group).backend->abort(why)) }

char* lnt_group_check(void* group) { LNT_BODY(G(group).backend->check()) }

// Waits for collectives under way over Gloo, and ends those over NCCL.
void lnt_group_free(void* group) {
  try {
    delete static_cast<Group*>(group);
  } catch (...) {
  }
}

char* lnt_group_clock(void* group, int64_t* started, int64_t* waited) {
  LNT_BODY(G(group).backend->clock(started, waited))
}

// op: 0 sum, 1 max. In place.
char* lnt_all_reduce(void* group, void* t, int64_t op, void** work) {
  LNT_BODY({
    std::vector<at::Tensor> ts{T(t)};
    c10d::AllreduceOptions options;
    options.reduceOp = op == 0 ? c10d::ReduceOp::SUM : c10d::ReduceOp::MAX;
    give_work(work, G(group).backend->allreduce(ts, options));
  })
}

// In place, for contiguous tensors.
char* lnt_broadcast(void* group, void* t, int64_t root, void** work) {
  LNT_BODY({
    std::vector<at::Tensor> ts{T(t)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    give_work(work, G(group).backend->broadcast(ts, options));
  })
}

// out: (world size, …), whose slices are written.
char* lnt_all_gather(void* group, void* in, void* out, void** work) {
  LNT_BODY({
    std::vector<at::Tensor> from{T(in)};
    std::vector<std::vector<at::Tensor>> to{T(out).unbind(0)};
    give_work(work, G(group).backend->allgather(to, from, c10d::AllgatherOptions()));
  })
}

// Waits at most limit_ms; *done is 0 if it is still under way. On CUDA only the current stream
// waits.
char* lnt_work_wait(void* work, int64_t limit_ms, int64_t* done) {
  LNT_BODY({
    *done = 0;
    auto& w = *static_cast<WorkPtr*>(work);
    auto* c = dynamic_cast<Collective*>(w.get());
    *done = c != nullptr ? c->poll(milliseconds(limit_ms)) : w->wait();
  })
}

void lnt_work_free(void* work) { delete static_cast<WorkPtr*>(work); }

namespace {

// Backward of a value that all ranks computed from each rank's: the gradient is that of every
// rank's copy, summed.
struct GatherBackward : public torch::autograd::Node {
  Group* group = nullptr;
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    std::vector<at::Tensor> ts{grads[0].clone(at::MemoryFormat::Contiguous)};
    group->backend->allreduce(ts, c10d::AllreduceOptions())->wait();
    return {ts[0].select(0, group->backend->getRank())};
  }
  std::string name() const override { return "GatherBackward"; }
};

struct SumBackward : public torch::autograd::Node {
  double factor = 1;
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    return {grads[0] * factor};
  }
  std::string name() const override { return "SumBackward"; }
};

// libtorch's pointer to a node: intrusively counted in newer versions, a shared_ptr in older ones.
template <class N>
auto make_node() {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, N>) {
    return c10::make_intrusive<N>();
  } else {
    return std::make_shared<N>();
  }
}

template <class N>
void give_from(void** out, const at::Tensor& value, const at::Tensor& x, const N& node) {
  at::Tensor y = value.detach();
  if (at::GradMode::is_enabled() && x.requires_grad()) {
    node->set_next_edges(torch::autograd::collect_next_edges(x));
    torch::autograd::set_history(y, node);
  }
  give(out, y);
}

}  // namespace

// *out is gathered, which lnt_all_gather made of x, with the gradient of nnU-Net's AllGatherGrad.
char* lnt_gathered(void* group, void* x, void* gathered, void** out) {
  LNT_BODY({
    auto node = make_node<GatherBackward>();
    node->group = &G(group);
    give_from(out, T(gathered), T(x), node);
  })
}

// *out is sum, which lnt_all_reduce made of x; its gradient reaches x times factor.
char* lnt_summed(void* x, void* sum, double factor, void** out) {
  LNT_BODY({
    auto node = make_node<SumBackward>();
    node->factor = factor;
    give_from(out, T(sum), T(x), node);
  })
}

namespace {

// Averages buckets as bfloat16: PyTorch has this hook in Python alone (bf16_compress_hook).
class BF16Hook : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;
  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    at::Tensor buffer = bucket.getBufferRef();
    std::vector<at::Tensor> small{buffer.to(at::kBFloat16).div_(state_->getSize())};
    return state_->allreduce(small)->getFuture()->then(
        [buffer](c10::ivalue::Future& f) {
          auto result = f.value();
          buffer.copy_(result.isTensorList() ? result.toTensorVector()[0] : result.toTensor());
          return c10::IValue(buffer);
        },
        c10::TensorType::get());
  }
};

// Notes that a parameter's gradient is there.
struct Arrived : public torch::autograd::FunctionPostHook {
  Arrived(std::vector<uint8_t>* seen, size_t i) : seen(seen), i(i) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    (*seen)[i] = 1;
    return outputs;
  }
  std::vector<uint8_t>* seen;
  size_t i;
};

using Accumulator = decltype(torch::autograd::impl::grad_accumulator(at::Tensor()));

// Memory of the Reducer's buckets. PyTorch holds it all the time; here, on the CPU, a bucket has
// memory from its first gradient on until the next forward pass, as gradients of one process have.
struct BucketMemory {
  std::vector<c10::Storage> storages;
  std::vector<size_t> bytes;
  std::unordered_map<c10::TensorImpl*, size_t> of;  // the bucket of a parameter
  bool wanted = false;                              // by the backward pass that comes

  void clear() {
    wanted = false;
    storages.clear();
    bytes.clear();
    of.clear();
  }

  // Buckets that hold accumulated gradients keep their memory.
  void release(const c10d::Reducer& reducer) {
    for (auto& b : reducer.get_grad_buckets(false)) {
      auto storage = b.getBufferRef().storage();
      if (!storage.device().is_cpu() || storage.allocator() == nullptr) continue;
      auto params = b.getParameters();
      auto used = [&](const at::Tensor& p) {
        return p.grad().defined() && p.grad().storage().is_alias_of(storage);
      };
      if (std::any_of(params.begin(), params.end(), used)) continue;
      for (auto& p : params) of[p.unsafeGetTensorImpl()] = storages.size();
      bytes.push_back(storage.nbytes());
      storage.set_data_ptr_noswap(storage.allocator()->allocate(0));
      storages.push_back(std::move(storage));
    }
  }

  void hold(c10::TensorImpl* param) {
    auto found = of.find(param);
    if (!wanted || found == of.end()) return;
    auto& storage = storages[found->second];
    if (storage.data() == nullptr) {
      storage.set_data_ptr_noswap(storage.allocator()->allocate(bytes[found->second]));
    }
  }
};

// Gives a parameter's bucket memory before its gradient comes.
struct Coming : public torch::autograd::FunctionPreHook {
  Coming(BucketMemory* memory, c10::TensorImpl* param) : memory(memory), param(param) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& grads) override {
    memory->hold(param);
    return grads;
  }
  BucketMemory* memory;
  c10::TensorImpl* param;
};

struct Gradients {
  std::shared_ptr<c10d::Reducer> reducer;
  std::shared_ptr<c10d::Logger> logger;
  std::vector<std::pair<Accumulator, uintptr_t>> hooks;
  std::vector<uint8_t> seen;  // by parameter, since the last prepare
  BucketMemory memory;
  ~Gradients() {
    for (auto& h : hooks) {
      h.first->del_post_hook(h.second);
      auto& before = h.first->pre_hooks();
      before.erase(std::remove_if(before.begin(), before.end(),
                                  [&](auto& hook) {
                                    auto* coming = dynamic_cast<Coming*>(hook.get());
                                    return coming != nullptr && coming->memory == &memory;
                                  }),
                   before.end());
    }
  }
};

Gradients& R(void* r) {
  TORCH_CHECK(r != nullptr, "the reducer was closed");
  return *static_cast<Gradients*>(r);
}

// Reducer's constructor has lost an argument and gained others.
template <class Reducer, class... Ends>
std::shared_ptr<Reducer> make_reducer(const std::vector<at::Tensor>& params,
                                      const std::vector<std::vector<size_t>>& buckets,
                                      const std::vector<size_t>& limits,
                                      const c10::intrusive_ptr<c10d::ProcessGroup>& group,
                                      int64_t bucket, bool views, int64_t first) {
  std::unordered_map<size_t, std::string> names;
  for (size_t i = 0; i < params.size(); i++) names[i] = std::to_string(i);
  std::vector<bool> sparse(params.size(), false);
  using Limits = std::vector<size_t>;
  using Names = std::unordered_map<size_t, std::string>;
  using Buckets = std::vector<std::vector<size_t>>;
  using Pg = c10::intrusive_ptr<c10d::ProcessGroup>;
  if constexpr (std::is_constructible_v<Reducer, std::vector<at::Tensor>, Buckets, Limits, Pg,
                                        std::vector<bool>, int64_t, bool, bool, Names, int64_t>) {
    return std::make_shared<Reducer>(params, buckets, limits, group, sparse, bucket, false, views,
                                     names, first);
  } else if constexpr (std::is_constructible_v<Reducer, std::vector<at::Tensor>, Buckets, Pg,
                                               std::vector<bool>, int64_t, bool, bool, Names,
                                               int64_t>) {
    return std::make_shared<Reducer>(params, buckets, group, sparse, bucket, false, views, names,
                                     first);
  } else if constexpr (std::is_constructible_v<Reducer, std::vector<at::Tensor>, Buckets, Pg,
                                               std::vector<bool>, int64_t, bool, bool, Names,
                                               int64_t, bool, bool>) {
    return std::make_shared<Reducer>(params, buckets, group, sparse, bucket, false, views, names,
                                     first, false, false);
  } else {
    return std::make_shared<Reducer>(params, buckets, group, sparse, bucket, false, views, names,
                                     first, false, false, std::vector<int64_t>{});
  }
}

// Unstrided leaves the Reducer's warning out that a gradient has other strides than its bucket, as
// one of a weight for a single channel has: it is copied, which costs little.
class Unstrided : public c10::WarningHandler {
 public:
  void process(const c10::Warning& w) override {
    if (w.msg().find("Grad strides do not match") == std::string::npos) WarningHandler::process(w);
  }
};

}  // namespace

// whole: one bucket with every parameter in the first iteration. compress: 0 none, 1 float16, 2
// bfloat16.
char* lnt_reducer_new(void* group, void** params, int64_t n, int64_t first, int64_t bucket,
                      int64_t whole, int64_t views, int64_t compress, void** out) {
  LNT_BODY({
    static Unstrided handler;
    c10::WarningUtils::set_warning_handler(&handler);  // of this thread, on which backward runs
    auto ps = list(params, n);
    std::vector<size_t> limits{static_cast<size_t>(first), static_cast<size_t>(bucket)};
    if (whole != 0) limits = {static_cast<size_t>(std::numeric_limits<int64_t>::max())};
    auto [buckets, sizes] =
        c10d::compute_bucket_assignment_by_size(ps, limits, std::vector<bool>(ps.size(), false));
    std::reverse(buckets.begin(), buckets.end());
    std::reverse(sizes.begin(), sizes.end());
    auto r = std::make_unique<Gradients>();
    auto& pg = G(group).c10d;
    r->reducer = make_reducer<c10d::Reducer>(ps, buckets, sizes, pg, bucket, views != 0, first);
    r->logger = std::make_shared<c10d::Logger>(r->reducer);
    r->reducer->set_logger(r->logger);
    if (compress == 1) {
      r->reducer->register_builtin_comm_hook(c10d::BuiltinCommHookType::FP16_COMPRESS);
    } else if (compress == 2) {
      r->reducer->register_comm_hook(std::make_unique<BF16Hook>(pg));
    }
    r->seen.assign(ps.size(), 0);
    for (size_t i = 0; i < ps.size(); i++) {
      auto node = torch::autograd::impl::grad_accumulator(ps[i]);
      node->add_pre_hook(std::make_unique<Coming>(&r->memory, ps[i].unsafeGetTensorImpl()));
      auto key = node->add_post_hook(std::make_unique<Arrived>(&r->seen, i));
      r->hooks.emplace_back(std::move(node), key);
    }
    *out = r.release();
  })
}

void lnt_reducer_free(void* reducer) {
  try {
    delete static_cast<Gradients*>(reducer);
  } catch (...) {
  }
}

// *rebuilt is 1 if buckets were rebuilt.
char* lnt_reducer_forward(void* reducer, int64_t* rebuilt) {
  LNT_BODY({
    R(reducer).reducer->prepare_for_forward();
    R(reducer).memory.clear();  // of buckets that may be replaced
    *rebuilt = R(reducer).reducer->rebuild_buckets();
    R(reducer).memory.release(*R(reducer).reducer);
  })
}

char* lnt_reducer_backward(void* reducer) {
  LNT_BODY({
    std::fill(R(reducer).seen.begin(), R(reducer).seen.end(), 0);
    R(reducer).memory.wanted = true;
    R(reducer).reducer->prepare_for_backward({});
  })
}

// seen: a byte for each parameter, 1 if its gradient came since lnt_reducer_backward.
char* lnt_reducer_seen(void* reducer, void* seen, int64_t n) {
  LNT_BODY({
    auto& s = R(reducer).seen;
    TORCH_CHECK(static_cast<int64_t>(s.size()) == n, "there are ", s.size(), " parameters");
    std::memcpy(seen, s.data(), s.size());
  })
}

// sizes: bytes of each bucket, at most max of them; *n is how many there are.
char* lnt_reducer_buckets(void* reducer, int64_t* sizes, int64_t max, int64_t* n) {
  LNT_BODY({
    auto all = R(reducer).logger->get_bucket_sizes();
    *n = static_cast<int64_t>(all.size());
    for (int64_t i = 0; i < std::min(max, *n); i++) sizes[i] = all[static_cast<size_t>(i)];
  })
}
