package cases

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tree makes a folder of empty files; a name that ends in / is a folder, a -> b a link.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range files {
		name, target, link := strings.Cut(name, " -> ")
		path := filepath.Join(root, filepath.FromSlash(name))
		if strings.HasSuffix(name, "/") {
			require.NoError(t, os.MkdirAll(path, 0o777))
			continue
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		if link {
			require.NoError(t, os.Symlink(target, path))
			continue
		}
		require.NoError(t, os.WriteFile(path, nil, 0o666))
	}
	return root
}

// shown is a case as a line: NAME: IMAGES | LABELS, with its problem.
func shown(root string, c Case) string {
	short := func(path string) string {
		rel, err := filepath.Rel(root, path)
		if err != nil || path == "" {
			return path
		}
		return rel
	}
	var images []string
	for _, p := range c.Images {
		images = append(images, short(p))
	}
	line := fmt.Sprintf("%s: %s | %s", c.Name, strings.Join(images, " "), short(c.Label))
	if c.Problem != "" {
		line += " ! " + c.Problem
	}
	return line
}

func lines(root string, list []Case) []string {
	all := []string{}
	for _, c := range list {
		all = append(all, shown(root, c))
	}
	return all
}

// two are the files of a folder of images and a folder of labels.
func two(images, labels string, names ...string) (files []string) {
	for _, n := range names {
		files = append(files, images+"/"+n+".nii.gz", labels+"/"+n+".nii.gz")
	}
	return files
}

