package series_test

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/volume"
)

const corpus = "../../../testdata/golden/dicom"

// A truth is what the generator of the corpus says of a stack.
type truth struct {
	Slices                     int
	Size                       []int
	Spacing, Origin, Direction []float64
	Type, SHA256, Error        string
	Localizer                  bool
	Problems                   []string
	Positions                  [][3]float64
	TiltDegrees                float64 `json:"tilt_degrees"`
	Missing                    []float64
	Duplicates                 int
	Field                      []float64
}

type reading struct {
	Size                       []int
	Spacing, Origin, Direction []float64
	SHA256                     string
}

type expectation struct {
	Stacks         []truth
	Choice         int
	SITK, DCM2NIIX *reading
}

func expectations(t testing.TB) map[string]expectation { return expectationsOf(t, corpus) }

// expectationsOf reads expected.json of a folder of the generator.
func expectationsOf(t testing.TB, folder string) map[string]expectation {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "expected.json"))
	require.NoError(t, err)
	all := map[string]expectation{}
	require.NoError(t, json.Unmarshal(text, &all))
	delete(all, "meta")
	require.NotEmpty(t, all)
	return all
}

func unpacked(t testing.TB, name string) string { return unpack(t, filepath.Join(corpus, name+".zip")) }

// unpack writes the members of a zip to a folder, with names of their own order.
func unpack(t testing.TB, path string) string {
	t.Helper()
	folder := t.TempDir()
	z, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer z.Close()
	for _, m := range z.File {
		path := filepath.Join(folder, filepath.FromSlash(m.Name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		r, err := m.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, data, 0o666))
	}
	return folder
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func requireNear(t *testing.T, want, got []float64, tolerance float64) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.InDelta(t, want[i], got[i], tolerance)
	}
}

// As a zip, as a folder of files with unhelpful names, on one goroutine and on several: geometry,
// order and values are those that the files were made of.
func TestStacksAreWhatTheFilesWereMadeOf(t *testing.T) { requireStacks(t, corpus) }

func requireStacks(t *testing.T, corpus string) {
	for name, want := range expectationsOf(t, corpus) {
		t.Run(name, func(t *testing.T) {
			zip := filepath.Join(corpus, name+".zip")
			for workers, path := range []string{zip, unpack(t, zip)} {
				x, err := series.Find(path, 1+2*workers)
				require.NoError(t, err)
				require.Empty(t, x.Damaged)
				require.Len(t, x.Stacks, len(want.Stacks))
				for i, s := range x.Stacks {
					require.Equal(t, i+1, s.Number)
				}
				left := slices.Clone(x.Stacks)
				for _, w := range want.Stacks {
					i := slices.IndexFunc(left, func(s *series.Stack) bool { return isStack(s, w) })
					require.NotEqual(t, -1, i, "no stack of %d slices, %v", w.Slices, w.Size)
					requireStack(t, left[i], w)
					left = slices.Delete(left, i, i+1)
				}
				chosen, err := x.Choose("")
				if want.Choice == 0 {
					require.ErrorContains(t, err, "give --series")
					require.NotContains(t, err.Error(), "MARKER")
				} else {
					require.NoError(t, err)
					require.True(t, isStack(chosen, want.Stacks[want.Choice-1]))
				}
			}
		})
	}
}

// Slice by slice the values are those of the whole, of stacks whose values are all of int16.
func TestSlicesOfInt16AreThoseOfTheStack(t *testing.T) {
	streamed, others := 0, 0
	for name := range expectations(t) {
		x, err := series.Find(filepath.Join(corpus, name+".zip"), 2)
		require.NoError(t, err)
		for _, s := range x.Stacks {
			whole, wrong := s.Read(series.Options{})
			n := s.Size[0] * s.Size[1]
			found := make([]int16, max(0, n*len(s.Slices)))
			var lock sync.Mutex
			seen := map[int]bool{}
			ok, err := s.Int16s(3, func(slice int, values []int16) error {
				lock.Lock()
				defer lock.Unlock()
				require.False(t, seen[slice])
				seen[slice] = true
				copy(found[slice*n:(slice+1)*n], values)
				return nil
			})
			if wrong != nil {
				require.Equal(t, wrong, err)
				require.Empty(t, seen)
				continue
			}
			require.NoError(t, err)
			if !ok {
				others++
				continue
			}
			streamed++
			require.Len(t, seen, len(s.Slices))
			require.Equal(t, whole.Values(), volume.Slice[int16](found), name)
		}
	}
	require.Greater(t, streamed, 25)
	require.Greater(t, others, 2)
}

