package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

// caseShape is that of the cases here (z, y, x).
var caseShape = [3]int{4, 6, 5}

const caseVoxels = 4 * 6 * 5

// scanOf is a CT that no other number gives.
func scanOf(n int) volume.Slice[int16] {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	p := make(volume.Slice[int16], caseVoxels)
	for i := range p {
		p[i] = int16(r.IntN(2000) - 1000)
	}
	return p
}

// nodesLabelled has two nodes that touch at a corner only where x is 0, and one of its own: 2 components
// of 26 neighbours, 4 voxels. n shifts them, so that no two cases have the same labels.
func nodesLabelled(n int) volume.Slice[uint8] {
	p := make(volume.Slice[uint8], caseVoxels)
	at := func(z, y, x int) int { return (z*6+y)*5 + x }
	p[at(0, 0, 0)], p[at(0, 0, 1)], p[at(1, 1, 2)] = 1, 1, 1
	p[at(3, 3+n%3, n%4)] = 1
	return p
}

// put writes pixels on the cases' grid, changed.
func put(t *testing.T, path string, pixels volume.Pixels, change func(size []int, g *volume.ITK)) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	size := []int{caseShape[2], caseShape[1], caseShape[0]}
	g := &volume.ITK{Spacing: []float64{0.5, 0.8, 2.5}, Origin: []float64{-10, 20, 5}, Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	if change != nil {
		change(size, g)
	}
	require.NoError(t, image.Write(path, size, g, pixels, 1))
}

// pairs writes cases NAME1 to NAMEn into images and labels of a folder. They differ by from.
func pairs(t *testing.T, root, name string, n, from int) {
	t.Helper()
	for i := 1; i <= n; i++ {
		put(t, filepath.Join(root, "images", fmt.Sprintf("%s%d.nii.gz", name, i)), scanOf(from+i), nil)
		put(t, filepath.Join(root, "labels", fmt.Sprintf("%s%d.nii.gz", name, i)), nodesLabelled(i-1), nil)
	}
}

// aModel knows background and lymph_node, or what is given.
func aModel(t *testing.T, dataset string) adaptModel {
	t.Helper()
	if dataset == "" {
		dataset = `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph_node": 1}, "numTraining": 1, "file_ending": ".nii.gz"}`
	}
	v, err := plans.DecodeJSON([]byte(dataset))
	require.NoError(t, err)
	d, err := plans.DatasetFromObject(v.(*plans.Object), "dataset.json")
	require.NoError(t, err)
	r, err := images.ForName("SimpleITKIO")
	require.NoError(t, err)
	return adaptModel{d, r}
}

func casesConfig(folder string) AdaptCasesConfig {
	c := settings.New[AdaptCasesConfig]()
	c.Cases = folder
	return c
}

// foundCases finds cases and what was logged.
func foundCases(t *testing.T, c AdaptCasesConfig, m adaptModel) ([]AdaptCase, string, error) {
	t.Helper()
	log := &said{}
	list, err := findAdaptCases(t.Context(), c, m, Output{Log: log})
	return list, log.String(), err
}

// rolesOf lists the cases of each role.
func rolesOf(list []AdaptCase) map[string][]string {
	roles := map[string][]string{}
	for _, c := range list {
		roles[c.Role] = append(roles[c.Role], c.Case)
	}
	return roles
}

func caseOf(t *testing.T, list []AdaptCase, name string) AdaptCase {
	t.Helper()
	at := slices.IndexFunc(list, func(c AdaptCase) bool { return c.Case == name })
	require.GreaterOrEqual(t, at, 0, "%s is not there", name)
	return list[at]
}

func TestCasesAreMeasured(t *testing.T) {
	root := t.TempDir()
	pairs(t, root, "c", 3, 0)
	list, log, err := foundCases(t, casesConfig(root), aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, map[string][]string{RoleTrain: {"c1", "c2", "c3"}}, rolesOf(list))
	require.Contains(t, log, "of 3 cases none is held out")
	c := list[0]
	require.Equal(t, []string{root + "/images/c1.nii.gz"}, c.Image)
	require.Equal(t, root+"/labels/c1.nii.gz", c.Label)
	require.Equal(t, caseShape, c.Size)
	require.Equal(t, [3]float64{2.5, 0.800000011920929, 0.5}, c.Spacing) // NIfTI's float32
	require.Equal(t, 2, c.Nodes)
	require.InDelta(t, 4*0.5*0.8*2.5/1000, c.ML, 1e-9)
	require.Equal(t, []string{}, c.Problems)
	require.Equal(t, []string{}, c.Warnings)

	var table bytes.Buffer
	require.NoError(t, writeAdaptTable(&table, list))
	lines := strings.Split(table.String(), "\n")
	require.Equal(t, []string{"case", "role", "image", "label", "size", "spacing", "mm", "nodes", "ml", "what", "is", "wrong"}, strings.Fields(lines[0]))
	require.Equal(t, []string{"c1", "train", "images/c1.nii.gz", "labels/c1.nii.gz", "5×6×4", "0.5×0.8×2.5", "2", "0.00"}, strings.Fields(lines[2]))
	require.Equal(t, "files are below "+root, lines[len(lines)-2])

	im, p, seg, err := (&AdaptCasesConfig{Cases: root}).readAdaptCase(c, aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, scanOf(1), im.Pixels)
	require.Equal(t, nodesLabelled(0), seg.Pixels)
	require.Equal(t, [4]int{1, 4, 6, 5}, seg.Shape)
	require.NotNil(t, p.SITK)
}

