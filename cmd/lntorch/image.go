package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image COMMAND",
		Short: "shows and converts image files (.nii, .nii.gz)",
		Long: `image shows what is in an image file, as ITK and nnU-Net read it, and converts files without changing where their voxels lie.
It needs no libtorch.`,
		Example: `  lntorch image info LN_000_0000.nii.gz
  lntorch image convert scan.nii scan.nii.gz`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(cmd, fmt.Errorf("unknown command %q: expected info or convert", args[0]))
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(newImageInfo(), newImageConvert())
	return cmd
}

func newImageInfo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info FILE…",
		Short: "geometry, type and intensities of image files",
		Long: `info shows size, spacing, origin and directions of image files as ITK reads them (LPS, mm), the codes and units in the header, and of the
pixels the type, range, mean, standard deviation and percentiles, with the file's scaling applied; where there are at most 32 different
whole numbers from -1 to 65535, as in labels, how often each occurs. A file that cannot be read is named in the end, after the others.

--json prints a list of objects: file, format, bytes, byte_order, type (of the stored pixels), size (x, y, z, t), spacing, origin,
direction (row-major), orientation (to where the axes lead: L or R, P or A, S or I), oblique, units, qform_code, sform_code, scl_slope,
scl_inter, description, problem (why nnU-Net's SimpleITKIO would refuse the file), affine (voxels to mm, RAS, as nibabel has it), and
unless --header is given intensities {min, max, mean, std, percentiles {0.5, 5, 50, 95, 99.5} of the finite values, counts nan and inf,
labels {value: voxels}}.`,
		Example: `  lntorch image info LN_000_0000.nii.gz
  lntorch image info --json --header imagesTr/*.nii.gz`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, errors.New("found no argument, expected FILE…"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, _ := cmd.Flags().GetBool("json")
			header, _ := cmd.Flags().GetBool("header")
			list := []*imageInfo{}
			var failed []error
			for _, path := range args {
				if err := cmd.Context().Err(); err != nil {
					return err
				}
				info, err := inspectImage(path, header)
				if err != nil {
					failed = append(failed, err)
					continue
				}
				if !asJSON {
					if len(list) > 0 {
						fmt.Println()
					}
					info.print(os.Stdout)
				}
				list = append(list, info)
			}
			if asJSON {
				if err := printJSON(list); err != nil {
					return err
				}
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().Bool("json", false, "print JSON")
	cmd.Flags().Bool("header", false, "do not read the pixels")
	return cmd
}

// imageInfo is what --json prints of an image; keys keep their meaning.
type imageInfo struct {
	File        string        `json:"file"`
	Format      string        `json:"format"`
	Bytes       int64         `json:"bytes"`
	ByteOrder   string        `json:"byte_order"`
	Type        string        `json:"type"`
	Size        []int         `json:"size"`
	Spacing     []float64     `json:"spacing,omitempty"`
	Origin      []float64     `json:"origin,omitempty"`
	Direction   []float64     `json:"direction,omitempty"`
	Orientation string        `json:"orientation,omitempty"`
	Oblique     bool          `json:"oblique"`
	*niftiInfo                // of NIfTI
	Description string        `json:"description,omitempty"`
	Problem     string        `json:"problem,omitempty"`
	Affine      [][4]float64  `json:"affine,omitempty"`
	Intensities *intensityRow `json:"intensities,omitempty"`
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

func inspectImage(path string, headerOnly bool) (*imageInfo, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	var head *volume.Header
	var f volume.File
	if headerOnly {
		head, err = image.Header(path)
	} else if f, err = image.Read(path); err == nil {
		head = f.Head()
	}
	if err != nil {
		return nil, err
	}
	number := func(v float64) *float64 {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
		return &v
	}
	info := &imageInfo{File: path, Format: head.Format, Bytes: stat.Size(), ByteOrder: "little", Type: head.Type, Size: head.Size, Description: head.Description}
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

func (d *imageInfo) print(w io.Writer) {
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
	line("file", "%s, %s", d.File, bytesText(d.Bytes))
	codes := ""
	if n := d.niftiInfo; n != nil {
		codes = fmt.Sprintf(", qform code %d, sform code %d, unit %s", n.QFormCode, n.SFormCode, n.Units)
	}
	line("format", "%s, %s-endian%s", d.Format, d.ByteOrder, codes)
	if d.Description != "" {
		line("description", "%q", d.Description)
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
		return
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
}

func newImageConvert() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "convert IN OUT",
		Short: "rewrites an image file: .nii, .nii.gz, another type of pixels",
		Long: `convert writes an image under another name: compressed if that ends in .nii.gz, not if it ends in .nii. Pixels, scaling and the header's
geometry stay bit for bit; extensions of the header are left out. --type stores the values (with the scaling applied) as another type: a
value that the type does not hold is an error; --round allows fractions to be rounded. OUT appears when it is complete.`,
		Example: `  lntorch image convert scan.nii scan.nii.gz
  lntorch image convert --type int16 scan.nii.gz small.nii.gz`,
		Args: exactly("IN", "OUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, _ := cmd.Flags().GetString("type")
			round, _ := cmd.Flags().GetBool("round")
			force, _ := cmd.Flags().GetBool("force")
			in, out := args[0], args[1]
			if round && name == "" {
				return usage(cmd, errors.New("--round is for --type"))
			}
			if name != "" && volume.MakePixels(name, 0) == nil {
				return usage(cmd, fmt.Errorf("--type %s: expected %s", name, volume.TypeNames("or")))
			}
			if image.ForName(out) == nil {
				return usage(cmd, fmt.Errorf("OUT %s: expected a name that ends in %s", out, strings.Join(image.Endings(), " or ")))
			}
			if _, err := os.Stat(out); err == nil && !force {
				return fmt.Errorf("%s exists already: give --force to replace it", out)
			}
			f, err := image.Read(in)
			if err != nil {
				return err
			}
			var values volume.Pixels // nil: as they are stored
			if name != "" {
				if values, err = volume.Convert(f.Values(), name, round); err != nil {
					return fmt.Errorf("%s: --type %s: %w", in, name, err)
				}
			}
			if f.Head().Extensions {
				fmt.Fprintf(newConsole(cmd), "%s: the extensions of the header are left out\n", in)
			}
			if err := image.Convert(out, f, values, system.Cores()); err != nil {
				return err
			}
			info, err := os.Stat(out)
			if err != nil {
				return err
			}
			fmt.Printf("%s  %s\n", out, bytesText(info.Size()))
			return nil
		},
	}
	cmd.Flags().String("type", "", "type of the pixels: uint8, int16, float32, …")
	cmd.Flags().Bool("round", false, "with --type, round fractions")
	cmd.Flags().Bool("force", false, "replace an existing file")
	return cmd
}
