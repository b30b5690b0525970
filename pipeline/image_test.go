package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/volume"
)

// What people write into the free texts of a header is not shown, converted to another format or quoted
// in an error.
func TestFreeTextsOfHeadersAreNotShown(t *testing.T) {
	folder := t.TempDir()
	pixels := string(make([]byte, 16))
	for name, content := range map[string]string{
		"a.mha": "ObjectType = Image\nComment = " + marker + "\nName = " + marker + "\nID = " + marker +
			"\nPatientName = " + marker + "\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\n" +
			"ElementDataFile = LOCAL\n" + pixels,
		"a.nrrd": "NRRD0004\n# " + marker + "\ncontent: " + marker + "\ntype: short\ndimension: 3\n" +
			"sizes: 2 2 2\nlabels: \"" + marker + "\" \"y\" \"z\"\nsample units: " + marker +
			"\nendian: little\nencoding: raw\nPatient:=" + marker + "\n" + marker + ":=1\n\n" + pixels,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o666))
	}
	n, err := nifti.Read("../testdata/golden/nifti/sitk.nii.gz")
	require.NoError(t, err)
	n.Descrip = marker
	require.NoError(t, nifti.Write(filepath.Join(folder, "a.nii"), &n.Header, n.Pixels, 1))
	data, err := os.ReadFile(filepath.Join(folder, "a.nii"))
	require.NoError(t, err)
	for _, field := range []int{4, 14, 228, 328} { // data_type, db_name, aux_file, intent_name
		copy(data[field:], marker)
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "a.nii"), data, 0o666))

	for name, to := range map[string]string{"a.mha": "b.nrrd", "a.nrrd": "b.mha", "a.nii": "b.mha"} {
		path := filepath.Join(folder, name)
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Contains(t, string(whole), marker)
		var said bytes.Buffer
		for _, header := range []bool{true, false} {
			info, err := InspectImage(path, header)
			require.NoError(t, err)
			require.NoError(t, info.Text(&said))
			text, err := json.Marshal(info)
			require.NoError(t, err)
			said.Write(text)
		}
		out := filepath.Join(t.TempDir(), to)
		_, err = ConvertImage(ConvertImageConfig{In: path, Out: out}, Output{Log: &said})
		require.NoError(t, err)
		written, err := os.ReadFile(out)
		require.NoError(t, err)
		said.Write(written)
		for n := range len(whole) {
			if n%7 != 0 && n > 400 {
				continue
			}
			require.NoError(t, os.WriteFile(path, whole[:n], 0o666))
			_, err := InspectImage(path, false)
			require.Error(t, err, n)
			fmt.Fprintln(&said, err)
		}
		require.NotContains(t, said.String(), "QMARKERQ")
	}
}

// Of a header with data files beside it, the bytes are those of all together, where it is shown and where
// it was written.
func TestBytesAreThoseOfDataFilesToo(t *testing.T) {
	size := func(paths ...string) (n int64) {
		for _, p := range paths {
			info, err := os.Stat(p)
			require.NoError(t, err)
			n += info.Size()
		}
		return n
	}
	meta := "../testdata/golden/meta/"
	for path, want := range map[string]struct {
		bytes int64
		text  string
	}{
		meta + "list.mhd":                {size(meta+"list.mhd", meta+"h0.raw", meta+"h1.raw"), " with its 2 data files"},
		meta + "local.mha":               {size(meta + "local.mha"), ""},
		meta + "differs-list-absent.mhd": {size(meta+"differs-list-absent.mhd", meta+"h0.raw"), " with its 2 data files"},
	} {
		info, err := InspectImage(path, true)
		require.NoError(t, err)
		require.Equal(t, want.bytes, info.Bytes, path)
		var text bytes.Buffer
		require.NoError(t, info.Text(&text))
		first, _, _ := strings.Cut(text.String(), "\n")
		require.Equal(t, want.text, first[strings.Index(first, " bytes")+6:])
	}
	for out, beside := range map[string]string{"a.mhd": "a.zraw", "a.nhdr": "a.raw.gz"} {
		out = filepath.Join(t.TempDir(), out)
		done, err := ConvertImage(ConvertImageConfig{In: meta + "local.mha", Out: out}, Output{})
		require.NoError(t, err)
		require.Equal(t, size(out, filepath.Join(filepath.Dir(out), beside)), done.Bytes)
		info, err := InspectImage(out, false)
		require.NoError(t, err)
		require.Equal(t, done.Bytes, info.Bytes)
	}
}

func TestIntensitiesAreNumpys(t *testing.T) {
	// numpy.percentile of [3, 1, 2, 10] at 0.5, 5, 50, 95, 99.5; population standard deviation
	for _, pixels := range []volume.Pixels{volume.Slice[int16]{3, 1, 2, 10}, volume.Slice[uint8]{3, 1, 2, 10}, volume.Slice[uint16]{3, 1, 2, 10}, volume.Slice[float32]{3, 1, 2, 10}, volume.Slice[float64]{3, float64Inf, 1, 2, 10, float64NaN}} {
		r := intensities(pixels)
		require.Equal(t, [4]float64{1, 10, 4, 3.5355339059327378}, [4]float64{*r.Min, *r.Max, *r.Mean, *r.Std})
		for q, want := range map[string]float64{"0.5": 1.015, "5": 1.15, "50": 2.5, "95": 8.95, "99.5": 9.895} {
			require.InDelta(t, want, r.Percentiles[q], 1e-12, q)
		}
	}
	r := intensities(volume.Slice[float64]{float64NaN, 1, float64Inf, float64NaN})
	require.Equal(t, [2]int{2, 1}, [2]int{r.NaN, r.Inf})
	require.Nil(t, r.Labels)
	r = intensities(volume.Slice[float32]{float32(math.NaN())})
	require.Nil(t, r.Min)
	require.Equal(t, map[string]int{"0": 2, "7": 1}, intensities(volume.Slice[uint8]{0, 7, 0}).Labels)
	require.Nil(t, intensities(volume.Slice[float32]{0.5}).Labels)
}

var float64NaN, float64Inf = math.NaN(), math.Inf(1)
