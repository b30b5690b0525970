package pipeline

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/volume"
)

const (
	dicomCorpus = "../testdata/golden/dicom"
	// marker is every text of the corpus that no reader needs.
	marker = "ZQMARKERQZ"
)

// No text of a patient's file reaches output, messages or images: files of the corpus, whose texts
// are all the marker, are shown, converted, broken, shown and converted again.
func TestNoTextOfADICOMFileIsShown(t *testing.T) {
	var said bytes.Buffer
	log.SetOutput(&said)
	defer log.SetOutput(os.Stderr)
	paths, err := filepath.Glob(filepath.Join(dicomCorpus, "*.zip"))
	require.NoError(t, err)
	require.Greater(t, len(paths), 40)
	texts, images := 0, 0
	random := rand.New(rand.NewPCG(1, 2))
	for _, path := range paths {
		files := zipped(t, path)
		for _, data := range files {
			texts += bytes.Count(data, []byte(marker))
		}
		images += requireSilent(t, files)
		for range 4 {
			requireSilent(t, broken(files, random))
		}
	}
	require.Empty(t, said.String())
	require.Greater(t, texts, 3000)
	require.Greater(t, images, 40)
}

func zipped(t *testing.T, path string) map[string][]byte {
	z, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer z.Close()
	files := map[string][]byte{}
	for _, m := range z.File {
		r, err := m.Open()
		require.NoError(t, err)
		files[m.Name], err = io.ReadAll(r)
		require.NoError(t, err)
	}
	return files
}

// broken cuts a file, and changes bytes of another one.
func broken(files map[string][]byte, random *rand.Rand) map[string][]byte {
	damaged := map[string][]byte{}
	for name, data := range files {
		data = bytes.Clone(data)
		switch random.IntN(3) {
		case 0:
			data = data[:random.IntN(len(data))]
		case 1:
			for range 1 + random.IntN(20) {
				data[random.IntN(len(data))] = byte(random.Uint32())
			}
		case 2: // a marker where a number, a UID or a transfer syntax was
			for range 3 {
				copy(data[random.IntN(len(data)):], marker)
			}
		}
		damaged[name] = data
	}
	return damaged
}

// requireSilent shows and converts a folder, and returns how many images were written.
func requireSilent(t *testing.T, files map[string][]byte) (written int) {
	t.Helper()
	folder := t.TempDir()
	for name, data := range files {
		path := filepath.Join(folder, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		require.NoError(t, os.WriteFile(path, data, 0o666))
	}
	var out bytes.Buffer
	for _, header := range []bool{true, false} {
		list, err := InspectImages(folder, header, "")
		if err != nil {
			out.WriteString(err.Error())
		}
		for _, info := range list {
			// shown on purpose: description, modality and UID of a series
			info.Description, info.Modality, info.SeriesUID = "", "", ""
			text, err := json.Marshal(info)
			require.NoError(t, err)
			out.Write(text)
			require.NoError(t, info.Text(&out))
		}
	}
	for _, choice := range []DICOMChoice{{}, {Series: "1"}, {Series: "1", FixGeometry: true}} {
		for _, name := range []string{"o.mha", "o.nii"} {
			c := ConvertImageConfig{In: folder, Out: filepath.Join(t.TempDir(), name), DICOMChoice: choice}
			if _, err := ConvertImage(c, Output{Log: &out}); err != nil {
				out.WriteString(err.Error())
				continue
			}
			written++
			f, err := image.Read(c.Out)
			require.NoError(t, err)
			data, err := os.ReadFile(c.Out)
			require.NoError(t, err)
			if filepath.Ext(name) == ".nii" { // its pixels, the last, may be anything
				data = data[:len(data)-len(f.Values().Bytes())]
			}
			out.Write(data)
		}
	}
	require.NotContains(t, out.String(), marker)
	// half of it, which broken files may leave
	require.NotContains(t, out.String(), "QMARKERQ")
	return written
}

// What is at a path: the stacks, with what a program needs to know of them.
func TestInspectImagesListsStacks(t *testing.T) {
	list, err := InspectImages(filepath.Join(dicomCorpus, "localizer.zip"), false, "")
	require.NoError(t, err)
	require.Len(t, list, 3)
	text, err := json.Marshal(list[0])
	require.NoError(t, err)
	var object map[string]any
	require.NoError(t, json.Unmarshal(text, &object))
	for key, want := range map[string]any{"format": "DICOM", "series": 1.0, "series_number": 1.0, "modality": "CT",
		"slices": 4.0, "transfer_syntax": "1.2.840.10008.1.2.1", "localizer": false, "type": "int16", "byte_order": "little",
		"stored": map[string]any{"bits": 16.0, "signed": true},
		"size":   []any{9.0, 6.0, 4.0}, "orientation": "LPS", "oblique": false,
		"geometry": map[string]any{"regular": true, "problems": []any{}, "tilt_degrees": 0.0, "max_deviation_mm": 0.0, "missing": []any{}, "duplicates": 0.0},
	} {
		require.Equal(t, want, object[key], key)
	}
	require.Contains(t, object["series_uid"], "1.2.826.0.1")
	require.NotNil(t, object["intensities"])

	one, err := InspectImages(filepath.Join(dicomCorpus, "localizer.zip"), true, "2")
	require.NoError(t, err)
	require.Len(t, one, 1)
	require.True(t, one[0].Localizer)
	require.Nil(t, one[0].Intensities)
	_, err = InspectImages(filepath.Join(dicomCorpus, "localizer.zip"), true, "9")
	require.ErrorContains(t, err, "no such stack")
}

// Without compression a stack is written slice by slice, with compression as a whole: the image is the
// same, of whatever type, and where it is refused nothing is left behind.
func TestSlicesAreWrittenAsTheWholeIs(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(dicomCorpus, "*.zip"))
	require.NoError(t, err)
	types, refused := map[string]int{}, 0
	for _, path := range paths {
		folder := t.TempDir()
		convert := func(name string, raw bool) (volume.File, error) {
			out := filepath.Join(folder, name)
			_, err := ConvertImage(ConvertImageConfig{In: path, Out: out, Uncompressed: raw}, Output{})
			if err != nil {
				return nil, err
			}
			return image.Read(out)
		}
		whole, wrong := convert("whole.mha", false)
		for _, name := range []string{"a.mha", "b.mhd", "c.nrrd", "d.nhdr"} {
			f, err := convert(name, true)
			if wrong != nil {
				require.EqualError(t, err, wrong.Error())
				continue
			}
			require.NoError(t, err)
			require.Equal(t, whole.Values(), f.Values())
			a, b := *whole.Head().Geometry, *f.Head().Geometry
			for i := range a.Direction { // NRRD multiplies it by the spacing
				require.InDelta(t, a.Direction[i], b.Direction[i], 1e-14)
			}
			require.Equal(t, a.Origin, b.Origin)
		}
		left, err := os.ReadDir(folder)
		require.NoError(t, err)
		if wrong != nil {
			require.Empty(t, left)
			refused++
			continue
		}
		require.Len(t, left, 1+1+2+1+2) // nothing temporary
		types[whole.Values().Type()]++
	}
	require.Greater(t, types["int16"], 20)
	require.Greater(t, types["int32"]+types["float32"], 2)
	require.Greater(t, refused, 5)
}
