package images

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

const corpus = "../../testdata/golden/nifti"

var classes = []string{"SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"}

// reading is the result of one of nnU-Net's classes for a file.
type reading struct {
	Error  string
	Shape  []int
	SHA256 string // of the array as float32
	Type   string // of the pixels in SimpleITK
	Native string // hash of these
	Twin   bool   // read from the file's header as NIfTI-1: ITK does not read NIfTI-2
	Props  struct {
		SITK    map[string][]string `json:"sitk_stuff"`
		Nibabel map[string][]string `json:"nibabel_stuff"`
		Spacing []string
	}
}

func expectations(t testing.TB, folder string) map[string]map[string]reading {
	content, err := os.ReadFile(filepath.Join(folder, "expected.json"))
	require.NoError(t, err)
	all := map[string]map[string]json.RawMessage{}
	require.NoError(t, json.Unmarshal(content, &all))
	delete(all, "versions")
	out := map[string]map[string]reading{}
	for file, classes := range all {
		out[file] = map[string]reading{}
		for class, raw := range classes {
			var r reading
			require.NoError(t, json.Unmarshal(raw, &r))
			out[file][class] = r
		}
	}
	return out
}

func digest(t testing.TB, pixels any) string {
	h := sha256.New()
	require.NoError(t, binary.Write(h, binary.LittleEndian, pixels))
	return hex.EncodeToString(h.Sum(nil))
}

// numbers compares numbers, bit by bit without a tolerance; Python's text of a float is exact.
func numbers(t testing.TB, want []string, got []float64, tolerance float64, what string) {
	t.Helper()
	require.Len(t, got, len(want), what)
	for i := range want {
		w, err := strconv.ParseFloat(want[i], 64)
		require.NoError(t, err)
		if math.Float64bits(w) != math.Float64bits(got[i]) && !(tolerance > 0 && math.Abs(w-got[i]) <= tolerance*max(1, math.Abs(w))) {
			t.Errorf("%s: [%d] want %v, got %v (all: want %v, got %v)", what, i, w, got[i], want, got)
			return
		}
	}
}

// differs lists the deliberate differences.
func differs(file, class string, want reading) bool {
	// nibabel reads the header as pixels if the offset is 0; an affine that is not finite is refused
	return file == "vox_offset_early.nii" && class != "SimpleITKIO" || strings.HasPrefix(class, "Nibabel") && slices.Contains(want.Props.Nibabel["original_affine"], "nan")
}

func check(t *testing.T, folder string, expected map[string]map[string]reading) (read, refused int) {
	for file, byClass := range expected {
		for class, want := range byClass {
			if differs(file, class, want) {
				continue
			}
			what := file + " " + class
			reader, err := ForName(class)
			require.NoError(t, err)
			im, p, err := reader.Read([]string{filepath.Join(folder, file)})
			if want.Error != "" {
				if err == nil {
					t.Errorf("%s: read, expected an error like %q", what, want.Error)
				}
				refused++
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			read++
			require.Equal(t, want.Shape, im.Shape[:], what)
			if got := digest(t, volume.Cast[float32](im.Pixels)); got != want.SHA256 {
				t.Errorf("%s: other pixels", what)
			}
			if want.Type != "" {
				if im.Pixels.Type() != want.Type || digest(t, im.Pixels) != want.Native {
					t.Errorf("%s: pixels of type %s, want %s, or others", what, im.Pixels.Type(), want.Type)
				}
			}
			tolerance := 0.0
			if want.Twin {
				tolerance = 1e-6 // the twin's qform is rounded to float32
			}
			numbers(t, want.Props.Spacing, p.Spacing, tolerance, what+" spacing")
			if class == "SimpleITKIO" {
				numbers(t, want.Props.SITK["spacing"], p.SITK.Spacing, tolerance, what+" sitk spacing")
				numbers(t, want.Props.SITK["origin"], p.SITK.Origin, tolerance, what+" sitk origin")
				numbers(t, want.Props.SITK["direction"], p.SITK.Direction, tolerance, what+" sitk direction")
				continue
			}
			numbers(t, want.Props.Nibabel["original_affine"], flat(p.Nibabel.Original), tolerance, what+" affine")
			if class == "NibabelIOWithReorient" {
				reoriented(t, want.Props.Nibabel["reoriented_affine"], p.Nibabel, im.Shape, tolerance, what+" reoriented affine")
			} else {
				require.Nil(t, p.Nibabel.Reoriented)
			}
		}
	}
	return read, refused
}

// reoriented compares the affine of a reoriented image. Its offsets are sums of four products, and which
// of numpy's BLAS kernels runs, by the processor, decides about their order: they agree within the
// rounding of their largest term. All other elements are equal.
func reoriented(t *testing.T, want []string, p *Nibabel, shape [4]int, tolerance float64, what string) {
	t.Helper()
	got := flat(*p.Reoriented)
	require.Len(t, want, len(got), what)
	for i := range 3 {
		terms := math.Abs(p.Original[i][3])
		for j := range 3 {
			terms += math.Abs(p.Original[i][j]) * float64(max(shape[1], shape[2], shape[3]))
		}
		k := 4*i + 3
		if w, err := strconv.ParseFloat(want[k], 64); err == nil && math.Abs(got[k]-w) <= terms*0x1p-52 {
			got[k] = w
		}
	}
	numbers(t, want, got, tolerance, what)
}

func TestReadsAsNnUNetsClasses(t *testing.T) {
	expected := expectations(t, corpus)
	require.Greater(t, len(expected), 100)
	read, refused := check(t, corpus, expected)
	t.Logf("%d equal readings, %d refusals", read, refused)
}

// A thousand files with random headers, read by the real classes.
func TestLiveReadsAsNnUNetsClasses(t *testing.T) {
	python := golden.Python(t)
	folder := t.TempDir()
	seed := os.Getenv("LNTORCH_SEED")
	if seed == "" {
		seed = "1"
	}
	out, err := exec.Command(python, "../../scripts/golden/nifti_corpus.py", folder, "--random", "1000", "--seed", seed).CombinedOutput()
	require.NoError(t, err, tail(out))
	expected := expectations(t, folder)
	require.Len(t, expected, 1000)
	read, refused := check(t, folder, expected)
	t.Logf("%d equal readings, %d refusals", read, refused)
	require.Greater(t, read, 2000)
	require.Less(t, refused, 800)
}

func tail(out []byte) string {
	s := strings.TrimSpace(string(out))
	return s[max(0, len(s)-4000):]
}

func mkdir(path string) error { return os.MkdirAll(path, 0o777) }
