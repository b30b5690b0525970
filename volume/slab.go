package volume

// Slab is a run of finished slices of an array (c, z, y, x) that is produced slab by slab. It holds
// slices First to First+Count-1 along Axis, the half-open range Strip of the next axis, Axes()[1],
// and all of the last axis. Strip is the whole axis unless memory is short.
type Slab struct {
	Axis         int       // 0, 1 or 2 for z, y or x: slabs are emitted in order along it
	First, Count int       // slices along Axis
	Strip        [2]int    // range of Axes()[1]
	Data         []float32 // (c, Count, Strip, rest), row-major, the axes in the order of Axes
}

// Axes returns the order of the axes of Data after c: Axis first, then the others in ascending
// order.
func (s *Slab) Axes() [3]int {
	switch s.Axis {
	case 1:
		return [3]int{1, 0, 2}
	case 2:
		return [3]int{2, 0, 1}
	}
	return [3]int{0, 1, 2}
}
