package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/settings"
)

// Geometry of the picture: the first panel's corner, its width, and the step to the next column.
const (
	sheetX, sheetY = 20, 66
	sheetPanel     = 288
	sheetStep      = 298
)

func previewed(t *testing.T, c AugmentPreviewConfig) (*image.RGBA, []byte) {
	t.Helper()
	c.Output = filepath.Join(t.TempDir(), "sheet.png")
	require.NoError(t, AugmentPreview(context.Background(), c, Output{}))
	text, err := os.ReadFile(c.Output)
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(text))
	require.NoError(t, err)
	rgba := image.NewRGBA(img.Bounds())
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			rgba.Set(x, y, img.At(x, y))
		}
	}
	return rgba, text
}

// mini is a case of phantom-mini with its plans.
func mini(configuration string) AugmentPreviewConfig {
	folder := filepath.Join("..", "testdata/phantom-mini/preprocessed/Dataset101_PhantomSource")
	return AugmentPreviewConfig{Case: filepath.Join(folder, "nnUNetPlans_3d_fullres", "LN_004.npz"), N: 2,
		AugmentConfig: AugmentConfig{Plans: filepath.Join(folder, "nnUNetPlans.json"), Configuration: configuration, Trainer: "nnUNetTrainer"}}
}

// plane is a plane of voxels; outside the case it has 0 and label 0.
type plane struct {
	ny, nx int
	image  [][]float64
	labels [][]int
}

// cut reads a plane of the .npz file: at(y, x) is its voxel in the case.
func cut(t *testing.T, path string, ny, nx int, at func(y, x int) [3]int) plane {
	t.Helper()
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer f.Close()
	a, err := f.Read("data")
	require.NoError(t, err)
	values, err := a.Float64s()
	require.NoError(t, err)
	s, err := f.Read("seg")
	require.NoError(t, err)
	labels, err := s.Int16s()
	require.NoError(t, err)
	p := plane{ny: ny, nx: nx}
	for y := range ny {
		p.image, p.labels = append(p.image, make([]float64, nx)), append(p.labels, make([]int, nx))
		for x := range nx {
			v := at(y, x)
			inside := true
			for axis := range 3 {
				inside = inside && v[axis] >= 0 && v[axis] < a.Shape[axis+1]
			}
			if inside {
				i := (v[0]*a.Shape[2]+v[1])*a.Shape[3] + v[2]
				p.image[y][x], p.labels[y][x] = values[i], max(int(labels[i]), 0)
			}
		}
	}
	return p
}

// mirrored reverses a plane.
func (p plane) mirrored(y, x bool) plane {
	q := plane{ny: p.ny, nx: p.nx}
	for r := range p.ny {
		if y {
			r = p.ny - 1 - r
		}
		row, labels := slices.Clone(p.image[r]), slices.Clone(p.labels[r])
		if x {
			slices.Reverse(row)
			slices.Reverse(labels)
		}
		q.image, q.labels = append(q.image, row), append(q.labels, labels)
	}
	return q
}

// check compares a panel with the plane: grey levels between low and high, linear between the
// centres of voxels, and the borders of labels, one pixel on either side, in colour.
func (p plane) check(t *testing.T, img *image.RGBA, x0, y0, height int, low, high float64) (outlined int) {
	t.Helper()
	label := func(py, px int) int {
		if py < 0 || px < 0 || py >= height || px >= sheetPanel {
			return 0
		}
		return p.labels[py*p.ny/height][px*p.nx/sheetPanel]
	}
	sample := func(pos float64, n int) (int, int, float64) {
		pos = math.Min(math.Max(pos, 0), float64(n-1))
		i := int(pos)
		return i, min(i+1, n-1), pos - float64(i)
	}
	for py := range height {
		for px := range sheetPanel {
			got := img.RGBAAt(x0+px, y0+py)
			l := label(py, px)
			if l != label(py-1, px) || l != label(py+1, px) || l != label(py, px-1) || l != label(py, px+1) {
				require.NotEqual(t, got.R, got.B, "pixel %d %d lies at a border", py, px)
				outlined++
				continue
			}
			ya, yb, fy := sample((float64(py)+0.5)*float64(p.ny)/float64(height)-0.5, p.ny)
			xa, xb, fx := sample((float64(px)+0.5)*float64(p.nx)/sheetPanel-0.5, p.nx)
			v := (p.image[ya][xa]*(1-fx)+p.image[ya][xb]*fx)*(1-fy) + (p.image[yb][xa]*(1-fx)+p.image[yb][xb]*fx)*fy
			grey := uint8(255*math.Min(math.Max((v-low)/(high-low), 0), 1) + 0.5)
			require.InDelta(t, grey, got.R, 1, "pixel %d %d", py, px) // 1: rounding of a half
			require.Equal(t, color.RGBA{got.R, got.R, got.R, 255}, got, "pixel %d %d", py, px)
		}
	}
	return outlined
}

