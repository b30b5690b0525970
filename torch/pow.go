package torch

// #cgo linux LDFLAGS: -lm
// #include <math.h>
import "C"

// Pow is x to the power y as the C library computes it, and with it Python: a learning rate must have Python's bits, and
// Go's math.Pow differs in the last bit for every third step of nnU-Net's schedule. It needs no libtorch.
func Pow(x, y float64) float64 { return float64(C.pow(C.double(x), C.double(y))) }
