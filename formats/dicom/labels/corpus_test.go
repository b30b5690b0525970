package labels_test

import (
	"archive/zip"
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/openjpeg"
	"github.com/lntorch/lntorch/formats/dicom/rtstruct"
	"github.com/lntorch/lntorch/formats/dicom/seg"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

func TestMain(m *testing.M) {
	if openjpeg.Start() {
		return
	}
	os.Exit(m.Run())
}

// corpus holds what scripts/golden/dicom_labels.py wrote.
const corpus = "../../../testdata/golden/dicom_labels"

type part struct {
	Number, Voxels int
	Name, Mask     string
}

type object struct {
	Series    string
	Parts     []part
	Threshold float64
}

type expectation struct {
	Series  map[string][3]int
	Objects map[string]object
	// on another grid
	Resampled map[string]struct {
		Size                       []int
		Spacing, Origin, Direction []float64
		Parts                      []part
	}
}

// mask unpacks numpy.packbits of a mask.
func (p *part) mask(t *testing.T, n int) []bool {
	packed, err := base64.StdEncoding.DecodeString(p.Mask)
	require.NoError(t, err)
	z, err := zlib.NewReader(bytes.NewReader(packed))
	require.NoError(t, err)
	b, err := io.ReadAll(z)
	require.NoError(t, err)
	mask := make([]bool, n)
	for i := range mask {
		mask[i] = b[i/8]>>(7-i%8)&1 == 1
	}
	return mask
}

// unpacked writes the members of a zip to a folder.
func unpacked(t testing.TB, path string) string {
	t.Helper()
	folder := t.TempDir()
	z, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer z.Close()
	for _, m := range z.File {
		path := filepath.Join(folder, filepath.FromSlash(m.Name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		r, err := m.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, data, 0o666))
	}
	return folder
}

// draw draws the chosen labels of an object on a grid.
func draw(s *dicom.Source, grid *labels.Grid, threshold float64, workers int, choices ...string) (*labels.Map, error) {
	return drawOn(s, grid, seg.Options{Threshold: threshold, Workers: workers}, choices...)
}

func drawOn(s *dicom.Source, grid *labels.Grid, o seg.Options, choices ...string) (*labels.Map, error) {
	c, err := labels.ParseChoices(choices)
	if err != nil {
		return nil, err
	}
	f, err := dicom.Read(s)
	if err != nil {
		return nil, err
	}
	if f.Class == dicom.ClassRTStructure {
		set, err := rtstruct.Read(s)
		if err != nil {
			return nil, err
		}
		all, err := set.Choose(c)
		if err != nil {
			return nil, err
		}
		return set.Draw(grid, all, o.Workers)
	}
	object, err := seg.Read(s)
	if err != nil {
		return nil, err
	}
	all, err := object.Choose(c)
	if err != nil {
		return nil, err
	}
	return object.Draw(grid, all, o)
}

// An image is what the labels of a series are drawn on.
type image struct {
	*labels.Grid
	slices []labels.Vector
}

func images(t *testing.T, corpus string, want *expectation) map[string]image {
	all := map[string]image{}
	folder := unpacked(t, filepath.Join(corpus, "ct.zip"))
	for name, size := range want.Series {
		x, err := series.Find(filepath.Join(folder, name), 2)
		require.NoError(t, err)
		s, err := x.Choose("")
		require.NoError(t, err)
		n, g, err := s.Grid(false)
		require.NoError(t, err)
		require.Equal(t, size[:], n)
		im := image{}
		im.Grid, err = labels.NewGrid(n, g)
		require.NoError(t, err)
		for _, slice := range s.Slices {
			im.slices = append(im.slices, slice.Position)
		}
		all[name] = im
	}
	return all
}

func expectations(t *testing.T, corpus string) *expectation {
	text, err := os.ReadFile(filepath.Join(corpus, "expected.json"))
	require.NoError(t, err)
	want := &expectation{}
	require.NoError(t, json.Unmarshal(text, want))
	require.Greater(t, len(want.Objects), 20)
	return want
}

// Each part alone gives the mask that the object's writer was given, or that another reader sees, voxel
// for voxel; all together give the last label where they overlap. On one goroutine and on several, from a
// file and from a zip.
func TestPartsAreTheMasksOfOtherPrograms(t *testing.T) { requireParts(t, corpus) }

// Other series, masks, stars, rings and frames in another order, by the same programs.
func TestLiveImagesOfPartsAreTheMasksOfOtherPrograms(t *testing.T) {
	golden.Program(t, "dcmconv", "dcmtk")
	folder := t.TempDir()
	golden.RunImages(t, "dicom_labels.py", folder, "--seed", golden.Seed(t))
	requireParts(t, folder)
	requireResampled(t, folder)
}

func requireParts(t *testing.T, corpus string) {
	want := expectations(t, corpus)
	on := images(t, corpus, want)
	folder := unpacked(t, filepath.Join(corpus, "objects.zip"))
	members, err := dicom.List(filepath.Join(corpus, "objects.zip"))
	require.NoError(t, err)
	require.Len(t, members.Sources, len(want.Objects))
	for _, member := range members.Sources {
		_, name, _ := strings.Cut(member.Name, ": ")
		w := want.Objects[name]
		t.Run(name, func(t *testing.T) {
			if _, err := openjpeg.Find(); strings.HasSuffix(name, "-j2k.dcm") && err != nil {
				golden.Missing(t, "openjpeg", err.Error())
			}
			grid := on[w.Series]
			o := seg.Options{Threshold: w.Threshold, Slices: grid.slices}
			if o.Threshold == 0 {
				o.Threshold = 0.5
			}
			draw := func(s *dicom.Source, workers int, choices ...string) (*labels.Map, error) {
				o := o
				o.Workers = workers
				return drawOn(s, grid.Grid, o, choices...)
			}
			file, err := dicom.FileSource(filepath.Join(folder, name))
			require.NoError(t, err)
			all := make([]uint8, grid.Voxels())
			overlap := 0
			seen := make([]int, len(all))
			for i, p := range w.Parts {
				m, err := draw(file, 1+i%2, "X="+regexp.QuoteMeta(p.Name))
				require.NoError(t, err)
				require.Equal(t, []string{p.Name}, m.Labels[0].Names)
				require.Equal(t, p.Voxels, m.Labels[0].Voxels)
				pixels := m.Pixels.(volume.Slice[uint8])
				for k, in := range p.mask(t, len(pixels)) {
					if in != (pixels[k] == 1) {
						x, y := k%grid.Size[0], k/grid.Size[0]%grid.Size[1]
						t.Fatalf("part %d: voxel (%d, %d, %d): %v expected", p.Number, x, y,
							k/grid.Size[0]/grid.Size[1], in)
					}
					if in {
						all[k] = uint8(i + 1)
						if seen[k]++; seen[k] == 2 {
							overlap++
						}
					}
				}
			}
			for _, s := range []*dicom.Source{file, member} {
				m, err := draw(s, 3)
				require.NoError(t, err)
				require.Equal(t, all, []uint8(m.Pixels.(volume.Slice[uint8])))
				require.Len(t, m.Labels, len(w.Parts))
				if overlap > 0 {
					require.Contains(t, strings.Join(m.Warnings, "\n"),
						fmt.Sprintf("%d voxels belong to several labels", overlap))
				}
			}
			// two in one label, in the other order
			if len(w.Parts) > 2 && strings.HasSuffix(w.Parts[2].Name, " c") {
				m, err := draw(file, 2, "B=.* [bc]", "A=.* a")
				require.NoError(t, err)
				require.Equal(t, []string{w.Parts[1].Name, w.Parts[2].Name}, m.Labels[0].Names[:2])
				pixels := m.Pixels.(volume.Slice[uint8])
				a, b, c := w.Parts[0].mask(t, len(pixels)), w.Parts[1].mask(t, len(pixels)), w.Parts[2].mask(t, len(pixels))
				for k, v := range pixels {
					switch {
					case a[k]:
						require.Equal(t, uint8(2), v)
					default:
						require.Equal(t, b[k] || c[k], v == 1)
					}
				}
			}
		})
	}
}

// A frame on a slice that misses the regular grid is that slice's, one on the grid the grid's, and one
// that lies between is nobody's.
func TestFramesLieOnTheSlicesOrOnTheGrid(t *testing.T) {
	want := expectations(t, corpus)
	on := images(t, corpus, want)["jitter"]
	source, err := dicom.FileSource(filepath.Join(unpacked(t, filepath.Join(corpus, "objects.zip")), "jitter-binary.dcm"))
	require.NoError(t, err)
	_, err = drawOn(source, on.Grid, seg.Options{Threshold: 0.5})
	require.ErrorContains(t, err, "does not fall on the voxels of the image")
	most := 0.0
	for k, at := range on.slices {
		off := labels.Sub(on.Voxel(at), labels.Vector{0, 0, float64(k)})
		most = max(most, math.Abs(off[0]), math.Abs(off[1]), math.Abs(off[2]))
	}
	require.Greater(t, most, 0.1)
	place := func(slice int, off labels.Vector) *dicom.Source {
		p := labels.Along(on.slices[slice], 1, off)
		return segmentation(t, "BINARY", 1, 1, "\x3f", map[string]string{
			"shared": sequence(0x5200, 0x9229,
				sequence(0x20, 0x9116, element(0x20, 0x37, "0.8\\0.6\\0\\-0.6\\0.8\\0"))+
					sequence(0x28, 0x9110, element(0x28, 0x30, "0.9\\0.7"))),
			"each": sequence(0x5200, 0x9230, sequence(0x20, 0x9113, element(0x20, 0x32,
				fmt.Sprintf("%.9g\\%.9g\\%.9g", p[0], p[1], p[2])))+
				sequence(0x62, 0xa, us(0x62, 0xb, 1)))})
	}
	o := seg.Options{Threshold: 0.5, Slices: on.slices}
	for k, slice := range on.slices {
		grid := on.Place(labels.Vector{0, 0, float64(k)})
		for _, off := range []labels.Vector{{}, labels.Sub(grid, slice)} {
			m, err := drawOn(place(k, off), on.Grid, o)
			require.NoError(t, err)
			require.Equal(t, 6, m.Labels[0].Voxels)
			require.Equal(t, uint8(1), m.Pixels.Value(k*on.Size[0]*on.Size[1]))
		}
	}
	_, err = drawOn(place(2, labels.Vector{0, 0, 0.05}), on.Grid, o)
	require.ErrorContains(t, err, "does not fall on the voxels of the image")
}

// SimpleITK's nearest neighbours give the same voxels, but for the few that lie halfway between pixels.
func TestResampledSegmentsAreSimpleITKs(t *testing.T) { requireResampled(t, corpus) }

func requireResampled(t *testing.T, corpus string) {
	want := expectations(t, corpus)
	require.NotEmpty(t, want.Resampled)
	folder := unpacked(t, filepath.Join(corpus, "objects.zip"))
	for name, w := range want.Resampled {
		grid, err := labels.NewGrid(w.Size, &volume.ITK{Spacing: w.Spacing, Origin: w.Origin, Direction: w.Direction})
		require.NoError(t, err)
		source, err := dicom.FileSource(filepath.Join(folder, name))
		require.NoError(t, err)
		s, err := seg.Read(source)
		require.NoError(t, err)
		for _, p := range w.Parts {
			c, err := labels.ParseChoices([]string{"X=" + p.Name})
			require.NoError(t, err)
			all, err := s.Choose(c)
			require.NoError(t, err)
			_, err = s.Draw(grid, all, seg.Options{Threshold: 0.5})
			require.ErrorContains(t, err, "does not fall on the voxels of the image")
			m, err := s.Draw(grid, all, seg.Options{Threshold: 0.5, Resample: true})
			require.NoError(t, err)
			require.Greater(t, m.Labels[0].Voxels, 20)
			pixels := m.Pixels.(volume.Slice[uint8])
			different := 0
			for k, in := range p.mask(t, len(pixels)) {
				if in != (pixels[k] == 1) {
					different++
				}
			}
			require.LessOrEqual(t, different, 1, name)
		}
	}
}

// A tilted stack's labels lie on the regular grid to which its slices are resampled.
func TestLabelsLieOnAFixedGrid(t *testing.T) {
	x, err := series.Find("../../../testdata/golden/dicom/tilt.zip", 2)
	require.NoError(t, err)
	s, err := x.Choose("")
	require.NoError(t, err)
	require.Contains(t, s.Geometry.Problems, series.Tilt)
	size, g, err := s.Grid(true)
	require.NoError(t, err)
	grid, err := labels.NewGrid(size, g)
	require.NoError(t, err)
	require.Greater(t, grid.Size[0]*grid.Size[1], s.Size[0]*s.Size[1])

	// Every slice has pixels 2 to 5 of its rows 1 to 3, but slice 1 has none.
	var contours, frames, bits []string
	number := func(v ...float64) string {
		text := make([]string, len(v))
		for i, x := range v {
			text[i] = fmt.Sprintf("%.10g", x)
		}
		return strings.Join(text, "\\")
	}
	axes := s.Axes()
	var positions []labels.Vector
	for k, slice := range s.Slices {
		positions = append(positions, slice.Position)
		if k == 1 {
			continue
		}
		at := func(x, y float64) []float64 {
			p := labels.Along(slice.Position, x*s.Spacing[0], axes[0])
			p = labels.Along(p, y*s.Spacing[1], axes[1])
			return p[:]
		}
		var path []float64
		for _, p := range [][2]float64{{1.6, 0.6}, {5.4, 0.6}, {5.4, 3.4}, {1.6, 3.4}} {
			path = append(path, at(p[0], p[1])...)
		}
		contours = append(contours, contour("CLOSED_PLANAR", number(path...)))
		frames = append(frames, sequence(0x20, 0x9113, element(0x20, 0x32, number(slice.Position[:]...)))+
			sequence(0x62, 0xa, us(0x62, 0xb, 1)))
		for y := range s.Size[1] {
			for x := range s.Size[0] {
				bit := "\x00"
				if x >= 2 && x <= 5 && y >= 1 && y <= 3 {
					bit = "\x01"
				}
				bits = append(bits, bit)
			}
		}
	}
	o := s.Slices[0].Orientation
	binary := segmentation(t, "BINARY", 8, len(frames), strings.Join(bits, ""), map[string]string{
		"rows": us(0x28, 0x10, uint16(s.Size[1])), "columns": us(0x28, 0x11, uint16(s.Size[0])),
		"shared": sequence(0x5200, 0x9229, sequence(0x20, 0x9116, element(0x20, 0x37, number(o[:]...)))+
			sequence(0x28, 0x9110, element(0x28, 0x30, number(s.Spacing[1], s.Spacing[0])))),
		"each": sequence(0x5200, 0x9230, frames...)})
	object, err := seg.Read(binary)
	require.NoError(t, err)
	all, err := object.Choose(nil)
	require.NoError(t, err)
	fromSEG, err := object.Draw(grid, all, seg.Options{Threshold: 0.5, Resample: true, Slices: positions})
	require.NoError(t, err)
	fromRTSTRUCT, err := draw(structures(t, contours...), grid, 0.5, 2)
	require.NoError(t, err)

	counts := [2]int{}
	for z := range grid.Size[2] {
		for y := range grid.Size[1] {
			for x := range grid.Size[0] {
				p := grid.Place(labels.Vector{float64(x), float64(y), float64(z)})
				// the slices of this stack lie in the planes of the grid
				d := labels.Sub(p, s.Slices[z].Position)
				require.InDelta(t, 0, labels.Dot(d, axes[2]), 1e-6)
				u, v := labels.Dot(d, axes[0])/s.Spacing[0], labels.Dot(d, axes[1])/s.Spacing[1]
				i := (z*grid.Size[1]+y)*grid.Size[0] + x
				inside := z != 1 && u > 1.6 && u < 5.4 && v > 0.6 && v < 3.4
				require.Equal(t, inside, fromRTSTRUCT.Pixels.Value(i) == uint8(1))
				u, v = math.Floor(u+0.5+1e-5), math.Floor(v+0.5+1e-5)
				nearest := z != 1 && u >= 2 && u <= 5 && v >= 1 && v <= 3
				require.Equal(t, nearest, fromSEG.Pixels.Value(i) == uint8(1), "%d %d %d", x, y, z)
				if inside {
					counts[0]++
				}
				if nearest {
					counts[1]++
				}
			}
		}
	}
	require.Greater(t, counts[0], 30)
	require.Greater(t, counts[1], 30)

	// A frame that lies on no slice is not drawn anywhere.
	_, err = object.Draw(grid, all, seg.Options{Threshold: 0.5, Resample: true, Slices: positions[:2]})
	require.ErrorContains(t, err, "of its planes lie on no slice of the image")
}