// What is wrong with a case is told, whatever else is; nothing but --skip-bad goes on without it.
func TestEachMistakeInACaseIsNamed(t *testing.T) {
	two := `{"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "lymph_node": 1}, "numTraining": 1, "file_ending": ".nii.gz"}`
	floats := func(values ...float32) volume.Slice[float32] {
		p := volume.Slice[float32](volume.Cast[float32](scanOf(50)))
		copy(p, values)
		return p
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, test := range []struct {
		name string
		harm func(t *testing.T, image, label string)
		want []string // in the problem
		note []string // in the warning
	}{
		{"size", func(t *testing.T, _, label string) {
			put(t, label, nodesLabelled(1)[:60], func(size []int, _ *volume.ITK) { size[2] = 2 })
		}, []string{"the labels lie on another grid than the image", "the image has size 5×6×4, spacing 0.5×0.8×2.5 mm", "the labels have size 5×6×2"}, nil},
		{"origin", func(t *testing.T, _, label string) {
			put(t, label, nodesLabelled(1), func(_ []int, g *volume.ITK) { g.Origin[0] += 0.03 })
		}, []string{"another grid", "origin -10, 20, 5", "origin -9.97, 20, 5"}, nil},
		{"origin, as far as rounding", func(t *testing.T, _, label string) {
			put(t, label, nodesLabelled(1), func(_ []int, g *volume.ITK) { g.Origin[0] += 0.02 })
		}, nil, nil},
		{"spacing", func(t *testing.T, _, label string) {
			put(t, label, nodesLabelled(1), func(_ []int, g *volume.ITK) { g.Spacing[2] = 2.6 })
		}, []string{"another grid", "spacing 0.5×0.8×2.6"}, nil},
		{"direction", func(t *testing.T, _, label string) {
			put(t, label, nodesLabelled(1), func(_ []int, g *volume.ITK) { g.Direction[0] = -1 })
		}, []string{"another grid", "direction [-1 0 0 0 1 0 0 0 1]"}, nil},
		{"unknown value", func(t *testing.T, _, label string) {
			p := nodesLabelled(1)
			p[7], p[8], p[9] = 3, 3, 7
			put(t, label, p, nil)
		}, []string{"the labels hold 3 (2 voxels), 7 (1 voxels), expected 0 (background), 1 (lymph_node)", "--labels-map 'lymph_node=3,7'"}, nil},
		{"negative", func(t *testing.T, _, label string) {
			p := volume.Slice[int16](volume.Cast[int16](nodesLabelled(1)))
			p[9] = -1
			put(t, label, p, nil)
		}, []string{"the labels hold -1 (1 voxels)"}, nil},
		{"fractions", func(t *testing.T, _, label string) {
			p := volume.Slice[float32](volume.Cast[float32](nodesLabelled(1)))
			p[9], p[10] = 0.25, 0.5
			put(t, label, p, nil)
		}, []string{"the labels hold fractions, 0.25 (1 voxels), 0.5 (1 voxels), expected whole numbers: were they resampled"}, nil},
		{"whole numbers in float32", func(t *testing.T, _, label string) {
			put(t, label, volume.Slice[float32](volume.Cast[float32](nodesLabelled(1))), nil)
		}, nil, nil},
		{"the image again", func(t *testing.T, _, label string) {
			put(t, label, volume.Slice[float32](floats(0.5)), nil)
		}, []string{"the labels hold"}, nil},
		{"no foreground", func(t *testing.T, _, label string) { put(t, label, make(volume.Slice[uint8], caseVoxels), nil) },
			[]string{"no foreground in the labels", "--val c2 holds it out"}, nil},
		{"NaN", func(t *testing.T, image, _ string) { put(t, image, floats(nan, nan), nil) }, []string{"2 voxels of the image are NaN"}, nil},
		{"infinite", func(t *testing.T, image, _ string) { put(t, image, floats(inf), nil) }, []string{"1 voxels of the image are infinite"}, nil},
		{"constant", func(t *testing.T, image, _ string) { put(t, image, make(volume.Slice[int16], caseVoxels), nil) },
			[]string{"every voxel of channel 0 is 0"}, nil},
		{"not HU", func(t *testing.T, image, _ string) {
			p := scanOf(9)
			for i := range p {
				p[i] += 1024
			}
			put(t, image, p, nil)
		}, nil, []string{"no voxel of the image is below -200, the least is ", "are these HU?"}},
		{"cut off", func(t *testing.T, image, _ string) {
			data, err := os.ReadFile(image)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(image, data[:len(data)/2], 0o666))
		}, []string{"the image cannot be read: "}, nil},
		{"no image", func(t *testing.T, image, _ string) {
			require.NoError(t, os.WriteFile(image, []byte("<!doctype html>"), 0o666))
		},
			[]string{"the image cannot be read: "}, nil},
		{"labels cut off", func(t *testing.T, _, label string) {
			require.NoError(t, os.WriteFile(label, []byte{0x1f, 0x8b}, 0o666))
		}, []string{"c2.nii.gz"}, nil},
		{"a link to nothing", func(t *testing.T, image, _ string) {
			require.NoError(t, os.Remove(image))
			require.NoError(t, os.Symlink("annex/gone", image))
		}, []string{"is a link to a file that is not there: fetch it (datalad get"}, nil},
		{"an image without labels", func(t *testing.T, _, label string) { require.NoError(t, os.Remove(label)) }, []string{"no labels for this image"}, nil},
		{"labels without an image", func(t *testing.T, image, _ string) { require.NoError(t, os.Remove(image)) }, []string{"no image for these labels"}, nil},
		{"two labels", func(t *testing.T, _, label string) {
			put(t, strings.Replace(label, "c2", "c2_seg", 1), nodesLabelled(1), nil)
		}, []string{"2 labels for one image: c2.nii.gz, c2_seg.nii.gz"}, nil},
		{"several mistakes", func(t *testing.T, image, label string) {
			put(t, image, floats(nan, inf), nil)
			put(t, label, nodesLabelled(1), func(_ []int, g *volume.ITK) { g.Origin[0] += 9 })
		}, []string{"are NaN", "are infinite", "another grid"}, nil},
		{"channels", nil, []string{"found 1 channels, expected 2: CT, PET"}, nil},
	} {
		root := t.TempDir()
		pairs(t, root, "c", 3, 0)
		m := aModel(t, "")
		if test.harm == nil {
			m = aModel(t, two)
		} else {
			test.harm(t, root+"/images/c2.nii.gz", root+"/labels/c2.nii.gz")
		}
		list, log, err := foundCases(t, casesConfig(root), m)
		c := caseOf(t, list, "c2")
		for _, part := range test.note {
			require.Contains(t, strings.Join(c.Warnings, "; "), part, test.name)
			require.Contains(t, log, "WARNING: case c2: ", test.name)
		}
		if test.note == nil {
			require.Empty(t, c.Warnings, test.name)
		}
		if test.want == nil {
			require.NoError(t, err, test.name)
			require.Empty(t, c.Problems, test.name)
			continue
		}
		require.Error(t, err, test.name)
		for _, part := range test.want {
			require.Contains(t, strings.Join(c.Problems, "; "), part, test.name)
			require.Contains(t, err.Error(), part, test.name)
		}
		var table bytes.Buffer
		require.NoError(t, writeAdaptTable(&table, list))
		require.Contains(t, table.String(), test.want[0], test.name)
		skip := casesConfig(root)
		skip.SkipBad = true
		list, log, err = foundCases(t, skip, m)
		if test.harm == nil { // all are bad
			require.ErrorContains(t, err, "no case is left to train on", test.name)
			continue
		}
		require.ErrorContains(t, fmt.Errorf("%s", log), "left out (--skip-bad): 1 of 3 cases cannot be used", test.name)
		require.NoError(t, err, test.name)
		require.Equal(t, map[string][]string{RoleTrain: {"c1", "c3"}, "": {"c2"}}, rolesOf(list), test.name)
	}
}

