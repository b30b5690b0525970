package golden

import "fmt"

// A Tolerance allows |got-want| up to Abs + Rel·|want| + Scale·max|want|, the maximum being over the array. Scale is for
// results of sums: their rounding error goes with the size of what is added, not with what is left when it cancels.
type Tolerance struct {
	Abs, Rel, Scale float64
	Reason          string
}

// String lists the limits.
func (t Tolerance) String() string {
	return fmt.Sprintf("abs %g, rel %g, scale %g", t.Abs, t.Rel, t.Scale)
}

// Tolerances is the one table of what tests allow. An entry names what is compared, and its Reason says which error is
// expected and how large it was when measured. Where the same bits are due, Equal is the comparison, not an entry here.
//
// "Measured" compares Python with itself: torch 2.4.1 on the networks and training runs of testdata/golden, its kernels
// held to SSE and to AVX2 (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA), against the AVX-512 run that the files hold. Other
// instruction sets add the same float32 numbers in another order; other versions of libtorch do no more than that.
var Tolerances = map[string]Tolerance{
	"forward":      {Scale: 1e-5, Reason: "outputs of whole networks; measured 1.4e-6 of the largest output"},
	"forward-wide": {Abs: 2e-4, Reason: "outputs of nnU-Net's standard networks, hundreds of channels wide, against torch 1.13; its float32 is up to 4e-5 from float64"},
	"loss":         {Abs: 1e-6, Rel: 2e-6, Reason: "one loss value; measured 4e-7 of it, and 5.4e-8 where it is a mean that cancels"},
	"gradient": {Abs: 3e-6, Scale: 5e-5, Reason: "every gradient of a network; measured 9.4e-6 of the array's largest entry. " +
		"Biases before a normalisation have gradient 0 in exact arithmetic: there all is rounding, measured 2.8e-7"},
	"gradient-rectified": {Abs: 3e-6, Scale: 1e-2, Reason: "gradients of SwinUNETRv2 and of fused SwinUNETR: a rectifier's input close to 0 changes sides; " +
		"measured 3.7e-3 of the array's largest entry, in Python with oneDNN switched off, and 1.6e-3 in Go with fused operators"},
	"loss-gradient":   {Scale: 2e-6, Reason: "gradient of the loss with respect to the logits; measured 2.4e-7 of its largest entry"},
	"trajectory-loss": {Rel: 1e-5, Reason: "losses of the first ten training steps: differences grow with the steps; measured 5.3e-7 after four"},
	"trajectory-norm": {Rel: 5e-4, Reason: "gradient norms of the first ten training steps; measured 5.2e-5: a rectifier's input close to 0 changes sides"},
	"trajectory-gradient": {Abs: 3e-6, Scale: 5e-3, Reason: "gradients of the first step from a trained model; measured 2.2e-3 of the array's largest entry, in Python just as in Go; " +
		"probably a rectifier's input close to 0 that changes sides"},
	"trajectory-weight": {Abs: 1e-6, Scale: 1e-4, Reason: "weights after the first training steps; measured 1.2e-5 of the array's largest entry after four, " +
		"and 2.4e-7 in small biases"},
	"adapter-trained": {Abs: 1e-5, Scale: 1e-3, Reason: "adapters, biases and outputs after ten training steps that move the outputs by a fifth, W+ΔW folded or not"},
	"merged":          {Abs: 1e-6, Scale: 1e-6, Reason: "outputs with adapters merged into the weights against outputs with them at work; measured 1.2e-6 of the largest, the rounding of whole networks"},
	"op":              {Abs: 1e-6, Rel: 1e-5, Scale: 1e-6, Reason: "one operator of float32; some tens of ulp of the result, or of the largest summand where it cancels"},
	"op-double":       {Abs: 1e-14, Rel: 1e-13, Scale: 1e-14, Reason: "one operator of float64: op, scaled by the ratio of the two precisions, with room"},
	"accumulated":     {Abs: 1e-4, Reason: "sliding-window logits with float32 accumulators against an oracle that accumulates in float32"},
}
