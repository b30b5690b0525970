package raw

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/internal/brief"
	"github.com/lntorch/lntorch/volume"
)

// Problem is something wrong with a dataset.
type Problem struct {
	File     string `json:"file"` // or folder
	Found    string `json:"found"`
	Expected string `json:"expected"`
}

func (p Problem) String() string { return p.File + ": found " + p.Found + ", expected " + p.Expected }

// Report is the result of Verify.
type Report struct {
	Cases    int       `json:"cases"`
	Problems []Problem `json:"problems"` // nnU-Net rejects the dataset
	Warnings []Problem `json:"warnings"` // accepted by nnU-Net, but possibly a mistake
}

// Verify checks the raw dataset in folder like nnU-Net's verify_dataset_integrity, but continues
// after a problem, so that all are reported at once. The error is not about the dataset: ctx was
// cancelled.
// Source: nnU-Net 2.5.1, verify_dataset_integrity.py.
func Verify(ctx context.Context, folder string, workers int, progress Progress) (*Report, error) {
	v := &verifier{folder: folder}
	d := v.describe()
	if d != nil {
		v.files(d)
		if err := v.pixels(ctx, d, workers, progress); err != nil {
			return nil, err
		}
	}
	return &v.Report, nil
}

type verifier struct {
	Report
	folder string
	mu     sync.Mutex
}

func (v *verifier) problem(file, expected, found string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.Problems = append(v.Problems, Problem{file, fmt.Sprintf(found, args...), expected})
}

func (v *verifier) warning(file, expected, found string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.Warnings = append(v.Warnings, Problem{file, fmt.Sprintf(found, args...), expected})
}

// describe checks dataset.json and finds the cases. It returns nil if they cannot be determined.
func (v *verifier) describe() *Dataset {
	path := filepath.Join(v.folder, "dataset.json")
	value, err := plans.ReadJSON(path)
	if errors.Is(err, os.ErrNotExist) {
		v.problem(path, "a dataset.json", "no such file")
		return nil
	}
	doc, ok := value.(*plans.Object)
	if err != nil || !ok {
		v.problem(path, "a JSON object", "%v", err)
		return nil
	}
	_, listed := doc.Get("dataset")
	for _, sub := range []string{"imagesTr", "labelsTr"} {
		sub = filepath.Join(v.folder, sub)
		if info, err := os.Stat(sub); !listed && (err != nil || !info.IsDir()) {
			v.problem(sub, "a folder", "none")
			ok = false
		}
	}
	for _, key := range []string{"labels", "channel_names", "numTraining", "file_ending"} {
		if _, present := doc.Get(key); !present {
			v.problem(path, "the key "+key, "only %s", strings.Join(doc.Keys(), ", "))
			ok = false
		}
	}
	if !ok {
		return nil
	}
	d := &Dataset{Name: filepath.Base(v.folder), Folder: v.folder}
	if d.JSON, err = plans.DatasetFromObject(doc, "dataset.json"); err != nil {
		v.problem(path, "a valid dataset.json", "%v",
			strings.TrimPrefix(err.Error(), "plans: dataset.json: "))
		return nil
	}
	if d.Cases, err = cases(v.folder, doc); err != nil {
		v.problem(path, "files of the training cases", "%v", err)
		return nil
	}
	v.Cases = len(d.Cases)
	n := len(d.Cases)
	expected := fmt.Sprintf("numTraining %d, the number of cases found", n)
	if count, err := d.JSON.NumTraining(); err != nil {
		v.problem(path, expected, "%v", strings.TrimPrefix(err.Error(), "plans: dataset.json: "))
	} else if n != count {
		v.problem(path, expected, "%d", count)
	}
	if folder := filepath.Join(v.folder, "imagesTr"); n == 0 && dicom.Holds(folder, "") {
		v.problem(folder, "files named CASE_0000"+d.JSON.FileEnding, importDICOM)
	}
	labels := expectedLabels(d.JSON.Labels)
	for i := 1; i < len(labels); i++ {
		if labels[i] != labels[i-1]+1 {
			v.problem(path, "consecutive labels 0, 1, 2, …", "%d after %d", labels[i], labels[i-1])
		}
	}
	return d
}

// files checks that the files of the cases exist, and removes cases with missing files from d.
func (v *verifier) files(d *Dataset) {
	exists := func(path, what string) bool {
		info, err := os.Stat(path)
		if err == nil && info.IsDir() {
			err = errors.New("a folder")
		}
		if err != nil {
			v.problem(path, what, "%s", strings.TrimPrefix(err.Error(), "stat "+path+": "))
		}
		return err == nil
	}
	known := map[string]bool{}
	d.Cases = slices.DeleteFunc(d.Cases, func(c Case) bool {
		known[filepath.Base(c.Label)] = true
		ok := true
		if len(c.Images) == 0 {
			v.problem(filepath.Join(v.folder, "imagesTr"),
				fmt.Sprintf("names that end in _0000%s", d.JSON.FileEnding),
				"files of case %q with other names", c.ID)
			ok = false
		}
		for _, path := range c.Images {
			ok = exists(path, "an image of case "+c.ID) && ok
		}
		return !(exists(c.Label, "the segmentation of case "+c.ID) && ok)
	})
	if _, listed := d.JSON.Raw().Get("dataset"); !listed {
		labels, _ := filesIn(filepath.Join(v.folder, "labelsTr"), d.JSON.FileEnding)
		for _, l := range labels {
			if !known[l] {
				v.warning(filepath.Join(v.folder, "labelsTr", l), "images of that case in imagesTr",
					"no image")
			}
		}
	}
}

