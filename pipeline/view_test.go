package pipeline

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/view"
)

// viewed returns what View says and serves of files, but for the pixels, and how many volumes it
// serves.
func viewed(t *testing.T, files ...string) (said string, volumes int) {
	t.Helper()
	var out bytes.Buffer
	c := settings.New[ViewConfig]()
	c.Image, c.Labels = files[0], files[1:]
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan string, 1)
	err := View(ctx, c, Output{Log: &out}, func(v Viewing) error {
		go func() {
			defer stop()
			var all bytes.Buffer
			for _, path := range []string{"", "scene.json", "volumes/0.nii", "volumes/1.nii"} {
				answer, err := http.Get(v.URL + path)
				if err != nil {
					break
				}
				body, _ := io.ReadAll(answer.Body)
				answer.Body.Close()
				if answer.StatusCode == http.StatusOK && filepath.Ext(path) == ".nii" {
					volumes++
					body = body[:352]
				}
				all.Write(body)
			}
			served <- all.String()
		}()
		return nil
	})
	if err != nil {
		return out.String() + err.Error(), 0
	}
	return out.String() + <-served, volumes
}

// No text of a DICOM file reaches the page, its volumes or a message: every text of the corpus is the
// marker.
func TestNoTextOfADICOMFileIsViewed(t *testing.T) {
	if err := view.Check(); err != nil {
		golden.Missing(t, "niivue", err.Error())
	}
	paths, err := filepath.Glob(filepath.Join(dicomCorpus, "*.zip"))
	require.NoError(t, err)
	shown := 0
	for _, path := range paths {
		said, volumes := viewed(t, path)
		require.NotContains(t, said, marker, path)
		shown += volumes
	}
	require.Greater(t, shown, 20)
}

// Folders may have the names of patients: the page shows files' own names alone.
func TestThePageShowsNoFolders(t *testing.T) {
	if err := view.Check(); err != nil {
		golden.Missing(t, "niivue", err.Error())
	}
	folder := filepath.Join(t.TempDir(), "DOE^JANE")
	require.NoError(t, os.Mkdir(folder, 0o777))
	const raw = "../testdata/phantom-mini/raw/Dataset102_PhantomTarget/"
	var files []string
	for _, name := range []string{"imagesTs/LN_004_0000.nii.gz", "labelsTs/LN_005.nii.gz"} { // of another grid
		data, err := os.ReadFile(raw + name)
		require.NoError(t, err)
		files = append(files, filepath.Join(folder, filepath.Base(name)))
		require.NoError(t, os.WriteFile(files[len(files)-1], data, 0o666))
	}
	c := settings.New[ViewConfig]()
	c.Image, c.Labels = files[0], files[1:]
	scene, err := c.read(t.Context(), Output{})
	require.NoError(t, err)
	require.Len(t, scene.Warnings, 1, "with its paths, on stderr")
	require.Contains(t, scene.Warnings[0], "LN_005.nii.gz lies on another grid than")
	var page bytes.Buffer
	said, volumes := viewed(t, files...)
	page.WriteString(said[len("WARNING: ")+len(scene.Warnings[0]):]) // what was served
	require.Equal(t, 2, volumes)
	require.Contains(t, page.String(), "LN_005.nii.gz lies on another grid than LN_004_0000.nii.gz")
	require.NotContains(t, page.String(), "DOE")
}
