package page

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/internal/browsertest"
	"github.com/lntorch/lntorch/phantom"
	"github.com/lntorch/lntorch/volume"
)

// evil is a name that is markup, ends a script element, a comment and a string.
const evil = `<script>alert(1)</script></script><!--"'&=1+1`

// drawnCases are held-out phantoms: before, the model misses every other node; after, the third.
var drawnCases = sync.OnceValues(func() ([]*HeldOut, error) {
	var list []*HeldOut
	for seed := range uint64(3) {
		p, err := phantom.Make(context.Background(), phantom.Config{Shape: [3]int{40, 104, 104},
			Spacing: [3]float64{4, 2.4, 2.4}, Phase: "venous", Kernel: "medium", Noise: 12,
			Nodes: [2]int{5, 9}, ShortAxis: 9, Spread: 0.35, Seed: seed + 7, Threads: 2})
		if err != nil {
			return nil, err
		}
		h := &HeldOut{Case: fmt.Sprintf("LN_%03d", seed+4), Shape: p.Shape,
			Geometry: volume.Geometry{Spacing: p.Spacing, OriginXYZ: p.Origin,
				DirectionXYZ: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}},
			Image: make([]float32, len(p.CT))}
		for i, v := range p.CT {
			h.Image[i] = float32(v)
		}
		h.Truth = &labelmap.Map{Shape: h.Shape, Small: p.Labels, Geometry: h.Geometry}
		list = append(list, h)
	}
	return list, nil
})

// without is the truth without the nodes that drop names, moved by so many voxels along x, with a
// node that is not there.
func without(h *HeldOut, found []scores.Node, drop func(i int) bool, shift int) *labelmap.Map {
	m := &labelmap.Map{Shape: h.Shape, Geometry: h.Geometry, Small: make([]uint8, len(h.Truth.Small))}
	nx, ny := h.Shape[2], h.Shape[1]
	gone := func(z, y, x int) bool {
		for i, n := range found {
			var at [3]float64
			for a := range 3 {
				at[a] = (n.Centroid[2-a] - h.Geometry.OriginXYZ[2-a]) / h.Geometry.Spacing[a]
			}
			d := math.Hypot(math.Hypot((at[0]-float64(z))*h.Geometry.Spacing[0],
				(at[1]-float64(y))*h.Geometry.Spacing[1]), (at[2]-float64(x))*h.Geometry.Spacing[2])
			if drop(i) && d < n.LongAxis*0.8+4 {
				return true
			}
		}
		return false
	}
	for i, l := range h.Truth.Small {
		z, y, x := i/nx/ny, i/nx%ny, i%nx
		if l != 0 && x+shift < nx && !gone(z, y, x) {
			m.Small[i+shift] = l
		}
	}
	for z := 3; z < 6; z++ {
		for y := 40; y < 44; y++ {
			for x := 60; x < 63; x++ {
				m.Small[(z*ny+y)*nx+x] = 1
			}
		}
	}
	return m
}

