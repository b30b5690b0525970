package pipeline

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// ImageInfo describes an image file: as JSON for programs, as text for people.
type ImageInfo struct {
	File        string    `json:"file"`
	Format      string    `json:"format"`
	Bytes       int64     `json:"bytes"` // with those of data files
	ByteOrder   string    `json:"byte_order"`
	Type        string    `json:"type,omitempty"`
	Size        []int     `json:"size,omitempty"`
	Spacing     []float64 `json:"spacing,omitempty"`
	Origin      []float64 `json:"origin,omitempty"`
	Direction   []float64 `json:"direction,omitempty"`
	Orientation string    `json:"orientation,omitempty"`
	Oblique     bool      `json:"oblique"`
	*niftiInfo            // of NIfTI
	*dicomInfo            // of a DICOM stack
	*roiInfo              // of an RTSTRUCT
	*segInfo              // of a SEG
	// of a DICOM stack its SeriesInstanceUID, of RTSTRUCT and SEG that of the series they refer to
	SeriesUID   string        `json:"series_uid,omitempty"`
	Description string        `json:"description,omitempty"` // of a series
	Problem     string        `json:"problem,omitempty"`
	Affine      [][4]float64  `json:"affine,omitempty"`
	Intensities *intensityRow `json:"intensities,omitempty"`
	dataFiles   int           // beside the header
}

// niftiInfo is what only NIfTI has.
type niftiInfo struct {
	Units     string   `json:"units"`
	QFormCode int      `json:"qform_code"`
	SFormCode int      `json:"sform_code"`
	Slope     *float64 `json:"scl_slope"` // null where it is no number
	Inter     *float64 `json:"scl_inter"`
}

type intensityRow struct {
	Min         *float64           `json:"min"` // of the finite values; null without
	Max         *float64           `json:"max"`
	Mean        *float64           `json:"mean"`
	Std         *float64           `json:"std"`
	Percentiles map[string]float64 `json:"percentiles"`
	NaN         int                `json:"nan"`
	Inf         int                `json:"inf"`
	Labels      map[string]int     `json:"labels,omitempty"`
}

// InspectImage reads an image file, or with headerOnly what stands before its pixels.
func InspectImage(path string, headerOnly bool) (*ImageInfo, error) {
	var head *volume.Header
	var f volume.File
	var err error
	if headerOnly {
		head, err = image.Header(path)
	} else if f, err = image.Read(path); err == nil {
		head = f.Head()
	}
	if err != nil {
		return nil, err
	}
	size, err := image.Bytes(path, head)
	if err != nil {
		return nil, err
	}
	number := func(v float64) *float64 {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
		return &v
	}
	info := &ImageInfo{File: path, Format: head.Format, Bytes: size, ByteOrder: "little", Type: head.Type, Size: head.Size,
		dataFiles: len(head.DataFiles)}
	if head.BigEndian {
		info.ByteOrder = "big"
	}
	if g := head.Geometry; g == nil {
		info.Problem = head.Problem.Error()
	} else {
		info.Spacing, info.Origin, info.Direction = g.Spacing, g.Origin, g.Direction
		info.Orientation, info.Oblique = orientationOf(g)
	}
	if h, ok := head.Native.(*nifti.Header); ok {
		info.niftiInfo = &niftiInfo{Units: "none (mm)", QFormCode: h.QFormCode, SFormCode: h.SFormCode, Slope: number(h.Slope), Inter: number(h.Inter)}
		if unit := map[uint8]string{1: "m", 2: "mm", 3: "micron"}[h.Units&7]; unit != "" {
			info.Units = unit
		}
		if affine, err := h.Affine(); err == nil {
			info.Affine = affine[:]
		}
	}
	if headerOnly {
		return info, nil
	}
	info.Intensities = intensities(f.Values())
	return info, nil
}

// orientationOf names where the axes lead, and whether they do so at an angle.
func orientationOf(g *volume.ITK) (letters string, oblique bool) {
	n := len(g.Spacing)
	for j := range min(n, 3) {
		main, most := 0, 0.0
		for i := range min(n, 3) {
			if a := math.Abs(g.Direction[i*n+j]); a > most {
				main, most = i, a
			}
		}
		name := "LPS"
		if g.Direction[main*n+j] < 0 {
			name = "RAI"
		}
		letters += name[main : main+1]
		oblique = oblique || most < 0.99999
	}
	return letters, oblique
}

// quantiles are those that intensities gives, as shares.
var quantiles = []float64{0.005, 0.05, 0.5, 0.95, 0.995}

