package preprocess

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// content returns every file below a folder.
func content(t testing.TB, folder string) map[string]string {
	m := map[string]string{}
	require.NoError(t, filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		m[path] = string(b)
		return err
	}))
	return m
}

func write(t testing.TB, folder, name, text string) {
	require.NoError(t, os.MkdirAll(folder, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o666))
}

// theirs is a file that nnU-Net 2.5.1 wrote for LN_000.
func theirs(t testing.TB, ending string) string {
	b, err := os.ReadFile(filepath.Join(mini, "preprocessed/Dataset101_PhantomSource/nnUNetPlans_3d_fullres/LN_000"+ending))
	require.NoError(t, err)
	return string(b)
}

func TestFoldersOfOtherProgramsAreNotTouched(t *testing.T) {
	npz, pkl := theirs(t, ".npz"), theirs(t, ".pkl")
	for name, c := range map[string]struct {
		files   map[string]string
		ours    bool // beside cases of lntorch
		maker   Maker
		message string
	}{
		"nnU-Net 2.6":                   {map[string]string{"LN_000.b2nd": "", "LN_000_seg.b2nd": "", "LN_000.pkl": pkl}, false, NNUNetBlosc2, "holds cases preprocessed by nnU-Net 2.6 or newer (such as LN_000.b2nd)"},
		"nnU-Net 2.5":                   {map[string]string{"LN_000.npz": npz, "LN_000.pkl": pkl}, false, NNUNet, "holds cases preprocessed by nnU-Net, not by lntorch (such as LN_000.npz); nothing was changed: train can use them as they are"},
		"nnU-Net 2.5 without .pkl":      {map[string]string{"LN_000.npz": npz}, false, NNUNet, "LN_000.npz"},
		"nnU-Net 2.5, other cases":      {map[string]string{"old.npz": npz, "old.pkl": pkl}, false, NNUNet, "old.npz"},
		"nnU-Net 2.5, unpacked":         {map[string]string{"LN_000.npz": npz, "LN_000.pkl": pkl, "LN_000.npy": "", "LN_000_seg.npy": ""}, false, NNUNet, "LN_000.npz"},
		"nnU-Net 2.5, truncated":        {map[string]string{"LN_000.npz": npz[:1000], "LN_000.pkl": pkl}, false, Unknown, "LN_000.npz"},
		"a future program":              {map[string]string{"LN_000.b3nd": "", "LN_000.pkl": pkl}, false, Unknown, "holds files that were not written by lntorch (such as LN_000.pkl)"},
		"another program":               {map[string]string{"LN_000.zarr": ""}, false, Unknown, "LN_000.zarr"},
		"empty files":                   {map[string]string{"LN_000.npz": "", "LN_000.pkl": ""}, false, Unknown, "LN_000.npz"},
		"a lone .npy":                   {map[string]string{"LN_000.npy": ""}, false, Unknown, "LN_000.npy"},
		"a mixture":                     {map[string]string{"LN_000.npz": npz, "LN_000.pkl": pkl}, true, NNUNet, "(such as LN_000.npz, beside 4 cases of lntorch)"},
		"what older versions left over": {map[string]string{"LN_000.b2nd": "", "LN_000_seg.b2nd": ""}, true, NNUNetBlosc2, "beside 5 cases of lntorch"},
		"a lone .pkl":                   {map[string]string{"new.pkl": pkl}, true, Unknown, "new.pkl"},
	} {
		t.Run(name, func(t *testing.T) {
			j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
			if c.ours {
				_, err := j.Run(t.Context())
				require.NoError(t, err)
			}
			for file, text := range c.files {
				write(t, j.Folder, file, text)
			}
			before := content(t, filepath.Dir(j.Folder))
			for _, j.Clean = range []bool{false, true} {
				s, err := j.Run(t.Context())
				require.ErrorContains(t, err, j.Folder+" holds ")
				require.ErrorContains(t, err, c.message)
				require.ErrorContains(t, err, "delete or rename the folder yourself")
				require.Equal(t, Summary{}, s)
				require.Equal(t, before, content(t, filepath.Dir(j.Folder)))
			}
			o, err := FindOwner(j.Folder)
			require.NoError(t, err)
			require.Equal(t, c.maker, o.Maker)
		})
	}
}

