package models

import "fmt"

// checkInput returns an error unless the sizes are divisible by divisors, which why explains, and
// leave more than one voxel at the lowest resolution, because instance norm needs a variance.
func checkInput(spatial, divisors []int64, why string) error {
	if len(spatial) != len(divisors) {
		return fmt.Errorf("models: input size %v has %d axes, expected %d", spatial, len(spatial),
			len(divisors))
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
		return fmt.Errorf("models: input size %v is not divisible by %v, %s; the nearest valid "+
			"size is %v", spatial, divisors, why, nearest)
	}
	if voxels < 2 {
		return fmt.Errorf("models: input size %v leaves one voxel at the lowest resolution "+
			"(strides %v), expected at least two; use a larger patch", spatial, divisors)
	}
	return nil
}
