package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/train"
	"github.com/lntorch/lntorch/volume"
)

// adaptDataset is the dataset that the cases become for the length of the road, and whose name the
// delivered plans have.
const adaptDataset = "Dataset001_Adapted"

// adaptPlan is what an adaptation decided when it had seen the cases.
type adaptPlan struct {
	Plans         string        `json:"plans"`
	Configuration string        `json:"configuration"`
	Patch         []int         `json:"patch_size"`
	Batch         int           `json:"batch_size"`
	Trainer       string        `json:"trainer"`   // of the training
	Delivered     string        `json:"delivered"` // trainer that the delivered model names
	Head          train.Head    `json:"head"`
	Epochs        int           `json:"epochs"`
	Iterations    int           `json:"iterations"`
	ValIterations int           `json:"val_iterations"`
	Fold          string        `json:"fold"`
	Forecast      AdaptForecast `json:"forecast"`
}

// planCases makes a raw dataset of the cases, plans for it that fit the model, and the forecast.
func (a *adaptation) planCases(ctx context.Context) error {
	there, here := a.model.Dataset.Labels.NumSegmentationHeads(), a.dataset.Labels.NumSegmentationHeads()
	if a.Head == AdaptHeadKeep && there != here {
		return settings.Usage("--head keep: the model has %d segmentation heads, the labels of the cases need %d: "+
			"leave --head out, which keeps those of labels that the model knows", there, here)
	}
	write := a.writeDataset
	if a.DryRun {
		write = a.sketchDataset
	}
	if err := write(ctx); err != nil {
		return err
	}
	c := settings.New[AdoptConfig]()
	c.Model, c.Dataset, c.Raw, c.Preprocessed = a.checkpoint, "1", a.folder("raw"), a.folder("preprocessed")
	c.PatchSize, c.BatchSize, c.Force = a.PatchSize, a.BatchSize, true
	adopted, err := Adopt(ctx, c, a.out)
	if err != nil {
		return err
	}
	for _, f := range adopted.Findings {
		if f.Warning {
			a.out.Print("WARNING:", f)
		} else {
			a.out.Print("differs:", f)
		}
	}
	for _, n := range adopted.Notes {
		a.out.Print(n)
	}
	p := &adaptPlan{Plans: adopted.Plans, Configuration: adopted.Configuration, Patch: adopted.Patch,
		Batch: adopted.Batch, Iterations: a.Iterations, Fold: "0"}
	if len(a.record.withRole(RoleVal)) == 0 {
		p.Fold = "all"
	}
	if err := a.trainers(p); err != nil {
		return err
	}
	var why string
	p.Head, why = a.heads()
	what := map[train.Head]string{train.HeadKeep: "kept", train.HeadReset: "reinitialised",
		train.HeadExtend: "kept as far as the model knows the labels"}[p.Head]
	a.out.Printf("segmentation heads are %s: %s", what, why)
	if !a.comparable() && len(a.heldOut()) > 0 {
		a.out.Print("the model as it is is not scored: it predicts other labels than the cases have")
	}
	a.record.Plan = p
	return a.forecast(ctx)
}

// trainers chooses the trainers' names. A network that plans do not describe has a trainer of its own,
// whatever the method.
func (a *adaptation) trainers(p *adaptPlan) error {
	stock, err := finetune.Stock()
	if err != nil {
		return err
	}
	own, err := a.network()
	if err != nil {
		return err
	}
	p.Trainer, p.Delivered = a.entry.Trainer, stock.Trainer
	if !models.Planned(own.Class) {
		for _, e := range models.Entries() {
			if e.Name() == own.Class && e.Trainer != "" {
				p.Trainer, p.Delivered = e.Trainer, e.Trainer
				a.out.Printf("stock nnU-Net has no %s: it predicts with the delivered model once the file of that "+
					"trainer is installed; lntorch needs nothing", e.Trainer)
			}
		}
	}
	return nil
}

// folder is a folder of the road's own.
func (a *adaptation) folder(name string) string { return filepath.Join(a.work, name) }

// heldOutFolder holds the images or labels of the held-out cases.
func (a *adaptation) heldOutFolder(what string) string {
	return filepath.Join(a.work, "held_out", what)
}