func TestTheErrorNamesEveryBadCaseAndTheFlagsThatSettleThem(t *testing.T) {
	root := t.TempDir()
	pairs(t, root, "c", 4, 0)
	for _, name := range []string{"c2", "c4"} {
		put(t, filepath.Join(root, "labels", name+"_seg.nii.gz"), nodesLabelled(1), nil)
	}
	require.NoError(t, os.Remove(root+"/labels/c3.nii.gz"))
	list, _, err := foundCases(t, casesConfig(root), aModel(t, ""))
	require.Len(t, list, 4)
	require.EqualError(t, err, `3 of 4 cases cannot be used:
  c2: 2 labels for one image: c2.nii.gz, c2_seg.nii.gz
  c3: no labels for this image
  c4: 2 labels for one image: c4.nii.gz, c4_seg.nii.gz
say which with --images 'images/{case}.nii.gz' --labels 'labels/{case}.nii.gz' or --images 'images/{case}.nii.gz' --labels 'labels/{case}_seg.nii.gz'
mend them, or go on without them with --skip-bad`)
	c := casesConfig(root)
	c.ImageFiles, c.LabelFiles, c.SkipBad = "images/{case}.nii.gz", "labels/{case}_seg.nii.gz", true
	list, _, err = foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, []string{"c2", "c4"}, rolesOf(list)[RoleTrain])
	for _, labels := range []string{"", "labels/c2_seg.nii.gz", "../{case}.nii.gz", c.ImageFiles} {
		c.LabelFiles = labels
		_, _, err = foundCases(t, c, aModel(t, ""))
		var usage *settings.UsageError
		require.ErrorAs(t, err, &usage, labels)
	}
}

// Which cases are held out: the order is Python's, of hashlib.sha256("SEED/CASE").
func TestHeldOutCasesAreDrawnByTheSeed(t *testing.T) {
	root := t.TempDir()
	pairs(t, root, "c", 10, 0)
	order := map[uint64][]string{0: {"c10", "c4", "c2", "c1", "c8", "c9", "c5", "c7", "c3", "c6"}, 7: {"c4", "c5", "c2", "c1", "c3", "c8", "c9", "c7", "c6", "c10"}}
	for _, test := range []struct {
		val        string
		shots      int
		held, used int // the first of the order are held out, the next used
	}{{"auto", 0, 2, 8}, {"auto", 3, 2, 3}, {"auto", 8, 2, 8}, {"5", 0, 5, 5}, {"0", 0, 0, 10}, {"0", 2, 0, 2}, {"9", 1, 9, 1}} {
		for seed, names := range order {
			c := casesConfig(root)
			c.Val, c.Shots, c.DrawSeed = test.val, test.shots, seed
			list, _, err := foundCases(t, c, aModel(t, ""))
			require.NoError(t, err)
			roles := rolesOf(list)
			require.ElementsMatch(t, names[:test.held], roles[RoleVal], "%+v", test)
			require.ElementsMatch(t, names[test.held:][:test.used], roles[RoleTrain], "%+v", test)
			require.ElementsMatch(t, names[test.held+test.used:], roles[""], "%+v", test)
			for _, one := range list {
				if one.Role == "" {
					require.Equal(t, []string{fmt.Sprintf("not used: --shots %d", test.shots)}, one.Warnings)
				}
			}
		}
	}
	c := casesConfig(root)
	c.Val, c.Shots = "c3, c7", 4
	list, _, err := foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, []string{"c3", "c7"}, rolesOf(list)[RoleVal])
	require.ElementsMatch(t, []string{"c10", "c4", "c2", "c1"}, rolesOf(list)[RoleTrain])

	for val, want := range map[string]string{"10": "none would be left", "12": "none would be left", "-1": "expected auto, a number", "c11": "no case of that name, there are c1, c10",
		"c3,c3": "c3 is there twice", "c1,c2,c3,c4,c5,c6,c7,c8,c9,c10": "no case is left"} {
		c := casesConfig(root)
		c.Val = val
		_, _, err := foundCases(t, c, aModel(t, ""))
		var usage *settings.UsageError
		require.ErrorAs(t, err, &usage, val)
		require.ErrorContains(t, err, want)
	}
	c = casesConfig(root)
	c.Shots = 9
	_, _, err = foundCases(t, c, aModel(t, ""))
	require.ErrorContains(t, err, "--shots 9: there are 8 cases to train on, 2 are held out")
}

