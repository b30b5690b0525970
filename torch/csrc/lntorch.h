/* lntorch.h: the complete C interface of liblntorch.so.
 *
 * Conventions
 *  - C types only: pointers, int64_t, double. A tensor is an opaque `void*` that the caller owns
 *    and frees with lnt_free. Output tensors are written through the last parameters.
 *  - Every function that can fail returns NULL on success or a malloc'd message, freed with
 *    lnt_free_string. No function throws or keeps a pointer that it was given.
 *  - dtypes are values of c10::ScalarType, devices (type, index) with values of c10::DeviceType
 *    (0 CPU, 1 CUDA).
 *  - Lists are (pointer, count). A negative count of dims means all dims.
 *
 * One declaration per line: `go generate ./torch` generates the symbol table (shim_gen.h,
 * shim_gen.c) from these lines. A change of a signature raises LNT_ABI.
 */
#ifndef LNTORCH_H
#define LNTORCH_H
#include <stdint.h>

#define LNT_ABI 11
#define LNT_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* core.cpp: lifetime of tensors, data in and out, threads, modes, random numbers */
LNT_API int64_t lnt_abi(void);
LNT_API char* lnt_init(void);
LNT_API char* lnt_version(char** out);
LNT_API char* lnt_cpu_capability(char** out);
LNT_API void lnt_free_string(char* s);
LNT_API void lnt_free(void** tensors, int64_t n);
LNT_API int64_t lnt_live(void);
LNT_API char* lnt_info(void* t, int64_t* out);
LNT_API char* lnt_data_ptr(void* t, void** out);
LNT_API char* lnt_same_storage(void* a, void* b, int64_t* out);
LNT_API char* lnt_retain(void* t, void** out);
LNT_API char* lnt_export(void* t, void** out);
LNT_API char* lnt_to_string(void* t, char** out);
LNT_API char* lnt_copy_in(void* t, const void* data, int64_t nbytes);
LNT_API char* lnt_copy_out(void* t, void* data, int64_t nbytes);
LNT_API char* lnt_set_threads(int64_t n);
LNT_API int64_t lnt_get_threads(void);
LNT_API char* lnt_parallel_probe(int64_t n, int64_t* threads);
LNT_API int64_t lnt_grad_mode(int64_t enabled);
LNT_API char* lnt_autocast_get(int64_t device, int64_t* enabled, int64_t* dtype, int64_t* cache);
LNT_API char* lnt_autocast_set(int64_t device, int64_t enabled, int64_t dtype, int64_t cache);
LNT_API char* lnt_autocast_nest(int64_t delta, int64_t* depth);
LNT_API char* lnt_set_deterministic(int64_t on);
LNT_API char* lnt_set_cudnn_benchmark(int64_t on);
LNT_API char* lnt_manual_seed(uint64_t seed);
LNT_API char* lnt_generator_new(int64_t dev, int64_t idx, uint64_t seed, void** out);
LNT_API void lnt_generator_free(void* g);
LNT_API char* lnt_generator_state(void* g, void** out);
LNT_API char* lnt_generator_set_state(void* g, void* state);

/* device.cpp: accelerators through libtorch's device-generic hooks */
LNT_API char* lnt_device_count(int64_t dev, int64_t* out);
LNT_API char* lnt_device_name(int64_t dev, int64_t idx, char** out);
LNT_API char* lnt_synchronize(int64_t dev, int64_t idx);
LNT_API char* lnt_memory(int64_t dev, int64_t idx, int64_t* out);
LNT_API char* lnt_empty_cache(int64_t dev);
LNT_API char* lnt_device_peak(int64_t dev, int64_t idx, int64_t reset, int64_t* out);
LNT_API char* lnt_has_kernels(int64_t dev, int64_t* out);
LNT_API char* lnt_cpu_memory(int64_t* out);
LNT_API char* lnt_event_new(int64_t dev, int64_t timed, void** out);
LNT_API char* lnt_event_record(void* e, int64_t idx);
LNT_API char* lnt_event_block(void* e, int64_t idx);
LNT_API char* lnt_event_synchronize(void* e);
LNT_API char* lnt_event_elapsed(void* first, void* last, double* out);
LNT_API void lnt_event_free(void* e);
LNT_API char* lnt_stream_new(int64_t dev, int64_t idx, int64_t* out);
LNT_API char* lnt_stream_exchange(const int64_t* stream, int64_t* previous);
LNT_API char* lnt_record_stream(void* t);