// isStack reports whether s may be the stack w, by its size and values.
func isStack(s *series.Stack, w truth) bool {
	if s.Localizer != w.Localizer || !slices.Equal(s.Size[:], w.Size) && w.Error == "" {
		return false
	}
	if s.Problem != nil || w.SHA256 == "" {
		return (s.Problem != nil) == (w.Error != "")
	}
	p, err := s.Pixels(1)
	return err == nil && digest(p.Bytes()) == w.SHA256
}

func requireStack(t *testing.T, s *series.Stack, w truth) {
	t.Helper()
	if w.Error != "" {
		require.ErrorContains(t, s.Problem, w.Error)
		_, err := s.Read(series.Options{Fix: true})
		require.Equal(t, s.Problem, err)
		return
	}
	require.NoError(t, s.Problem)
	g := s.Geometry
	require.Equal(t, w.Problems, g.Problems)
	require.Equal(t, len(w.Problems) == 0, g.Regular)
	require.Equal(t, w.Duplicates, g.Duplicates)
	requireNear(t, w.Spacing, s.Spacing[:], 1e-9)
	if w.TiltDegrees != 0 {
		require.InDelta(t, w.TiltDegrees, g.TiltDegrees, 1e-6)
	}
	if w.Missing != nil {
		requireNear(t, w.Missing, g.Missing, 0.05)
	}
	im, err := s.Read(series.Options{Workers: 3})
	if len(w.Problems) > 0 {
		require.Error(t, err)
		require.Equal(t, s.Header().Problem, err)
		require.NotEmpty(t, s.Header().Type)
		return
	}
	require.NoError(t, err)
	require.Equal(t, w.Type, im.Values().Type())
	require.Equal(t, w.SHA256, digest(im.Values().Bytes()))
	head := im.Head()
	require.Equal(t, w.Size, head.Size)
	requireNear(t, w.Spacing, head.Geometry.Spacing, 1e-9)
	require.Equal(t, w.Origin, head.Geometry.Origin)
	requireNear(t, w.Direction, head.Geometry.Direction, 1e-12)
	before := s.Header()
	require.Equal(t, head.Geometry, before.Geometry)
	require.Equal(t, head.Size, before.Size)
	types := []string{"int16", "int32", "float32"}
	require.GreaterOrEqual(t, slices.Index(types, before.Type), slices.Index(types, w.Type))
}

// The regular series of the corpus are what SimpleITK reads.
func TestRegularSeriesAreWhatSimpleITKReads(t *testing.T) {
	require.Greater(t, requireReadings(t, corpus), 10)
}

// requireReadings compares with what SimpleITK read, and with what dcm2niix wrote in float32, and
// returns with how many.
func requireReadings(t *testing.T, corpus string) (compared int) {
	for name, want := range expectationsOf(t, corpus) {
		for _, r := range []struct {
			*reading
			spacing, origin, direction float64
		}{{want.SITK, 1e-9, 1e-12, 1e-12}, {want.DCM2NIIX, 1e-4, 1e-4, 1e-5}} {
			if r.reading == nil {
				continue
			}
			compared++
			im, _, err := series.Open(filepath.Join(corpus, name+".zip"), "", series.Options{})
			require.NoError(t, err, name)
			g := im.Head().Geometry
			require.Equal(t, r.Size, im.Head().Size, name)
			requireNear(t, r.Spacing, g.Spacing, r.spacing)
			requireNear(t, r.Origin, g.Origin, r.origin)
			requireNear(t, r.Direction, g.Direction, r.direction)
			require.Equal(t, r.SHA256, digest(im.Values().Bytes()), name)
		}
	}
	return compared
}

// The field of these cases is linear in space. On the fixed grid each voxel whose feet lie in both
// neighbouring slices has the field's value at its place, and every other voxel the lowest of all.
func TestFixedGeometryPutsALinearFieldInItsPlace(t *testing.T) {
	require.Greater(t, requireFields(t, corpus), 7)
}

func requireFields(t *testing.T, corpus string) (fixed int) {
	for name, want := range expectationsOf(t, corpus) {
		w := want.Stacks[0]
		if w.Field == nil || len(w.Problems) == 0 {
			continue
		}
		fixed++
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(corpus, name+".zip")
			_, _, err := series.Open(path, "", series.Options{})
			require.ErrorContains(t, err, "--fix-geometry resamples")
			im, _, err := series.Open(path, "", series.Options{Fix: true})
			require.NoError(t, err)
			require.True(t, im.Fixed)
			size, g, err := im.Stack.Grid(true)
			require.NoError(t, err)
			require.Equal(t, size, im.Head().Size)
			require.Equal(t, g, im.Head().Geometry)
			requireNear(t, w.Direction, g.Direction, 1e-12)
			require.Equal(t, w.Spacing[:2], g.Spacing[:2])
			require.InDelta(t, spacingOf(w), g.Spacing[2], 1e-9)
			all, err := im.Stack.Pixels(1)
			require.NoError(t, err)
			low, _ := volume.Range(all)
			inside := requireField(t, w, im, low)
			// of the voxels of the slices' own extent nearly all have their feet
			require.Greater(t, inside, all.Len()/2)
		})
	}
	return fixed
}