// Every layout that research groups have, and what is found in it.
func TestEachLayoutIsFound(t *testing.T) {
	for _, test := range []struct {
		name   string
		files  []string
		layout Layout
		want   []string
		test   []string
	}{
		{"nnU-Net's raw layout", []string{"imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz"},
			NNUNet, []string{"a: imagesTr/a_0000.nii.gz | labelsTr/a.nii.gz", "b: imagesTr/b_0000.nii.gz | labelsTr/b.nii.gz"}, nil},
		{"with a test set", []string{"imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/c_0000.nii.gz", "labelsTs/c.nii.gz"},
			NNUNet, []string{"a: imagesTr/a_0000.nii.gz | labelsTr/a.nii.gz"}, []string{"c: imagesTs/c_0000.nii.gz | labelsTs/c.nii.gz"}},
		{"with test images alone", []string{"imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/c_0000.nii.gz"},
			NNUNet, []string{"a: imagesTr/a_0000.nii.gz | labelsTr/a.nii.gz"}, nil},
		{"two channels", []string{"imagesTr/a_0001.nii.gz", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"},
			NNUNet, []string{"a: imagesTr/a_0000.nii.gz imagesTr/a_0001.nii.gz | labelsTr/a.nii.gz"}, nil},
		{"the Decathlon's, without channels", two("imagesTr", "labelsTr", "lung_001", "lung_002"),
			NNUNet, []string{"lung_001: imagesTr/lung_001.nii.gz | labelsTr/lung_001.nii.gz", "lung_002: imagesTr/lung_002.nii.gz | labelsTr/lung_002.nii.gz"}, nil},
		{"numbers that are cases", two("imagesTr", "labelsTr", "p_0000", "p_0001"),
			NNUNet, []string{"p_0000: imagesTr/p_0000.nii.gz | labelsTr/p_0000.nii.gz", "p_0001: imagesTr/p_0001.nii.gz | labelsTr/p_0001.nii.gz"}, nil},
		{"images, labels", two("images", "labels", "a"), Folders, []string{"a: images/a.nii.gz | labels/a.nii.gz"}, nil},
		{"Images, Masks", two("Images", "Masks", "a"), Folders, []string{"a: Images/a.nii.gz | Masks/a.nii.gz"}, nil},
		{"IMG, GT", two("IMG", "GT", "a"), Folders, []string{"a: IMG/a.nii.gz | GT/a.nii.gz"}, nil},
		{"CT, seg", two("CT", "seg", "a"), Folders, []string{"a: CT/a.nii.gz | seg/a.nii.gz"}, nil},
		{"scans, segmentations", two("scans", "segmentations", "a"), Folders, []string{"a: scans/a.nii.gz | segmentations/a.nii.gz"}, nil},
		{"volumes, annotations", two("volumes", "annotations", "a"), Folders, []string{"a: volumes/a.nii.gz | annotations/a.nii.gz"}, nil},
		{"imagesTr, masks", two("imagesTr", "masks", "a"), Folders, []string{"a: imagesTr/a.nii.gz | masks/a.nii.gz"}, nil},
		{"formats mixed", []string{"images/a.nii.gz", "labels/a.nrrd", "images/b.mha", "labels/b.nii"},
			Folders, []string{"a: images/a.nii.gz | labels/a.nrrd", "b: images/b.mha | labels/b.nii"}, nil},
		{"words at the ends of names", []string{"images/a_ct.nii.gz", "labels/a_seg.nii.gz", "images/b-CT.nrrd", "labels/b.label.nrrd"},
			Folders, []string{"a: images/a_ct.nii.gz | labels/a_seg.nii.gz", "b: images/b-CT.nrrd | labels/b.label.nrrd"}, nil},
		{"channel numbers beside words", []string{"images/a_0000.nii.gz", "labels/a_mask.nii.gz"},
			Folders, []string{"a: images/a_0000.nii.gz | labels/a_mask.nii.gz"}, nil},
		{"a name that is a word", append(two("images", "labels", "a", "a_ln"), "x.txt"),
			Folders, []string{"a: images/a.nii.gz | labels/a.nii.gz", "a_ln: images/a_ln.nii.gz | labels/a_ln.nii.gz"}, nil},
		{"DICOM folders and label maps", []string{"images/a/1.dcm", "images/a/2.dcm", "images/b/s/1.dcm", "labels/a.nii.gz", "labels/b.nii.gz"},
			Folders, []string{"a: images/a | labels/a.nii.gz", "b: images/b | labels/b.nii.gz"}, nil},
		{"DICOM folders and RTSTRUCT", []string{"ct/a/1.dcm", "ct/b/1.dcm", "labels/a.dcm", "labels/b/rs.dcm"},
			Folders, []string{"a: ct/a | labels/a.dcm", "b: ct/b | labels/b"}, nil},
		{"HECKTOR's CT alone", []string{"imagesTr/CHUM-001__CT.nii.gz", "labelsTr/CHUM-001.nii.gz"},
			NNUNet, []string{"CHUM-001: imagesTr/CHUM-001__CT.nii.gz | labelsTr/CHUM-001.nii.gz"}, nil},
		{"what Finder and editors leave", append(two("images", "labels", "a"), "images/._a.nii.gz", "labels/.DS_Store", "images/readme.txt", "images/a.raw"),
			Folders, []string{"a: images/a.nii.gz | labels/a.nii.gz"}, nil},
		{"folders: ct and seg", []string{"p1/ct.nii.gz", "p1/seg.nii.gz", "p2/ct.nii.gz", "p2/seg.nii.gz"},
			Each, []string{"p1: p1/ct.nii.gz | p1/seg.nii.gz", "p2: p2/ct.nii.gz | p2/seg.nii.gz"}, nil},
		{"folders: only the labels are known", []string{"p1/1.3.12.nrrd", "p1/nodes.nrrd"}, Each, []string{"p1: p1/1.3.12.nrrd | p1/nodes.nrrd"}, nil},
		{"folders: only the image is known", []string{"p1/CT.nrrd", "p1/gtvn.nrrd"}, Each, []string{"p1: p1/CT.nrrd | p1/gtvn.nrrd"}, nil},
		{"folders: a name and more", []string{"p1/neck.nrrd", "p1/neck_final.nrrd"}, Each, []string{"p1: p1/neck.nrrd | p1/neck_final.nrrd"}, nil},
		{"folders: labels that have the case's name", []string{"p1/p1__CT.nii.gz", "p1/p1.nii.gz"}, Each, []string{"p1: p1/p1__CT.nii.gz | p1/p1.nii.gz"}, nil},
		{"folders: Slicer's exports", []string{"p1/2 CT.nrrd", "p1/Segmentation.seg.nrrd"}, Each, []string{"p1: p1/2 CT.nrrd | p1/Segmentation.seg.nrrd"}, nil},
		{"DICOM: TCIA's tree", []string{"LN/p1/study/ct/1.dcm", "LN/p1/study/rt/1.dcm"}, DICOM, []string{}, nil},
		{"folders: Slicer's names", []string{"p1/p1.nrrd", "p1/p1.seg.nrrd"}, Each, []string{"p1: p1/p1.nrrd | p1/p1.seg.nrrd"}, nil},
		{"folders: the case is named as labels are", []string{"ln_1/ln_1.nrrd", "ln_1/ln_1-label.nrrd"}, Each, []string{"ln_1: ln_1/ln_1.nrrd | ln_1/ln_1-label.nrrd"}, nil},
		{"folders: channels", []string{"p1/x_0000.nii.gz", "p1/x_0001.nii.gz", "p1/x_seg.nii.gz"},
			Each, []string{"p1: p1/x_0000.nii.gz p1/x_0001.nii.gz | p1/x_seg.nii.gz"}, nil},
		{"folders: DICOM below and a label map", []string{"p1/CT/1.dcm", "p1/CT/2.dcm", "p1/nodes.nii.gz"}, Each, []string{"p1: p1/CT | p1/nodes.nii.gz"}, nil},
		{"folders: slices and a label map", []string{"p1/1.dcm", "p1/2.dcm", "p1/final.nii.gz"}, Each, []string{"p1: p1 | p1/final.nii.gz"}, nil},
		{"folders: an image file and RTSTRUCT", []string{"p1/ct.nii.gz", "p1/RS.1.2.dcm"}, Each, []string{"p1: p1/ct.nii.gz | p1/RS.1.2.dcm"}, nil},
		{"folders beside others", []string{"p1/ct.nii.gz", "p1/seg.nii.gz", "docs/a.pdf", "readme.md"}, Each, []string{"p1: p1/ct.nii.gz | p1/seg.nii.gz"}, nil},
		{"one folder: every word and separator", []string{"a.nii.gz", "a_label.nii.gz", "b.nii.gz", "b-labels.nii.gz", "c.nrrd", "c.seg.nrrd", "d.nii.gz",
			"d_segmentation.nii.gz", "e.nii.gz", "e_mask.nii.gz", "f.nii.gz", "f-GT.nii.gz", "g.nii.gz", "g_nodes.nii.gz", "h.nii.gz", "h_LN.nii.gz"},
			Flat, []string{"a: a.nii.gz | a_label.nii.gz", "b: b.nii.gz | b-labels.nii.gz", "c: c.nrrd | c.seg.nrrd", "d: d.nii.gz | d_segmentation.nii.gz",
				"e: e.nii.gz | e_mask.nii.gz", "f: f.nii.gz | f-GT.nii.gz", "g: g.nii.gz | g_nodes.nii.gz", "h: h.nii.gz | h_LN.nii.gz"}, nil},
		{"one folder: words for both", []string{"lnq-1-ct.nrrd", "lnq-1-seg.nrrd"}, Flat, []string{"lnq-1: lnq-1-ct.nrrd | lnq-1-seg.nrrd"}, nil},
		{"one folder: channels", []string{"a_0000.nii.gz", "a_0001.nii.gz", "a_seg.nii.gz"}, Flat, []string{"a: a_0000.nii.gz a_0001.nii.gz | a_seg.nii.gz"}, nil},
		{"one folder: numbers that are cases", []string{"a_0000.nii.gz", "a_0000_seg.nii.gz", "a_0001.nii.gz", "a_0001_seg.nii.gz"},
			Flat, []string{"a_0000: a_0000.nii.gz | a_0000_seg.nii.gz", "a_0001: a_0001.nii.gz | a_0001_seg.nii.gz"}, nil},
		{"one folder: images named as labels are", []string{"a_ln.nii.gz", "a_ln_seg.nii.gz"}, Flat, []string{"a_ln: a_ln.nii.gz | a_ln_seg.nii.gz"}, nil},
		{"one folder: zips of DICOM have no content here", []string{"a.nii.gz", "a_seg.nii.gz", "b.zip"}, Flat, []string{"a: a.nii.gz | a_seg.nii.gz"}, nil},
		{"DICOM: folders of patients", []string{"p1/ct/1.dcm", "p1/rs.dcm", "p2/ct/1.dcm", "p2/rs.dcm"}, DICOM, []string{}, nil},
		{"DICOM: one patient", []string{"1.dcm", "2.dcm", "rs.dcm"}, DICOM, []string{}, nil},
		{"names with spaces and letters of all kinds", two("images", "labels", "Müller $(x) 'q' <script>", "日本"),
			Folders, []string{"Müller $(x) 'q' <script>: images/Müller $(x) 'q' <script>.nii.gz | labels/Müller $(x) 'q' <script>.nii.gz", "日本: images/日本.nii.gz | labels/日本.nii.gz"}, nil},
		{"links to files and folders", []string{"store/x.nii.gz", "store/y.nii.gz", "images -> real", "real/a.nii.gz -> ../store/x.nii.gz", "labels/a.nii.gz -> ../store/y.nii.gz"},
			Folders, []string{"a: images/a.nii.gz | labels/a.nii.gz"}, nil},
		{"a link that leads nowhere is not left out", []string{"images/a.nii.gz -> gone", "labels/a.nii.gz"},
			Folders, []string{"a: images/a.nii.gz | labels/a.nii.gz"}, nil},
	} {
		root := tree(t, test.files...)
		found, err := Find(t.Context(), root, Options{})
		require.NoError(t, err, test.name)
		require.Equal(t, test.layout, found.Layout, test.name)
		require.Equal(t, test.want, lines(root, found.Cases), test.name)
		require.Equal(t, append([]string{}, test.test...), lines(root, found.Test), test.name)
	}
}

// What names do not settle becomes a problem of the case, with the flags that settle it.
func TestWhatIsUnclearIsAProblemWithTheFlagsThatSettleIt(t *testing.T) {
	for _, test := range []struct {
		name   string
		files  []string
		want   string // the line of the case with a problem
		advice string
	}{
		{"two labels in the folder of labels", append(two("images", "labels", "a", "b"), "labels/b_seg.nii.gz"),
			"b: images/b.nii.gz |  ! 2 labels for one image: b.nii.gz, b_seg.nii.gz",
			"say which with --images 'images/{case}.nii.gz' --labels 'labels/{case}.nii.gz' or --images 'images/{case}.nii.gz' --labels 'labels/{case}_seg.nii.gz'"},
		{"labels in two formats", append(two("images", "labels", "a", "b"), "labels/b.nrrd"),
			"b: images/b.nii.gz |  ! 2 labels for one image: b.nii.gz, b.nrrd",
			"say which with --images 'images/{case}.nii.gz' --labels 'labels/{case}.nii.gz' or --images 'images/{case}.nii.gz' --labels 'labels/{case}.nrrd'"},
		{"an image in two formats", append(two("images", "labels", "a", "b"), "images/b.nrrd"),
			"b: images/b.nii.gz images/b.nrrd | labels/b.nii.gz ! 2 images: b.nii.gz, b.nrrd",
			"say which with --images 'images/{case}.nii.gz' --labels 'labels/{case}.nii.gz' or --images 'images/{case}.nrrd' --labels 'labels/{case}.nii.gz'"},
		{"an image without labels", append(two("images", "labels", "a"), "images/b.nii.gz"), "b: images/b.nii.gz |  ! no labels for this image", ""},
		{"channels without labels", append(two("images", "labels", "a"), "images/b_0000.nii.gz", "images/b_0001.nii.gz"),
			"b: images/b_0000.nii.gz images/b_0001.nii.gz |  ! no labels for this image", ""},
		{"labels without an image", append(two("images", "labels", "a"), "labels/b_seg.nii.gz"), "b:  | labels/b_seg.nii.gz ! no image for these labels", ""},
		{"a channel is missing", append(two("images", "labels", "a"), "images/b_0000.nii.gz", "images/b_0002.nii.gz", "labels/b.nii.gz"),
			"b: images/b_0000.nii.gz images/b_0002.nii.gz | labels/b.nii.gz ! 2 images: b_0000.nii.gz, b_0002.nii.gz",
			"say which with --images 'images/{case}_0000.nii.gz' --labels 'labels/{case}.nii.gz' or --images 'images/{case}_0002.nii.gz' --labels 'labels/{case}.nii.gz'"},
		{"labels under another name", []string{"images/a.nii.gz", "labels/a_final2.nii.gz"}, "a: images/a.nii.gz |  ! no labels for this image",
			"if these belong together, say so with --images 'images/{case}.nii.gz' --labels 'labels/{case}_final2.nii.gz'"},
		{"two labels in a case's folder", []string{"p1/ct.nii.gz", "p1/seg.nii.gz", "p2/ct.nii.gz", "p2/seg.nii.gz", "p2/nodes.nii.gz"},
			"p2: p2/ct.nii.gz |  ! 2 labels for one image: nodes.nii.gz, seg.nii.gz",
			"say which with --images '{case}/ct.nii.gz' --labels '{case}/nodes.nii.gz' or --images '{case}/ct.nii.gz' --labels '{case}/seg.nii.gz'"},
		{"two labels in every case's folder", []string{"p1/ct.nii.gz", "p1/seg.nii.gz", "p1/nodes.nii.gz"},
			"p1: p1/ct.nii.gz |  ! 2 labels for one image: nodes.nii.gz, seg.nii.gz",
			"say which with --images '{case}/ct.nii.gz' --labels '{case}/nodes.nii.gz' or --images '{case}/ct.nii.gz' --labels '{case}/seg.nii.gz'"},
		{"names that say nothing", []string{"p1/one.nii.gz", "p1/two.nii.gz"}, "p1: p1/one.nii.gz p1/two.nii.gz |  ! 2 images: one.nii.gz, two.nii.gz",
			"say which with --images '{case}/one.nii.gz' --labels '{case}/two.nii.gz' or --images '{case}/two.nii.gz' --labels '{case}/one.nii.gz'"},
		{"names that a shell would read", []string{"p1/it's one.nii.gz", "p1/two $x.nii.gz"}, "p1: p1/it's one.nii.gz p1/two $x.nii.gz |  ! 2 images: it's one.nii.gz, two $x.nii.gz",
			`say which with --images '{case}/it'\''s one.nii.gz' --labels '{case}/two $x.nii.gz' or --images '{case}/two $x.nii.gz' --labels '{case}/it'\''s one.nii.gz'`},
		{"an image that is no CT", []string{"p1/ct.nii.gz", "p1/pet.nii.gz", "p1/seg.nii.gz", "p2/ct.nii.gz", "p2/seg.nii.gz"},
			"p1: p1/ct.nii.gz p1/pet.nii.gz | p1/seg.nii.gz ! 2 images: ct.nii.gz, pet.nii.gz",
			"say which with --images '{case}/ct.nii.gz' --labels '{case}/seg.nii.gz' or --images '{case}/pet.nii.gz' --labels '{case}/seg.nii.gz'"},
		{"CT and PET", []string{"imagesTr/a__CT.nii.gz", "imagesTr/a__PT.nii.gz", "labelsTr/a.nii.gz"},
			"a: imagesTr/a__CT.nii.gz imagesTr/a__PT.nii.gz | labelsTr/a.nii.gz ! 2 images: a__CT.nii.gz, a__PT.nii.gz",
			"say which with --images 'imagesTr/{case}__CT.nii.gz' --labels 'labelsTr/{case}.nii.gz' or --images 'imagesTr/{case}__PT.nii.gz' --labels 'labelsTr/{case}.nii.gz'"},
		{"CT and PET in a folder, and the labels have the case's name", []string{"p1/p1__CT.nii.gz", "p1/p1__PT.nii.gz", "p1/p1.nii.gz"},
			"p1: p1/p1__CT.nii.gz p1/p1__PT.nii.gz | p1/p1.nii.gz ! 2 images: p1__CT.nii.gz, p1__PT.nii.gz",
			"say which with --images '{case}/{case}__CT.nii.gz' --labels '{case}/{case}.nii.gz' or --images '{case}/{case}__PT.nii.gz' --labels '{case}/{case}.nii.gz'"},
		{"TotalSegmentator's folders of labels", []string{"p1/ct.nii.gz", "p1/segmentations/aorta.nii.gz", "p1/segmentations/liver.nii.gz"},
			"p1: p1/ct.nii.gz |  ! no labels for this image",
			"labels in segmentations are meant by flags such as --images '{case}/ct.nii.gz' --labels '{case}/segmentations/aorta.nii.gz'"},
		{"a case's folder without labels", []string{"p1/ct.nii.gz", "p1/seg.nii.gz", "p2/ct.nii.gz"}, "p2: p2/ct.nii.gz |  ! no labels for this image", ""},
		{"a case's folder without an image", []string{"p1/ct.nii.gz", "p1/seg.nii.gz", "p2/seg.nii.gz"}, "p2:  | p2/seg.nii.gz ! no image for these labels", ""},
		{"two labels in one folder", []string{"a.nii.gz", "a_seg.nii.gz", "b.nii.gz", "b_seg.nii.gz", "b_mask.nii.gz"},
			"b: b.nii.gz |  ! 2 labels for one image: b_mask.nii.gz, b_seg.nii.gz",
			"say which with --images '{case}.nii.gz' --labels '{case}_mask.nii.gz' or --images '{case}.nii.gz' --labels '{case}_seg.nii.gz'"},
		{"one folder: an image without labels", []string{"a.nii.gz", "a_seg.nii.gz", "b.nii.gz"}, "b: b.nii.gz |  ! no labels for this image", ""},
		{"one folder: labels without an image", []string{"a.nii.gz", "a_seg.nii.gz", "b_seg.nii.gz"}, "b:  | b_seg.nii.gz ! no image for these labels", ""},
	} {
		root := tree(t, test.files...)
		found, err := Find(t.Context(), root, Options{})
		require.NoError(t, err, test.name)
		var bad []Case
		for _, c := range found.Cases {
			if c.Problem != "" {
				bad = append(bad, c)
			}
		}
		if test.name == "labels under another name" {
			require.Len(t, bad, 2, test.name) // its labels are the other one
			bad = bad[:1]
		}
		require.Len(t, bad, 1, test.name)
		require.Equal(t, test.want, shown(root, bad[0]), test.name)
		require.Equal(t, test.advice, bad[0].Advice, test.name)
	}
}

// What no layout fits is refused, and the message says what to do.
func TestFoldersThatAreNotUnderstoodAreRefused(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []string
		want  []string
	}{
		{"nothing", nil, []string{"found no annotated cases", "it holds nothing"}},
		{"other files", []string{"a.txt"}, []string{"it holds a.txt", "--images '{case}/ct.nii.gz' --labels"}},
		{"two folders of labels", append(two("images", "labels", "a"), "masks/a.nii.gz"),
			[]string{"found several folders of images: images; of labels: labels, masks",
				"--images 'images/{case}.nii.gz' --labels 'labels/{case}.nii.gz' or --images 'images/{case}.nii.gz' --labels 'masks/{case}.nii.gz'"}},
		{"two folders of images", append(two("images", "labels", "a"), "ct/a_0000.nii.gz"), []string{"--images 'ct/{case}_0000.nii.gz' --labels 'labels/{case}.nii.gz'"}},
		{"images without a folder of labels", []string{"images/a.nii.gz", "images/b.nii.gz"}, []string{"beside images there is no folder for the other part", "masks"}},
		{"no images in their folder", []string{"images/", "labels/a.nii.gz"}, []string{"images: found no images, expected files such as CASE.nii.gz"}},
		{"no labels in their folder", []string{"images/a.nii.gz", "labels/"}, []string{"labels: found no labels, expected files such as CASE.nii.gz"}},
		{"files too deep", []string{"images/a/ct.nii.gz", "labels/a/seg.nii.gz"}, []string{"--images 'images/{case}/ct.nii.gz' --labels 'labels/{case}/seg.nii.gz'"}},
		{"DICOM folders and labels too deep", []string{"images/a/1.dcm", "labels/a/seg.nii.gz"}, []string{"--images 'images/{case}' --labels 'labels/{case}/seg.nii.gz'"}},
		{"autoPET's studies", []string{"p1/day/CTres.nii.gz", "p1/day/SEG.nii.gz", "p1/day/SUV.nii.gz"},
			[]string{"say what is what with flags such as --images '{case}/*/CTres.nii.gz' --labels '{case}/*/SEG.nii.gz' (there is p1/day/CTres.nii.gz)"}},
		{"patients with studies", []string{"p1/d1/ct.nii", "p1/d1/seg.nii", "p2/d2/ct.nii", "p2/d2/seg.nii", "p3/d3/ct.nii", "p3/d3/seg.nii", "p4/d4/ct.nii", "p4/d4/seg.nii"},
			[]string{"there are cases one folder deeper: say so with --images '*/{case}/ct.nii' --labels '*/{case}/seg.nii'"}},
		{"folders of other names", two("first", "second", "a", "b"), []string{"first and second hold files of the same names",
			"--images 'first/{case}.nii.gz' --labels 'second/{case}.nii.gz' or --images 'second/{case}.nii.gz' --labels 'first/{case}.nii.gz'"}},
		{"the folder of one case", []string{"ct.nii.gz", "seg.nii.gz"}, []string{"is one case", "give the folder above it"}},
		{"the folder above", append(two("train/images", "train/labels", "a"), two("test/images", "test/labels", "b")...),
			[]string{"there are cases in ", "/test, ", "/train: give that folder", "--test"}},
		{"folders and beside them", []string{"p1/ct.nii.gz", "p1/seg.nii.gz", "a.nii.gz", "a_seg.nii.gz"},
			[]string{"found cases in folders of their own (p1) and beside these (a)", "--images '{case}/ct.nii.gz' --labels '{case}/seg.nii.gz'",
				"--images '{case}.nii.gz' --labels '{case}_seg.nii.gz'"}},
		{"slices side by side", []string{"images/1.dcm", "images/2.dcm", "labels/a.nii.gz"}, []string{"holds the slices of DICOM series", "a folder of its own"}},
	} {
		root := tree(t, test.files...)
		found, err := Find(t.Context(), root, Options{})
		require.Error(t, err, "%s: %+v", test.name, found)
		for _, part := range append(test.want, root) {
			require.Contains(t, err.Error(), part, test.name)
		}
	}
	_, err := Find(t.Context(), filepath.Join(t.TempDir(), "gone"), Options{})
	require.ErrorIs(t, err, os.ErrNotExist)
	file := filepath.Join(tree(t, "a"), "a")
	_, err = Find(t.Context(), file, Options{})
	require.EqualError(t, err, file+" is a file, expected a folder of images and labels")
}