// levels are the grey levels of a patch: all but its darkest 1 % and brightest 0.5 %.
func levels(planes []plane) (low, high float64) {
	var all []float64
	for _, p := range planes {
		all = append(all, slices.Concat(p.image...)...)
	}
	slices.Sort(all)
	return all[len(all)/100], all[len(all)-1-len(all)/200]
}

func TestPreviewShowsTheCaseThenWhatIsDrawn(t *testing.T) {
	c := mini("3d_fullres")
	c.Augmentation, c.Seed, c.N = "mirror", 3, 5
	img, text := previewed(t, c)
	const axial, coronal = sheetPanel, 214 // 28 slices of 2.5 mm and 64 rows of 1.47 mm: 288·28·2.5/(64·1.47)
	require.Equal(t, image.Rect(0, 0, sheetX+3*sheetStep+320+20, sheetY+6*(axial+10)+34+20), img.Bounds())

	set, err := dataset.Open(filepath.Dir(c.Case))
	require.NoError(t, err)
	scan, err := set.Load("LN_004")
	require.NoError(t, err)
	v := previewPlace(scan, c.Seed)
	require.EqualValues(t, 1, scan.Seg.Data[(v[0]*scan.Seg.Shape[2]+v[1])*scan.Seg.Shape[3]+v[2]], "the patch lies around foreground")
	z0, y0, x0 := v[0]-14, v[1]-32, v[2]-32
	var slices3 []plane
	for z := range 28 {
		slices3 = append(slices3, cut(t, c.Case, 64, 64, func(y, x int) [3]int { return [3]int{z0 + z, y0 + y, x0 + x} }))
	}
	low, high := levels(slices3)
	zx := cut(t, c.Case, 28, 64, func(z, x int) [3]int { return [3]int{z0 + 27 - z, v[1], x0 + x} })
	zy := cut(t, c.Case, 28, 64, func(z, y int) [3]int { return [3]int{z0 + 27 - z, y0 + y, v[2]} })
	require.Positive(t, slices3[14].check(t, img, sheetX, sheetY, axial, low, high))
	require.Positive(t, zx.check(t, img, sheetX+sheetStep, sheetY, coronal, low, high))
	require.Positive(t, zy.check(t, img, sheetX+2*sheetStep, sheetY, coronal, low, high))

	// row i shows line i of augment sample
	seen := map[[3]bool]bool{}
	for i, line := range sampled(t, AugmentSampleConfig{AugmentConfig: c.AugmentConfig, Seed: c.Seed, N: 5}) {
		var s struct{ Transforms []struct{ Axes []int } }
		require.NoError(t, json.Unmarshal([]byte(line), &s))
		var flip [3]bool
		for _, a := range s.Transforms[0].Axes {
			flip[a] = true
		}
		seen[flip] = true
		z := 14
		if flip[0] {
			z = 13
		}
		slices3[z].mirrored(flip[1], flip[2]).check(t, img, sheetX, sheetY+(i+1)*(axial+10), axial, low, high)
	}
	require.Greater(t, len(seen), 2)

	_, again := previewed(t, c)
	require.True(t, bytes.Equal(text, again), "the picture follows from the seed")
	c.Seed = 4
	_, other := previewed(t, c)
	require.False(t, bytes.Equal(text, other))
}

func TestPreviewHasTheGreyLevelsOfThePatch(t *testing.T) {
	c := mini("")
	c.Plans, c.PatchSize, c.N = "", []int{6, 8, 8}, 1
	set, err := dataset.Open(filepath.Dir(c.Case))
	require.NoError(t, err)
	scan, err := set.Load("LN_004")
	require.NoError(t, err)
	for {
		v := previewPlace(scan, c.Seed)
		var all []plane
		for z := range 6 {
			all = append(all, cut(t, c.Case, 8, 8, func(y, x int) [3]int { return [3]int{v[0] - 3 + z, v[1] - 4 + y, v[2] - 4 + x} }))
		}
		low, high := levels(all)
		if middleLow, middleHigh := levels(all[3:4]); math.Abs(middleLow-low)+math.Abs(middleHigh-high) < 0.05 {
			c.Seed++ // the levels do not tell which voxels they are of
			continue
		}
		img, _ := previewed(t, c)
		all[3].check(t, img, sheetX, sheetY, sheetPanel, low, high)
		return
	}
}

