package phantom

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/internal/golden"
)

// tiny is a dataset that takes a second.
func tiny() *Dataset {
	return &Dataset{
		ID: 7, Name: "Tiny", Cases: 2, TestCases: 1, Domain: "source", Size: "small", Seed: 5, Threads: 2,
		Shape: &[3]int{30, 50, 56}, Spacing: &[3]float64{5, 4, 3.5},
	}
}

func TestDatasetHasNnUNetsLayout(t *testing.T) {
	raw := filepath.Join(t.TempDir(), "raw")
	d := tiny()
	done := 0
	s, err := d.Write(context.Background(), raw, false, func(n int, c *Case, r *Record) error {
		done++
		require.Equal(t, done, n)
		require.Equal(t, c.Shape, r.Shape)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 3, done)
	require.Equal(t, filepath.Join(raw, "Dataset007_Tiny"), s.Folder)
	var files []string
	require.NoError(t, filepath.Walk(raw, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			rel, _ := filepath.Rel(s.Folder, path)
			files = append(files, rel)
		}
		return err
	}))
	sort.Strings(files)
	require.Equal(t, []string{
		"README.md", "dataset.json", "imagesTr/LN_000_0000.nii.gz", "imagesTr/LN_001_0000.nii.gz", "imagesTs/LN_002_0000.nii.gz",
		"labelsTr/LN_000.nii.gz", "labelsTr/LN_001.nii.gz", "labelsTs/LN_002.nii.gz", "phantom.json",
	}, files)
	j, err := plans.LoadDataset(filepath.Join(s.Folder, "dataset.json"))
	require.NoError(t, err)
	require.Equal(t, []string{"CT"}, j.ChannelNames)
	n, err := j.NumTraining()
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, ".nii.gz", j.FileEnding)
	require.Equal(t, []int{1}, j.Labels.ForegroundLabels)
	require.Equal(t, "lymph_node", j.Labels.Entries[1].Name)
	for _, name := range []string{"dataset.json", "phantom.json", "README.md"} {
		text, err := os.ReadFile(filepath.Join(s.Folder, name))
		require.NoError(t, err)
		require.Contains(t, string(text), "not evidence about patients")
	}
	text, err := os.ReadFile(filepath.Join(s.Folder, "phantom.json"))
	require.NoError(t, err)
	var stored Summary
	require.NoError(t, json.Unmarshal(text, &stored))
	require.Equal(t, *s, stored)

	// The files contain what Make returns.
	configs, err := d.Configs()
	require.NoError(t, err)
	k := mustMake(t, configs[2], false)
	f, err := nifti.Read(filepath.Join(s.Folder, "imagesTs", "LN_002_0000.nii.gz"))
	require.NoError(t, err)
	require.EqualValues(t, k.CT, f.Pixels)
	require.Equal(t, []int{56, 50, 30}, f.Dim)
	f, err = nifti.Read(filepath.Join(s.Folder, "labelsTs", "LN_002.nii.gz"))
	require.NoError(t, err)
	require.EqualValues(t, k.Labels, f.Pixels)
}

func TestDatasetIsNeverHalfWrittenOrOverwritten(t *testing.T) {
	raw := t.TempDir()
	d := tiny()
	d.TestCases = 0
	ctx, cancel := context.WithCancel(context.Background())
	_, err := d.Write(ctx, raw, false, func(int, *Case, *Record) error { cancel(); return nil })
	require.ErrorIs(t, err, context.Canceled)
	stop := errors.New("stop")
	_, err = d.Write(context.Background(), raw, false, func(int, *Case, *Record) error { return stop })
	require.ErrorIs(t, err, stop)
	left, err := os.ReadDir(raw)
	require.NoError(t, err)
	require.Empty(t, left)

	s, err := d.Write(context.Background(), raw, false, nil)
	require.NoError(t, err)
	mark := filepath.Join(s.Folder, "mine.txt")
	require.NoError(t, os.WriteFile(mark, nil, 0o644))
	_, err = d.Write(context.Background(), raw, false, nil)
	var exists *Exists
	require.ErrorAs(t, err, &exists)
	require.Equal(t, s.Folder, exists.Folder)
	require.FileExists(t, mark)
	_, err = d.Write(context.Background(), raw, true, nil)
	require.NoError(t, err)
	require.NoFileExists(t, mark)
	left, err = os.ReadDir(raw)
	require.NoError(t, err)
	require.Len(t, left, 1)

	d.Name = "Other"
	_, err = d.Write(context.Background(), raw, true, nil)
	require.ErrorContains(t, err, "Dataset007_Tiny already has the number 7: nnU-Net needs unique numbers")
}