func TestPatternsSayWhatIsWhat(t *testing.T) {
	for _, test := range []struct {
		name, images, labels string
		files                []string
		want                 []string
	}{
		{"the contract's", "{case}/ct.nii.gz", "{case}/*nodes*.mha", []string{"p1/ct.nii.gz", "p1/my nodes 2.mha", "p1/other.mha", "p2/ct.nii.gz", "p2/nodes.mha"},
			[]string{"p1: p1/ct.nii.gz | p1/my nodes 2.mha", "p2: p2/ct.nii.gz | p2/nodes.mha"}},
		{"the name twice", "{case}/{case}_ct.nrrd", "{case}/{case}_x.nrrd", []string{"a/a_ct.nrrd", "a/a_x.nrrd", "b/a_ct.nrrd", "b/a_x.nrrd"},
			[]string{"a: a/a_ct.nrrd | a/a_x.nrrd"}},
		{"a name that the other pattern settles", "{case}_*.nii.gz", "{case}_seg.nii.gz", []string{"a_1_ct.nii.gz", "a_1_seg.nii.gz", "a_ct.nii.gz", "a_seg.nii.gz"},
			[]string{"a: a_ct.nii.gz | a_seg.nii.gz", "a_1: a_1_ct.nii.gz | a_1_seg.nii.gz"}},
		{"a name that only the other pattern settles", "{case}_*.nii", "{case}.seg.nii", []string{"a_b_ct.nii", "a.seg.nii"}, []string{"a: a_b_ct.nii | a.seg.nii"}},
		{"channels", "{case}_????.nii.gz", "{case}.nii.gz", []string{"a_0000.nii.gz", "a_0001.nii.gz", "a.nii.gz"}, []string{"a: a_0000.nii.gz a_0001.nii.gz | a.nii.gz"}},
		{"folders of DICOM", "{case}/CT", "{case}/RS*.dcm", []string{"p1/CT/1.dcm", "p1/RS1.dcm"}, []string{"p1: p1/CT | p1/RS1.dcm"}},
		{"above each case a folder", "*/{case}/ct.nii", "truth/{case}.nii", []string{"2024/a/ct.nii", "2025/b/ct.nii", "truth/a.nii", "truth/b.nii"},
			[]string{"a: 2024/a/ct.nii | truth/a.nii", "b: 2025/b/ct.nii | truth/b.nii"}},
		{"the number in front", "*_{case}.nii", "truth/{case}.nii", []string{"7_a.nii", "truth/a.nii"}, []string{"a: 7_a.nii | truth/a.nii"}},
		{"a letter of several bytes", "{case}?.nii", "{case}.mha", []string{"aü.nii", "a.mha"}, []string{"a: aü.nii | a.mha"}},
		{"several labels", "{case}/ct.nii", "{case}/*.mha", []string{"a/ct.nii", "a/1.mha", "a/2.mha"},
			[]string{"a: a/ct.nii |  ! 2 labels for one image: 1.mha, 2.mha"}},
		{"an image without labels and the reverse", "i/{case}.nii", "l/{case}.nii", []string{"i/a.nii", "l/a.nii", "i/b.nii", "l/c.nii"},
			[]string{"a: i/a.nii | l/a.nii", "b: i/b.nii |  ! no labels for this image", "c:  | l/c.nii ! no image for these labels"}},
		{"links to folders above, which are followed as deep as the pattern is", "{case}/ct.nii", "{case}/seg.nii",
			[]string{"a/ct.nii", "a/seg.nii", "a/up -> ..", "b -> ."}, []string{"a: a/ct.nii | a/seg.nii"}},
	} {
		root := tree(t, test.files...)
		found, err := Find(t.Context(), root, Options{Images: test.images, Labels: test.labels})
		require.NoError(t, err, test.name)
		require.Equal(t, Patterns, found.Layout, test.name)
		require.Equal(t, test.want, lines(root, found.Cases), test.name)
	}
	root := tree(t, "a/ct.nii", "a/seg.nii")
	for _, test := range [][3]string{
		{"ct.nii", "{case}/seg.nii", `--images "ct.nii": expected {case} in it`},
		{"{case}/ct.nii", "../{case}.nii", `--labels "../{case}.nii": expected a path without . and ..`},
		{"*{case}*", "{case}/seg.nii", `--images "*{case}*": * or ? before {case}`},
		{"{case}/seg.nii", "{case}/seg.nii", "expected different files"},
		{"{case}/mr.nii", "{case}/seg.nii", "--images {case}/mr.nii: found no such file below " + root + ", which holds a, such as a/ct.nii"},
		{"{case}/ct.nii", "{case}/nodes.nii", "--labels {case}/nodes.nii: found no such file below " + root},
	} {
		_, err := Find(t.Context(), root, Options{Images: test[0], Labels: test[1]})
		require.ErrorContains(t, err, test[2])
	}
}