// pixels checks the images and segmentations.
func (v *verifier) pixels(ctx context.Context, d *Dataset, workers int, progress Progress) error {
	if len(d.Cases) == 0 {
		return ctx.Err()
	}
	reader, err := d.Reader()
	if err != nil {
		v.problem(d.Cases[0].Images[0], "an image that a reader can open", "%v", err)
		return nil
	}
	labels := expectedLabels(d.JSON.Labels)
	err = d.Each(ctx, workers, "checking", progress, func(i int, c Case) error {
		v.check(reader, c, len(d.JSON.ChannelNames), labels)
		return nil
	})
	// Sort by case, since goroutines finish in any order.
	order := map[string]int{}
	for _, c := range d.Cases {
		for _, path := range slices.Concat(c.Images, []string{c.Label}) {
			order[path] = len(order) + 1
		}
	}
	for _, list := range [][]Problem{v.Problems, v.Warnings} {
		slices.SortStableFunc(list, func(a, b Problem) int { return order[a.File] - order[b.File] })
	}
	return err
}

func (v *verifier) check(reader images.Reader, c Case, channels int, expected []int) {
	im, about, err := reader.Read(c.Images)
	if err != nil {
		v.problem(c.Images[0], "an image that "+reader.Name()+" can read", "%v", err)
	}
	seg, aboutSeg, err2 := reader.ReadSeg(c.Label)
	if err2 != nil {
		v.problem(c.Label, "a segmentation that "+reader.Name()+" can read", "%v", err2)
	}
	if err2 == nil {
		v.checkLabels(c.Label, seg, expected)
	}
	if err != nil || err2 != nil {
		return
	}
	for _, w := range about.Warnings {
		v.warning(c.Images[0], "equal geometry of all channels", "%s", w)
	}
	if n := volume.NaNs(im.Pixels, 0, im.Pixels.Len()); n > 0 {
		v.problem(c.Images[0], "finite values", "%d voxels that are NaN", n)
	}
	if im.Shape[0] != channels {
		v.problem(c.Images[0], fmt.Sprintf("%d, as in dataset.json", channels),
			"%d channels", im.Shape[0])
	}
	if [3]int(im.Shape[1:]) != [3]int(seg.Shape[1:]) {
		v.problem(c.Label, fmt.Sprintf("%v, the image's", im.Shape[1:]),
			"%v voxels (z, y, x)", seg.Shape[1:])
	}
	if !close(aboutSeg.Spacing, about.Spacing) {
		v.problem(c.Label, fmt.Sprintf("%v, the image's", about.Spacing),
			"a spacing of %v mm (z, y, x)", aboutSeg.Spacing)
	}
	compare := func(what string, image, label []float64) {
		if !close(image, label) {
			v.warning(c.Label, fmt.Sprintf("%v, the image's", image), "%s %v", what, label)
		}
	}
	if a, b := about.SITK, aboutSeg.SITK; a != nil && b != nil {
		compare("origin", a.Origin, b.Origin)
		compare("direction", a.Direction, b.Direction)
	}
	if a, b := about.Nibabel, aboutSeg.Nibabel; a != nil && b != nil {
		compare("affine", slices.Concat(a.Original[0][:], a.Original[1][:], a.Original[2][:]),
			slices.Concat(b.Original[0][:], b.Original[1][:], b.Original[2][:]))
	}
}

// checkLabels looks for values that are not in dataset.json.
func (v *verifier) checkLabels(path string, seg *volume.Image, expected []int) {
	found := map[float64]int{}
	Tally(seg.Pixels, found)
	if n := found[math.Inf(-1)]; n > 0 { // NaN, see Tally
		v.problem(path, "labels", "%d voxels that are NaN", n)
		delete(found, math.Inf(-1))
	}
	var values []float64
	foreground := false
	for x := range found {
		foreground = foreground || x > 0
		if x != math.Trunc(x) || !slices.Contains(expected, int(x)) {
			values = append(values, x)
		}
	}
	if len(values) > 0 {
		slices.Sort(values)
		var list []string
		for _, x := range values {
			list = append(list, fmt.Sprintf("%v (%d voxels)", x, found[x]))
		}
		v.problem(path, fmt.Sprintf("the labels of dataset.json, %v", expected),
			"the values %s", brief.Join(list, ", ", 5))
	} else if !foreground {
		v.warning(path, "foreground", "only label 0")
	}
}

// MaxValues is the number of values at which Tally stops: the file is an image, not a segmentation.
const MaxValues = 10000

// Tally counts the values, run by run, since segmentations consist of long runs. NaN counts as
// -Inf.
func Tally(p volume.Pixels, found map[float64]int) {
	buffer := make([]float64, min(p.Len(), 4096))
	for at := 0; at < p.Len(); at += len(buffer) {
		block := buffer[:min(len(buffer), p.Len()-at)]
		p.Float64s(block, at)
		for i := 0; i < len(block); {
			j := i + 1
			for j < len(block) && block[j] == block[i] {
				j++
			}
			x := block[i]
			if x != x {
				x = math.Inf(-1)
			}
			found[x] += j - i
			if len(found) > MaxValues {
				return // not a segmentation
			}
			i = j
		}
	}
}

// expectedLabels returns the values that segmentations may have, ascending.
func expectedLabels(l *plans.Labels) []int {
	labels := slices.Clone(l.AllLabels)
	if l.IgnoreLabel != nil {
		labels = append(labels, *l.IgnoreLabel)
	}
	return labels
}

// close is numpy.allclose with its default tolerances; b is the reference.
func close(a, b []float64) bool {
	return slices.EqualFunc(a, b, func(a, b float64) bool {
		return a == b || math.Abs(a-b) <= 1e-8+1e-5*math.Abs(b)
	})
}
