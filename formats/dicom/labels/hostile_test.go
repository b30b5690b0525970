package labels_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/volume"
)

// element writes an element in implicit VR little endian. A text is padded.
func element(group, number uint16, value string) string {
	if len(value)%2 == 1 {
		value += " "
	}
	le := binary.LittleEndian
	b := le.AppendUint16(nil, group)
	b = le.AppendUint16(b, number)
	return string(le.AppendUint32(b, uint32(len(value)))) + value
}

func us(group, number uint16, values ...uint16) string {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return element(group, number, string(b))
}

func sequence(group, number uint16, items ...string) string {
	all := ""
	for _, item := range items {
		all += element(0xfffe, 0xe000, item)
	}
	return element(group, number, all)
}

// written writes a file of a SOP class in implicit VR little endian.
func written(t testing.TB, class string, elements ...string) *dicom.Source {
	t.Helper()
	meta := "\x02\x00\x10\x00UI\x12\x00" + "1.2.840.10008.1.2\x00"
	body := element(8, 0x16, class) + element(8, 0x18, "1.2.3") + strings.Join(elements, "")
	path := filepath.Join(t.TempDir(), "x.dcm")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("\x00", 128)+"DICM"+meta+body), 0o666))
	s, err := dicom.FileSource(path)
	require.NoError(t, err)
	return s
}

// contour is an item of a contour sequence.
func contour(kind, points string) string {
	n := (strings.Count(points, "\\") + 1) / 3
	return element(0x3006, 0x42, kind) + element(0x3006, 0x46, fmt.Sprint(n)) + element(0x3006, 0x50, points)
}

const roiName = "ZQMARKERQZ"

// structures writes an RTSTRUCT with one ROI.
func structures(t testing.TB, contours ...string) *dicom.Source {
	return written(t, dicom.ClassRTStructure, roi(1), contoursOf(1, contours...))
}

func roi(number int) string {
	return sequence(0x3006, 0x20, element(0x3006, 0x22, fmt.Sprint(number))+element(0x3006, 0x26, roiName))
}

func contoursOf(number int, contours ...string) string {
	return sequence(0x3006, 0x39, sequence(0x3006, 0x40, contours...)+element(0x3006, 0x84, fmt.Sprint(number)))
}

func square(z string) string {
	return strings.ReplaceAll("1\\1\\Z\\3\\1\\Z\\3\\3\\Z\\1\\3\\Z", "Z", z)
}

// grid has voxels of 1 × 1 × 2 mm from 0, 0, 0.
func grid(t testing.TB) *labels.Grid {
	g, err := labels.NewGrid([]int{6, 5, 4}, &volume.ITK{Spacing: []float64{1, 1, 2}, Origin: []float64{0, 0, 0},
		Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}})
	require.NoError(t, err)
	return g
}

