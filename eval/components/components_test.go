package components_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval/components"
)

// flooded finds components by walking from voxel to neighbouring voxel.
func flooded(data []int16, shape [3]int, labels []int, c components.Connectivity) (of []int, voxels []int64) {
	in := func(v int16) bool {
		for _, l := range labels {
			if int(v) == l {
				return true
			}
		}
		return false
	}
	steps := map[components.Connectivity]int{components.Faces: 1, components.Edges: 2, components.Full: 3}[c]
	of = make([]int, len(data))
	for first := range data {
		if of[first] != 0 || !in(data[first]) {
			continue
		}
		voxels = append(voxels, 0)
		of[first] = len(voxels)
		for todo := []int{first}; len(todo) > 0; {
			at := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			voxels[len(voxels)-1]++
			z, y, x := at/shape[1]/shape[2], at/shape[2]%shape[1], at%shape[2]
			for d := range 27 {
				dz, dy, dx := d/9-1, d/3%3-1, d%3-1
				nz, ny, nx := z+dz, y+dy, x+dx
				if dz*dz+dy*dy+dx*dx > steps || min(nz, ny, nx) < 0 || nz >= shape[0] || ny >= shape[1] || nx >= shape[2] {
					continue
				}
				if n := (nz*shape[1]+ny)*shape[2] + nx; of[n] == 0 && in(data[n]) {
					of[n] = len(voxels)
					todo = append(todo, n)
				}
			}
		}
	}
	return of, voxels
}

func TestComponentsAreThoseOfAFloodWhateverTheCores(t *testing.T) {
	const seed = 5
	rng := rand.New(rand.NewPCG(seed, 1))
	all := []components.Connectivity{components.Faces, components.Edges, components.Full}
	several := 0
	for trial := range 300 {
		shape := [3]int{1 + rng.IntN(7), 1 + rng.IntN(7), 1 + rng.IntN(9)}
		data := make([]int16, shape[0]*shape[1]*shape[2])
		density := rng.Float64()
		for i := range data {
			if rng.Float64() < density {
				data[i] = int16(rng.IntN(4) - 1)
			}
		}
		labels := [][]int{{1}, {2, -1}, {1, 2}, {1, 1, 70000}, {70000}, {}}[trial%6]
		for _, c := range all {
			of, voxels := flooded(data, shape, labels, c)
			if len(voxels) > 1 {
				several++
			}
			before := runtime.GOMAXPROCS(1 + trial%4)
			got, err := components.Find(data, shape, labels, c)
			runtime.GOMAXPROCS(before)
			require.NoError(t, err)
			require.Equal(t, voxels, got.Voxels, "seed %d, trial %d, %d neighbours", seed, trial, c)
			painted := make([]int, len(data))
			got.Runs(func(component, from, to int) {
				for i := from; i < to; i++ {
					painted[i] = component + 1
				}
			})
			require.Equal(t, of, painted, "seed %d, trial %d, %d neighbours", seed, trial, c)
		}
	}
	require.Greater(t, several, 300, "trials with more than one component")
}

func TestFindExplainsWhatIsWrong(t *testing.T) {
	_, err := components.Find(make([]uint8, 5), [3]int{1, 2, 3}, []int{1}, components.Full)
	require.EqualError(t, err, "components: shape [1 2 3] for 5 voxels")
	_, err = components.Find(make([]uint8, 6), [3]int{1, 2, 3}, []int{1}, 8)
	require.EqualError(t, err, "components: connectivity 8, expected 6, 18 or 26")
}

// ExampleFind counts the lymph nodes of a slice.
func ExampleFind() {
	slice := []uint8{
		0, 1, 1, 0, 0,
		0, 0, 0, 1, 0,
		1, 0, 0, 0, 0,
	}
	c, _ := components.Find(slice, [3]int{1, 3, 5}, []int{1}, components.Full)
	fmt.Println(c.Voxels)
	// Output: [3 1]
}

// BenchmarkFind: a volume of a neck, 200 nodes and a body; and noise.
func BenchmarkFind(b *testing.B) {
	shape := [3]int{400, 512, 512}
	data := make([]uint8, shape[0]*shape[1]*shape[2])
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		cz, cy, cx, r := rng.IntN(400), rng.IntN(512), rng.IntN(512), 3+rng.IntN(20)
		for z := max(cz-r, 0); z < min(cz+r, 400); z++ {
			for y := max(cy-r, 0); y < min(cy+r, 512); y++ {
				for x := max(cx-r, 0); x < min(cx+r, 512); x++ {
					if (z-cz)*(z-cz)+(y-cy)*(y-cy)+(x-cx)*(x-cx) < r*r {
						data[(z*512+y)*512+x] = 1
					}
				}
			}
		}
	}
	b.Run("nodes", func(b *testing.B) {
		for b.Loop() {
			if _, err := components.Find(data, shape, []int{1}, components.Full); err != nil {
				b.Fatal(err)
			}
		}
	})
	noise := data[:100*512*512]
	for i := range noise {
		noise[i] = uint8(rng.IntN(2))
	}
	b.Run("noise of 100 slices", func(b *testing.B) {
		for b.Loop() {
			if _, err := components.Find(noise, [3]int{100, 512, 512}, []int{1}, components.Full); err != nil {
				b.Fatal(err)
			}
		}
	})
}