/* create.cpp */
LNT_API char* lnt_empty(const int64_t* size, int64_t n, int64_t dtype, int64_t dev, int64_t idx, int64_t pinned, void** out);
LNT_API char* lnt_full(const int64_t* size, int64_t n, double value, int64_t dtype, int64_t dev, int64_t idx, void** out);
LNT_API char* lnt_arange(double start, double end, double step, int64_t dtype, int64_t dev, int64_t idx, void** out);
LNT_API char* lnt_zeros_like(void* x, void** out);
LNT_API char* lnt_normal_(void* x, double mean, double std, void* gen);
LNT_API char* lnt_uniform_(void* x, double from, double to, void* gen);
LNT_API char* lnt_randperm(int64_t n, void* gen, void** out);
LNT_API char* lnt_fill_(void* x, double v);
LNT_API char* lnt_copy_(void* dst, void* src, int64_t non_blocking);
LNT_API char* lnt_to(void* x, int64_t dtype, int64_t dev, int64_t idx, int64_t non_blocking, int64_t copy, void** out);
LNT_API char* lnt_clone(void* x, void** out);
LNT_API char* lnt_contiguous(void* x, int64_t memory_format, void** out);

/* autograd.cpp */
LNT_API char* lnt_requires_grad_(void* t, int64_t on);
LNT_API char* lnt_cut(void* t, void** out, void** holder);
LNT_API char* lnt_detach(void* t, void** out);
LNT_API char* lnt_backward(void* t, void* grad, int64_t retain_graph);
LNT_API char* lnt_grad(void* t, void** out);
LNT_API char* lnt_set_grad(void* t, void* grad);
LNT_API char* lnt_clear_grads(void** ts, int64_t n);

/* pointwise.cpp */
LNT_API char* lnt_add(void* a, void* b, double alpha, void** out);
LNT_API char* lnt_sub(void* a, void* b, double alpha, void** out);
LNT_API char* lnt_mul(void* a, void* b, void** out);
LNT_API char* lnt_div(void* a, void* b, void** out);
LNT_API char* lnt_add_(void* a, void* b, double alpha);
LNT_API char* lnt_mul_(void* a, void* b);
LNT_API char* lnt_div_(void* a, void* b);
LNT_API char* lnt_add_scalar(void* a, double b, void** out);
LNT_API char* lnt_mul_scalar(void* a, double b, void** out);
LNT_API char* lnt_div_scalar(void* a, double b, void** out);
LNT_API char* lnt_mul_scalar_(void* a, double b);
LNT_API char* lnt_add_scalar_(void* a, double b);
LNT_API char* lnt_div_scalar_(void* a, double b);
LNT_API char* lnt_pow_scalar(void* a, double e, void** out);
LNT_API char* lnt_neg(void* a, void** out);
LNT_API char* lnt_abs(void* a, void** out);
LNT_API char* lnt_exp(void* a, void** out);
LNT_API char* lnt_log(void* a, void** out);
LNT_API char* lnt_sqrt(void* a, void** out);
LNT_API char* lnt_reciprocal(void* a, void** out);
LNT_API char* lnt_sigmoid(void* a, void** out);
LNT_API char* lnt_tanh(void* a, void** out);
LNT_API char* lnt_erfinv(void* a, void** out);
LNT_API char* lnt_relu(void* a, void** out);
LNT_API char* lnt_gelu(void* a, void** out);
LNT_API char* lnt_leaky_relu(void* a, double slope, void** out);
LNT_API char* lnt_leaky_relu_(void* a, double slope, void** out);
LNT_API char* lnt_clamp(void* a, double lo, double hi, int64_t use_lo, int64_t use_hi, void** out);
LNT_API char* lnt_floor(void* a, void** out);
LNT_API char* lnt_round(void* a, void** out);
LNT_API char* lnt_isfinite(void* a, void** out);
LNT_API char* lnt_logical_not(void* a, void** out);
LNT_API char* lnt_compare(void* a, void* b, int64_t op, void** out);
LNT_API char* lnt_compare_scalar(void* a, double b, int64_t op, void** out);
LNT_API char* lnt_where(void* cond, void* a, void* b, void** out);
LNT_API char* lnt_where_scalar(void* cond, void* a, double b, void** out);
LNT_API char* lnt_masked_fill(void* a, void* mask, double v, void** out);
LNT_API char* lnt_maximum(void* a, void* b, void** out);
LNT_API char* lnt_minimum(void* a, void* b, void** out);