func TestStrangeContoursAreRefusedOrToldOf(t *testing.T) {
	const closed = "CLOSED_PLANAR"
	for name, test := range map[string]struct {
		contours []string
		refused  string
		warning  string
		voxels   int
	}{
		"on a slice":           {[]string{contour(closed, square("2"))}, "", "", 9},
		"halfway below":        {[]string{contour(closed, square("-1"))}, "", "", 9},
		"halfway above":        {[]string{contour(closed, square("7"))}, "", "", 9},
		"too low":              {[]string{contour(closed, square("-1.01"))}, "", "1 contours lie more than half a slice outside", 0},
		"too high":             {[]string{contour(closed, square("7.01"))}, "", "1 contours lie more than half a slice outside", 0},
		"twice":                {[]string{contour(closed, square("2")), contour(closed, square("2"))}, "", "", 8},
		"twice on two slices":  {[]string{contour(closed, square("2")), contour(closed, square("2.99"))}, "", "", 8},
		"1e300":                {[]string{contour(closed, square("1e300"))}, "ROI 1: contour 1: ContourData (3006,0050): expected numbers up to 1e+07 mm", "", 0},
		"NaN":                  {[]string{contour(closed, square("nan"))}, "ROI 1: contour 1: ContourData (3006,0050): expected numbers", "", 0},
		"infinite":             {[]string{contour(closed, square("1e999"))}, "ContourData (3006,0050): expected numbers", "", 0},
		"a text":               {[]string{contour(closed, square(roiName))}, "ContourData (3006,0050): expected numbers", "", 0},
		"hexadecimal":          {[]string{contour(closed, square("0x1p3"))}, "ContourData (3006,0050): expected numbers", "", 0},
		"wide":                 {[]string{contour(closed, "-9e6\\-9e6\\0\\9e6\\-9e6\\0\\9e6\\9e6\\0\\-9e6\\9e6\\0")}, "", "1 contours lie in part outside", 30},
		"two numbers too many": {[]string{element(0x3006, 0x42, closed) + element(0x3006, 0x50, "1\\1\\0\\2\\2")}, "found 5 numbers, expected three for each point", "", 0},
		"cut":                  {[]string{element(0x3006, 0x42, closed) + element(0x3006, 0x46, "9") + element(0x3006, 0x50, "1\\1\\0")}, "found 1 points, expected 9", "", 0},
		"no points":            {[]string{element(0x3006, 0x42, closed)}, "", "1 contours have no points", 0},
		"empty points":         {[]string{element(0x3006, 0x42, closed) + element(0x3006, 0x46, "0") + element(0x3006, 0x50, "")}, "", "1 contours have no points", 0},
		"a point":              {[]string{contour("POINT", "1\\1\\0")}, "", "1 contours are points or lines", 0},
		"lines":                {[]string{contour("OPEN_PLANAR", square("0")), contour("OPEN_NONPLANAR", "1\\1\\0\\1\\1\\5")}, "", "2 contours are points or lines", 0},
		"another type":         {[]string{contour(roiName, square("0"))}, "", "1 contours are of a type that is not of the standard", 0},
		"oblique":              {[]string{contour(closed, "1\\1\\0\\3\\1\\0.3\\3\\3\\0")}, "ROI 1: contour 1 does not lie in the plane of a slice: its points differ by 0.15 slices", "", 0},
		"nearly in the plane":  {[]string{contour(closed, "1\\1\\0\\3\\1\\0.19\\3\\3\\0")}, "", "", 6},
		"every second slice":   {[]string{contour(closed, square("0")), contour(closed, square("4"))}, "", "", 18},
		"one closed point":     {[]string{contour(closed, "2\\2\\2")}, "", "", 1},
		"XOR":                  {[]string{contour("CLOSEDPLANAR_XOR", square("2")), contour("CLOSEDPLANAR_XOR", "2\\2\\2")}, "", "", 9},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := draw(structures(t, test.contours...), grid(t), 0.5, 2, "LN=.*")
			if test.refused != "" {
				require.ErrorContains(t, err, test.refused)
				require.ErrorContains(t, err, "x.dcm: ")
				require.NotContains(t, err.Error(), roiName)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.voxels, m.Labels[0].Voxels)
			said := strings.Join(m.Warnings, "\n")
			require.NotContains(t, said, roiName)
			require.Contains(t, said, test.warning)
			if test.voxels == 0 {
				require.Contains(t, said, "label 1 has no voxel")
			} else if test.warning == "" {
				require.Empty(t, said)
			}
		})
	}
	// slices between which others are missing
	z := []string{"0", "4", "8"}
	var all []string
	for _, z := range z {
		all = append(all, contour(closed, square(z)))
	}
	big, err := labels.NewGrid([]int{6, 5, 9}, grid(t).ITK)
	require.NoError(t, err)
	m, err := draw(structures(t, all...), big, 0.5, 1)
	require.NoError(t, err)
	require.Equal(t, []string{"label 1: ROI 1 has no contours on neighbouring slices, at most on every second: the " +
		"slices between stay empty"}, m.Warnings)
}

