package preprocess

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
	"github.com/stretchr/testify/require"
)

const mini = "../../testdata/phantom-mini"

// job preprocesses a dataset of phantom-mini with the plans of that name.
func job(t testing.TB, dataset, plansName, configuration string) *Job {
	root := filepath.Join(t.TempDir(), "raw")
	require.NoError(t, os.CopyFS(filepath.Join(root, dataset), os.DirFS(filepath.Join(mini, "raw", dataset))))
	d, err := raw.Open(root, dataset)
	require.NoError(t, err)
	p, err := plans.Load(filepath.Join(mini, "preprocessed", dataset, plansName+".json"))
	require.NoError(t, err)
	c, err := p.Configuration(configuration)
	require.NoError(t, err)
	s, err := NewSettings(p, c, d.JSON)
	require.NoError(t, err)
	r, err := images.ForName(p.ImageReaderWriter)
	require.NoError(t, err)
	return &Job{Dataset: d, Reader: r, Settings: s, Folder: filepath.Join(t.TempDir(), dataset, c.DataIdentifier), Workers: 2, Threads: 1}
}

// files lists the files in a folder.
func files(t testing.TB, folder string) []string {
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Every case of phantom-mini, compared with the files that nnUNetv2_preprocess wrote.
func TestDatasetsAreNnUNets(t *testing.T) {
	for _, d := range []struct{ dataset, plans, configuration string }{
		{"Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres"}, {"Dataset102_PhantomTarget", "nnUNetPlansSource", "3d_phantom"},
	} {
		j := job(t, d.dataset, d.plans, d.configuration)
		j.Threads = 2
		s, err := j.Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, len(j.Dataset.Cases), s.Made)
		want := filepath.Join(mini, "preprocessed", d.dataset, filepath.Base(j.Folder))
		for _, c := range j.Dataset.Cases {
			a, b := open(t, filepath.Join(want, c.ID+".npz")), open(t, filepath.Join(j.Folder, c.ID+".npz"))
			require.Equal(t, a.Names(), b.Names())
			x, err := array(t, a, "data").Float32s()
			require.NoError(t, err)
			y, err := array(t, b, "data").Float32s()
			require.NoError(t, err)
			require.Equal(t, array(t, a, "data").Shape, array(t, b, "data").Shape)
			require.Equal(t, x, y, c.ID)
			require.Equal(t, array(t, a, "seg"), array(t, b, "seg"), c.ID)
			samePickle(t, c.ID, readPickle(t, filepath.Join(want, c.ID+".pkl")), readPickle(t, filepath.Join(j.Folder, c.ID+".pkl")))
			reference, err := os.Stat(filepath.Join(want, c.ID+".npz"))
			require.NoError(t, err)
			ours, err := os.Stat(filepath.Join(j.Folder, c.ID+".npz"))
			require.NoError(t, err)
			require.Less(t, float64(ours.Size()), 1.15*float64(reference.Size()), c.ID)
			copied, err := os.ReadFile(filepath.Join(filepath.Dir(j.Folder), "gt_segmentations", c.ID+".nii.gz"))
			require.NoError(t, err)
			label, err := os.ReadFile(c.Label)
			require.NoError(t, err)
			require.Equal(t, label, copied)
		}
	}
}

func TestRunAgainMakesOnlyWhatChanged(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	n := len(j.Dataset.Cases)
	s, err := j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, Summary{Made: n, Times: s.Times}, s)
	again := func() (made, kept int, removed []string) {
		s, err := j.Run(t.Context())
		require.NoError(t, err)
		return s.Made, s.Kept, s.Removed
	}
	made, kept, _ := again()
	require.Equal(t, []int{0, n}, []int{made, kept})

	// A new time is no change; new content is.
	c := j.Dataset.Cases
	require.NoError(t, os.Chtimes(c[0].Images[0], time.Now(), time.Now()))
	made, _, _ = again()
	require.Zero(t, made)
	first, err := os.ReadFile(c[0].Label)
	require.NoError(t, err)
	other, err := os.ReadFile(c[2].Label)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(c[1].Label, other, 0o666))
	if image, err := os.ReadFile(c[2].Images[0]); err == nil {
		require.NoError(t, os.WriteFile(c[1].Images[0], image, 0o666))
	}
	require.NoError(t, os.WriteFile(filepath.Join(j.Folder, c[1].ID+".npy"), nil, 0o666)) // as training unpacks it
	require.NoError(t, os.WriteFile(filepath.Join(j.Folder, c[1].ID+"_seg.npy"), nil, 0o666))
	made, kept, _ = again()
	require.Equal(t, []int{1, n - 1}, []int{made, kept})
	require.NotContains(t, files(t, j.Folder), c[1].ID+".npy")
	require.NotContains(t, files(t, j.Folder), c[1].ID+"_seg.npy")
	require.Equal(t, array(t, open(t, filepath.Join(j.Folder, c[2].ID+".npz")), "data"), array(t, open(t, filepath.Join(j.Folder, c[1].ID+".npz")), "data"))

	// The label belongs to the case, too.
	label, err := os.ReadFile(c[4].Label)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(c[0].Label, label, 0o666))
	s, err = j.Run(t.Context())
	if err == nil {
		require.Equal(t, 1, s.Made)
	} else { // another shape
		require.ErrorContains(t, err, "expected one channel of the same size")
		require.Equal(t, []string{c[0].ID}, s.Failed)
	}
	require.NoError(t, os.WriteFile(c[0].Label, first, 0o666))
	require.NoError(t, os.Remove(filepath.Join(j.Folder, c[0].ID+".npz")))
	made, _, _ = again()
	require.Equal(t, 1, made)

	// Incomplete cases, and those of another program, are preprocessed again.
	require.NoError(t, os.Remove(filepath.Join(j.Folder, c[0].ID+".pkl")))
	require.NoError(t, os.WriteFile(filepath.Join(j.Folder, c[3].ID+".npz"), []byte("x"), 0o666))
	made, _, _ = again()
	require.Equal(t, 2, made)

	// New settings change all cases.
	j.Settings.Schemes[0].Mean++
	made, _, _ = again()
	require.Equal(t, n, made)

	j.Dataset.Cases = c[1:]
	made, kept, removed := again()
	require.Equal(t, []int{0, n - 1}, []int{made, kept})
	require.Equal(t, []string{c[0].ID}, removed)
	for _, name := range files(t, j.Folder) {
		require.False(t, strings.HasPrefix(name, c[0].ID), name)
	}
}

