package golden

import "fmt"

// A Tolerance allows |got-want| up to Abs + Rel·|want| + Scale·max|want|, the maximum being over
// the array. Scale is for sums: their rounding error grows with the size of the summands, not with
// what remains after cancellation.
type Tolerance struct {
	Abs, Rel, Scale float64
	Reason          string
}

// String returns the limits as text.
func (t Tolerance) String() string {
	return fmt.Sprintf("abs %g, rel %g, scale %g", t.Abs, t.Rel, t.Scale)
}

// Tolerances is the only table of tolerances in tests. A key names what is compared; Reason gives
// the cause of the expected error and its measured size. Where bit equality is required, tests use
// Equal instead.
//
// "Measured" compares Python with itself: torch 2.4.1 on the networks and training runs of
// testdata/golden, its kernels limited to SSE and to AVX2 (ATEN_CPU_CAPABILITY,
// ONEDNN_MAX_CPU_ISA), against the AVX-512 run in the golden files. Other instruction sets sum the
// same float32 values in another order; other versions of libtorch cause no larger differences.
var Tolerances = map[string]Tolerance{
	"forward": {Scale: 1e-5, Reason: "outputs of whole networks; measured 1.4e-6 of the largest " +
		"output"},
	"forward-rows": {Scale: 1e-4, Reason: "outputs of whole networks for some rows of a batch " +
		"against those of the batch, for which kernels sum in another order; measured 7.3e-6 of " +
		"the largest output"},
	"forward-wide": {Abs: 2e-4, Reason: "outputs of nnU-Net's standard networks, hundreds of " +
		"channels wide, against torch 1.13; its float32 is up to 4e-5 from float64"},
	"loss": {Abs: 1e-6, Rel: 2e-6,
		Reason: "one loss value; measured 4e-7 relative, and 5.4e-8 for a mean with cancellation"},
	"gradient": {Abs: 3e-6, Scale: 5e-5,
		Reason: "every gradient of a network; measured 9.4e-6 of the array's largest element. " +
			"Biases before a normalisation have gradient 0 in exact arithmetic: theirs are pure " +
			"rounding error, measured 2.8e-7"},
	"gradient-rectified": {Abs: 3e-6, Scale: 1e-2,
		Reason: "gradients of SwinUNETRv2 and of fused SwinUNETR: a rectifier's input close to 0 " +
			"changes sign; measured 3.7e-3 of the array's largest element, in Python with oneDNN " +
			"disabled, and 1.6e-3 in Go with fused operators"},
	"loss-gradient": {Scale: 2e-6, Reason: "gradient of the loss with respect to the logits; " +
		"measured 2.4e-7 of its largest element"},
	"trajectory-loss": {Rel: 1e-5, Reason: "losses of the first ten training steps: differences " +
		"grow with the steps; measured 5.3e-7 after four"},
	"trajectory-norm": {Rel: 5e-4, Reason: "gradient norms of the first ten training steps; " +
		"measured 5.2e-5: a rectifier's input close to 0 changes sign"},
	"trajectory-gradient": {Abs: 3e-6, Scale: 5e-3,
		Reason: "gradients of the first step from a trained model; measured 2.2e-3 of the " +
			"array's largest element, in Python as in Go; probably a rectifier's input close to " +
			"0 that changes sign"},
	"trajectory-weight": {Abs: 1e-6, Scale: 1e-4,
		Reason: "weights after the first training steps; measured 1.2e-5 of the array's largest " +
			"element after four, and 2.4e-7 in small biases"},
	"adapter-trained": {Abs: 1e-5, Scale: 1e-3,
		Reason: "adapters, biases and outputs after ten training steps that move the outputs by " +
			"a fifth, W+ΔW folded or not"},
	"merged": {Abs: 1e-6, Scale: 1e-6,
		Reason: "outputs with adapters merged into the weights against outputs with active " +
			"adapters; measured 1.2e-6 of the largest, the rounding of whole networks"},
	"op": {Abs: 1e-6, Rel: 1e-5, Scale: 1e-6,
		Reason: "one float32 operator; some tens of ulp of the result, or of the largest summand " +
			"if it cancels"},
	"op-double": {Abs: 1e-14, Rel: 1e-13, Scale: 1e-14,
		Reason: "one float64 operator: op, scaled by the ratio of the two precisions, with a " +
			"margin"},
	"augment-parameters": {Abs: 1e-12, Rel: 1e-12, Reason: "parameters that batchgeneratorsv2 draws from " +
		"one seed; NumPy multiplies matrices by the processor's own kernels, which round 1e-16 apart"},
	"augment-transform": {Abs: 1e-5, Reason: "one transform against batchgeneratorsv2, as a part of " +
		"the range of the input's intensities; a float64 evaluation is up to 3e-6 from it"},
	"augment-chain": {Abs: 1e-4, Reason: "whole lists of transforms, as a part of the range of the " +
		"input's intensities; a float64 evaluation is up to 7e-6 from it"},
	"augment-device-cpu": {Abs: 2e-6, Reason: "transforms and whole lists with operators on CPU tensors, " +
		"against the CPU's path and batchgeneratorsv2, as a part of the range of the input's " +
		"intensities; measured 6e-7"},
	"augment-device": {Abs: 2e-5, Reason: "one transform on CUDA, likewise: its power function " +
		"and contracted sums; not measured yet"},
	"augment-device-chain": {Abs: 1e-4, Reason: "whole lists on CUDA, and transforms in any order on CPU " +
		"tensors, likewise; measured 8e-7 there"},
	"accumulated": {Abs: 1e-4, Reason: "sliding-window logits with float32 accumulators against " +
		"an oracle that accumulates in float32"},
	"prediction": {Abs: 1e-4, Reason: "probabilities of a whole prediction against nnU-Net's code " +
		"with float32 accumulators; labels may differ where the two best are within four times that; " +
		"measured 1.1e-5"},
	"prediction-reference": {Abs: 2e-7, Reason: "probabilities with numerics reference: the logits " +
		"are nnU-Net's bits, and libtorch's softmax rounds some exponentials otherwise; measured " +
		"6e-8"},
	"prediction-threads": {Abs: 2e-3, Reason: "probabilities with numerics reference and another " +
		"number of threads: libtorch's convolutions differ, and one step of float16 of a logit is " +
		"up to 2e-3; measured 3.7e-4"},
}