/* shape.cpp */
LNT_API char* lnt_reshape(void* a, const int64_t* size, int64_t n, void** out);
LNT_API char* lnt_expand(void* a, const int64_t* size, int64_t n, void** out);
LNT_API char* lnt_permute(void* a, const int64_t* dims, int64_t n, void** out);
LNT_API char* lnt_transpose(void* a, int64_t d0, int64_t d1, void** out);
LNT_API char* lnt_squeeze(void* a, int64_t dim, void** out);
LNT_API char* lnt_unsqueeze(void* a, int64_t dim, void** out);
LNT_API char* lnt_flip(void* a, const int64_t* dims, int64_t n, void** out);
LNT_API char* lnt_roll(void* a, const int64_t* shifts, const int64_t* dims, int64_t n, void** out);
LNT_API char* lnt_narrow(void* a, int64_t dim, int64_t start, int64_t length, void** out);
LNT_API char* lnt_select(void* a, int64_t dim, int64_t index, void** out);
LNT_API char* lnt_slice(void* a, int64_t dim, int64_t start, int64_t end, int64_t step, void** out);
LNT_API char* lnt_cat(void** ts, int64_t n, int64_t dim, void** out);
LNT_API char* lnt_stack(void** ts, int64_t n, int64_t dim, void** out);
LNT_API char* lnt_pad(void* a, const int64_t* pad, int64_t n, double value, void** out);
LNT_API char* lnt_index_select(void* a, int64_t dim, void* index, void** out);
LNT_API char* lnt_index(void* a, void* index, void** out);
LNT_API char* lnt_gather(void* a, int64_t dim, void* index, void** out);
LNT_API char* lnt_scatter_scalar(void* a, int64_t dim, void* index, double v, void** out);
LNT_API char* lnt_scatter_scalar_(void* a, int64_t dim, void* index, double v);

/* reduce.cpp */
LNT_API char* lnt_sum(void* a, const int64_t* dims, int64_t n, int64_t keepdim, void** out);
LNT_API char* lnt_sum_as(void* a, int64_t dtype, void** out);
LNT_API char* lnt_mean(void* a, const int64_t* dims, int64_t n, int64_t keepdim, void** out);
LNT_API char* lnt_amax(void* a, const int64_t* dims, int64_t n, int64_t keepdim, void** out);
LNT_API char* lnt_amin(void* a, const int64_t* dims, int64_t n, int64_t keepdim, void** out);
LNT_API char* lnt_argmax(void* a, int64_t dim, int64_t keepdim, void** out);
LNT_API char* lnt_all(void* a, void** out);
LNT_API char* lnt_any(void* a, void** out);
LNT_API char* lnt_vector_norm(void* a, double ord, void** out);
LNT_API char* lnt_softmax(void* a, int64_t dim, void** out);
LNT_API char* lnt_log_softmax(void* a, int64_t dim, void** out);
LNT_API char* lnt_topk(void* a, int64_t k, int64_t dim, void** values, void** indices);
LNT_API char* lnt_item(void* a, double* out);
LNT_API char* lnt_equal(void* a, void* b, int64_t* out);

/* conv.cpp: nd is 2 or 3, the number of spatial dims and the length of each list */
LNT_API char* lnt_conv(void* x, void* w, void* b, const int64_t* stride, const int64_t* padding, const int64_t* dilation, int64_t nd, int64_t groups, void** out);
LNT_API char* lnt_conv_transpose(void* x, void* w, void* b, const int64_t* stride, const int64_t* padding, const int64_t* output_padding, const int64_t* dilation, int64_t nd, int64_t groups, void** out);
LNT_API char* lnt_conv_lean(void* x, void* w, void* b, const int64_t* stride, const int64_t* padding, const int64_t* dilation, int64_t nd, int64_t groups, void** out);
LNT_API char* lnt_avg_pool(void* x, const int64_t* kernel, const int64_t* stride, int64_t nd, void** out);
LNT_API char* lnt_linear(void* x, void* w, void* b, void** out);
LNT_API char* lnt_matmul(void* a, void* b, void** out);
LNT_API char* lnt_sdpa(void* q, void* k, void* v, void* mask, double dropout, double scale, void** out);

/* norm.cpp */
LNT_API char* lnt_instance_norm(void* x, void* w, void* b, double eps, void** out);
LNT_API char* lnt_layer_norm(void* x, const int64_t* shape, int64_t n, void* w, void* b, double eps, void** out);

/* join.cpp */
LNT_API char* lnt_conv_transpose_cat(void* x, void* w, void* b, void* skip, const int64_t* stride, int64_t nd, void** out);