func TestABadCaseDoesNotLoseTheOthers(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	c := j.Dataset.Cases
	whole, err := os.ReadFile(c[1].Images[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(c[1].Images[0], whole[:len(whole)/2], 0o666))
	require.NoError(t, os.Remove(c[3].Label))
	s, err := j.Run(t.Context())
	require.ErrorContains(t, err, "2 of 5 cases failed")
	require.ErrorContains(t, err, c[1].ID)
	require.ErrorContains(t, err, c[3].ID)
	require.Equal(t, 3, s.Made)
	require.ElementsMatch(t, []string{c[1].ID, c[3].ID}, s.Failed)
	require.Len(t, files(t, j.Folder), 6)
}

func TestFractionsAsLabelsNameTheFile(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	c := j.Dataset.Cases[0]
	f, err := nifti.Read(c.Label)
	require.NoError(t, err)
	p := volume.Slice[float32](volume.Cast[float32](f.Pixels))
	p[17] = 0.5
	f.Type = "float32"
	require.NoError(t, nifti.Write(c.Label, &f.Header, p, 1))
	_, err = j.Case(t.Context(), c)
	require.EqualError(t, err, c.Label+": found the value 0.5 in the labels, expected whole numbers from 0 to 32767: export the segmentation with integer labels; "+
		"if rounding is intended, use lntorch image convert --type int16 --round")
}

func TestAnInterruptedRunKeepsCompleteFilesAndResumes(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	j.Workers = 1
	ctx, cancel := context.WithCancel(t.Context())
	j.Progress = progress(func(n int) {
		if n == 2 {
			cancel()
		}
	})
	s, err := j.Run(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 2, s.Made)
	for _, name := range files(t, j.Folder) {
		require.False(t, strings.HasPrefix(name, "."), name)
	}
	require.NoError(t, os.WriteFile(filepath.Join(j.Folder, ".LN_004.npz.00000000.tmp"), nil, 0o666)) // left by a killed process
	j.Progress = nil
	s, err = j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{3, 2}, []int{s.Made, s.Kept})
	require.Len(t, files(t, j.Folder), 10)
}

type progress func(n int)

func (p progress) Begin(string, int)    {}
func (p progress) Done(n int, _ string) { p(n) }
func (p progress) End()                 {}

func TestCopyNewerCopiesWhatIsNewer(t *testing.T) {
	folder := t.TempDir()
	from, to := filepath.Join(folder, "from"), filepath.Join(folder, "to")
	write := func(path, text string, age time.Duration) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		require.NoError(t, os.Chtimes(path, time.Now(), time.Now().Add(-age)))
	}
	read := func() string {
		b, err := os.ReadFile(to)
		require.NoError(t, err)
		return string(b)
	}
	write(from, "a", time.Hour)
	require.NoError(t, CopyNewer(from, to))
	require.Equal(t, "a", read())
	write(from, "b", time.Hour*2)
	require.NoError(t, CopyNewer(from, to))
	require.Equal(t, "a", read(), "it is older")
	write(from, "c", time.Minute)
	require.NoError(t, CopyNewer(from, to))
	require.Equal(t, "c", read())
	require.ErrorIs(t, CopyNewer(filepath.Join(folder, "none"), to), os.ErrNotExist)
}

// Cases wait for memory; one that exceeds the bound runs alone.
func TestMaxRAMBoundsTheCasesAtWork(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	need := j.estimate(j.Dataset.Cases[0])
	require.Greater(t, need, int64(64<<20))
	require.Less(t, need, int64(80<<20))
	j.Workers, j.MaxRAM = 4, 1
	s, err := j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5, s.Made)
}