func TestLntorchKnowsItsOwn(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	o, err := FindOwner(j.Folder)
	require.NoError(t, err)
	require.Equal(t, Nobody, o.Maker)
	write(t, j.Folder, ".DS_Store", "")
	write(t, j.Folder, ".nfs0123", "")
	o, err = FindOwner(j.Folder)
	require.NoError(t, err)
	require.Equal(t, Nobody, o.Maker)
	require.NoError(t, o.Refusal())
	_, err = j.Run(t.Context())
	require.NoError(t, err)
	write(t, j.Folder, "notes.txt", "mine")
	s, err := j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5, s.Kept)

	// A run that was killed before it wrote its first .npz, and one of an earlier version.
	own, err := os.ReadFile(filepath.Join(j.Folder, "LN_001.pkl"))
	require.NoError(t, err)
	at := bytes.LastIndex(own, []byte("\n"+keyPrefix))
	require.Positive(t, at)
	for _, text := range []string{string(own), string(own[:at]), string(own[:100])} {
		folder := t.TempDir()
		write(t, folder, "LN_001.pkl", text)
		o, err = FindOwner(folder)
		require.NoError(t, err)
		require.Equal(t, Owner{Maker: Lntorch, Folder: folder, Ours: []string{"LN_001"}, keys: map[string]string{}}, o)
	}

	// Cases of an earlier version are kept.
	for _, c := range j.Dataset.Cases {
		path := filepath.Join(j.Folder, c.ID+".pkl")
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		write(t, j.Folder, c.ID+".pkl", string(b[:bytes.LastIndex(b, []byte("\n"+keyPrefix))]))
	}
	s, err = j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5, s.Kept)
	write(t, j.Folder, "LN_000.npy", "unpacked")
	write(t, j.Folder, "LN_000_seg.npy", "unpacked")
	o, err = FindOwner(j.Folder)
	require.NoError(t, err)
	require.Equal(t, Lntorch, o.Maker)
	j.Clean = true
	s, err = j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5, s.Made)
	require.FileExists(t, filepath.Join(j.Folder, "notes.txt"))
	require.NoFileExists(t, filepath.Join(j.Folder, "LN_000.npy"))
}

// An empty or unmounted imagesTr does not remove cases.
func TestCasesAreNotRemovedForMissingImages(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	_, err := j.Run(t.Context())
	require.NoError(t, err)
	all := j.Dataset.Cases
	before := content(t, j.Folder)
	refused := func(message string) {
		t.Helper()
		s, err := j.Run(t.Context())
		require.ErrorContains(t, err, message)
		require.ErrorContains(t, err, "LN_000, LN_001, LN_002, LN_003, LN_004")
		require.ErrorContains(t, err, "mounted?")
		require.Empty(t, s.Removed)
		require.Equal(t, before, content(t, j.Folder))
	}
	j.Dataset.Cases = nil
	refused(j.Dataset.Folder + " has no training case, but 5 cases are preprocessed in " + j.Folder)
	j.Clean = true
	refused("has no training case")
	j.Clean = false
	other := all[0]
	other.ID = "another"
	j.Dataset.Cases = all[:0:0]
	j.Dataset.Cases = append(j.Dataset.Cases, other)
	refused("has 1 other cases, but 5 cases are preprocessed")

	var log strings.Builder
	j.Log = &log
	j.Dataset.Cases = all[2:]
	s, err := j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"LN_000", "LN_001"}, s.Removed)
	require.Equal(t, "WARNING: removing 2 preprocessed cases that the dataset no longer has: LN_000, LN_001\n", log.String())
	require.Len(t, files(t, j.Folder), 6)

	j.Dataset.Cases, j.Clean = append(all[:0:0], other), true // an explicit clean start
	s, err = j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"LN_002", "LN_003", "LN_004"}, s.Removed)
	require.Equal(t, []string{"another.npz", "another.pkl"}, files(t, j.Folder))

	empty := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	empty.Dataset.Cases = nil
	_, err = empty.Run(t.Context())
	require.ErrorContains(t, err, "no training case: expected files named CASE_0000.nii.gz in "+filepath.Join(empty.Dataset.Folder, "imagesTr"))
	require.NoDirExists(t, empty.Folder)
}