/* instance_norm.cpp */
LNT_API char* lnt_instance_norm_leaky_relu(void* x, void* w, void* b, void* residual, double eps, double slope, void** out);

/* dropout.cpp */
LNT_API char* lnt_dropout(void* x, double p, int64_t train, int64_t first, int64_t count, int64_t all, void** out);
LNT_API char* lnt_feature_dropout(void* x, double p, int64_t train, int64_t first, int64_t count, int64_t all, void** out);
LNT_API char* lnt_dropout_lean(void* x, double p, int64_t train, int64_t first, int64_t count, int64_t all, void** out);

/* loss.cpp */
LNT_API char* lnt_cross_entropy(void* x, void* target, int64_t ignore_index, int64_t reduction, void** out);
LNT_API char* lnt_bce_with_logits(void* x, void* target, int64_t reduction, void** out);

/* dice_ce.cpp */
LNT_API char* lnt_dice_ce(void* x, void* target, int64_t batch, double smooth, int64_t* wrong, void** out);
LNT_API char* lnt_dice_ce_sums(void* x, void* target, int64_t* wrong, void** out);

/* optim.cpp. impl: 0 torch's single-tensor sequence, 1 foreach, 2 fused. buffers are in-out; NULL
   entries are created. An entry of masks is NULL or int64 flat indices; rules: 0 dense,
   1 grad-masked, 2 update-masked, 3 plain */
LNT_API char* lnt_sgd_step(void** params, void** buffers, void** masks, const int64_t* rules, int64_t n, double lr, double momentum, double dampening, double weight_decay, int64_t nesterov, int64_t impl, void* found_inf);
LNT_API char* lnt_clip_grad_norm(void** params, int64_t n, double max_norm, void** total_norm);
LNT_API char* lnt_amp_unscale(void** params, int64_t n, void* inv_scale, void* found_inf);
LNT_API char* lnt_amp_update_scale(void* scale, void* growth_tracker, void* found_inf, double growth, double backoff, int64_t interval);

/* select.cpp: DGST's selection kernel */
LNT_API char* lnt_topk_rows(void* g, int64_t k, void** out);

/* dist.cpp: process groups of c10d, and its Reducer. Every wait for another rank can be ended by
   lnt_group_abort; lnt_store_get, lnt_group_gloo and the backward pass wait inside */
LNT_API char* lnt_store_new(const char* host, int64_t port, int64_t listener, const char* prefix, int64_t limit_ms, void** out);
LNT_API char* lnt_store_set(void* store, const char* key, const void* data, int64_t n);
LNT_API char* lnt_store_get(void* store, const char* key, int64_t limit_ms, char** out, int64_t* n);
LNT_API void lnt_store_free(void* store);
LNT_API char* lnt_group_gloo(void* store, int64_t rank, int64_t size, const char* device, int64_t limit_ms, void** out);
LNT_API char* lnt_group_nccl(void* store, int64_t rank, int64_t size, int64_t limit_ms, void** out);
LNT_API char* lnt_group_abort(void* group, const char* why);
LNT_API char* lnt_group_check(void* group);
LNT_API void lnt_group_free(void* group);
LNT_API char* lnt_group_clock(void* group, int64_t* started, int64_t* waited);
LNT_API char* lnt_all_reduce(void* group, void* t, int64_t op, void** work);
LNT_API char* lnt_broadcast(void* group, void* t, int64_t root, void** work);
LNT_API char* lnt_all_gather(void* group, void* in, void* out, void** work);
LNT_API char* lnt_work_wait(void* work, int64_t limit_ms, int64_t* done);
LNT_API void lnt_work_free(void* work);
LNT_API char* lnt_gathered(void* group, void* x, void* gathered, void** out);
LNT_API char* lnt_summed(void* x, void* sum, double factor, void** out);
LNT_API char* lnt_reducer_new(void* group, void** params, int64_t n, int64_t first, int64_t bucket, int64_t whole, int64_t views, int64_t compress, void** out);
LNT_API void lnt_reducer_free(void* reducer);
LNT_API char* lnt_reducer_forward(void* reducer, int64_t* rebuilt);
LNT_API char* lnt_reducer_backward(void* reducer);
LNT_API char* lnt_reducer_seen(void* reducer, void* seen, int64_t n);
LNT_API char* lnt_reducer_buckets(void* reducer, int64_t* sizes, int64_t max, int64_t* n);

#ifdef __cplusplus
}
#endif
#endif