// writeDataset makes nnU-Net's raw dataset of the cases to train on and of those held out of --cases,
// and a folder of all that are held out: links to files that can stay as they are, else files.
func (a *adaptation) writeDataset(ctx context.Context) error {
	dataset := filepath.Join(a.folder("raw"), adaptDataset)
	for _, folder := range []string{a.folder("raw"), a.folder("held_out")} {
		if err := os.RemoveAll(folder); err != nil { // of a start that did not get far
			return err
		}
	}
	imagesTr, labelsTr := filepath.Join(dataset, "imagesTr"), filepath.Join(dataset, "labelsTr")
	for _, folder := range []string{imagesTr, labelsTr, a.heldOutFolder("images"), a.heldOutFolder("labels")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	cases := a.record.withRole(RoleTrain, RoleVal, RoleTest)
	if err := checkFileNames(cases); err != nil {
		return err
	}
	progress := a.out.progress()
	progress.Begin("cases", len(cases))
	defer progress.End()
	for i, c := range cases {
		if err := ctx.Err(); err != nil {
			return err
		}
		into := [2]string{imagesTr, labelsTr}
		if c.Role == RoleTest {
			into = [2]string{a.heldOutFolder("images"), a.heldOutFolder("labels")}
		}
		files, err := a.place(c, into[0], into[1])
		if err != nil {
			return fmt.Errorf("case %s: %w", c.Case, err)
		}
		if c.Role == RoleVal {
			for k, path := range files {
				to := a.heldOutFolder("images")
				if k == len(files)-1 {
					to = a.heldOutFolder("labels")
				}
				if err := link(path, filepath.Join(to, filepath.Base(path))); err != nil {
					return err
				}
			}
		}
		progress.Done(i+1, c.Case)
	}
	return a.describeDataset(dataset)
}

// sketchDataset makes of the dataset what plans and a forecast need, without a voxel on the disk: its
// description and fingerprint, and empty files under the names of the held-out cases' images.
func (a *adaptation) sketchDataset(ctx context.Context) error {
	folder := filepath.Join(a.folder("raw"), adaptDataset)
	for _, path := range []string{filepath.Join(folder, "imagesTr"), a.heldOutFolder("images")} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	used := a.record.withRole(RoleTrain, RoleVal)
	if err := checkFileNames(append(slices.Clone(used), a.record.withRole(RoleTest)...)); err != nil {
		return err
	}
	for _, c := range a.heldOut() {
		for _, path := range a.channelFiles(c, a.heldOutFolder("images")) {
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				return err
			}
		}
	}
	if err := a.describeDataset(folder); err != nil {
		return err
	}
	slices.SortFunc(used, func(x, y AdaptCase) int { return strings.Compare(x.Case, y.Case) })
	d := &raw.Dataset{Name: adaptDataset, Folder: folder, JSON: a.dataset}
	for _, c := range used {
		d.Cases = append(d.Cases, raw.Case{ID: c.Case, Images: c.Image, Label: c.Label})
	}
	_, _, err := fingerprint.ExtractFolder(ctx, d, filepath.Join(a.folder("preprocessed"), adaptDataset), true,
		fingerprint.Options{Workers: casesAtATime(), Progress: a.out.progress(),
			Read: func(i int) (*volume.Image, *images.Properties, *volume.Image, error) {
				return a.readAdaptCase(used[i], a.expected)
			}})
	return err
}

// checkFileNames refuses cases whose names cannot be those of files, each its own.
func checkFileNames(cases []AdaptCase) error {
	seen := map[string]bool{}
	for _, c := range cases {
		if c.Case == "" || c.Case != filepath.Base(c.Case) || strings.HasPrefix(c.Case, ".") || seen[c.Case] {
			return fmt.Errorf("case %q: expected a name of its own that can be a file's", c.Case)
		}
		seen[c.Case] = true
	}
	return nil
}

// describeDataset writes dataset.json and the split into the folder of the raw dataset.
func (a *adaptation) describeDataset(folder string) error {
	doc := a.dataset.Raw().Clone()
	doc.Set("numTraining", int64(len(a.record.withRole(RoleTrain, RoleVal))))
	doc.Set("name", adaptDataset)
	if name := a.expected.Reader.Name(); name != "SimpleITKIO" || a.DryRun { // which has no image to choose it by
		doc.Set("overwrite_image_reader_writer", name)
	}
	doc.Delete("dataset") // lists the cases of another folder
	if err := plans.WriteJSON(filepath.Join(folder, "dataset.json"), doc, false); err != nil {
		return err
	}
	return a.writeSplit(folder)
}