func TestAutoHoldsAFifthOut(t *testing.T) {
	for n, want := range map[int]int{1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 7: 1, 8: 2, 12: 2, 13: 3, 20: 4, 23: 5} {
		var list []AdaptCase
		for i := range n {
			list = append(list, AdaptCase{Case: fmt.Sprint("c", i), Role: RoleTrain})
		}
		k := &caseChecker{AdaptCasesConfig: casesConfig("")}
		require.NoError(t, k.assign(list))
		require.Len(t, rolesOf(list)[RoleVal], want, "%d cases", n)
		require.Len(t, rolesOf(list)[RoleTrain], n-want, "%d cases", n)
	}
}

func TestATestSetIsHeldOutAlone(t *testing.T) {
	root := t.TempDir()
	pairs(t, filepath.Join(root, "train"), "c", 5, 0)
	pairs(t, filepath.Join(root, "test"), "c", 2, 100) // names that are there, too
	put(t, root+"/test/labels/c2.nii.gz", make(volume.Slice[uint8], caseVoxels), nil)
	put(t, root+"/test/labels/c1.nii.gz", nodesLabelled(11), nil)
	c := casesConfig(root + "/train")
	c.Test = root + "/test"
	list, log, err := foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, map[string][]string{RoleTrain: {"c1", "c2", "c3", "c4", "c5"}, RoleTest: {"c1_test", "c2_test"}}, rolesOf(list))
	require.Equal(t, root+"/test/images/c1.nii.gz", caseOf(t, list, "c1_test").Image[0])
	require.Contains(t, log, "WARNING: case c2_test: no foreground in the labels") // told, but no mistake in a test case
	c.Val = "1"
	list, _, err = foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)
	require.Len(t, rolesOf(list)[RoleVal], 1)
	c.Val = "c1_test"
	_, _, err = foundCases(t, c, aModel(t, ""))
	require.ErrorContains(t, err, "this case is of the test set already")
	none := c
	none.Val, none.Test, none.SkipBad = "auto", t.TempDir(), true
	pairs(t, none.Test, "e", 1, 300)
	put(t, none.Test+"/images/e1.nii.gz", make(volume.Slice[int16], caseVoxels), nil)
	_, _, err = foundCases(t, none, aModel(t, ""))
	require.ErrorContains(t, err, "no case of the test set is left") // and none of the others takes its place
	c.Val, c.Test = "auto", root+"/tset"
	_, _, err = foundCases(t, c, aModel(t, ""))
	require.ErrorContains(t, err, root+" holds test, train")

	// a test set in the folder of cases is none of them
	whole := casesConfig(root)
	whole.Test = root + "/test"
	pairs(t, root, "d", 2, 200)
	list, _, err = foundCases(t, whole, aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, []string{"d1", "d2"}, rolesOf(list)[RoleTrain])
	folders := t.TempDir()
	for i, name := range []string{"p1/ct", "p2/ct", "held/x", "results/ct"} {
		put(t, folders+"/"+name+".nii.gz", scanOf(i), nil)
		put(t, folders+"/"+name+"_seg.nii.gz", nodesLabelled(i), nil)
	}
	inside := casesConfig(folders)
	inside.Test, inside.NoCases = folders+"/held", []string{folders + "/results"}
	list, _, err = foundCases(t, inside, aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, map[string][]string{RoleTrain: {"p1", "p2"}, RoleTest: {"x"}}, rolesOf(list))
}

func TestNnUNetsTestSetIsTaken(t *testing.T) {
	root := t.TempDir()
	for i, name := range []string{"a", "b"} {
		put(t, root+"/imagesTr/"+name+"_0000.nii.gz", scanOf(i), nil)
		put(t, root+"/labelsTr/"+name+".nii.gz", nodesLabelled(i), nil)
	}
	put(t, root+"/imagesTs/c_0000.nii.gz", scanOf(9), nil)
	put(t, root+"/labelsTs/c.nii.gz", nodesLabelled(9), nil)
	dataset := `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "node": 1, "ignore": 2}, "numTraining": 2, "file_ending": ".nii.gz"}`
	require.NoError(t, os.WriteFile(root+"/dataset.json", []byte(dataset), 0o666))
	c := casesConfig(root)
	list, _, err := foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, map[string][]string{RoleTrain: {"a", "b"}, RoleTest: {"c"}}, rolesOf(list))
	d, err := c.dataset(aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, "node", d.Labels.Entries[1].Name) // the cases' own labels
	p := nodesLabelled(0)
	p[9] = 2
	put(t, root+"/labelsTr/a.nii.gz", p, nil) // its ignore label
	list, _, err = foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, 2, list[0].Nodes)
	require.NoError(t, os.WriteFile(root+"/dataset.json", []byte(`{"labels": {"0": "background"}}`), 0o666))
	_, _, err = foundCases(t, c, aModel(t, ""))
	require.ErrorContains(t, err, "without it, which the cases do not need: --images 'imagesTr/{case}_0000.nii.gz' --labels 'labelsTr/{case}.nii.gz'")
}