func TestStrangeStructureSetsAreRefusedOrToldOf(t *testing.T) {
	one := contour("CLOSED_PLANAR", square("0"))
	for name, test := range map[string]struct {
		elements []string
		want     string
	}{
		"empty":     {nil, "found no ROI with anything in it"},
		"no number": {[]string{sequence(0x3006, 0x20, element(0x3006, 0x26, roiName))}, "ROINumber (3006,0022) is missing"},
		"a text":    {[]string{sequence(0x3006, 0x20, element(0x3006, 0x22, roiName))}, "ROINumber (3006,0022): expected a number"},
		"twice":     {[]string{sequence(0x3006, 0x20, element(0x3006, 0x22, "3"), element(0x3006, 0x22, "3"))}, "ROI 3 is there twice"},
		"unlisted":  {[]string{roi(1), contoursOf(2, one)}, "found no ROI with anything in it"},
		"of no ROI": {[]string{roi(1), sequence(0x3006, 0x39, sequence(0x3006, 0x40, one))}, "ReferencedROINumber (3006,0084) is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := draw(written(t, dicom.ClassRTStructure, test.elements...), grid(t), 0.5, 1)
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), roiName)
		})
	}
	m, err := draw(written(t, dicom.ClassRTStructure, roi(1), sequence(0x3006, 0x39,
		sequence(0x3006, 0x40, one)+element(0x3006, 0x84, "1"), sequence(0x3006, 0x40, one)+element(0x3006, 0x84, "2"))),
		grid(t), 0.5, 1)
	require.NoError(t, err)
	require.Equal(t, []string{"1 ROIs have contours but no entry in the structure set: they are left out"}, m.Warnings)
	_, err = draw(structures(t, one), grid(t), 0.5, 1, "LN=GTV.*")
	require.ErrorContains(t, err, `no name of a ROI matches "GTV.*"; there are "ZQMARKERQZ"`)
	_, err = draw(structures(t, one), grid(t), 0.5, 1, "LN=zqmarkerq")
	require.Error(t, err, "a pattern matches whole names")
	_, err = draw(structures(t, one), grid(t), 0.5, 1, "LN=zqmarkerqz")
	require.NoError(t, err)
}

func TestChoicesAreParsed(t *testing.T) {
	for text, want := range map[string]string{"=x": "expected NAME=PATTERN", "A=": "expected NAME=PATTERN", "": "expected NAME=PATTERN",
		"A=(": "is no regular expression"} {
		_, err := labels.ParseChoices([]string{text})
		require.ErrorContains(t, err, want)
	}
	_, err := labels.ParseChoices([]string{"A=x", "A=y"})
	require.ErrorContains(t, err, `the name "A" is there twice`)
	all, err := labels.ParseChoices([]string{"GTVn", "LN=a|b=c"})
	require.NoError(t, err)
	require.Equal(t, "GTVn", all[0].Name)
	require.Equal(t, "LN", all[1].Name)
	parts := []labels.Part{{Number: 1, Name: "B=C"}, {Number: 2, Name: "xa"}, {Number: 3, Name: "gtvN"}, {Number: 4, Name: "A"}}
	found, err := labels.Choose(all, parts, "ROI")
	require.NoError(t, err)
	require.Equal(t, [][]int{{2}, {0, 3}}, [][]int{found[0].Parts, found[1].Parts})

	// one of several optional ones may match nothing, not all of them
	var none *labels.NoMatchError
	_, err = labels.Choose(all, parts[3:], "ROI")
	require.ErrorAs(t, err, &none)
	require.Equal(t, "GTVn", none.Pattern)
	all[0].Optional, all[1].Optional = true, true
	found, err = labels.Choose(all, parts[3:], "ROI")
	require.NoError(t, err)
	require.Equal(t, [][]int{nil, {0}}, [][]int{found[0].Parts, found[1].Parts})
	_, err = labels.Choose(all, parts[1:2], "ROI")
	require.ErrorAs(t, err, &none)
}

