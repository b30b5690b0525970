package pipeline

import (
	"context"
	"io"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/volume"
)

// Roles of a case of an adaptation.
const (
	RoleTrain = "train"
	RoleVal   = "val"  // held out of --cases
	RoleTest  = "test" // of --test, or of imagesTs and labelsTs
)

// An AdaptCase is a case of an adaptation, a row of cases.json.
type AdaptCase struct {
	Case     string     `json:"case"`
	Image    []string   `json:"image"` // one file per channel, or a DICOM folder or zip
	Label    string     `json:"label"` // label map, RTSTRUCT or SEG
	Role     string     `json:"role"`
	Size     [3]int     `json:"size"`       // z, y, x
	Spacing  [3]float64 `json:"spacing_mm"` // z, y, x
	Nodes    int        `json:"nodes"`      // 26-connected components of the foreground
	ML       float64    `json:"ml"`         // of the foreground
	Problems []string   `json:"problems"`   // never nil; a case with one is bad
}

// AdaptCasesConfig says where the cases of an adaptation are and which are held out.
type AdaptCasesConfig struct {
	Cases      string `flag:"cases" path:"true" help:"folder of annotated cases: images and their labels"`
	Test       string `flag:"test" path:"true" help:"folder of cases that are scored and never trained on (default: imagesTs and labelsTs of --cases, if they are there)"`
	Val        string `flag:"val" default:"auto" help:"cases of --cases that are held out: auto (every fifth from four cases on, none with a test set), a number, or names: CASE,CASE"`
	Shots      int    `flag:"shots" range:"1.." help:"train on so many of the other cases, drawn by the seed (default: all)"`
	ImageFiles string `flag:"images" help:"path of a case's image below --cases, such as {case}/ct.nii.gz; {case} is any text without /, * and ? as in a shell"`
	LabelFiles string `flag:"labels" help:"path of its labels, such as {case}/*nodes*.mha"`
	SkipBad    bool   `flag:"skip-bad" help:"go on without cases in which something is wrong"`

	ROIs      []string // of the flag --roi, which may hold commas: NAME=PATTERN or PATTERN, of RTSTRUCT and SEG
	LabelsMap []string // of the flag --labels-map, which may hold commas: NAME=VALUES, as in lymph node=1,3
	DrawSeed  uint64   // of the choice of cases: the training's --seed
	Workers   int      // cases at a time; 0: the cores, eight at most
	MaxRAM    float64  // GiB for the cases at work; 0: three quarters of what is free
}

// adaptModel is what the model to adapt expects of cases.
type adaptModel struct {
	Dataset *plans.Dataset // its dataset.json: channels, labels
	Reader  images.Reader  // its plans' image_reader_writer
}

// dataset is the dataset.json of the cases: the model's labels; or those of --labels-map, if some have
// names that the model does not know; or, of nnU-Net's raw layout, those of the dataset.json there. Its
// file_ending is .nii.gz unless all files have one that nnU-Net reads.
func (c *AdaptCasesConfig) dataset(m adaptModel) (*plans.Dataset, error) {
	return m.Dataset, nil
}

// findAdaptCases finds the cases, checks them and says what each is for: training cases first, then
// those that are held out. It writes nothing. The error names every bad case; the cases come with it.
// With SkipBad they are in the list, without a role.
func findAdaptCases(ctx context.Context, c AdaptCasesConfig, m adaptModel, o Output) ([]AdaptCase, error) {
	panic("not written yet")
}

// readAdaptCase reads a case: the image (c, z, y, x) as m's reader reads it, what the reader found out
// about the file, and the labels (1, z, y, x) on its grid, with the values of dataset().
func (c *AdaptCasesConfig) readAdaptCase(a AdaptCase, m adaptModel) (im *volume.Image, p *images.Properties, seg *volume.Image, err error) {
	panic("not written yet")
}

// writeAdaptTable prints the cases as a table: case, role, image, label, size, spacing, nodes, ml, what
// is wrong.
func writeAdaptTable(w io.Writer, cases []AdaptCase) error {
	panic("not written yet")
}