// intensities describes pixels.
func intensities(pixels volume.Pixels) *intensityRow {
	row := &intensityRow{Percentiles: map[string]float64{}}
	values, counts := distinct(pixels)
	n, sum := 0, 0.0
	finite := values[:0]
	kept := counts[:0]
	for i, v := range values {
		switch {
		case math.IsNaN(v):
			row.NaN += counts[i]
		case math.IsInf(v, 0):
			row.Inf += counts[i]
		default:
			finite, kept = append(finite, v), append(kept, counts[i])
			n += counts[i]
			sum += v * float64(counts[i])
		}
	}
	if n == 0 {
		return row
	}
	mean, squares := sum/float64(n), 0.0
	for i, v := range finite {
		squares += (v - mean) * (v - mean) * float64(kept[i])
	}
	std := math.Sqrt(squares / float64(n))
	row.Min, row.Max, row.Mean, row.Std = &finite[0], &finite[len(finite)-1], &mean, &std
	// numpy's linear interpolation
	at := func(k int) float64 {
		for i, c := range kept {
			if k -= c; k < 0 {
				return finite[i]
			}
		}
		return finite[len(finite)-1]
	}
	for _, q := range quantiles {
		h := q * float64(n-1)
		low := at(int(h))
		row.Percentiles[strconv.FormatFloat(100*q, 'g', 4, 64)] = low + (h-math.Floor(h))*(at(int(h)+1)-low)
	}
	if len(finite) <= 32 && finite[0] >= -1 && finite[len(finite)-1] <= math.MaxUint16 && row.NaN+row.Inf == 0 && !slices.ContainsFunc(finite, func(v float64) bool { return v != math.Trunc(v) }) {
		row.Labels = map[string]int{}
		for i, v := range finite {
			row.Labels[strconv.FormatFloat(v, 'f', -1, 64)] = kept[i]
		}
	}
	return row
}

// distinct gives the different values in ascending order, NaN first, and how often each occurs.
func distinct(pixels volume.Pixels) (values []float64, counts []int) {
	if pixels.Size() <= 2 && !pixels.Floating() {
		const offset = 1 << 15
		table := make([]int, offset+1<<16)
		block := make([]int64, min(4096, pixels.Len()))
		for at := 0; at < pixels.Len(); at += len(block) {
			part := block[:min(len(block), pixels.Len()-at)]
			pixels.Int64s(part, at)
			for _, v := range part {
				table[v+offset]++
			}
		}
		for i, c := range table {
			if c > 0 {
				values, counts = append(values, float64(i-offset)), append(counts, c)
			}
		}
		return values, counts
	}
	all := make([]float64, pixels.Len())
	pixels.Float64s(all, 0)
	slices.Sort(all)
	for i, v := range all {
		if i == 0 || v != all[i-1] && !(math.IsNaN(v) && math.IsNaN(all[i-1])) {
			values, counts = append(values, v), append(counts, 0)
		}
		counts[len(counts)-1]++
	}
	return values, counts
}

// Text prints the description for people.
func (d *ImageInfo) Text(to io.Writer) error {
	w := bufio.NewWriter(to)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	list := func(v []float64) string {
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = strconv.FormatFloat(x, 'g', 7, 64)
		}
		return strings.Join(parts, ", ")
	}
	with := ""
	switch {
	case d.dataFiles == 1:
		with = " with its data file"
	case d.dataFiles > 1:
		with = fmt.Sprintf(" with its %d data files", d.dataFiles)
	}
	line("file", "%s, %s%s", d.File, BytesText(d.Bytes), with)
	if d.dicomInfo != nil {
		d.dicomInfo.text(line)
	}
	if d.SeriesUID != "" {
		line("series", "%s", d.SeriesUID)
	}
	codes := ""
	if n := d.niftiInfo; n != nil {
		codes = fmt.Sprintf(", qform code %d, sform code %d, unit %s", n.QFormCode, n.SFormCode, n.Units)
	}
	line("format", "%s, %s-endian%s", d.Format, d.ByteOrder, codes)
	if d.Description != "" {
		line("description", "%q", d.Description)
	}
	switch {
	case d.roiInfo != nil:
		d.roiInfo.text(line)
		return w.Flush()
	case d.segInfo != nil:
		line("frames", "%d of %d × %d", d.Size[2], d.Size[0], d.Size[1])
		d.segInfo.text(line)
		return w.Flush()
	}
	size := make([]string, len(d.Size))
	for i, n := range d.Size {
		size[i] = strconv.Itoa(n)
	}
	line("size", "%s (%s), %s", strings.Join(size, " × "), "xyztuvw"[:len(size)], d.Type)
	if d.Problem != "" {
		line("problem", "%s", d.Problem)
	} else {
		unit := "mm"
		if len(d.Spacing) > 3 {
			unit = "mm, s"
		}
		line("spacing", "%s %s", list(d.Spacing), unit)
		line("origin", "%s (LPS)", list(d.Origin))
		angle := ""
		if d.Oblique {
			angle = ", oblique"
		}
		line("orientation", "%s%s", d.Orientation, angle)
		n := len(d.Spacing)
		for i := range n {
			name := ""
			if i == 0 {
				name = "direction"
			}
			line(name, "%s", list(d.Direction[i*n:(i+1)*n]))
		}
	}
	if n := d.niftiInfo; n != nil && n.Slope != nil && *n.Slope != 0 && (*n.Slope != 1 || n.Inter == nil || *n.Inter != 0) {
		text := "no number"
		if n.Inter != nil {
			text = strconv.FormatFloat(*n.Inter, 'g', -1, 64)
		}
		line("scaling", "stored · %v + %s", *n.Slope, text)
	}
	r := d.Intensities
	if r == nil {
		return w.Flush()
	}
	if r.Min != nil {
		line("values", "%s to %s, mean %.6g, standard deviation %.6g", list([]float64{*r.Min}), list([]float64{*r.Max}), *r.Mean, *r.Std)
		parts := make([]string, len(quantiles))
		for i, q := range quantiles {
			name := strconv.FormatFloat(100*q, 'g', 4, 64)
			parts[i] = fmt.Sprintf("%s %%: %.6g", name, r.Percentiles[name])
		}
		line("percentiles", "%s", strings.Join(parts, ", "))
	}
	if r.NaN+r.Inf > 0 {
		line("not finite", "%d NaN, %d infinite", r.NaN, r.Inf)
	}
	if r.Labels != nil {
		keys := make([]float64, 0, len(r.Labels))
		for k := range r.Labels {
			v, _ := strconv.ParseFloat(k, 64)
			keys = append(keys, v)
		}
		slices.Sort(keys)
		parts := make([]string, len(keys))
		for i, k := range keys {
			name := strconv.FormatFloat(k, 'f', -1, 64)
			parts[i] = fmt.Sprintf("%s: %d", name, r.Labels[name])
		}
		line("voxels", "%s", strings.Join(parts, ", "))
	}
	return w.Flush()
}