// segmentation writes a SEG of frames of 3 × 2 pixels at z = 0, 2, …
func segmentation(t testing.TB, kind string, bits uint16, frames int, pixels string, changes map[string]string) *dicom.Source {
	var each []string
	for i := range frames {
		each = append(each, sequence(0x20, 0x9113, element(0x20, 0x32, fmt.Sprintf("0\\0\\%d", 2*i)))+
			sequence(0x62, 0xa, us(0x62, 0xb, 1)))
	}
	e := map[string]string{
		"count":    element(0x28, 8, fmt.Sprint(frames)),
		"rows":     us(0x28, 0x10, 2),
		"columns":  us(0x28, 0x11, 3),
		"bits":     us(0x28, 0x100, bits) + us(0x28, 0x101, bits),
		"segments": sequence(0x62, 2, us(0x62, 4, 1)+element(0x62, 5, roiName)),
		"maximum":  us(0x62, 0xe, 200),
		"shared": sequence(0x5200, 0x9229, sequence(0x20, 0x9116, element(0x20, 0x37, "1\\0\\0\\0\\1\\0"))+
			sequence(0x28, 0x9110, element(0x28, 0x30, "1\\1")+element(0x18, 0x50, "2"))),
		"each":   sequence(0x5200, 0x9230, each...),
		"pixels": element(0x7fe0, 0x10, pixels),
	}
	for k, v := range changes {
		e[k] = v
	}
	all := element(0x62, 1, kind)
	for _, k := range []string{"count", "rows", "columns", "bits", "padding", "segments", "maximum", "shared", "each", "pixels"} {
		all += e[k]
	}
	return written(t, dicom.ClassSegmentation, all)
}

