package torch

// #cgo linux LDFLAGS: -lm
// #include <math.h>
import "C"

// Pow is x to the power y as computed by the C library, and so by Python. Learning rates must be
// bit-equal to Python's, and Go's math.Pow differs in the last bit for every third step of
// nnU-Net's schedule. It does not need libtorch.
func Pow(x, y float64) float64 { return float64(C.pow(C.double(x), C.double(y))) }
