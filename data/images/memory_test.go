package images

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// The memory order of the axes is that of NibabelIOWithReorient's arrays, for one file and for two.
func TestLiveMemoryIsTheArraysOfNibabelIOWithReorient(t *testing.T) {
	python := golden.Python(t)
	folder := t.TempDir()
	perms := [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	for i, p := range perms {
		affine := [4][4]float64{3: {0, 0, 0, 1}}
		dims := make([]int, 3)
		for axis, world := range p {
			affine[world][axis] = float64(world+1) * float64(1-2*(i%2))
			dims[axis] = 3 + world // equal shapes after reorientation
		}
		h, err := nifti.NewNibabel(dims, "int16", affine)
		require.NoError(t, err)
		require.NoError(t, nifti.Write(filepath.Join(folder, fmt.Sprintf("%d.nii", i)), h, make(volume.Slice[int16], 60), 1))
	}
	cmd := exec.Command(python, "-c", `
import contextlib, json, numpy, os
with contextlib.redirect_stdout(open(os.devnull, "w")):
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
    orders = {}
    for a in range(6):
        for b in [None, *range(6)]:
            files = [f"{i}.nii" for i in (a, b) if i is not None]
            array = NibabelIOWithReorient().read_images(files)[0].astype(numpy.float32)
            orders[" ".join(files)] = [int(i) for i in numpy.argsort([-s for s in array.strides[1:]])]
print(json.dumps(orders))`)
	cmd.Dir, cmd.Stderr = folder, os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	var orders map[string][3]int
	require.NoError(t, json.Unmarshal(out, &orders))
	for a := range perms {
		for b := -1; b < len(perms); b++ {
			name := fmt.Sprintf("%d.nii", a)
			files := []string{filepath.Join(folder, name)}
			if b >= 0 {
				name += fmt.Sprintf(" %d.nii", b)
				files = append(files, filepath.Join(folder, fmt.Sprintf("%d.nii", b)))
			}
			im, _, err := nibabel{reorient: true}.Read(files)
			require.NoError(t, err)
			got := im.Memory
			if got == [3]int{} {
				got = [3]int{0, 1, 2}
			}
			want, ok := orders[name]
			require.True(t, ok, name)
			require.Equal(t, want, got, name)
		}
	}
}