func TestStrangeSegmentationsAreRefused(t *testing.T) {
	two := func(changes map[string]string) *dicom.Source {
		return segmentation(t, "BINARY", 1, 2, "\xff\x0f", changes)
	}
	m, err := draw(two(nil), grid(t), 0.5, 1)
	require.NoError(t, err)
	require.Equal(t, 12, m.Labels[0].Voxels)
	shared := func(orientation, spacing string) map[string]string {
		return map[string]string{"shared": sequence(0x5200, 0x9229, sequence(0x20, 0x9116, element(0x20, 0x37, orientation))+
			sequence(0x28, 0x9110, element(0x28, 0x30, spacing)))}
	}
	frame := func(position string, segment uint16) map[string]string {
		item := sequence(0x20, 0x9113, element(0x20, 0x32, position)) + sequence(0x62, 0xa, us(0x62, 0xb, segment))
		return map[string]string{"each": sequence(0x5200, 0x9230, item, item)}
	}
	for name, test := range map[string]struct {
		source *dicom.Source
		want   string
	}{
		"2e9 frames":      {two(map[string]string{"count": element(0x28, 8, "2000000000")}), "NumberOfFrames (0028,0008): expected a whole number from 1 to 1048576"},
		"1e6 frames":      {two(map[string]string{"count": element(0x28, 8, "1000000")}), "PixelData (7fe0,0010): found 2 bytes, expected 750000 for 1000000 frames"},
		"a frame more":    {two(map[string]string{"count": element(0x28, 8, "1")}), "found 2 items, expected one for each of 1 frames"},
		"no frames":       {two(map[string]string{"count": element(0x28, 8, "0")}), "NumberOfFrames (0028,0008)"},
		"short":           {segmentation(t, "BINARY", 1, 3, "\xff\x0f", nil), "found 2 bytes, expected 3 for 3 frames"},
		"large":           {two(map[string]string{"rows": us(0x28, 0x10, 65535), "columns": us(0x28, 0x11, 65535)}), "expected at most 16777216"},
		"no pixels":       {two(map[string]string{"pixels": ""}), "PixelData (7fe0,0010) is missing"},
		"another kind":    {segmentation(t, roiName, 1, 2, "\xff\x0f", nil), "SegmentationType (0062,0001): expected BINARY, FRACTIONAL or LABELMAP"},
		"bits":            {segmentation(t, "FRACTIONAL", 1, 2, "\xff\x0f", nil), "BitsAllocated (0028,0100): expected one of [8] for FRACTIONAL"},
		"no maximum":      {segmentation(t, "FRACTIONAL", 8, 1, "\xff\x0f\x00\x00\x00\x00", map[string]string{"maximum": ""}), "MaximumFractionalValue (0062,000e) is missing"},
		"no segments":     {two(map[string]string{"segments": ""}), "SegmentSequence (0062,0002) is missing"},
		"a segment twice": {two(map[string]string{"segments": sequence(0x62, 2, us(0x62, 4, 1), us(0x62, 4, 1))}), "segment 1 is there twice"},
		"another segment": {two(frame("0\\0\\0", 7)), "frame 1: ReferencedSegmentNumber (0062,000b): found 7"},
		"position text":   {two(frame(roiName+"\\0\\0", 1)), "frame 1: ImagePositionPatient (0020,0032): expected 3 numbers"},
		"position far":    {two(frame("1e300\\0\\0", 1)), "ImagePositionPatient (0020,0032): expected at most 1e+07 mm"},
		"orientation":     {two(shared("1\\0\\0\\1\\0\\0", "1\\1")), "ImageOrientationPatient (0020,0037): expected two orthogonal vectors"},
		"spacing":         {two(shared("1\\0\\0\\0\\1\\0", "1\\0")), "PixelSpacing (0028,0030): expected 0.0001 to 10000 mm"},
		"unknown pixel":   {segmentation(t, "LABELMAP", 8, 1, "\x00\x01\x02\x00\x00\x00", nil), "frame 1: PixelData (7fe0,0010): found a pixel that is no number of SegmentSequence"},
		"off the grid":    {two(frame("0.02\\0\\0", 1)), "frame 1 does not fall on the voxels of the image: it has 3 × 2 pixels of 1 × 1 mm from (0.02, 0, 0)"},
		"wrong spacing":   {two(shared("1\\0\\0\\0\\1\\0", "1\\1.006")), "6 × 5 × 4 voxels of 1 × 1 × 2 mm from (0, 0, 0)"},
		"turned":          {two(shared("0.6\\0.8\\0\\-0.8\\0.6\\0", "1\\1")), "--resample"},
		"between slices":  {two(frame("0\\0\\1", 1)), "--resample"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := draw(test.source, grid(t), 0.5, 1)
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, "x.dcm: ")
			require.NotContains(t, err.Error(), roiName)
		})
	}
	// what is no error: the pixel that stands for no segment, and pixels outside of the image
	m, err = draw(segmentation(t, "LABELMAP", 8, 1, "\x00\x01\x09\x00\x00\x00", map[string]string{"padding": us(0x28, 0x120, 9)}), grid(t), 0.5, 1)
	require.NoError(t, err)
	require.Equal(t, 1, m.Labels[0].Voxels)
	for position, want := range map[string]int{"4\\0\\0": 4, "0\\-1\\0": 3, "-2\\0\\6": 2, "0\\0\\8": 0, "0\\0\\-2": 0, "600\\0\\0": 0, "5\\4\\0": 1} {
		m, err := draw(two(frame(position, 1)), grid(t), 0.5, 1)
		require.NoError(t, err, position)
		require.Equal(t, want, m.Labels[0].Voxels, position)
		require.Contains(t, strings.Join(m.Warnings, "\n"), fmt.Sprintf("%d pixels of the segments lie outside", 2*(6-want)))
	}
	// a fraction that is just the threshold
	for threshold, want := range map[float64]int{0.5: 3, 0.505: 2, 1: 1} {
		m, err := draw(segmentation(t, "FRACTIONAL", 8, 1, "\x00\x63\x64\x65\xc8\x01", nil), grid(t), threshold, 1)
		require.NoError(t, err)
		require.Equal(t, want, m.Labels[0].Voxels, threshold)
	}
}

