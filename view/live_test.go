package view

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/browsertest"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// browser opens a page of the scene in headless Chromium and waits until all is drawn.
func browser(t *testing.T, scene *Scene) *browsertest.Page {
	t.Helper()
	if err := Check(); err != nil {
		golden.Missing(t, "niivue", err.Error())
	}
	p := browsertest.New(t, "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
	p.Show(1300, 800, true)
	p.Open(serving(t, scene).URL())
	var state string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		p.Eval(`document.getElementById('ready') ? 'ready' : document.querySelector('#status.error') ?
			document.getElementById('status').textContent : ''`, &state)
		if state != "" {
			break
		}
	}
	require.Equal(t, "ready", state, strings.Join(p.Console(), "\n"))
	return p
}

// picture is what is seen; it is kept in the folder LNTORCH_PICTURES, if that is set.
func picture(t *testing.T, p *browsertest.Page, name string) image.Image {
	t.Helper()
	p.Eval("drawing.settled()", nil)
	data := p.Screenshot()
	if folder := os.Getenv("LNTORCH_PICTURES"); folder != "" {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name+".png"), data, 0o644))
	}
	im, err := png.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	return im
}

// near counts the pixels of an image's rectangle that have about a colour.
func near(im image.Image, in image.Rectangle, r, g, b int) (n int) {
	for y := in.Min.Y; y < in.Max.Y; y++ {
		for x := in.Min.X; x < in.Max.X; x++ {
			cr, cg, cb, _ := im.At(x, y).RGBA()
			apart := func(c uint32, want int) bool { return max(int(c>>8)-want, want-int(c>>8)) > 24 }
			if !apart(cr, r) && !apart(cg, g) && !apart(cb, b) {
				n++
			}
		}
	}
	return n
}

// greys counts the different grey values in a rectangle.
func greys(im image.Image, in image.Rectangle) int {
	seen := map[uint32]bool{}
	for y := in.Min.Y; y < in.Max.Y; y++ {
		for x := in.Min.X; x < in.Max.X; x++ {
			if r, g, b, _ := im.At(x, y).RGBA(); r == g && g == b {
				seen[r] = true
			}
		}
	}
	return len(seen)
}

// The tiles of the page of 1300 × 800 pixels.
var (
	axial = image.Rect(0, 0, 550, 765)
	solid = image.Rect(570, 515, 925, 765)
)

func TestThePageShowsImageLabelsAndNodes(t *testing.T) {
	v := opened(t, phantom+"imagesTs/LN_004_0000.nii.gz", phantom+"labelsTs/LN_004.nii.gz")
	truth, _, err := v[1].File.Image()
	require.NoError(t, err)
	// The prediction misses the first node and adds a cube.
	first := described_(t, phantomScene(t)).Labels[0].Nodes
	data := append(volume.Slice[uint8]{}, truth.Pixels.(volume.Slice[uint8])...)
	wide, tall := truth.Shape[3], truth.Shape[2]
	clear(data[:(first[0].Slice+4)*wide*tall])
	for z := 2; z < 6; z++ {
		for y := 30; y < 40; y++ {
			for x := 10; x < 20; x++ {
				data[(z*tall+y)*wide+x] = 1
			}
		}
	}
	other := *truth
	other.Pixels = data
	v[1].Names = map[int]string{1: "<b>lymph</b>"}
	scene, err := NewScene(t.Context(), v[0], []Volume{v[1], {Path: "p", Name: "<script>alert(1)</script>.nii.gz", File: memory{&other}}})
	require.NoError(t, err)
	d := described_(t, scene)
	p := browser(t, scene)

	var text string
	p.Eval("document.getElementById('ready').dataset.volumes", &text)
	require.Equal(t, "3", text)
	p.Eval("document.getElementById('labels').innerText", &text)
	require.Contains(t, text, "<script>alert(1)</script>.nii.gz")
	require.Contains(t, text, "truth")

	im := picture(t, p, "view")
	require.Greater(t, greys(im, axial), 40, "the axial slice")
	require.Greater(t, near(im, axial, 0, 190, 255), 60, "contour of the missed node")
	require.Greater(t, greys(im, solid), 10, "3-D")
	require.Zero(t, near(im, axial, 255, 154, 31))

	// The list has each node of the truth, the missed ones first, and its entries lead there.
	var rows int
	p.Eval("document.querySelectorAll('#nodes tbody tr').length", &rows)
	require.Equal(t, len(d.Labels[0].Nodes), rows)
	missed := 0
	for _, n := range d.Labels[0].Nodes {
		if !n.Matches[0].Matched {
			missed++
		}
	}
	require.Positive(t, missed)
	p.Eval("document.getElementById('summary').textContent", &text)
	require.Contains(t, text, fmt.Sprintf("%d of %d found", rows-missed, rows))
	for range rows {
		var at struct {
			Node  int
			Where [3]int
			Label float64
		}
		p.Eval(`({Node: rows[chosen].node.node, Where: drawing.toVoxels(drawing.nv.frac2mm(drawing.nv.scene.crosshairPos, 0, true)).map(Math.round),
			Label: (m => { const v = drawing.nv.volumes[1]; return v.getValue(...v.mm2vox(m)) })(rows[chosen].node.at_ras_mm)})`, &at)
		require.Equal(t, 1.0, at.Label, "node %d", at.Node)
		require.Equal(t, d.Labels[0].Nodes[at.Node-1].Slice, at.Where[2])
		p.Key("ArrowRight")
	}

	// The invented cube.
	p.Eval("document.querySelectorAll('#which button')[1].click()", nil)
	p.Eval("choose(rows.findIndex(r => status(r.map, r.node) === 'invented'))", nil)
	im = picture(t, p, "view-invented")
	require.Greater(t, near(im, axial, 255, 154, 31), 60)
	p.Eval("document.getElementById('where').textContent", &text)
	require.Contains(t, text, "prediction ")
	require.Contains(t, text, "HU ")

	// Differences are filled, more than the fill that is set.
	before := near(im, axial, 255, 154, 31)
	p.Eval("document.getElementById('differences').click()", nil)
	p.Eval("document.getElementById('contours').click()", nil)
	p.Eval("document.getElementById('fill').value = 100, document.getElementById('fill').dispatchEvent(new Event('input'))", nil)
	im = picture(t, p, "view-differences")
	require.Greater(t, near(im, axial, 255, 154, 31), 4*before)

	// Where both maps hold the same voxels there is no difference.
	p.Eval("choose(rows.findIndex(r => status(r.map, r.node) === 'true'))", nil)
	im = picture(t, p, "view-agreement")
	require.Zero(t, near(im, axial, 255, 154, 31))
	require.Zero(t, near(im, axial, 0, 190, 255))
	p.Eval("choose(rows.findIndex(r => status(r.map, r.node) === 'invented'))", nil)

	// Labels off: no colour is left but that of the cross-hair.
	p.Eval("byName('l')", nil)
	im = picture(t, p, "view-off")
	require.Zero(t, near(im, axial, 255, 154, 31))
	require.Zero(t, near(im, axial, 0, 190, 255))

	// The window: bone leaves soft tissue dark.
	p.Eval("byName('z')", nil)
	soft := picture(t, p, "view-axial")
	p.Eval("byName('2')", nil)
	bone := picture(t, p, "view-bone")
	middle := image.Rect(250, 200, 650, 600)
	require.Less(t, brightness(bone, middle), 0.8*brightness(soft, middle))
	var pressed string
	p.Eval("document.querySelector('#windows [aria-pressed=true]').textContent", &pressed)
	require.Equal(t, "bone", pressed)

	// Zoomed in, the list still leads to what is seen: the node stands in the middle.
	p.Eval("byName('+'), byName('+'), byName('+'), byName('+')", nil)
	for range 2 {
		p.Eval("choose(chosen + 1)", nil)
		var at []float64
		p.Eval("drawing.nv.frac2canvasPos(drawing.nv.scene.crosshairPos)", &at)
		require.InDelta(t, 462, at[0], 12)
		require.InDelta(t, 384, at[1], 12)
	}
	picture(t, p, "view-zoom")

	p.Eval("byName('?')", nil)
	p.Eval("document.getElementById('help').open ? document.getElementById('keys').innerText : ''", &text)
	for _, want := range []string{"next node", "differences on and off", "3-D alone"} {
		require.Contains(t, text, want)
	}
	require.Empty(t, p.Console())
	for _, address := range p.Requests() {
		require.True(t, strings.HasPrefix(address, "http://127.0.0.1:") || strings.HasPrefix(address, "data:") ||
			strings.HasPrefix(address, "blob:"), address)
	}
}

