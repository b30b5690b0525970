package preprocess_test

import (
	"fmt"

	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/volume"
)

// A CT of thick slices is resampled slice by slice, and along z by the nearest slice.
func ExampleResample() {
	ct := volume.New[float32]([4]int{1, 2, 1, 4})
	copy(ct.Data, []float32{0, 1, 2, 3, 10, 11, 12, 13})
	from, to := [3]float64{5, 1, 1}, [3]float64{2.5, 1, 2}
	shape := preprocess.NewShape(ct.Spatial(), from, to)
	out, err := preprocess.Resample(ct, shape, from, to, preprocess.Options{Order: 1}, 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("separate axis", preprocess.SeparateAxis(nil, from, to), "shape", shape, out.Data)
	// Output: separate axis 0 shape [4 1 2] [0.5 2.5 0.5 2.5 10.5 12.5 10.5 12.5]
}