// ConvertImageConfig rewrites an image file under another name, or with another type of pixels.
type ConvertImageConfig struct {
	In, Out string
	Type    string `flag:"type" help:"type of the pixels: uint8, int16, float32, …"`
	Round   bool   `flag:"round" help:"with --type, round fractions"`
	Force   bool   `flag:"force" help:"replace an existing file"`
	// .nii, .nrrd, .mha; beside .nhdr and .mhd NAME.raw
	Uncompressed bool `flag:"uncompressed" help:"do not compress the pixels"`
	DICOMChoice
	LabelsChoice
	DICOMLabels
}

// ConvertImage writes the new file: of an image, or of the labels that an RTSTRUCT or a SEG holds; or
// labels as such an object.
func ConvertImage(c ConvertImageConfig, o Output) (*Converted, error) {
	if err := c.DICOMLabels.check(); err != nil {
		return nil, err
	}
	if c.To != "" {
		return convertLabels(c, o)
	}
	if err := checkConversion(c); err != nil {
		return nil, err
	}
	write := convertImage
	switch {
	case c.Reference != "":
		write = convertToLabels
	case series.Is(c.In):
		write = convertStack
	}
	done, err := write(c, o)
	if err != nil {
		return nil, err
	}
	head, err := image.Header(c.Out)
	if err != nil {
		return nil, err
	}
	done.File, done.Type = c.Out, head.Type
	done.Bytes, err = image.Bytes(c.Out, head)
	return done, err
}

func checkConversion(c ConvertImageConfig) error {
	switch {
	case c.Reference == "" && c.LabelsChoice.set():
		return settings.Usage("--reference-series, --roi, --ignore-references and --resample are for --reference")
	case c.Round && c.Type == "":
		return settings.Usage("--round is for --type")
	case c.Type != "" && volume.MakePixels(c.Type, 0) == nil:
		return settings.Usage("--type %s: expected %s", c.Type, volume.TypeNames("or"))
	case image.ForName(c.Out) == nil:
		return settings.Usage("OUT %s: expected a name that ends in %s", c.Out, strings.Join(image.Endings(), " or "))
	case c.Uncompressed && !image.CanBeRaw(c.Out):
		return settings.Usage("--uncompressed: OUT %s stands for a compressed file: name it without .gz", c.Out)
	}
	for _, path := range []string{c.Out, image.Beside(c.Out, c.Uncompressed)} {
		if _, err := os.Stat(path); path != "" && err == nil && !c.Force {
			return fmt.Errorf("%s exists already: give --force to replace it", path)
		}
	}
	return nil
}

func convertImage(c ConvertImageConfig, o Output) (*Converted, error) {
	f, err := openImage(c.In, c.DICOMChoice, o)
	if err != nil {
		return nil, err
	}
	return &Converted{Warnings: []string{}}, c.write(f, o)
}

func convertToLabels(c ConvertImageConfig, o Output) (*Converted, error) {
	f, done, err := drawLabels(c, o)
	if err != nil {
		return nil, err
	}
	return done, c.write(f, o)
}

// write writes what was read to the new file.
func (c ConvertImageConfig) write(f volume.File, o Output) (err error) {
	var values volume.Pixels // nil: as they are stored
	if c.Type != "" {
		if values, err = volume.Convert(f.Values(), c.Type, c.Round); err != nil {
			return fmt.Errorf("%s: --type %s: %w", c.In, c.Type, err)
		}
	}
	if f.Head().Extensions {
		o.Printf("%s: the extensions of the header are left out", c.In)
	}
	if c.Uncompressed {
		return image.ConvertRaw(c.Out, f, values)
	}
	return image.Convert(c.Out, f, values, system.Cores())
}
