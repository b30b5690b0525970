package pairing

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every rule of linking. Series are letters, frames of reference digits, studies s and t.
func TestObjectsAreLinkedToImages(t *testing.T) {
	volume := func(series, frame, study string) Image {
		return Image{Series: series, Frame: frame, Study: study, Volume: true}
	}
	flat := func(series string) Image { return Image{Series: series, Frame: "1", Study: "s"} }
	other := func(series, frame string) Image {
		return Image{Series: series, Frame: frame, Study: "s", Volume: true, Other: true}
	}
	refers := func(study, frame string, series ...string) Object {
		return Object{Series: series, Frames: []string{frame}, Study: study}
	}
	of := func(m Image, slices ...string) Image { m.Instances = slices; return m }
	names := func(o Object, slices ...string) Object { o.Instances = slices; return o }
	direct := func(i int) Link { return Link{Object: i} }
	shared := func(i int) Link { return Link{Object: i, ByFrame: true} }
	for _, test := range []struct {
		name    string
		images  []Image
		objects []Object
		want    [][]Link
		why     []error
	}{
		{"its series", []Image{volume("a", "1", "s"), volume("b", "1", "s")}, []Object{refers("s", "1", "b")},
			[][]Link{nil, {direct(0)}}, []error{nil}},
		{"its series, whatever frame and study say", []Image{volume("a", "1", "s")}, []Object{refers("t", "2", "a")},
			[][]Link{{direct(0)}}, []error{nil}},
		{"two series", []Image{volume("a", "1", "s"), volume("b", "2", "s")}, []Object{refers("s", "1", "a", "b", "a")},
			[][]Link{{direct(0)}, {direct(0)}}, []error{nil}},
		{"two objects", []Image{volume("a", "1", "s")}, []Object{refers("s", "1", "a"), refers("s", "1", "a")},
			[][]Link{{direct(0), direct(1)}}, []error{nil, nil}},
		{"a volume and a localizer in the series", []Image{flat("a"), volume("a", "1", "s")}, []Object{refers("s", "1", "a")},
			[][]Link{nil, {direct(0)}}, []error{nil}},
		{"the only stack, though it is no volume", []Image{flat("a")}, []Object{refers("s", "1", "a")},
			[][]Link{{direct(0)}}, []error{nil}},
		{"two volumes of the series", []Image{volume("a", "1", "s"), volume("a", "1", "s")}, []Object{refers("s", "1", "a")},
			[][]Link{nil, nil}, []error{&Several{Images: []int{0, 1}}}},
		{"of two volumes the one whose slices it names", []Image{of(volume("a", "1", "s"), "a1", "a2"),
			of(volume("a", "1", "s"), "b1", "b2")}, []Object{names(refers("s", "1", "a"), "b2", "x")},
			[][]Link{nil, {direct(0)}}, []error{nil}},
		{"slices of both volumes", []Image{of(volume("a", "1", "s"), "a1"), of(volume("a", "1", "s"), "b1")},
			[]Object{names(refers("s", "1", "a"), "a1", "b1")}, [][]Link{nil, nil}, []error{&Several{Images: []int{0, 1}}}},
		{"slices of neither volume", []Image{of(volume("a", "1", "s"), ""), of(volume("a", "1", "s"), "b1")},
			[]Object{names(refers("s", "1", "a"), "", "x")}, [][]Link{nil, nil}, []error{&Several{Images: []int{0, 1}}}},
		{"one series is clear, the other not", []Image{volume("a", "1", "s"), volume("a", "1", "s"), volume("b", "1", "s")},
			[]Object{refers("s", "1", "a", "b")}, [][]Link{nil, nil, {direct(0)}}, []error{&Several{Images: []int{0, 1}}}},
		{"frame and study", []Image{volume("a", "1", "s")}, []Object{refers("s", "1", "z")},
			[][]Link{{shared(0)}}, []error{nil}},
		{"frame and study, no series named", []Image{volume("a", "1", "s")}, []Object{refers("s", "1")},
			[][]Link{{shared(0)}}, []error{nil}},
		{"the frame of another study", []Image{volume("a", "1", "s")}, []Object{refers("t", "1", "z")},
			[][]Link{nil}, []error{ErrNone}},
		{"another frame of the study", []Image{volume("a", "1", "s")}, []Object{refers("s", "2", "z")},
			[][]Link{nil}, []error{ErrNone}},
		{"nothing is known", []Image{volume("", "", "")}, []Object{refers("", "", "")},
			[][]Link{nil}, []error{ErrNone}},
		{"no volume has the frame", []Image{flat("a")}, []Object{refers("s", "1", "z")},
			[][]Link{nil}, []error{ErrNone}},
		{"two volumes have the frame", []Image{volume("a", "1", "s"), volume("b", "1", "s")}, []Object{refers("s", "1", "z")},
			[][]Link{nil, nil}, []error{&Several{Images: []int{0, 1}, ByFrame: true}}},
		{"of two, one has its own", []Image{volume("a", "1", "s"), volume("b", "1", "s")},
			[]Object{refers("s", "1", "z"), refers("s", "1", "a")}, [][]Link{{direct(1)}, {shared(0)}}, []error{nil, nil}},
		{"the only one has its own", []Image{volume("a", "1", "s")}, []Object{refers("s", "1", "z"), refers("s", "1", "a")},
			[][]Link{{direct(1)}}, []error{ErrTaken, nil}},
		{"two by frame are two objects", []Image{volume("a", "1", "s")}, []Object{refers("s", "1", "y"), refers("s", "1", "z")},
			[][]Link{{shared(0), shared(1)}}, []error{nil, nil}},
		{"another modality", []Image{other("a", "1")}, []Object{refers("s", "1", "a")},
			[][]Link{nil}, []error{ErrOther}},
		{"drawn on another modality of the frame", []Image{other("p", "1"), volume("a", "1", "s")}, []Object{refers("s", "1", "p")},
			[][]Link{nil, {shared(0)}}, []error{nil}},
	} {
		l := Find(test.images, test.objects)
		require.Equal(t, test.want, l.Images, test.name)
		require.Equal(t, test.why, l.Why, test.name)
		for _, err := range l.Why {
			var several *Several
			if errors.As(err, &several) {
				require.Contains(t, err.Error(), "2 ", test.name)
			}
		}
	}
}

