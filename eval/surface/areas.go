package surface

import (
	"math"
	"math/bits"
)

// areas returns the area, in mm², of the surface between the voxels in and out of a neighbourhood,
// for each of the 256 neighbourhoods. Bit 7 of one is the voxel (0, 0, 0) around the point, bit 0 the
// voxel (1, 1, 1), z, y, x: bits 4, 2 and 1 of a bit's number tell the two sides of each axis apart.
//
// The surface is that of marching cubes, cut into triangles as DeepMind's surface-distance 0.1
// has them. Up to turning, mirroring and exchanging in and out only six pieces exist: whichever
// side has fewer voxels is split into groups that touch by faces, and each group is one piece.
func areas(spacing [3]float64) [256]float64 {
	var table [256]float64
	for code := range table {
		few := code
		if bits.OnesCount8(uint8(code)) > 4 {
			few = 255 - code
		}
		for few != 0 {
			group := connected(few)
			few &^= group
			for _, n := range triangles(group) {
				z, y, x := n[0]*spacing[1]*spacing[2], n[1]*spacing[0]*spacing[2],
					n[2]*spacing[0]*spacing[1]
				table[code] += math.Sqrt(z*z + y*y + x*x)
			}
		}
	}
	return table
}

// neighbour is the voxel beyond the face of a voxel across an axis.
func neighbour(bit, axis int) int { return bit ^ 4>>axis }

// connected returns the group of voxels that holds the lowest one.
func connected(code int) int {
	group := code & -code
	for before := 0; before != group; {
		before = group
		for bit := range 8 {
			for axis := range 3 {
				if group>>bit&1 == 1 {
					group |= code & (1 << neighbour(bit, axis))
				}
			}
		}
	}
	return group
}

// triangles returns the normals of a group's triangles on a grid of spacing 1, each as long as the
// triangle's area, without signs, which areas do not depend on.
func triangles(group int) [][3]float64 {
	const e = 0.125
	var links [3]int // pairs of voxels of the group that share a face across the axis
	degrees := map[int]int{}
	for bit := range 8 {
		for axis := range 3 {
			if n := neighbour(bit, axis); group>>bit&1 == 1 && group>>n&1 == 1 {
				degrees[bit]++
				if n > bit {
					links[axis]++
				}
			}
		}
	}
	across := func(axis int, on, off float64) [3]float64 {
		n := [3]float64{off, off, off}
		n[axis] = on
		return n
	}
	corner, twice := [3]float64{e, e, e}, [3]float64{2 * e, 2 * e, 2 * e}
	axis := func(count int) int { // the axis with so many links
		for a, n := range links {
			if n == count {
				return a
			}
		}
		panic("surface: a group of voxels that no neighbourhood has")
	}
	switch total := links[0] + links[1] + links[2]; {
	case total == 0: // one voxel: a triangle
		return [][3]float64{corner}
	case total == 1: // two: a rectangle along their axis
		side := across(axis(1), 0, 2*e)
		return [][3]float64{side, side}
	case total == 2: // three around an edge: a pentagon
		return [][3]float64{across(axis(0), 4*e, 0), twice, corner}
	case total == 4: // four in a plane: a square
		side := across(axis(0), 4*e, 0)
		return [][3]float64{side, side}
	}
	for _, n := range degrees {
		if n == 3 { // one and its three neighbours: a hexagon
			return [][3]float64{corner, corner, twice, twice}
		}
	}
	// Four in a chain of three different axes: a hexagon that is bent along the middle one.
	middle := 0
	for bit, n := range degrees {
		for a := range 3 {
			if n == 2 && degrees[neighbour(bit, a)] == 2 {
				middle = a
			}
		}
	}
	one, other := across((middle+1)%3, 0, 2*e), across((middle+2)%3, 0, 2*e)
	return [][3]float64{one, other, corner, {3 * e, 3 * e, 3 * e}}
}