// 300,000 points that run through the image 300,000 times.
func TestManyPointsAreReadInTime(t *testing.T) {
	line := strings.Repeat("1\\1\\0\\5\\9\\0\\", 150000) + "1\\1\\0"
	start := time.Now()
	m, err := draw(structures(t, contour("CLOSED_PLANAR", line)), grid(t), 0.5, 2)
	require.NoError(t, err)
	require.Equal(t, 2, m.Labels[0].Voxels)
	require.Less(t, time.Since(start), 10*time.Second)
	t.Log(time.Since(start))
}

// 1.2 million points take no more memory than their places in the image: the text is read bit by bit.
func TestManyPointsTakeLittleMemory(t *testing.T) {
	var contours []string
	for z := range 4 {
		corner := func(x, y int) string {
			return strings.Repeat(fmt.Sprintf("%d\\%d\\%d\\", x, y, 2*z), 25_000)
		}
		path := strings.TrimSuffix(corner(1, 1)+corner(3, 1)+corner(3, 3)+corner(1, 3), "\\")
		for range 3 {
			contours = append(contours, element(0x3006, 0x42, "CLOSED_PLANAR")+
				element(0x3006, 0x46, "100000")+element(0x3006, 0x50, path))
		}
	}
	source := structures(t, contours...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := draw(source, grid(t), 0.5, 2)
	require.NoError(t, err)
	runtime.ReadMemStats(&after)
	require.Equal(t, 4*9, m.Labels[0].Voxels)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1.2e6*16+8<<20))
}

// A part in several labels is drawn for each; the last one shows.
func TestAPartMayBelongToSeveralLabels(t *testing.T) {
	for _, s := range []*dicom.Source{
		structures(t, contour("CLOSED_PLANAR", square("0"))),
		segmentation(t, "BINARY", 1, 1, "\xff\x0f", nil),
		segmentation(t, "LABELMAP", 8, 1, "\x01\x01\x01\x00\x01\x01", nil),
	} {
		m, err := draw(s, grid(t), 0.5, 2, "A=.*", "B=.*Z", "C=.*QZ")
		require.NoError(t, err)
		n := m.Labels[2].Voxels
		require.Positive(t, n)
		require.Equal(t, []int{0, 0}, []int{m.Labels[0].Voxels, m.Labels[1].Voxels})
		require.Contains(t, m.Warnings, fmt.Sprintf("%d voxels belong to several labels: they have the "+
			"last of these", n))
	}
}

// More than 255 labels need 16 bits.
func TestManyLabelsNeed16Bits(t *testing.T) {
	var rois, contours []string
	for i := range 300 {
		rois = append(rois, element(0x3006, 0x22, fmt.Sprint(i+1))+element(0x3006, 0x26, roiName))
		at := fmt.Sprintf("%d\\%d\\%d", i%6, i/6%5, i/30%4*2)
		contours = append(contours, sequence(0x3006, 0x40, contour("CLOSED_PLANAR", at))+
			element(0x3006, 0x84, fmt.Sprint(i+1)))
	}
	m, err := draw(written(t, dicom.ClassRTStructure, sequence(0x3006, 0x20, rois...),
		sequence(0x3006, 0x39, contours...)), grid(t), 0.5, 2)
	require.NoError(t, err)
	require.Len(t, m.Labels, 300)
	pixels := m.Pixels.(volume.Slice[uint16])
	for k, v := range pixels {
		require.Equal(t, k, (int(v)-1)%120)
		require.Greater(t, v, uint16(180)) // the last of those at one place
	}
}