func TestPatternsName(t *testing.T) {
	for _, test := range []struct{ pattern, file, want string }{
		{"{case}-ct.nrrd", "lnq2023-train-0001-ct.nrrd", "lnq2023-train-0001"},
		{"{case}-ct.nrrd", "-ct.nrrd", ""},
		{"{case}-ct.nrrd", "a-seg.nrrd", ""},
		{"{case}-ct.nrrd", "b/a-ct.nrrd", ""},
		{"images/{case}.nii.gz", "images/a b.nii.gz", "a b"},
		{"images/{case}.nii.gz", "labels/a.nii.gz", ""},
		{"{case}/{case}_ct.mha", "p1/p1_ct.mha", "p1"},
		{"{case}/{case}_ct.mha", "p1/p2_ct.mha", ""},
		{"{case}/{case}_ct.mha", "p1/p11_ct.mha", ""},
		{"{case}{case}", "abab", "ab"},
		{"{case}-{case}", "a-b-a-b", "a-b"},
		{"scan_{case}", "scan_", ""},
		{"long literal {case}", "x", ""},
		{"{case}/ct", "p/ct", "p"},
		{"ä{case}ö", "äüö", "ü"},
	} {
		p, err := ParsePattern(test.pattern)
		require.NoError(t, err)
		name, ok := p.Match(test.file)
		require.Equal(t, test.want != "", ok, test)
		if ok {
			require.Equal(t, test.want, name)
			require.Equal(t, test.file, p.Path(name))
		}
	}
	p, err := ParsePattern("a/{case}/b/{case}.nii")
	require.NoError(t, err)
	require.Equal(t, 3, p.Depth())
	for text, want := range map[string]string{
		"ct.nrrd": "expected {case} in it", "": "expected {case} in it", "/x/{case}": "below the folder",
		"../{case}": "below the folder", "{case}/../x": "below the folder", "./{case}": "below the folder", "{case}/": "below the folder",
	} {
		_, err := ParsePattern(text)
		require.ErrorContains(t, err, want, text)
	}
}