func TestSettingsRefuseWhatIsNotSupported(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(goldens, "cases.json"))
	require.NoError(t, err)
	v, err := plans.DecodeJSON(text)
	require.NoError(t, err)
	doc, _ := v.([]any)[0].(*plans.Object).Get("plans")
	data, _ := v.([]any)[0].(*plans.Object).Get("dataset")
	dataset, err := plans.DatasetFromObject(data.(*plans.Object), "dataset.json")
	require.NoError(t, err)
	plain, err := plans.EncodeJSON(doc, -1, false)
	require.NoError(t, err)
	for _, c := range []struct{ old, new, message string }{
		{`"DefaultPreprocessor"`, `"MyPreprocessor"`, "preprocessor MyPreprocessor is not supported"},
		{`"transpose_forward": [0, 1, 2]`, `"transpose_forward": [0, 1, 1]`, "expected a permutation of 0, 1, 2"},
		{`"order": 3`, `"order": 2`, "orders 0, 1 and (images) 3"},
		{`"order_z": 0`, `"order_z": 2`, "order_z 2"},
		{`"is_seg": false`, `"is_seg": true`, "is_seg is true"},
		{`"resampling_fn_data": "resample_data_or_seg_to_shape"`, `"resampling_fn_data": "resample_torch_fornnunet"`, "resample_torch_fornnunet"},
		{`"order_z": 0`, `"odd": 0`, `keyword argument "odd"`},
		{`"use_mask_for_norm": [false]`, `"use_mask_for_norm": []`, "1 normalization_schemes and 0 use_mask_for_norm"},
		{`"mean": 61.25, `, ``, "CTNormalization needs mean"},
		{`"spacing": [1.4,`, `"spacing": [-1.4,`, "positive"},
	} {
		changed := bytes.Replace(plain, []byte(c.old), []byte(c.new), 1)
		require.NotEqual(t, plain, changed, c.old)
		v, err := plans.DecodeJSON(changed)
		require.NoError(t, err)
		p, err := plans.FromObject(v.(*plans.Object), "plans")
		require.NoError(t, err)
		configuration, err := p.Configuration("c")
		require.NoError(t, err)
		_, err = NewSettings(p, configuration, dataset)
		require.ErrorContains(t, err, c.message)
	}
}

// From files to files, with every reader class: compared with nnU-Net on the same raw datasets.
func TestLiveDatasetsAreNnUNets(t *testing.T) {
	out := t.TempDir()
	var list []struct{ Dataset, Plans, Configuration string }
	require.NoError(t, json.Unmarshal(golden.Run(t, "preprocess_datasets.py", out), &list))
	require.Greater(t, len(list), 5)
	for _, l := range list {
		reference := filepath.Join(out, "preprocessed", l.Dataset)
		d, err := raw.Open(filepath.Join(out, "raw"), l.Dataset)
		require.NoError(t, err)
		p, err := plans.Load(filepath.Join(reference, l.Plans+".json"))
		require.NoError(t, err)
		c, err := p.Configuration(l.Configuration)
		require.NoError(t, err)
		s, err := NewSettings(p, c, d.JSON)
		require.NoError(t, err)
		r, err := images.ForName(p.ImageReaderWriter)
		require.NoError(t, err)
		j := Job{Dataset: d, Reader: r, Settings: s, Folder: filepath.Join(t.TempDir(), l.Dataset, c.DataIdentifier), Workers: 2, Threads: 2}
		_, err = j.Run(t.Context())
		require.NoError(t, err)
		compareFolders(t, filepath.Join(reference, c.DataIdentifier), j.Folder, d)
		require.Equal(t, files(t, filepath.Join(reference, "gt_segmentations")), files(t, filepath.Join(filepath.Dir(j.Folder), "gt_segmentations")))
	}
}

// compareFolders compares all cases.
func compareFolders(t *testing.T, want, got string, d *raw.Dataset) {
	t.Helper()
	require.Equal(t, files(t, want), files(t, got))
	for _, c := range d.Cases {
		where := filepath.Join(want, c.ID)
		a, b := open(t, where+".npz"), open(t, filepath.Join(got, c.ID+".npz"))
		require.Equal(t, a.Names(), b.Names())
		x, err := array(t, a, "data").Float32s()
		require.NoError(t, err)
		y, err := array(t, b, "data").Float32s()
		require.NoError(t, err)
		require.Equal(t, array(t, a, "data").Shape, array(t, b, "data").Shape, where)
		most, at := difference(x, y)
		require.LessOrEqual(t, most, 1e-5, "%s: voxel %d: %v, expected %v", where, at, y[at], x[at])
		require.Equal(t, array(t, a, "seg").DType, array(t, b, "seg").DType, where)
		u, err := array(t, a, "seg").Int16s()
		require.NoError(t, err)
		v, err := array(t, b, "seg").Int16s()
		require.NoError(t, err)
		require.Equal(t, u, v, where)
		samePickle(t, where, readPickle(t, where+".pkl"), readPickle(t, filepath.Join(got, c.ID+".pkl")))
	}
}