func TestDomainsDiffer(t *testing.T) {
	for _, size := range Sizes {
		byDomain := map[string][]Config{}
		for _, name := range Domains {
			d := Dataset{ID: 1, Name: "X", Cases: 60, Domain: name, Size: size, Seed: 1}
			configs, err := d.Configs()
			require.NoError(t, err)
			byDomain[name] = configs
		}
		median := func(domain string, f func(Config) float64) float64 {
			var v []float64
			for _, c := range byDomain[domain] {
				v = append(v, f(c))
			}
			slices.Sort(v)
			return v[len(v)/2]
		}
		for name, f := range map[string]func(Config) float64{
			"noise": func(c Config) float64 { return c.Noise }, "metals": func(c Config) float64 { return float64(c.Metals) },
			"voxel": func(c Config) float64 { return c.Spacing[0] * c.Spacing[1] * c.Spacing[2] },
		} {
			require.Less(t, median("source", f), median("target", f), name)
		}
		require.Greater(t, median("source", func(c Config) float64 { return c.ShortAxis }), median("target", func(c Config) float64 { return c.ShortAxis }))
		count := func(domain string, p Phase) (n int) {
			for _, c := range byDomain[domain] {
				if c.Phase == p {
					n++
				}
			}
			return n
		}
		require.Greater(t, count("source", PhaseVenous), 30)
		require.Zero(t, count("source", PhaseArterial))
		require.Zero(t, count("target", PhaseVenous))
		require.Greater(t, count("target", PhaseArterial), 15)
		require.Greater(t, count("target", PhaseNone), 15)
		for _, s := range byDomain["source"] {
			require.Equal(t, KernelSoft, s.Kernel)
			for _, u := range byDomain["target"] {
				require.NotEqual(t, s.Spacing, u.Spacing)
				require.NotEqual(t, s.Seed, u.Seed, "the domains share a patient")
			}
		}
		require.Equal(t, KernelSharp, byDomain["target"][0].Kernel)
	}
	// And so do the images: the target's nodes are smaller, its noise is stronger and finer.
	size := map[string]float64{}
	for _, name := range Domains {
		d := Dataset{ID: 1, Name: "X", Cases: 4, Domain: name, Size: "small", Seed: 3, Threads: 2}
		configs, err := d.Configs()
		require.NoError(t, err)
		var short []float64
		for _, c := range configs {
			for _, m := range mustMake(t, c, false).Found {
				short = append(short, m.Axes[0])
			}
		}
		slices.Sort(short)
		size[name] = short[len(short)/2]
	}
	require.Greater(t, size["source"], size["target"]+1)
}

func TestOptionsOverrideOnlyTheirField(t *testing.T) {
	plain := Dataset{ID: 1, Name: "X", Cases: 5, Domain: "target", Size: "full", Seed: 9}
	want, err := plain.Configs()
	require.NoError(t, err)
	noise, axis, metals := 3.5, 11.0, 0
	d := plain
	d.Noise, d.ShortAxis, d.Metals, d.Phase, d.Kernel, d.Nodes, d.Levels = &noise, &axis, &metals, PhaseVenous, KernelMedium, &[2]int{1, 2}, true
	got, err := d.Configs()
	require.NoError(t, err)
	for i := range want {
		w := want[i]
		w.Noise, w.ShortAxis, w.Metals, w.Phase, w.Kernel, w.Nodes, w.Levels = 3.5, 11, 0, PhaseVenous, KernelMedium, [2]int{1, 2}, true
		require.Equal(t, w, got[i])
	}
	d = plain
	d.Spacing = &[3]float64{5, 2.344, 2.344} // twice the spacing: half the voxels
	got, err = d.Configs()
	require.NoError(t, err)
	for i := range want {
		require.InDelta(t, float64(want[i].Shape[0])/2, got[i].Shape[0], 0.51)
		require.Equal(t, 256, got[i].Shape[1])
	}
	// A case does not depend on the number of cases.
	d = plain
	d.Cases, d.TestCases = 2, 7
	got, err = d.Configs()
	require.NoError(t, err)
	require.Equal(t, want, got[:5])
}

