//go:build !amd64

package vector

// Here nothing is done in vectors.

func axpy(y, x []float32, a float32) int { return 0 }

func scale(v []float32, a float32) int { return 0 }

func affine(v []float32, shift, factor, offset, low, high float32) int { return 0 }

func between(dst, a, b []float32, part float32) int { return 0 }

func resample(dst, src []float32, left, right []int32, part []float32) int { return 0 }

func filter(dst, src []float32, offsets []int, taps []float32) int { return 0 }

func replace(v []int16, from, to int16) int { return 0 }

func add(s *Statistics, v []float32) int { return 0 }

func raise(v []float32, p *Powers, low, divisor, width float32) int { return 0 }

func trilinear(out, data []float32, l *Line) int { return 0 }

func uniform(out, data []int16, l *Line, mixed []int32) (done, found int) { return 0, 0 }

func exchangeReversed[T float32 | int16](a, b []T) int { return 0 }

func fill(dst []float32, l *Layers, counter uint64, open []int32) (done, found int) { return 0, 0 }

// Plain runs f without vectors.
func Plain(f func()) { f() }