// The advice works: the flags that a message spells out settle what it is about.
func TestAdviceSettlesIt(t *testing.T) {
	for _, files := range [][]string{
		append(two("images", "labels", "a", "b"), "labels/b_seg.nii.gz"),
		{"p1/ct.nii.gz", "p1/seg.nii.gz", "p1/nodes.nii.gz"},
		{"p1/it's one.nii.gz", "p1/two.nii.gz"},
		{"a.nii.gz", "a_seg.nii.gz", "a_mask.nii.gz"},
		{"images/a.nii.gz", "labels/a_final2.nii.gz"},
		{"images/a_0000.nii.gz", "images/a_0001.nii.gz", "labels/a.nii.gz", "labels/a.nrrd"},
	} {
		root := tree(t, files...)
		found, err := Find(t.Context(), root, Options{})
		require.NoError(t, err)
		advice := ""
		for _, c := range found.Cases {
			advice += c.Advice
		}
		_, rest, ok := strings.Cut(advice, "--images ")
		require.True(t, ok, "%v: %+v", files, found.Cases)
		image, rest, _ := strings.Cut(rest, " --labels ")
		labels, _, _ := strings.Cut(rest, " or ")
		plain := func(s string) string { return strings.ReplaceAll(strings.Trim(s, "'"), `'\''`, "'") }
		found, err = Find(t.Context(), root, Options{Images: plain(image), Labels: plain(labels)})
		require.NoError(t, err, advice)
		require.NotNil(t, whole(found.Cases), "%s: %v", advice, lines(root, found.Cases))
		require.Empty(t, found.Cases[0].Problem, advice)
	}
}