// The same voxels in another format and under another name are the same case.
func TestDuplicatesAmongHeldOutCasesAreRefused(t *testing.T) {
	train, test := t.TempDir(), t.TempDir()
	pairs(t, train, "c", 5, 0)
	pairs(t, test, "other", 2, 100)
	for i := 1; i <= 2; i++ { // labels of their own
		put(t, fmt.Sprintf("%s/labels/other%d.nii.gz", test, i), nodesLabelled(9+i), nil)
	}
	c := casesConfig(train)
	c.Test = test
	_, _, err := foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)

	put(t, test+"/images/new.mha", volume.Slice[float32](volume.Cast[float32](scanOf(3))), nil)
	put(t, test+"/labels/new.nrrd", nodesLabelled(8), nil)
	_, _, err = foundCases(t, c, aModel(t, ""))
	require.EqualError(t, err, "cases that are held out are also among the others, voxel for voxel:\n  c3 (train, "+train+"/images/c3.nii.gz) and new (test, "+test+
		"/images/new.mha) have the same image\ntake one of each pair away, or hold out both with --val CASE,CASE")

	put(t, test+"/images/new.mha", scanOf(99), nil)
	put(t, test+"/labels/new.nrrd", volume.Slice[float32](volume.Cast[float32](nodesLabelled(2))), nil)
	_, _, err = foundCases(t, c, aModel(t, ""))
	require.ErrorContains(t, err, "c3 (train, "+train+"/images/c3.nii.gz) and new (test, "+test+"/images/new.mha) have the same labels")

	put(t, test+"/images/new.mha", scanOf(3), nil)
	_, _, err = foundCases(t, c, aModel(t, ""))
	require.ErrorContains(t, err, "have the same image\ntake one of each pair away") // told once

	// of --cases itself: one is drawn, the other is not
	c = casesConfig(train)
	put(t, train+"/images/copy.nii.gz", scanOf(3), nil)
	put(t, train+"/labels/copy.nii.gz", nodesLabelled(7), nil)
	c.Val = "copy"
	_, _, err = foundCases(t, c, aModel(t, ""))
	require.ErrorContains(t, err, "c3 (train, ")
	require.ErrorContains(t, err, "copy (val, ")
	c.Val = "copy,c3"
	_, log, err := foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)
	require.Contains(t, log, "WARNING: cases c3 and copy have the same image")
	c.Val = "c1"
	_, log, err = foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)
	require.Contains(t, log, "WARNING: cases c3 and copy have the same image")
}

func TestHashesAreOfValues(t *testing.T) {
	im := func(p volume.Pixels, shape ...int) string {
		return (&volume.Image{Shape: [4]int(shape), Pixels: p}).Content()
	}
	nan := float32(math.NaN())
	odd := math.Float32frombits(math.Float32bits(nan) ^ 1)
	negative := float32(math.Copysign(0, -1))
	same := im(volume.Slice[int16]{1, 2, 3, 4, 5, 6}, 1, 1, 2, 3)
	require.Equal(t, same, im(volume.Slice[float64]{1, 2, 3, 4, 5, 6}, 1, 1, 2, 3))
	require.NotEqual(t, same, im(volume.Slice[int16]{1, 2, 3, 4, 5, 6}, 1, 1, 3, 2))
	require.NotEqual(t, same, im(volume.Slice[int16]{1, 2, 3, 4, 6, 5}, 1, 1, 2, 3))
	require.Equal(t, im(volume.Slice[float32]{nan, 0}, 1, 1, 1, 2), im(volume.Slice[float32]{odd, negative}, 1, 1, 1, 2))
	long := make(volume.Slice[int16], 50_000)
	whole := im(long, 1, 1, 1, len(long))
	long[len(long)-1] = 1
	require.NotEqual(t, whole, im(long, 1, 1, 1, len(long)))
}