func TestConfigErrorsAreExplicit(t *testing.T) {
	for want, change := range map[string]func(*Dataset){
		"id 1000: expected 1 to 999":                                   func(d *Dataset) { d.ID = 1000 },
		`name "a/b": expected letters, digits, - and _`:                func(d *Dataset) { d.Name = "a/b" },
		"0 cases and 0 test cases: expected 1 to 10000 and 0 to 10000": func(d *Dataset) { d.Cases, d.TestCases = 0, 0 },
		`domain "Source": expected source or target`:                   func(d *Dataset) { d.Domain = "Source" },
		`size "": expected small or full`:                              func(d *Dataset) { d.Size = "" },
		"shape [0 1 1]: expected 1 to 4096 voxels along z":             func(d *Dataset) { d.Shape = &[3]int{0, 1, 1} },
		"spacing [1 1 -1] mm: expected 0.05 to 20 along x":             func(d *Dataset) { d.Spacing, d.Shape = &[3]float64{1, 1, -1}, &[3]int{4, 4, 4} },
	} {
		d := tiny()
		change(d)
		_, err := d.Configs()
		require.ErrorContains(t, err, want)
	}
}

// TestLiveNnUNetAcceptsTheDataset runs nnU-Net's own check, SimpleITK and scipy.
func TestLiveNnUNetAcceptsTheDataset(t *testing.T) {
	golden.Python(t)
	for i, levels := range []bool{false, true} {
		d := Dataset{ID: 8 + i, Name: "Live", Cases: 2, TestCases: 1, Domain: Domains[i], Size: "small", Seed: 21, Levels: levels, Threads: 2}
		s, err := d.Write(context.Background(), t.TempDir(), false, nil)
		require.NoError(t, err)
		var got struct {
			Verified bool
			Cases    map[string]struct {
				Size, Spacing, Origin, Direction []float64
				Type, LabelType                  string
				Least, Most                      float64
				Components                       []struct {
					Label, Voxels int
				}
			}
		}
		require.NoError(t, json.Unmarshal(golden.Run(t, "phantom_dataset.py", s.Folder), &got))
		require.True(t, got.Verified)
		require.Len(t, got.Cases, 3)
		for _, r := range s.Cases {
			c := got.Cases[r.Case]
			require.Equal(t, []float64{float64(r.Shape[2]), float64(r.Shape[1]), float64(r.Shape[0])}, c.Size)
			require.InDeltaSlice(t, []float64{r.Spacing[2], r.Spacing[1], r.Spacing[0]}, c.Spacing, 1e-6)
			require.InDeltaSlice(t, r.Origin[:], c.Origin, 1e-3)
			require.Equal(t, []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}, c.Direction)
			require.Equal(t, "16-bit signed integer", c.Type)
			require.Equal(t, "8-bit unsigned integer", c.LabelType)
			require.GreaterOrEqual(t, c.Least, -1024.0)
			require.LessOrEqual(t, c.Least, -950.0)
			require.Greater(t, c.Most, 1000.0)
			var want, found []string
			for _, n := range r.Nodes {
				want = append(want, strconv.Itoa(n.Label)+":"+strconv.Itoa(n.Voxels))
			}
			for _, n := range c.Components {
				found = append(found, strconv.Itoa(n.Label)+":"+strconv.Itoa(n.Voxels))
			}
			require.ElementsMatch(t, want, found, r.Case)
		}
	}
}
