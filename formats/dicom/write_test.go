package dicom_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
)

var implementation = [2]string{"1.2.3", "TEST"}

func written(t *testing.T, d *dicom.Elements, syntax string) ([]byte, *dicom.File) {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, d.Write(&b, syntax, dicom.ClassRTStructure, "1.2.3.4", implementation))
	path := filepath.Join(t.TempDir(), "o.dcm")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
	s, err := dicom.FileSource(path)
	require.NoError(t, err)
	f, err := dicom.Read(s)
	require.NoError(t, err)
	return b.Bytes(), f
}

// decimals reads the ContourData of an item.
func decimals(t *testing.T, f *dicom.File, item dicom.Dataset) (all []float64) {
	r, err := f.OpenPixels()
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, item.Span().Decimals(r, new([1 << 16]byte), func(x float64) error {
		all = append(all, x)
		return nil
	}))
	return all
}

func TestWrittenElementsAreRead(t *testing.T) {
	for _, syntax := range []string{dicom.ImplicitLittle, dicom.ExplicitLittle} {
		item := &dicom.Elements{}
		item.Whole(tag.ROIDisplayColor, 1, 20, 255)
		item.Decimals(tag.ContourData, 1.0/3, -1234.56789012345, 1e-9, 0, 12345678901234567)
		inner := &dicom.Elements{}
		inner.Sequence(tag.ContourSequence, item, &dicom.Elements{})
		d := &dicom.Elements{}
		d.Text(tag.SpecificCharacterSet, "ISO_IR 192")
		d.Text(tag.PatientName, "Müller^Ä")
		d.Text(tag.StudyDate)
		d.Text(tag.ImageType, "DERIVED", "PRIMARY")
		d.Sequence(tag.ROIContourSequence, inner)
		d.Whole(tag.Rows, 65535)
		d.Whole(tag.DimensionIndexValues, 1, 70000)
		d.Text(tag.PatientID, "overwritten")
		d.Text(tag.PatientID, "odd")
		_, f := written(t, d, syntax)
		require.Equal(t, syntax, f.Syntax)
		require.Equal(t, "1.2.3.4", f.Instance)
		require.Equal(t, dicom.ClassRTStructure, f.Text(tag.SOPClassUID))
		require.Equal(t, "Müller^Ä", f.Text(tag.PatientName))
		require.Equal(t, "odd", f.Text(tag.PatientID))
		require.False(t, f.Has(tag.StudyDate))
		require.Equal(t, []string{"DERIVED", "PRIMARY"}, f.Texts(tag.ImageType))
		values, err := f.Floats(tag.DimensionIndexValues, 2)
		require.NoError(t, err)
		require.Equal(t, []float64{1, 70000}, values)
		points := f.Item(tag.ROIContourSequence).Items(tag.ContourSequence)
		require.Len(t, points, 2)
		require.Equal(t, []float64{0.33333333333333, -1234.5678901235, 1e-09, 0, 1.2345678901e+16},
			decimals(t, f, points[0]))
		require.Empty(t, decimals(t, f, points[1]))
	}
}

// DS are rounded to digits, end without zeros and are never longer than 16 characters.
func TestDecimals(t *testing.T) {
	for _, c := range []struct {
		value  float64
		digits int
		want   string
	}{
		{-0.0000001, 6, "0"}, {1.5, 6, "1.5"}, {100, 0, "100"}, {-200.25, 6, "-200.25"},
		{1234567890123456, 6, "1234567890123456"}, {-123456789.123456, 6, "-123456789.12346"},
		{0.1, -1, "0.1"}, {-1.0 / 3, -1, "-0.3333333333333"}, {1e300, -1, "1e+300"},
		{-1.2345678901234567e-200, 6, "0"}, {-1.2345678901234567e-200, -1, "-1.23456789e-200"},
	} {
		d := &dicom.Elements{}
		d.Rounded(tag.SliceThickness, c.digits, c.value)
		_, f := written(t, d, dicom.ImplicitLittle)
		require.Equal(t, c.want, f.Text(tag.SliceThickness), "%g, %d digits", c.value, c.digits)
		require.LessOrEqual(t, len(c.want), 16)
	}
}

// A contour of 100,000 points is longer than explicit VR can say, and takes no time in implicit VR:
// the module's writer joins its texts one by one.
func TestManyPoints(t *testing.T) {
	d := &dicom.Elements{}
	item := &dicom.Elements{}
	item.Decimals(tag.ContourData, make([]float64, 300_000)...)
	d.Sequence(tag.ContourSequence, item)
	begin := time.Now()
	data, f := written(t, d, dicom.ImplicitLittle)
	require.Less(t, time.Since(begin), 5*time.Second)
	require.Greater(t, len(data), 600_000)
	require.Len(t, decimals(t, f, f.Item(tag.ContourSequence)), 300_000)
	err := d.Write(&bytes.Buffer{}, dicom.ExplicitLittle, "1.2", "1.3", implementation)
	require.ErrorContains(t, err, "ContourData (3006,0050) would have 600000 bytes, expected at most 65534")
}
