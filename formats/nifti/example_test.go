package nifti_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/volume"
)

// A scan is written as ITK would write it, and read again.
func Example() {
	folder, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "scan.nii.gz")
	geometry := &volume.ITK{Spacing: []float64{0.5, 0.5, 3}, Origin: []float64{-125, -120, 40},
		Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	h, err := nifti.NewITK([]int{4, 4, 2}, "int16", geometry)
	if err != nil {
		panic(err)
	}
	if err := nifti.Write(path, h, make(volume.Slice[int16], 32), 1); err != nil {
		panic(err)
	}
	f, err := nifti.Read(path)
	if err != nil {
		panic(err)
	}
	im, _, err := f.Image()
	if err != nil {
		panic(err)
	}
	fmt.Println(im.Shape, im.Pixels.Type(), im.Spacing, im.OriginXYZ)
	// Output: [1 2 4 4] int16 [3 0.5 0.5] [-125 -120 40]
}
