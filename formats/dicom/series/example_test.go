package series_test

import (
	"fmt"

	"github.com/lntorch/lntorch/formats/dicom/series"
)

// A folder or zip of slices in any order, as one volume on its grid.
func Example() {
	x, err := series.Find("../../../testdata/golden/dicom/tilt.zip", 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	stack, err := x.Choose("") // or a number of image info, or a SeriesInstanceUID
	if err != nil {
		fmt.Println(err)
		return
	}
	g := stack.Geometry
	fmt.Printf("%d slices, %v of %.0f°\n", len(stack.Slices), g.Problems, g.TiltDegrees)
	im, err := stack.Read(series.Options{Fix: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(im.Head().Size, im.Values().Type())
	// Output:
	// 7 slices, [tilt] of 15°
	// [9 13 7] float32
}
