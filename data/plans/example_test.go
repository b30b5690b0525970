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
	n, err := c.Network()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.DataIdentifier, c.PatchSize, n.Class)
	// Output:
	// nnUNetPlansSource_3d_fullres [16 48 48] dynamic_network_architectures.architectures.unet.PlainConvUNet
}