func TestFoldersOfResultsAreNoCases(t *testing.T) {
	root := tree(t, "p1/ct.nii.gz", "p1/seg.nii.gz", "out/ct.nii.gz", "out/seg.nii.gz", "out2 -> out")
	found, err := Find(t.Context(), root, Options{Without: []string{filepath.Join(root, "out"), filepath.Join(root, "not there")}})
	require.NoError(t, err)
	require.Equal(t, []string{"p1: p1/ct.nii.gz | p1/seg.nii.gz"}, lines(root, found.Cases))
}

// Links in circles, pipes and folders without permission end in a message or a note, and soon.
func TestHostileFoldersEndSoon(t *testing.T) {
	start := time.Now()
	for _, files := range [][]string{
		{"a -> a", "b -> c", "c -> b"},
		{"images -> .", "labels -> ."},
		{"images -> images", "labels/a.nii.gz"},
		{"p1/p1 -> ..", "p1/p2 -> .", "x -> p1"},
		{"images/a.nii.gz -> a.nii.gz", "labels/a.nii.gz"},
	} {
		root := tree(t, files...)
		found, err := Find(t.Context(), root, Options{})
		if err == nil {
			require.Equal(t, []string{"a: images/a.nii.gz | labels/a.nii.gz"}, lines(root, found.Cases), "%v", files)
		}
		_, err = Find(t.Context(), root, Options{Images: "*/*/*/{case}*", Labels: "*/*/*/*/{case}"})
		require.Error(t, err, "%v", files)
	}
	long := strings.Repeat("a", 250)
	var many []string
	for i := range 3000 {
		many = append(many, fmt.Sprintf("%s%05d", long, i))
	}
	root := tree(t, many[0]+"/", many[1])
	_, err := Find(t.Context(), root, Options{Images: "*a*a*a*{case}", Labels: "{case}*a*b"})
	require.Error(t, err)
	require.Less(t, time.Since(start), 20*time.Second)
}