func brightness(im image.Image, in image.Rectangle) float64 {
	sum := 0.0
	for y := in.Min.Y; y < in.Max.Y; y++ {
		for x := in.Min.X; x < in.Max.X; x++ {
			r, _, _, _ := im.At(x, y).RGBA()
			sum += float64(r)
		}
	}
	return sum
}

// One label map with several labels: a colour each, with values that are no indices of a table.
func TestThePageShowsLabelsOfAMapApart(t *testing.T) {
	size := [3]int{12, 40, 40}
	n := size[0] * size[1] * size[2]
	ct, labels := make(volume.Slice[int16], n), make(volume.Slice[float32], n)
	for i := range ct {
		z, y, x := i/1600, i/40%40, i%40
		ct[i] = int16(x*5 - 400)
		if z > 2 && z < 9 && y > 10 && y < 30 {
			switch {
			case x > 4 && x < 16:
				labels[i] = 7
			case x > 24 && x < 36:
				labels[i] = 20000
			}
		}
	}
	scene, err := NewScene(t.Context(), made("ct", size, ct), []Volume{made("a", size, labels)})
	require.NoError(t, err)
	p := browser(t, scene)
	im := picture(t, p, "view-labels")
	require.Greater(t, near(im, axial, 0, 190, 255), 60)
	require.Greater(t, near(im, axial, 255, 154, 31), 60)
	var text string
	p.Eval("document.getElementById('labels').innerText", &text)
	require.Contains(t, text, "label 20000")
	p.Eval("document.querySelectorAll('#labels ul input')[1].click()", nil)
	im = picture(t, p, "view-one-label")
	require.Greater(t, near(im, axial, 0, 190, 255), 60)
	require.Zero(t, near(im, axial, 255, 154, 31))
	require.Empty(t, p.Console())
}

// An image alone, of numbers that are no HU.
func TestThePageShowsAnImageAlone(t *testing.T) {
	size := [3]int{1, 50, 60}
	pixels := make(volume.Slice[float64], 3000)
	for i := range pixels {
		pixels[i] = float64(i%60) / 60
	}
	scene, err := NewScene(t.Context(), made("mr", size, pixels), nil)
	require.NoError(t, err)
	p := browser(t, scene)
	var text string
	p.Eval("document.getElementById('ready').dataset.volumes + document.getElementById('windows').innerText", &text)
	require.Equal(t, "1auto", text)
	p.Eval("byName('z')", nil)
	require.Greater(t, greys(picture(t, p, "view-alone"), image.Rect(50, 50, 900, 700)), 40)
	require.Empty(t, p.Console())
}
