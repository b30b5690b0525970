package models

import "fmt"

// checkInput demands sizes that are divisible by divisors, for the reason why, and that leave more than one voxel at the
// lowest resolution, for instance norm has no variance over one.
func checkInput(spatial, divisors []int64, why string) error {
	if len(spatial) != len(divisors) {
		return fmt.Errorf("models: input size %v has %d axes, the network %d", spatial, len(spatial), len(divisors))
	}
	voxels, fits := int64(1), true
	nearest := make([]int64, len(spatial))
	for i, n := range spatial {
		d := divisors[i]
		nearest[i] = max(d, (n+d/2)/d*d)
		fits = fits && nearest[i] == n
		voxels *= n / d
	}
	if !fits {
		return fmt.Errorf("models: input size %v is not divisible by %v, %s; the nearest that is: %v", spatial, divisors, why, nearest)
	}
	if voxels < 2 {
		return fmt.Errorf("models: input size %v leaves one voxel at the lowest resolution (strides %v); at least two are needed", spatial, divisors)
	}
	return nil
}