func TestLargeFoldersAreFoundSoon(t *testing.T) {
	var images, labels []entry
	for i := range 50_000 {
		stem := fmt.Sprintf("case_%06d", i)
		images = append(images, entry{name: stem + "_0000.nii.gz", stem: stem + "_0000", path: "images/" + stem + "_0000.nii.gz", kind: picture})
		labels = append(labels, entry{name: stem + "_x.nii.gz", stem: stem + "_x", path: "labels/" + stem + "_x.nii.gz", kind: picture})
	}
	start := time.Now()
	require.Len(t, pair(images, labels), 100_000)
	require.Less(t, time.Since(start), 30*time.Second)
}

// * and ? are those of path.Match, on texts in which they come up in every way.
func TestGlobIsPathMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	random := func(letters string, n int) string {
		all := []rune(letters)
		s := make([]rune, r.IntN(n))
		for i := range s {
			s[i] = all[r.IntN(len(all))]
		}
		return string(s)
	}
	matched := 0
	for range 50_000 {
		pattern, text := random("aü*?", 7), random("aü", 9)
		want, err := path.Match(pattern, text)
		require.NoError(t, err)
		require.Equal(t, want, glob(pattern, "", text), "%q %q", pattern, text)
		if want {
			matched++
		}
	}
	require.Greater(t, matched, 2000)
}