// writeSplit writes splits_final.json where cases are held out of --cases.
func (a *adaptation) writeSplit(folder string) error {
	names := func(role string) []any {
		list := []any{}
		for _, c := range a.record.withRole(role) {
			list = append(list, c.Case)
		}
		return list
	}
	val := names(RoleVal)
	if len(val) == 0 {
		return nil
	}
	return plans.WriteJSON(filepath.Join(folder, "splits_final.json"),
		[]any{plans.NewObject("train", names(RoleTrain), "val", val)}, false)
}

// channelFiles are the names of a case's images in a folder, in nnU-Net's naming.
func (a *adaptation) channelFiles(c AdaptCase, folder string) (files []string) {
	for channel := range a.dataset.ChannelNames {
		files = append(files, filepath.Join(folder, fmt.Sprintf("%s_%04d%s", c.Case, channel, a.dataset.FileEnding)))
	}
	return files
}

// place puts the files of a case into the folders, in nnU-Net's naming, and returns them: the images in
// the order of their channels, then the labels.
func (a *adaptation) place(c AdaptCase, imagesTo, labelsTo string) (files []string, err error) {
	ending := a.dataset.FileEnding
	files = a.channelFiles(c, imagesTo)
	labels := filepath.Join(labelsTo, c.Case+ending)
	fits := func(path string) bool { return isFile(path) && strings.HasSuffix(path, ending) }
	asIs := len(c.Image) == len(files) && !slices.ContainsFunc(c.Image, func(path string) bool { return !fits(path) })
	labelAsIs := fits(c.Label) && len(a.LabelsMap) == 0 && len(a.ROIs) == 0
	for i, path := range files {
		if asIs {
			if err := link(c.Image[i], path); err != nil {
				return nil, err
			}
		}
	}
	if labelAsIs {
		if err := link(c.Label, labels); err != nil {
			return nil, err
		}
	}
	files = append(files, labels)
	if asIs && labelAsIs {
		return files, nil
	}
	im, p, seg, err := a.readAdaptCase(c, a.expected)
	if err == nil {
		err = a.record.sameVoxels(c, im, seg)
	}
	if err != nil {
		return nil, err
	}
	if !labelAsIs {
		if err := a.expected.Reader.WriteSeg(labels, seg, p); err != nil {
			return nil, err
		}
	}
	if !asIs {
		return files, writeChannels(files[:len(files)-1], im, p)
	}
	return files, nil
}

// link makes to the file that from is, by a symbolic link where there can be one, else by a copy.
func link(from, to string) error {
	absolute, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	if err := os.Symlink(absolute, to); err == nil {
		return nil
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return atomicfile.Copy(to, f, info.ModTime())
}

// writeChannels writes an image, a file for each channel: int16 where that holds all values, else
// float32.
func writeChannels(files []string, im *volume.Image, p *images.Properties) error {
	if p.SITK == nil {
		return errors.New("the model's NibabelIO reads no such image: convert it with `lntorch image convert`")
	}
	values := volume.Cast[float32](im.Pixels)
	n := len(values) / max(len(files), 1)
	size := []int{im.Shape[3], im.Shape[2], im.Shape[1]}
	g := &volume.ITK{Spacing: p.SITK.Spacing, Origin: p.SITK.Origin, Direction: p.SITK.Direction}
	for i, path := range files {
		channel := values[i*n : (i+1)*n]
		var pixels volume.Pixels = volume.Slice[float32](channel)
		if whole := wholeNumbers(channel); whole != nil {
			pixels = whole
		}
		if err := image.Write(path, size, g, pixels, 1); err != nil {
			return err
		}
	}
	return nil
}

// wholeNumbers are the values as int16; nil if it does not hold all.
func wholeNumbers(values []float32) volume.Slice[int16] {
	out := make(volume.Slice[int16], len(values))
	for i, v := range values {
		if v != float32(math.Trunc(float64(v))) || v < math.MinInt16 || v > math.MaxInt16 {
			return nil
		}
		out[i] = int16(v)
	}
	return out
}

// prepareData makes the training data.
func (a *adaptation) prepareData(ctx context.Context) error {
	c := settings.New[PreprocessConfig]()
	c.Names, c.Raw, c.Preprocessed = []string{"1"}, a.folder("raw"), a.folder("preprocessed")
	c.PlansName, c.Configurations, c.Threads = a.record.Plan.Plans, []string{a.record.Plan.Configuration}, a.Threads
	return Preprocess(ctx, c, a.out, func(p Preprocessed) error {
		a.out.Printf("%d cases made, %d kept", p.Made, p.Kept)
		return nil
	})
}
