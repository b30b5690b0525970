// kernels.h: the interface of liblntorch_cuda.so. It is compiled by nvcc, if available, and opened
// by lnt_init if it is in the shim's folder; the shim itself does not depend on CUDA.
#pragma once
#include <ATen/ATen.h>

#include <tuple>

namespace lnt {

// InstanceNorm + residual + LeakyReLU of channels-last tensors (channels.h, rowwise). Weights,
// biases and statistics are float32 and on x's device; weight, bias and residual may be undefined.
struct CudaKernels {
  // y and, each (n, c), mean and 1/sqrt(variance + eps)
  std::tuple<at::Tensor, at::Tensor, at::Tensor> (*norm_forward)(const at::Tensor& x,
                                                                 const at::Tensor& w,
                                                                 const at::Tensor& b,
                                                                 const at::Tensor& residual,
                                                                 double eps, double slope);
  // dx, dw, db and, if wanted, the residual's
  std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> (*norm_backward)(
      const at::Tensor& dy, const at::Tensor& y, const at::Tensor& x, const at::Tensor& w,
      const at::Tensor& mean, const at::Tensor& rstd, double slope, bool residual);
};

// Null without liblntorch_cuda.so. core.cpp.
const CudaKernels* cuda_kernels();

}  // namespace lnt

// The one symbol of liblntorch_cuda.so.
extern "C" const lnt::CudaKernels* lnt_cuda_kernels();