// spacingOf is the smallest distance of the slices, or the median where they are irregular.
func spacingOf(w truth) float64 {
	var d []float64
	n := axis(w.Direction, 2)
	for i := 1; i < len(w.Positions); i++ {
		d = append(d, dot(n, w.Positions[i])-dot(n, w.Positions[i-1]))
	}
	slices.Sort(d)
	if slices.Contains(w.Problems, "irregular") {
		return (d[len(d)/2] + d[(len(d)-1)/2]) / 2
	}
	return d[0]
}

func axis(direction []float64, i int) [3]float64 {
	return [3]float64{direction[i], direction[3+i], direction[6+i]}
}

func dot(a, b [3]float64) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }

// requireField compares voxels with the field of w, and returns how many have their feet in both
// neighbouring slices.
func requireField(t *testing.T, w truth, im *series.Image, low float64) (inside int) {
	g, size := im.Head().Geometry, im.Head().Size
	values := make([]float64, im.Values().Len())
	im.Values().Float64s(values, 0)
	r, c, n := axis(g.Direction, 0), axis(g.Direction, 1), axis(g.Direction, 2)
	inPlane := [2]int{w.Size[0], w.Size[1]}
	const edge = 1e-5 // pixels: nearer to the edge either may be
	i := 0
	for z := range size[2] {
		for y := range size[1] {
			for x := range size[0] {
				var p [3]float64
				for k := range 3 {
					p[k] = g.Origin[k] + float64(x)*g.Spacing[0]*r[k] + float64(y)*g.Spacing[1]*c[k] +
						float64(z)*g.Spacing[2]*n[k]
				}
				has, unsure := true, false
				for _, s := range neighbours(w, n, dot(n, p)) {
					d := [3]float64{p[0] - s[0], p[1] - s[1], p[2] - s[2]}
					for k, foot := range []float64{dot(d, r) / g.Spacing[0], dot(d, c) / g.Spacing[1]} {
						last := float64(inPlane[k] - 1)
						has = has && foot > -edge && foot < last+edge
						unsure = unsure || math.Abs(foot) < edge && foot != 0 ||
							math.Abs(foot-last) < edge && foot != last
					}
				}
				switch want := dot([3]float64(w.Field[:3]), p) + w.Field[3]; {
				case has:
					inside++
					tolerance := 0.00051 + math.Abs(want)*0x1p-23 // of the corpus, and of float32
					if math.Abs(values[i]-want) > tolerance && !(unsure && values[i] == low) {
						require.InDelta(t, want, values[i], tolerance, "voxel %d %d %d", x, y, z)
					}
				default:
					require.Equal(t, low, values[i], "voxel %d %d %d", x, y, z)
				}
				i++
			}
		}
	}
	return inside
}

// neighbours returns the origins of the slices beside a position along n, of one slice if it lies
// there.
func neighbours(w truth, n [3]float64, t float64) [][3]float64 {
	for i, p := range w.Positions {
		switch d := dot(n, p) - t; {
		case math.Abs(d) < 1e-5:
			return w.Positions[i : i+1]
		case d > 0:
			return w.Positions[i-1 : i+1]
		}
	}
	return w.Positions[len(w.Positions)-1:]
}

// What a refusal says: what, where and how much.
func TestRefusalsSayWhatWhereAndHowMuch(t *testing.T) {
	for name, parts := range map[string][]string{
		"tilt":                 {"move sideways by 4.659 mm in all, an angle of 15°", "--fix-geometry"},
		"gap":                  {"1 slices are missing, at -91 mm along the normal", "--fix-geometry"},
		"gap-of-three":         {"3 slices are missing, at -96, -94, -92 mm"},
		"irregular":            {"the distances between slices differ: up to", "mm off a regular grid"},
		"irregular-and-tilted": {"move sideways by 1.6 mm", "the distances between slices differ"},
		"duplicate-different":  {"1 slices lie where another lies and have other pixels; remove"},
	} {
		x, err := series.Find(filepath.Join(corpus, name+".zip"), 1)
		require.NoError(t, err)
		_, err = x.Stacks[0].Read(series.Options{})
		for _, part := range parts {
			require.ErrorContains(t, err, part, name)
		}
		require.True(t, strings.HasPrefix(err.Error(), corpus), err)
	}
	x, err := series.Find(filepath.Join(corpus, "duplicate-different.zip"), 1)
	require.NoError(t, err)
	_, err = x.Stacks[0].Read(series.Options{Fix: true})
	require.ErrorContains(t, err, "have other pixels")
}
