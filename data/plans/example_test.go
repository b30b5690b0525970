package plans_test

import (
	"fmt"

	"github.com/lntorch/lntorch/data/plans"
)

func Example() {
	p, err := plans.Load("../../testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := p.Configuration("3d_phantom") // inherits from 3d_fullres
	if err != nil {
		fmt.Println(err)
		return
	}
	a, err := c.Architecture()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.DataIdentifier, c.PatchSize, a.NetworkClass, a.FeaturesPerStage)
	fmt.Println(a.DeepSupervisionScales())
	// Output:
	// nnUNetPlansSource_3d_fullres [16 48 48] PlainConvUNet [8 16 32 64]
	// [[1 1 1] [1 0.5 0.5] [0.5 0.25 0.25]]
}