// sample is a report of phantoms, as adapt would make it.
func sample(t testing.TB) *Adaptation {
	t.Helper()
	drawn, err := drawnCases()
	require.NoError(t, err)
	s := scores.Default()
	targets := []eval.Target{eval.Label(1)}
	names := map[string]string{"1": "lymph_node"}
	a := &Adaptation{Title: "Adaptation of LN-Seg-FM to Target CT",
		Checkpoint: "foundation/checkpoint_final.pth", Method: "dgst",
		Notes: []string{"The delivered model was trained for 40 epochs of 20 iterations."}}
	var before, after []*scores.Case
	type row struct {
		Case     string     `json:"case"`
		Image    []string   `json:"image"`
		Label    string     `json:"label"`
		Role     string     `json:"role"`
		Size     [3]int     `json:"size"`
		Spacing  [3]float64 `json:"spacing_mm"`
		Nodes    int        `json:"nodes"`
		ML       float64    `json:"ml"`
		Problems []string   `json:"problems"`
	}
	var rows []row
	for i := range 4 {
		rows = append(rows, row{fmt.Sprintf("LN_%03d", i), []string{fmt.Sprintf("/data/ct/LN_%03d_0000.nii.gz", i)},
			fmt.Sprintf("/data/labels/LN_%03d.nii.gz", i), "train", [3]int{40, 104, 104},
			[3]float64{4, 2.4, 2.4}, 5 + i, 6.125 + float64(i), nil})
	}
	rows[2].Problems = []string{"no voxel below −200: not HU?"}
	for _, h := range drawn {
		h := *h
		truth, err := s.Score(h.Truth, h.Truth, targets, nil)
		require.NoError(t, err)
		found := truth["1"].Nodes.Reference
		score := func(m *labelmap.Map, where string) *Predicted {
			l, err := s.Score(h.Truth, m, targets, nil)
			require.NoError(t, err)
			return &Predicted{Labels: m, Scores: &scores.Case{Case: h.Case,
				ReferenceFile:  "/data/labels/" + h.Case + ".nii.gz",
				PredictionFile: "/out/" + where + "/" + h.Case + ".nii.gz", Spacing: h.Geometry.Spacing,
				Labels: l}}
		}
		h.Before = score(without(&h, found, func(i int) bool { return i%2 == 0 }, 1), "before")
		h.After = score(without(&h, found, func(i int) bool { return i == 2 }, 0), "after")
		before, after = append(before, h.Before.Scores), append(after, h.After.Scores)
		pictures, err := h.Pictures()
		require.NoError(t, err)
		a.Pictures = append(a.Pictures, pictures...)
		rows = append(rows, row{h.Case, []string{"/data/ct/" + h.Case + "_0000.nii.gz"},
			"/data/labels/" + h.Case + ".nii.gz", "val", h.Shape, h.Geometry.Spacing, len(found), 9.5, nil})
	}
	a.Before = scores.New(s, targets, names, before, nil)
	a.After = scores.New(s, targets, names, after, nil)
	a.Cases = rows
	for i := range 40 {
		x := float64(i)
		a.Loss = append(a.Loss, 0.4*math.Exp(-x/9)-0.62+0.02*math.Sin(7*x))
		v := math.NaN()
		if i > 1 {
			v = 0.45*math.Exp(-x/11) - 0.55 + 0.04*math.Sin(5*x)
		}
		a.ValLoss = append(a.ValLoss, v)
		a.PseudoDice = append(a.PseudoDice, 0.78-0.5*math.Exp(-x/8)+0.03*math.Sin(3*x))
	}
	a.Run = map[string]any{"command": "lntorch adapt --checkpoint foundation --cases /data -o out",
		"versions": map[string]any{"lntorch": "v0.9", "libtorch": "2.4.1"},
		"sha256":   map[string]any{"checkpoint": strings.Repeat("ab", 32)},
		"settings": map[string]any{"epochs": 40, "method": "dgst", "patch": []int{24, 64, 64},
			"lr": 1e-3, "val": nil}}
	return a
}

func TestLook(t *testing.T) {
	a := sample(t)
	require.NoError(t, a.Write("/tmp/reportlook/report.html"))
	require.NoError(t, Scores("/tmp/reportlook/scores.html", a.After, "labelsTs and predictions"))
	for i, p := range a.Pictures {
		os.WriteFile(fmt.Sprintf("/tmp/reportlook/p%d.png", i), p.Image, 0o600)
		t.Log(p.Case, p.What, p.Slice, p.Dice, p.Nodes, len(p.Image), p.Alt)
	}
}

var _ = []any{bytes.NewReader, json.Marshal, png.Decode, filepath.Join, regexp.MustCompile, evil}

func TestShoot(t *testing.T) {
	p := browsertest.New(t)
	for _, v := range []struct {
		name string
		w, h int
		dark bool
	}{{"light", 1200, 5200, false}, {"dark", 1200, 5200, true}, {"phone", 390, 7000, false}} {
		p.Show(v.w, v.h, v.dark)
		p.Open("/tmp/reportlook/report.html")
		t.Log(p.Console(), len(p.Requests()))
		os.WriteFile("/tmp/reportlook/"+v.name+".png", p.Screenshot(), 0o600)
		p.Open("/tmp/reportlook/scores.html")
		os.WriteFile("/tmp/reportlook/scores-"+v.name+".png", p.Screenshot(), 0o600)
	}
	p.Open("/tmp/reportlook/report.html")
	os.WriteFile("/tmp/reportlook/report.pdf", p.PDF(), 0o600)
}