// --labels-map gives the values of the files the meaning of the model's labels, or makes new ones.
func TestLabelsMap(t *testing.T) {
	two := `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph_node": 1, "tumor": 2}, "numTraining": 1, "file_ending": ".nii.gz"}`
	regions := `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2], "numTraining": 1, "file_ending": ".nii.gz"}`
	for _, test := range []struct {
		name, model string
		flags       []string
		values      []uint8 // the first voxels of the file
		want        []uint8
		labels      []string // of the dataset
		note        string
	}{
		{"another value", "", []string{"lymph node=255"}, []uint8{255, 0, 255}, []uint8{1, 0, 1}, []string{"background", "lymph_node"}, ""},
		{"several values", "", []string{"Lymph-Node=2, 4"}, []uint8{2, 4, 0}, []uint8{1, 1, 0}, []string{"background", "lymph_node"}, ""},
		{"values that are left out", "", []string{"lymph_node=4"}, []uint8{2, 4, 2}, []uint8{0, 1, 0}, []string{"background", "lymph_node"},
			"values that --labels-map leaves out become background: 2 (2 voxels)"},
		{"values that are background", "", []string{"lymph_node=4", "background=2"}, []uint8{2, 4, 2}, []uint8{0, 1, 0}, []string{"background", "lymph_node"}, ""},
		{"swapped", two, []string{"tumor=1", "lymph node=2"}, []uint8{1, 2, 0}, []uint8{2, 1, 0}, []string{"background", "lymph_node", "tumor"}, ""},
		{"new labels", two, []string{"left=7", "right=9"}, []uint8{7, 9, 0}, []uint8{1, 2, 0}, []string{"background", "left", "right"}, ""},
		{"new labels, one known", "", []string{"lymph node=1", "vein=2"}, []uint8{1, 2, 0}, []uint8{1, 2, 0}, []string{"background", "lymph node", "vein"}, ""},
		{"an ignore label", "", []string{"node=1", "ignore=9"}, []uint8{1, 9, 0}, []uint8{1, 2, 0}, []string{"background", "node", "ignore"}, ""},
		{"regions", regions, []string{"whole=5", "core=6"}, []uint8{5, 6, 0}, []uint8{1, 2, 0}, []string{"background", "whole", "core"}, ""},
		{"labels instead of regions", regions, []string{"node=5"}, []uint8{5, 5, 0}, []uint8{1, 1, 0}, []string{"background", "node"}, ""},
	} {
		root := t.TempDir()
		p := make(volume.Slice[uint8], caseVoxels)
		copy(p, test.values)
		put(t, root+"/images/a.nii.gz", scanOf(1), nil)
		put(t, root+"/labels/a.nii.gz", p, nil)
		c := casesConfig(root)
		c.LabelsMap = test.flags
		m := aModel(t, test.model)
		list, _, err := foundCases(t, c, m)
		require.NoError(t, err, test.name)
		require.Equal(t, test.note, strings.Join(list[0].Warnings, "; "), test.name)
		d, err := c.dataset(m)
		require.NoError(t, err, test.name)
		var names []string
		for _, e := range d.Labels.Entries {
			names = append(names, e.Name)
		}
		require.Equal(t, test.labels, names, test.name)
		_, _, seg, err := c.readAdaptCase(list[0], m)
		require.NoError(t, err, test.name)
		require.Equal(t, test.want, []uint8(seg.Pixels.(volume.Slice[uint8])[:3]), test.name)
		require.Zero(t, seg.Pixels.(volume.Slice[uint8])[3])
	}
	root := t.TempDir()
	pairs(t, root, "c", 1, 0)
	for flag, want := range map[string]string{"=1": "expected NAME=VALUES", "node": "expected NAME=VALUES", "lymph node=x": `found "x", expected values`, "lymph node=-1": "expected values",
		"lymph node=70000": "expected values", "lymph node=1,": `found ""`} {
		c := casesConfig(root)
		c.LabelsMap = []string{flag}
		_, _, err := foundCases(t, c, aModel(t, ""))
		var usage *settings.UsageError
		require.ErrorAs(t, err, &usage, flag)
		require.ErrorContains(t, err, want)
	}
	c := casesConfig(root)
	c.LabelsMap = []string{"lymph node=1", "tumor=1"}
	_, _, err := foundCases(t, c, aModel(t, two))
	require.ErrorContains(t, err, "the value 1 is given to two labels")
}

