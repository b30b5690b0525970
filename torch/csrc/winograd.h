// winograd.h: convolutions by minimal filtering, for CPUs with AVX-512.
#pragma once
#include <utility>

#include "shim.h"

namespace lnt::winograd {

// Tiles (of 2 voxels along each axis of the kernel) from which it is faster than the plain sum.
constexpr int64_t kLeast = 64;

// Whether it can and should compute this convolution of x converted to dtype, float32 or bfloat16;
// w is float32.
bool serves(const at::Tensor& x, at::ScalarType type, const at::Tensor& w, at::IntArrayRef stride,
            at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups);

// Results have the dtype of x or dy and are channels-last; b may be undefined.
at::Tensor forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b);
at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& w);

// The gradients of a weight of this size (float32) and of the bias (double).
std::pair<at::Tensor, at::Tensor> weight_gradient(const at::Tensor& dy, const at::Tensor& x,
                                                  at::IntArrayRef size);

}  // namespace lnt::winograd
