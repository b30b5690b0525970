package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/pipeline"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image COMMAND",
		Short: "shows and converts image files (" + strings.Join(image.Endings(), ", ") + ") and DICOM series",
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
	var asJSON, header bool
	var series string
	cmd := &cobra.Command{
		Use:   "info PATH…",
		Short: "geometry, type and intensities of image files and DICOM series",
		Long: `info shows size, spacing, origin and directions of image files as ITK reads them (LPS, mm), the codes and units in the header, and of the
pixels the type, range, mean, standard deviation and percentiles, with the file's scaling applied; where there are at most 32 different
whole numbers from -1 to 65535, as in labels, how often each occurs. A file that cannot be read is named in the end, after the others.

PATH may also be DICOM: a file, a folder (read with all below it; what is not DICOM is passed over) or a zip of either. Its slices are
sorted into stacks, each an image of its own, and numbered by series number; where the slices of a stack do not lie on a regular grid,
it says how (tilt, missing, irregular, duplicate) and by how much.

Free texts of a header are not shown, as they may name a patient: descrip of NIfTI, Comment of MetaImage, content and pairs of NRRD.

--json prints a list of objects: file, format, bytes, byte_order, type (of the stored pixels), size (x, y, z, t), spacing, origin,
direction (row-major), orientation (to where the axes lead: L or R, P or A, S or I), oblique, units, qform_code, sform_code, scl_slope,
scl_inter, problem (why nnU-Net's SimpleITKIO would refuse the file), affine (voxels to mm, RAS, as nibabel has it), and
unless --header is given intensities {min, max, mean, std, percentiles {0.5, 5, 50, 95, 99.5} of the finite values, counts nan and inf,
labels {value: voxels}}. A DICOM stack has also series (its number), series_uid, series_number, description, modality,
slices, transfer_syntax, stored {bits, signed}, localizer, geometry {regular, problems, tilt_degrees, max_deviation_mm, missing (positions along
the normal, mm), duplicates}; its type is that of the values, with --header one that holds whatever the stored bits may be.
An RTSTRUCT has rois [{number, name, contours, types}], a SEG segments [{number, label, frames}] and segmentation_type, both the series_uid
that they refer to.`,
		Example: `  lntorch image info LN_000_0000.nii.gz
  lntorch image info --json --header imagesTr/*.nii.gz
  lntorch image info /media/CD`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, errors.New("found no argument, expected PATH…"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			list := []*pipeline.ImageInfo{}
			var failed []error
			for _, path := range args {
				if err := cmd.Context().Err(); err != nil {
					return err
				}
				infos, err := pipeline.InspectImages(path, header, series)
				if err != nil {
					failed = append(failed, err)
				}
				for _, info := range infos {
					if !asJSON {
						if len(list) > 0 {
							fmt.Println()
						}
						if err := info.Text(os.Stdout); err != nil {
							return err
						}
					}
					list = append(list, info)
				}
			}
			if asJSON {
				if err := printJSON(list); err != nil {
					return err
				}
			}
			return errors.Join(failed...)
		},
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&header, "header", false, "do not read the pixels")
	cmd.Flags().StringVar(&series, "series", "", "of DICOM: only this stack, by number or SeriesInstanceUID")
	return cmd
}

func newImageConvert() *cobra.Command {
	var c pipeline.ConvertImageConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "convert IN OUT",
		Short: "rewrites an image file in another format or with another type of pixels",
		Long: `convert writes an image under another name, whose ending chooses the format: ` + strings.Join(image.Endings(), ", ") + `.
Pixels are compressed, but in .nii; --uncompressed leaves them as they are. Those of .nhdr and .mhd lie
beside, in NAME.raw.gz, NAME.zraw or NAME.raw. From NIfTI to NIfTI pixels, scaling and header stay bit
for bit; other formats get the scaled values and the geometry. What a header holds besides, extensions
and pairs of key and value, is left out. --type stores the values (with the scaling applied) as another
type: a value that the type does not hold is an error; --round allows fractions to be rounded. OUT
appears when it is complete.

IN may also be DICOM: a file, a folder (read with all below it) or a zip of either. Where it holds
several images, the only stack with three slices or more that is no localizer is taken, or that of
--series. Its values are those after the rescale, as int16 where that holds them, else int32 or float32.
Slices that do not lie on a regular grid (gantry tilt, missing slices, changing distances) are an error,
which says where and how much. --fix-geometry resamples them: linear between neighbouring slices, on a
grid with the directions and the in-plane spacing of the slices and their smallest distance (the median
where they are irregular). Different pixels at one position are always an error.

With --reference, IN is DICOM that holds one RTSTRUCT or SEG, and OUT a label map on the grid of that
image (with --fix-geometry on the grid to which its slices are resampled). A voxel belongs to a ROI if its
centre lies inside the contours or on one. The frames of a SEG are placed by where they say they lie, and
must fall on the voxels of the image. Where labels overlap, the later one wins.

With --to seg or rtstruct, IN is a label map (any image file) on the grid of the DICOM series
--reference, its axes in any order, and OUT a DICOM object that belongs to that series: to its patient,
study and frame of reference as they stand there. Each label becomes a segment or ROI; --per-node makes
one of each connected component. The same input gives the same bytes, UIDs too.

--json prints file, bytes, type, warnings and, with --reference, labels {value: {name, rois, voxels}}.`,
		Example: `  lntorch image convert scan.nii scan.nii.gz
  lntorch image convert scan.nrrd scan.nii.gz
  lntorch image convert --type int16 scan.nii.gz small.nii.gz
  lntorch image convert study.zip scan.nii.gz --series 2
  lntorch image convert rtstruct.dcm labels.nii.gz --reference ct/ --roi 'LN=GTVn.*|LN.*'
  lntorch image convert labels.nii.gz seg.dcm --to seg --reference ct/ --segment 1='Lymph node' --per-node`,
		Args: exactly("IN", "OUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.In, c.Out = args[0], args[1]
			done, err := pipeline.ConvertImage(c, output(cmd))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(done)
			}
			fmt.Printf("%s  %s\n", c.Out, pipeline.BytesText(done.Bytes))
			for value := range len(done.Labels) {
				l := done.Labels[strconv.Itoa(value+1)]
				fmt.Printf("  %d  %s  %d voxels\n", value+1, pipeline.Printable(l.Name), l.Voxels)
			}
			return nil
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().StringArrayVar(&c.ROIs, "roi", nil, "of RTSTRUCT and SEG: NAME=PATTERN or PATTERN, a label of all ROIs or segments whose whole name "+
		"the regular expression matches, case ignored; may be repeated: the labels are 1, 2, … (default: each)")
	return cmd
}
