package view

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/volume"
)

// memory is a volume.File of an image in memory.
type memory struct{ im *volume.Image }

func (m memory) Head() *volume.Header                       { return &volume.Header{} }
func (m memory) Stored() volume.Pixels                      { return m.im.Pixels }
func (m memory) Values() volume.Pixels                      { return m.im.Pixels }
func (m memory) Image() (*volume.Image, *volume.ITK, error) { return m.im, nil, nil }

func made(name string, shape [3]int, pixels volume.Pixels) Volume {
	im := &volume.Image{Shape: [4]int{1, shape[0], shape[1], shape[2]}, Pixels: pixels}
	im.Geometry = volume.Geometry{Spacing: [3]float64{3, 1, 1},
		DirectionXYZ: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	return Volume{Path: "/secret/" + name, Name: name, File: memory{im}}
}

func described_(t *testing.T, s *Scene) (d sceneJSON) {
	t.Helper()
	require.NoError(t, json.Unmarshal(s.description, &d))
	return d
}

var shape = [3]int{4, 10, 12}

// blocks is a label map with boxes [z0, z1) × [y0, y1) × [x0, x1) of a value.
func blocks[T volume.Pixel](boxes ...[7]int) volume.Slice[T] {
	data := make(volume.Slice[T], shape[0]*shape[1]*shape[2])
	for _, b := range boxes {
		for z := b[0]; z < b[1]; z++ {
			for y := b[2]; y < b[3]; y++ {
				for x := b[4]; x < b[5]; x++ {
					data[(z*shape[1]+y)*shape[2]+x] = T(b[6])
				}
			}
		}
	}
	return data
}

func ct() Volume { return made("ct.nii", shape, make(volume.Slice[int16], 480)) }

// Nodes are those of evaluation: the same sizes, places and matches.
func TestNodesAreThoseOfEvaluate(t *testing.T) {
	v := opened(t, phantom+"imagesTs/LN_004_0000.nii.gz", phantom+"labelsTs/LN_004.nii.gz")
	truth, _, err := v[1].File.Image()
	require.NoError(t, err)
	// The prediction lacks the first rows and is moved by one voxel.
	moved := *truth
	data := make(volume.Slice[uint8], truth.Pixels.Len())
	copy(data[2*truth.Shape[2]*truth.Shape[3]+1:], truth.Pixels.(volume.Slice[uint8])[2*truth.Shape[2]*truth.Shape[3]:])
	moved.Pixels = data
	prediction := Volume{Path: "p", Name: "p", File: memory{&moved}}
	s, err := NewScene(t.Context(), v[0], []Volume{v[1], prediction})
	require.NoError(t, err)
	require.Empty(t, s.Warnings)

	a, err := labelmap.New(truth)
	require.NoError(t, err)
	b, err := labelmap.New(&moved)
	require.NoError(t, err)
	rule, err := scores.ParseRule("iou:0.3")
	require.NoError(t, err)
	want, err := scores.Settings{Match: []scores.Rule{rule}, Connectivity: 26, SizeClasses: []float64{5, 10},
		Tolerances: []float64{2}}.Score(a, b, []eval.Target{eval.Label(1)}, nil)
	require.NoError(t, err)
	d := described_(t, s)
	require.Len(t, d.Labels, 2)
	found := 0
	for side, nodes := range [][]scores.Node{want["1"].Nodes.Reference, want["1"].Nodes.Prediction} {
		require.Len(t, d.Labels[side].Nodes, len(nodes))
		require.NotEmpty(t, nodes)
		for i, n := range nodes {
			got := d.Labels[side].Nodes[i]
			require.Equal(t, n.Node, got.Node)
			require.Equal(t, n.Voxels, got.Voxels)
			require.Equal(t, n.MM3, got.MM3)
			require.InDelta(t, n.ShortAxis, got.ShortAxis, 1e-9)
			require.InDelta(t, n.LongAxis, got.LongAxis, 1e-9)
			require.Equal(t, n.Centroid, got.Centroid)
			require.Equal(t, n.Slice, got.Slice)
			require.Len(t, got.Matches, 1)
			require.Equal(t, 1-side, got.Matches[0].With)
			require.Equal(t, n.Matched, got.Matches[0].Matched)
			if n.Matched {
				found++
				require.Equal(t, *n.Match, got.Matches[0].Node)
				require.InDelta(t, *n.IoU, got.Matches[0].IoU, 1e-4)
			}
		}
	}
	require.Positive(t, found)
}

// A list entry leads into its node, in the slice in which it is measured: also where the centroid lies
// beside a node that is bent.
func TestTheListLeadsIntoTheNode(t *testing.T) {
	// An arch: its middle is empty.
	arch := blocks[uint8]([7]int{1, 3, 2, 3, 2, 9, 1}, [7]int{1, 3, 3, 7, 2, 3, 1}, [7]int{1, 3, 3, 7, 8, 9, 1})
	s, err := NewScene(t.Context(), ct(), []Volume{made("a", shape, arch)})
	require.NoError(t, err)
	d := described_(t, s)
	require.Len(t, d.Labels[0].Nodes, 1)
	n := d.Labels[0].Nodes[0]
	x, y, z := int(-n.At[0]), int(-n.At[1]), int(n.At[2]/3)
	require.Equal(t, n.Slice, z)
	require.Equal(t, uint8(1), arch[(z*shape[1]+y)*shape[2]+x])
	require.Zero(t, arch[(z*shape[1]+int(n.Centroid[1]))*shape[2]+int(n.Centroid[0])])

	// A box is looked at in its middle.
	s, err = NewScene(t.Context(), ct(), []Volume{made("a", shape, blocks[uint8]([7]int{1, 2, 3, 8, 4, 9, 1}))})
	require.NoError(t, err)
	require.Equal(t, [3]float64{-6, -5, 3}, described_(t, s).Labels[0].Nodes[0].At)
}

func TestLabelsKeepTheirType(t *testing.T) {
	box := [7]int{1, 2, 3, 5, 4, 6, 300}
	for _, pixels := range []volume.Pixels{blocks[int16](box), blocks[uint16](box), blocks[int32](box), blocks[uint32](box),
		blocks[int64](box), blocks[float32](box), blocks[float64](box)} {
		s, err := NewScene(t.Context(), ct(), []Volume{made("a", shape, pixels)})
		require.NoError(t, err)
		require.Equal(t, pixels.Bytes(), s.volumes[1].pixels, pixels.Type())
		d := described_(t, s)
		require.Equal(t, pixels.Type(), d.Labels[0].Type)
		require.Equal(t, []valueJSON{{Value: 300, Voxels: 4, Nodes: 1}}, d.Labels[0].Values)
	}
}

// Labels of two maps are compared each with its own.
func TestNodesAreComparedLabelByLabel(t *testing.T) {
	truth := made("t", shape, blocks[uint8]([7]int{0, 2, 0, 3, 0, 3, 1}, [7]int{2, 4, 5, 8, 5, 8, 2}))
	other := made("p", shape, blocks[uint8]([7]int{0, 2, 0, 3, 0, 3, 2}, [7]int{2, 4, 5, 8, 5, 8, 2}))
	truth.Names = map[int]string{1: "left", 2: "right"}
	s, err := NewScene(t.Context(), ct(), []Volume{truth, other, truth})
	require.NoError(t, err)
	d := described_(t, s)
	require.Equal(t, "left", d.Labels[0].Values[0].Name)
	nodes := d.Labels[0].Nodes
	require.Len(t, nodes, 2)
	require.Equal(t, []matchJSON{{With: 1}, {With: 2, Node: 1, IoU: 1, Matched: true}}, nodes[0].Matches)
	require.Equal(t, []matchJSON{{With: 1, Node: 2, IoU: 1, Matched: true},
		{With: 2, Node: 1, IoU: 1, Matched: true}}, nodes[1].Matches)
	require.Equal(t, []matchJSON{{With: 0}}, d.Labels[1].Nodes[0].Matches)
}

func TestWhatIsNoLabelMapIsRefused(t *testing.T) {
	half := blocks[float32]([7]int{0, 1, 0, 1, 0, 1, 1})
	half[3] = 0.5
	_, err := NewScene(t.Context(), ct(), []Volume{made("a", shape, half)})
	require.EqualError(t, err, "/secret/a: found the value 0.5, expected whole numbers: these are no labels")
	_, err = NewScene(t.Context(), ct(), []Volume{made("a", shape, blocks[int16]([7]int{0, 1, 0, 1, 0, 1, -5}))})
	require.EqualError(t, err, "/secret/a: found the value -5, expected labels, which are not negative: is this an "+
		"image? Give it first, and label maps behind it")
	many := make(volume.Slice[int16], 4*30*30)
	for i := range many {
		many[i] = int16(i)
	}
	_, err = NewScene(t.Context(), ct(), []Volume{made("a", [3]int{4, 30, 30}, many)})
	require.EqualError(t, err, "/secret/a: found more than 1000 different values, expected labels: is this an image? "+
		"Give it first, and label maps behind it")
}

func TestNoiseIsNotMeasured(t *testing.T) {
	big := [3]int{80, 80, 80}
	noise := make(volume.Slice[uint8], 80*80*80)
	for z := 0; z < 80; z += 2 {
		for y := 0; y < 80; y += 2 {
			for x := 0; x < 80; x += 2 {
				noise[(z*80+y)*80+x] = 1
			}
		}
	}
	s, err := NewScene(t.Context(), made("ct", big, make(volume.Slice[int16], len(noise))), []Volume{made("a", big, noise)})
	require.NoError(t, err)
	require.Empty(t, described_(t, s).Labels[0].Nodes)
	require.Len(t, s.Warnings, 1)
	require.Contains(t, s.Warnings[0], "/secret/a: label 1 has 64000 components, more than nodes can be")

	few := made("b", [3]int{40, 80, 80}, noise[:40*80*80]) // 32000
	s, err = NewScene(t.Context(), made("ct", [3]int{40, 80, 80}, make(volume.Slice[int16], 40*80*80)), []Volume{few})
	require.NoError(t, err)
	d := described_(t, s)
	require.Len(t, d.Labels[0].Nodes, mostListed)
	require.Equal(t, 31000, d.Labels[0].Hidden)
}

// Many labels of which none is noise alone are noise together.
func TestManyNoisyLabelsAreNotMeasured(t *testing.T) {
	const size = 2 * 48
	big := [3]int{size, size, size}
	noise := make(volume.Slice[uint8], size*size*size)
	for z := 0; z < size; z += 2 {
		for y := 0; y < size; y += 2 {
			for x := 0; x < size; x += 2 {
				noise[(z*size+y)*size+x] = uint8(1 + z/32) // three labels of 36864 voxels
			}
		}
	}
	noise[1] = 200 // and a small one, which has a place
	sparse := make(volume.Slice[uint8], len(noise))
	sparse[0], sparse[len(noise)-2*size*size-2*size-2] = 1, 3
	image := made("ct", big, make(volume.Slice[int16], len(noise)))
	m, err := labelmap.New(made("a", big, noise).File.(memory).im)
	require.NoError(t, err)
	all, err := describe(t.Context(), m)
	require.NoError(t, err)
	require.Len(t, all.Nodes, 2*36864+1)
	require.LessOrEqual(t, len(all.Nodes), mostMeasured)

	s, err := NewScene(t.Context(), image, []Volume{made("a", big, noise), made("b", big, sparse)})
	require.NoError(t, err)
	require.Equal(t, []string{"/secret/a: the labels have too many components together: none is listed of label 3"},
		s.Warnings)
	d := described_(t, s)
	require.Equal(t, []int{36864, 36864, 36864, 1}, []int{d.Labels[0].Values[0].Nodes, d.Labels[0].Values[1].Nodes,
		d.Labels[0].Values[2].Nodes, d.Labels[0].Values[3].Nodes})
	for _, n := range d.Labels[0].Nodes {
		require.NotEqual(t, 3, n.Label)
	}
	// A label that was measured is compared, the other is not.
	require.Equal(t, []matchJSON{{With: 0, Node: 1, IoU: 1, Matched: true}}, d.Labels[1].Nodes[0].Matches)
	require.Empty(t, d.Labels[1].Nodes[1].Matches)
}

// stopping is a context that is done after it was asked a few times.
type stopping struct {
	context.Context
	left int
}

func (s *stopping) Err() error {
	if s.left--; s.left < 0 {
		return context.Canceled
	}
	return nil
}

// Whoever stops the program does not wait for all labels.
func TestASceneEndsWithItsContext(t *testing.T) {
	labels := blocks[uint8]([7]int{0, 1, 0, 2, 0, 2, 1}, [7]int{2, 3, 3, 5, 3, 5, 2}, [7]int{3, 4, 8, 9, 8, 9, 7})
	two := []Volume{made("a", shape, labels), made("b", shape, labels)}
	for asked := range 9 { // once for each label of a map, and of both
		s, err := NewScene(&stopping{t.Context(), asked}, ct(), two)
		require.ErrorIs(t, err, context.Canceled, asked)
		require.Nil(t, s)
	}
	_, err := NewScene(&stopping{t.Context(), 9}, ct(), two)
	require.NoError(t, err)
}

func TestAnotherGridIsShownWithAWarning(t *testing.T) {
	shifted := made("a", shape, blocks[uint8]([7]int{0, 2, 0, 3, 0, 3, 1}))
	shifted.File.(memory).im.OriginXYZ = [3]float64{0, 0, 1}
	same := made("b", shape, blocks[uint8]([7]int{0, 2, 0, 3, 0, 3, 1}))
	s, err := NewScene(t.Context(), ct(), []Volume{same, shifted})
	require.NoError(t, err)
	require.Len(t, s.Warnings, 2)
	require.Contains(t, s.Warnings[0], "/secret/a lies on another grid than /secret/ct.nii, and is shown where its "+
		"file says:\n  size 12×10×4, spacing 1×1×3 mm, origin 0, 0, 1")
	require.Contains(t, s.Warnings[1], "their nodes are not compared")
	d := described_(t, s)
	require.False(t, d.Labels[1].Compared)
	require.Empty(t, d.Labels[0].Nodes[0].Matches)
	// The page shows no folders.
	require.NotContains(t, string(s.description), "secret")
	require.True(t, strings.HasPrefix(d.Warnings[0], "a lies on another grid than ct.nii"))
}

// Every image that reads is shown, as the numbers it holds.
func TestImagesOfEveryTypeAreDrawn(t *testing.T) {
	for _, pixels := range []volume.Pixels{blocks[uint8]([7]int{0, 1, 0, 1, 0, 1, 7}), blocks[int8]([7]int{0, 1, 0, 1, 0, 1, -7}),
		blocks[uint64]([7]int{0, 1, 0, 1, 0, 1, 7}), blocks[float64]([7]int{0, 1, 0, 1, 0, 1, 7}), blocks[int32]([7]int{0, 1, 0, 1, 0, 1, 7})} {
		s, err := NewScene(t.Context(), made("ct", shape, pixels), nil)
		require.NoError(t, err)
		want := pixels.Size() * pixels.Len()
		if pixels.Size() > 4 {
			want = 4 * pixels.Len() // float32
		}
		require.Len(t, s.volumes[0].pixels, want, pixels.Type())
		require.Equal(t, "[]", string(mustMarshal(t, described_(t, s).Labels)))
	}
	// several volumes
	im := made("ct", shape, make(volume.Slice[int16], 960))
	im.File.(memory).im.Shape[0] = 2
	s, err := NewScene(t.Context(), im, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"/secret/ct holds 2 volumes: only the first is shown"}, s.Warnings)
	require.Len(t, s.volumes[0].pixels, 960)
}

func mustMarshal(t *testing.T, v any) []byte {
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return data
}