// Nodes of two labels that touch are two, of two values of a region one.
func TestNodesAreCountedByLabelAndOfRegionsTogether(t *testing.T) {
	root := t.TempDir()
	p := make(volume.Slice[uint8], caseVoxels)
	p[0], p[1], p[2], p[20] = 1, 2, 2, 2
	put(t, root+"/images/a.nii.gz", scanOf(1), nil)
	put(t, root+"/labels/a.nii.gz", p, nil)
	for text, want := range map[string]int{`"lymph_node": 1, "tumor": 2}`: 3, `"whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]`: 2} {
		list, _, err := foundCases(t, casesConfig(root), aModel(t, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, `+text+`, "file_ending": ".nii.gz"}`))
		require.NoError(t, err)
		require.Equal(t, want, list[0].Nodes, text)
		require.InDelta(t, 4*0.5*0.8*2.5/1000, list[0].ML, 1e-9)
	}
}

func TestChannelsAreRead(t *testing.T) {
	root := t.TempDir()
	put(t, root+"/images/a_0000.nii.gz", scanOf(1), nil)
	put(t, root+"/images/a_0001.nii.gz", scanOf(2), nil)
	put(t, root+"/labels/a.nii.gz", nodesLabelled(0), nil)
	m := aModel(t, `{"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "lymph_node": 1}, "file_ending": ".nii.gz"}`)
	c := casesConfig(root)
	list, _, err := foundCases(t, c, m)
	require.NoError(t, err)
	im, _, _, err := c.readAdaptCase(list[0], m)
	require.NoError(t, err)
	require.Equal(t, [4]int{2, 4, 6, 5}, im.Shape)
	require.Equal(t, slices.Concat(scanOf(1), scanOf(2)), im.Pixels)
	put(t, root+"/images/a_0001.nii.gz", scanOf(2), func(_ []int, g *volume.ITK) { g.Origin[0]++ })
	_, _, err = foundCases(t, c, m)
	require.ErrorContains(t, err, "the channels of a case have different origins")
}

// The label maps are the masks of other programs.
func TestCasesOfDICOM(t *testing.T) {
	archive := three.archive(t, nil)
	four := aModel(t, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 4, "b": 3, "c": 2, "d": 1}, "file_ending": ".nii.gz"}`)
	expected := func(object string) volume.Slice[uint8] { // values 1 to 4 are a to d
		p, _ := expectedLabels(t, object)
		for i, v := range p {
			if v > 0 {
				p[i] = 5 - v
			}
		}
		return p
	}
	c := casesConfig(archive)
	_, _, err := foundCases(t, c, four)
	require.ErrorContains(t, err, "say with --roi NAME=PATTERN which ROIs or segments are labels; there are ")
	require.ErrorContains(t, err, `(1), `)
	none := casesConfig(archive + "/p16")
	_, _, err = foundCases(t, none, four) // ct and the object lie in one folder: a folder of DICOM
	require.ErrorContains(t, err, "--roi")
	none.Cases = archive + "/p16/ct"
	_, _, err = foundCases(t, none, four)
	require.ErrorContains(t, err, "is DICOM without RTSTRUCT and SEG: say where the labels are with --images and --labels")
	c.ROIs = []string{"a=.* a", "b=.* b", "c=.* c", "d=.* d"}
	list, _, err := foundCases(t, c, four)
	require.NoError(t, err)
	require.Equal(t, map[string][]string{RoleTrain: {"p16", "p17", "p18"}}, rolesOf(list))
	for i, object := range []string{"stars-square.dcm", "stars-rotated.dcm", "binary-rotated.dcm"} {
		require.Equal(t, []string{fmt.Sprintf("%s/p%d/ct", archive, 16+i)}, list[i].Image)
		require.Equal(t, fmt.Sprintf("%s/p%d/%s", archive, 16+i, object), list[i].Label)
		again := AdaptCase{Case: list[i].Case, Image: list[i].Image, Label: list[i].Label} // as of cases.json
		im, p, seg, err := c.readAdaptCase(again, four)
		require.NoError(t, err)
		require.Equal(t, expected(object), seg.Pixels, object)
		same := filepath.Join(t.TempDir(), "i.nii.gz")
		_, err = ConvertImage(ConvertImageConfig{In: list[i].Image[0], Out: same}, Output{})
		require.NoError(t, err)
		converted, read, err := four.Reader.Read([]string{same})
		require.NoError(t, err)
		require.Equal(t, converted, im)
		require.Equal(t, read, p)
		require.Positive(t, list[i].Nodes)
	}
	// two series in one folder: what the objects refer to says which
	pool := t.TempDir()
	require.NoError(t, os.MkdirAll(pool+"/all", 0o755))
	for _, patient := range []string{"p16", "p17"} {
		files, err := filepath.Glob(archive + "/" + patient + "/ct/*")
		require.NoError(t, err)
		objects, err := filepath.Glob(archive + "/" + patient + "/*.dcm")
		require.NoError(t, err)
		for _, path := range append(files, objects...) {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(pool+"/all/"+patient+filepath.Base(path), data, 0o666))
		}
	}
	pooled := c
	pooled.Cases = pool
	list, _, err = foundCases(t, pooled, four)
	require.NoError(t, err)
	require.Len(t, list, 2)
	for _, one := range list {
		require.Equal(t, []string{pool + "/all"}, one.Image)
		_, _, seg, err := pooled.readAdaptCase(one, four)
		require.NoError(t, err)
		require.Equal(t, expected(filepath.Base(one.Label)[3:]), seg.Pixels)
	}
	require.Equal(t, []string{"all", "all_2"}, rolesOf(list)[RoleTrain])

	// a pattern alone is for the only label
	c.ROIs = []string{".* [ab]"}
	list, _, err = foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)
	_, _, seg, err := c.readAdaptCase(list[0], aModel(t, ""))
	require.NoError(t, err)
	_, most := volume.Range(seg.Pixels)
	require.Equal(t, 1.0, most)
	_, _, err = foundCases(t, c, four)
	require.ErrorContains(t, err, "expected NAME=PATTERN, as there are several labels")

	// pairs of a DICOM folder and what is not beside it, and of an image file and an RTSTRUCT
	mixed := t.TempDir()
	require.NoError(t, os.MkdirAll(mixed+"/labels", 0o755))
	require.NoError(t, os.MkdirAll(mixed+"/images", 0o755))
	require.NoError(t, os.Symlink(archive+"/p16/ct", mixed+"/images/one"))
	c.ROIs = []string{"a=.* a", "b=.* b", "c=.* c", "d=.* d"}
	want := expected("stars-square.dcm")
	_, err = ConvertImage(ConvertImageConfig{In: archive + "/p16/ct", Out: mixed + "/images/two.nii.gz"}, Output{})
	require.NoError(t, err)
	head, err := image.Header(mixed + "/images/two.nii.gz")
	require.NoError(t, err)
	require.NoError(t, image.Write(mixed+"/labels/one.nii.gz", head.Size[:3], head.Geometry, want, 1))
	data, err := os.ReadFile(archive + "/p16/stars-square.dcm")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(mixed+"/labels/two.dcm", data, 0o666))
	c.Cases = mixed
	list, log, err := foundCases(t, c, four)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Contains(t, log, "WARNING: cases one and two have the same image")
	for _, one := range list {
		_, _, seg, err := c.readAdaptCase(one, four)
		require.NoError(t, err)
		require.Equal(t, want, seg.Pixels, one.Case)
	}
	c.ROIs = nil
	list, _, err = foundCases(t, c, four)
	require.ErrorContains(t, err, "say with --roi NAME=PATTERN which are labels")
	require.Empty(t, caseOf(t, list, "one").Problems)
	c.ROIs = []string{"a=.* a"}
	require.NoError(t, os.Remove(mixed+"/images/one"))
	require.NoError(t, os.Symlink(pool+"/all", mixed+"/images/one")) // two series, and a label map says nothing
	_, _, err = foundCases(t, c, four)
	require.ErrorContains(t, err, "one holds 2 image stacks, and which one is meant is not known: put each series")
	slice, err := filepath.Glob(archive + "/p17/ct/*")
	require.NoError(t, err)
	data, err = os.ReadFile(slice[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(mixed+"/labels/two.dcm", data, 0o666))
	_, _, err = foundCases(t, c, four)
	require.ErrorContains(t, err, "two.dcm is DICOM, but no RTSTRUCT and no SEG")
	data, err = os.ReadFile(archive + "/p17/stars-rotated.dcm")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(mixed+"/labels/two.dcm", data, 0o666))
	require.NoError(t, os.Remove(mixed+"/images/two.nii.gz"))
	require.NoError(t, os.Symlink(archive+"/p16/ct", mixed+"/images/two"))
	_, _, err = foundCases(t, c, four)
	require.ErrorContains(t, err, "refers to another series and another frame of reference")
	require.ErrorContains(t, err, "are flags of lntorch image convert, which makes files of such series and labels")
	c.ROIs = []string{"a=nothing"}
	_, _, err = foundCases(t, c, four)
	require.ErrorContains(t, err, `no name of a ROI matches "nothing"; there are `)
}

// crowded is a reader that counts how many images are read at the same time.
type crowded struct {
	images.Reader
	now, most atomic.Int64
}

func (r *crowded) Read(channels []string) (*volume.Image, *images.Properties, error) {
	n := r.now.Add(1)
	defer r.now.Add(-1)
	for most := r.most.Load(); n > most && !r.most.CompareAndSwap(most, n); most = r.most.Load() {
	}
	time.Sleep(20 * time.Millisecond)
	return r.Reader.Read(channels)
}

// Cases are read side by side only as far as there is memory for them.
func TestCasesAreCheckedWithinTheMemory(t *testing.T) {
	root := t.TempDir()
	pairs(t, root, "c", 6, 0)
	need := estimateCase(&AdaptCase{Image: []string{root + "/images/c1.nii.gz"}, Label: root + "/labels/c1.nii.gz"})
	require.Equal(t, int64(caseVoxels*(2*2+2)+caseVoxels*(2+2)), need)
	for ram, most := range map[float64]int64{1e-9: 1, float64(2*need+1) / (1 << 30): 2, 0: 6} {
		m := aModel(t, "")
		r := &crowded{Reader: m.Reader}
		m.Reader = r
		c := casesConfig(root)
		c.Workers, c.MaxRAM = 6, ram
		list, _, err := foundCases(t, c, m)
		require.NoError(t, err)
		require.Len(t, list, 6)
		require.Equal(t, 2, list[0].Nodes)
		if ram > 0 {
			require.Equal(t, most, r.most.Load(), "%g GiB", ram)
		} else {
			require.Greater(t, r.most.Load(), int64(2))
		}
	}
}

// counting stops the check of cases while it is at work.
type counting struct {
	stop context.CancelFunc
	done *atomic.Int64
}

func (c counting) Begin(string, int) {}
func (c counting) End()              {}
func (c counting) Done(int, string) {
	if c.done.Add(1) == 2 {
		c.stop()
	}
}

func TestTheCheckOfCasesStops(t *testing.T) {
	root := t.TempDir()
	pairs(t, root, "c", 12, 0)
	ctx, stop := context.WithCancel(t.Context())
	progress := counting{stop, &atomic.Int64{}}
	c := casesConfig(root)
	c.Workers = 1
	_, err := findAdaptCases(ctx, c, aModel(t, ""), Output{Progress: progress})
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, progress.done.Load(), int64(12))
}

// Names of files reach the terminal without what it obeys, and hidden or hostile ones end in messages.
func TestHostileNamesOfCases(t *testing.T) {
	root := t.TempDir()
	name := "a\x1b[31m<script>\n$(x)"
	put(t, root+"/images/"+name+".nii.gz", scanOf(1), nil)
	put(t, root+"/labels/"+name+".nii.gz", nodesLabelled(0), nil)
	require.NoError(t, os.Symlink(".", root+"/images/loop"))
	require.NoError(t, os.Symlink("pipe.nii.gz", root+"/images/pipe.nii.gz"))
	put(t, root+"/labels/pipe.nii.gz", nodesLabelled(1), nil)
	require.NoError(t, syscall.Mkfifo(root+"/images/fifo.nii.gz", 0o600))
	put(t, root+"/labels/fifo.nii.gz", nodesLabelled(2), nil)
	require.NoError(t, syscall.Mkfifo(root+"/labels/IM0001", 0o600))
	c := casesConfig(root)
	c.SkipBad = true
	list, log, err := foundCases(t, c, aModel(t, ""))
	require.NoError(t, err)
	require.Equal(t, name, list[0].Case)
	require.NotContains(t, log, "\x1b")
	var table bytes.Buffer
	require.NoError(t, writeAdaptTable(&table, list))
	require.NotContains(t, table.String(), "\x1b")
	require.Len(t, strings.Split(strings.TrimSpace(table.String()), "\n"), 6)
	require.Len(t, caseOf(t, list, "fifo").Problems, 1)
}

// Size, spacing, nodes and volumes are SimpleITK's and SciPy's (label, with a full 3³ structure).
func TestLiveCasesAreMeasuredAsBySciPy(t *testing.T) {
	golden.Python(t)
	root := filepath.Join(t.TempDir(), "Dataset001_X")
	r := rand.New(rand.NewPCG(4, 4))
	dataset := `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph_node": 1}, "numTraining": 3, "file_ending": ".nii.gz"}`
	for i := range 3 {
		p := make(volume.Slice[uint8], caseVoxels)
		for k := range p {
			p[k] = uint8(max(0, r.IntN(12)-10))
		}
		put(t, fmt.Sprintf("%s/imagesTr/c%d_0000.nii.gz", root, i), scanOf(i), nil)
		put(t, fmt.Sprintf("%s/labelsTr/c%d.nii.gz", root, i), p, nil)
	}
	require.NoError(t, os.WriteFile(root+"/dataset.json", []byte(dataset), 0o666))
	var want struct {
		Cases map[string]struct {
			Size, Spacing []float64
			Components    []struct{ Label, Voxels int }
		}
	}
	require.NoError(t, json.Unmarshal(golden.Run(t, "phantom_dataset.py", root), &want))
	list, _, err := foundCases(t, casesConfig(root), aModel(t, ""))
	require.NoError(t, err)
	require.Len(t, list, 3)
	for _, c := range list {
		w := want.Cases[c.Case]
		require.NotEmpty(t, w.Components)
		voxels := 0
		for _, n := range w.Components {
			voxels += n.Voxels
		}
		require.Equal(t, len(w.Components), c.Nodes)
		require.InDelta(t, float64(voxels)*w.Spacing[0]*w.Spacing[1]*w.Spacing[2]/1000, c.ML, 1e-9)
		for i := range 3 {
			require.Equal(t, w.Size[i], float64(c.Size[2-i]))
			require.Equal(t, w.Spacing[i], c.Spacing[2-i])
		}
	}
}