func TestPreviewOf2dShowsOnePlane(t *testing.T) {
	c := mini("2d")
	img, _ := previewed(t, c)
	require.Equal(t, image.Rect(0, 0, sheetX+sheetStep+320+20, sheetY+3*(sheetPanel+10)+34+20), img.Bounds())
	set, err := dataset.Open(filepath.Dir(c.Case))
	require.NoError(t, err)
	scan, err := set.Load("LN_004")
	require.NoError(t, err)
	v := previewPlace(scan, c.Seed)
	p := cut(t, c.Case, 64, 64, func(y, x int) [3]int { return [3]int{v[0], v[1] - 32 + y, v[2] - 32 + x} })
	low, high := levels([]plane{p})
	require.Positive(t, p.check(t, img, sheetX, sheetY, sheetPanel, low, high))
}

// without foreground the middle; regions are outlined one over the other; patches may be larger than
// the case
func TestPreviewOfPlainCasesAndRegions(t *testing.T) {
	folder := filepath.Join(golden.Root(t), "testdata/golden/loader/regions_ignore")
	set, err := dataset.Open(folder)
	require.NoError(t, err)
	for _, key := range set.Keys() {
		scan, err := set.Load(key)
		require.NoError(t, err)
		none := *scan
		none.Locations = nil
		n := scan.Data.Spatial()
		require.Equal(t, [3]int{n[0] / 2, n[1] / 2, n[2] / 2}, previewPlace(&none, 1))
		c := AugmentPreviewConfig{Case: filepath.Join(folder, key), N: 3, AugmentConfig: AugmentConfig{PatchSize: []int{8, 40, 30}, Trainer: "nnUNetTrainer"}}
		previewed(t, c)
	}

	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "cases"), os.DirFS(folder)))
	text, err := os.ReadFile(filepath.Join(folder, "dataset.json"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dataset.json"), text, 0o666))
	text, err = os.ReadFile(mini("").Plans)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plans.json"), text, 0o666))
	key := set.Keys()[0]
	c := AugmentPreviewConfig{Case: filepath.Join(dir, "cases", key), N: 2, AugmentConfig: AugmentConfig{Plans: filepath.Join(dir, "plans.json"),
		Configuration: "3d_phantom", Trainer: "nnUNetTrainer"}}
	plan, err := readPlanned(c.Plans, c.Configuration)
	require.NoError(t, err)
	require.True(t, plan.dataset.Labels.HasRegions)
	scan, err := set.Load(key)
	require.NoError(t, err)
	if len(plan.dataset.ChannelNames) != scan.Data.Shape[0] {
		t.Fatalf("%d channels", scan.Data.Shape[0])
	}
	img, _ := previewed(t, c)
	colours := map[color.RGBA]int{}
	for y := sheetY; y < sheetY+sheetPanel; y++ {
		for x := sheetX; x < sheetX+sheetPanel; x++ {
			if p := img.RGBAAt(x, y); p.R != p.B || p.R != p.G {
				colours[p]++
			}
		}
	}
	require.Greater(t, len(colours), 1, "regions have colours of their own")
}

func TestPreviewTellsWhatTransformsDid(t *testing.T) {
	for _, c := range []struct{ step, want string }{
		{`"transform":"SpatialTransform","patch_size":[4,4,4],"affine":null,"angles":[0,0,0],"scales":[1,1,1],"center_location_in_pixels":[2,2,2],"mode_seg":"bilinear"`, ""},
		{`"transform":"SpatialTransform","patch_size":[4,4,4],"affine":[[1,0,0],[0,1,0],[0,0,1]],"angles":[0.2094,-0.0524,0.349],"scales":[1.2,1.2,1.2],"center_location_in_pixels":[2,2,2],"mode_seg":"bilinear"`,
			"rotation 12° -3° 20°|scale 1.2"},
		{`"transform":"SpatialTransform","patch_size":[4,4],"affine":[[1,0],[0,1]],"angles":[1,1,0.2094],"scales":[0.75,1.3],"center_location_in_pixels":[2,2],"mode_seg":"bilinear"`,
			"rotation 12°|scale 0.75 1.3"},
		{`"transform":"GaussianNoiseTransform","apply_to_channel":[true],"sigmas":0.0371,"noise_seed":"1"`, "noise 0.037"},
		{`"transform":"GaussianNoiseTransform","apply_transform":false`, ""},
		{`"transform":"GaussianBlurTransform","apply_to_channel":[false],"sigmas":[]`, ""},
		{`"transform":"GaussianBlurTransform","apply_to_channel":[true],"sigmas":[[0.51,0.7,1]]`, "blur 0.51 0.7 1"},
		{`"transform":"MultiplicativeBrightnessTransform","apply_to_channel":[0],"multipliers":[1.125]`, "brightness 1.12"},
		{`"transform":"ContrastTransform","apply_to_channel":[0],"multipliers":[0.8]`, "contrast 0.8"},
		{`"transform":"SimulateLowResolutionTransform","apply_to_channel":[true],"scales":[[1,1,1]]`, ""},
		{`"transform":"SimulateLowResolutionTransform","apply_to_channel":[true],"scales":[[1,0.6,0.6]]`, "low resolution 1 0.6 0.6"},
		{`"transform":"GammaTransform","apply_to_channel":[0],"retain_stats":[true],"invert_image":[true],"gamma":[0.9]`, "gamma of the inverted image 0.9"},
		{`"transform":"GammaTransform","apply_to_channel":[0],"retain_stats":[true],"invert_image":[false],"gamma":[1.4]`, "gamma 1.4"},
		{`"transform":"MirrorTransform","axes":[0,2]`, "mirrored z x"},
		{`"transform":"MirrorTransform","axes":[]`, ""},
		{`"transform":"RemoveLabelTansform","label_value":-1,"set_to":0`, ""},
	} {
		drawn, err := augment.DecodeSpec([]byte(`{"transforms":[{` + c.step + `}]}`))
		require.NoError(t, err, c.step)
		var want []string
		if c.want != "" {
			for _, line := range bytes.Split([]byte(c.want), []byte("|")) {
				want = append(want, string(line))
			}
		}
		require.Equal(t, want, describe(drawn[0], 3, 1), c.step)
	}
	drawn, err := augment.DecodeSpec([]byte(`{"transforms":[{"transform":"GaussianBlurTransform","apply_to_channel":[true,false,true],"sigmas":[[0.5,0.6],[0.7,0.8]]},
		{"transform":"MirrorTransform","axes":[1]}]}`))
	require.NoError(t, err)
	require.Equal(t, []string{"blur 0.5 0.6; 0.7 0.8 (channels 0 2)"}, describe(drawn[0], 2, 3))
	require.Equal(t, []string{"mirrored x"}, describe(drawn[1], 2, 3))
}

func TestPreviewExplainsBadInput(t *testing.T) {
	for _, c := range []struct {
		change func(c *AugmentPreviewConfig)
		usage  bool
		want   string
	}{
		{func(c *AugmentPreviewConfig) { c.Output = "" }, true, "-o is not given"},
		{func(c *AugmentPreviewConfig) { c.Channel = 1 }, true, "--channel 1: "},
		{func(c *AugmentPreviewConfig) { c.Case = filepath.Join(filepath.Dir(c.Case), "LN_9.npz") }, false, "LN_9.npz: expected a case of "},
		{func(c *AugmentPreviewConfig) { c.Case = "nowhere/LN_9.npz" }, false, "nowhere: no such folder"},
		{func(c *AugmentPreviewConfig) { c.Plans, c.PatchSize = "", []int{100000, 100000, 100000} }, true, "expected 2^27 voxels at most"},
		{func(c *AugmentPreviewConfig) { c.Plans, c.PatchSize, c.Channels = "", []int{8, 8, 8}, 2 }, false, "found 1 channels, expected 2"},
		{func(c *AugmentPreviewConfig) { c.Plans, c.PatchSize, c.CascadeLabels = "", []int{8, 8, 8}, []int{1} }, true, "second stage of a cascade"},
		{func(c *AugmentPreviewConfig) { c.Configuration = "3d" }, false, "3d"},
		{func(c *AugmentPreviewConfig) { c.Augmentation = "nnUnet" }, true, `--augmentation: found "nnUnet"`},
	} {
		config := mini("3d_phantom")
		config.Output = filepath.Join(t.TempDir(), "sheet.png")
		c.change(&config)
		err := AugmentPreview(context.Background(), config, Output{})
		require.ErrorContains(t, err, c.want)
		var usage *settings.UsageError
		if c.usage {
			require.ErrorAs(t, err, &usage)
		} else {
			require.NotErrorAs(t, err, &usage)
		}
		if config.Output != "" {
			require.NoFileExists(t, config.Output)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	config := mini("3d_phantom")
	config.Output = filepath.Join(t.TempDir(), "sheet.png")
	require.ErrorIs(t, AugmentPreview(ctx, config, Output{}), context.Canceled)
	require.NoFileExists(t, config.Output)
}
