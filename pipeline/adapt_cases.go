package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/cases"
	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/report"
)

// Roles of a case of an adaptation. A case without one is not used.
const (
	RoleTrain = "train"
	RoleVal   = "val"  // held out of --cases
	RoleTest  = "test" // of --test, or of imagesTs and labelsTs
)

// An AdaptCase is a case of an adaptation, a row of cases.json.
type AdaptCase struct {
	Case     string     `json:"case"`
	Image    []string   `json:"image"` // one file per channel, or a DICOM file, folder or zip
	Label    string     `json:"label"` // label map, RTSTRUCT or SEG
	Role     string     `json:"role"`
	Size     [3]int     `json:"size"`       // z, y, x
	Spacing  [3]float64 `json:"spacing_mm"` // z, y, x
	Nodes    int        `json:"nodes"`      // 26-connected components of each foreground label, added up
	ML       float64    `json:"ml"`         // of the foreground
	Problems []string   `json:"problems"`   // what makes it a bad case; never nil
	Warnings []string   `json:"warnings"`   // what is unusual; never nil

	advice     string // how the problems are settled
	imageHash  string // of the voxels; "" where they were not read
	labelHash  string // of the voxels with the dataset's values; "" where they were not read
	emptyLabel bool
}

// AdaptCasesConfig says where the cases of an adaptation are and which are held out.
type AdaptCasesConfig struct {
	Cases      string `flag:"cases" path:"true" help:"folder of annotated cases: images and their labels"`
	Test       string `flag:"test" path:"true" help:"folder of cases that are scored and never trained on (default: imagesTs and labelsTs of --cases, if they are there)"`
	Val        string `flag:"val" default:"auto" help:"cases of --cases that are held out: auto (a fifth, from four cases on; none with a test set), a number, or names: CASE,CASE"`
	Shots      int    `flag:"shots" range:"1.." help:"train on so many of the other cases, drawn by the seed (default: all)"`
	ImageFiles string `flag:"images" help:"path of a case's image below --cases, such as {case}/ct.nii.gz; {case} is any text without /, * any, ? one character"`
	LabelFiles string `flag:"labels" help:"path of its labels, such as {case}/*nodes*.mha: a label map, RTSTRUCT or SEG"`
	SkipBad    bool   `flag:"skip-bad" help:"go on without cases in which something is wrong"`

	// of the flag --roi, which may hold commas: NAME=PATTERN or PATTERN, of RTSTRUCT and SEG
	ROIs []string
	// of the flag --labels-map, which may hold commas: NAME=VALUES, as in lymph node=1,3
	LabelsMap []string
	DrawSeed  uint64   // of the choice of cases: the training's --seed
	Workers   int      // cases at a time; 0: the cores, eight at most
	MaxRAM    float64  // GiB for the cases at work; 0: three quarters of what is free
	NoCases   []string // folders in Cases and Test that hold no cases: that of the results
}

// adaptModel is what the model to adapt expects of cases.
type adaptModel struct {
	Dataset *plans.Dataset // its dataset.json: channels, labels
	Reader  images.Reader  // its plans' image_reader_writer
}

// findAdaptCases finds the cases, checks them and says what each is for: training cases first, then
// those that are held out, then those that are not used, because they are bad and SkipBad was
// given, or Shots are fewer. It writes nothing. Where the error is about the cases, they come with
// it.
func findAdaptCases(ctx context.Context, c AdaptCasesConfig, m adaptModel, o Output) (
	[]AdaptCase, error) {
	if (c.ImageFiles == "") != (c.LabelFiles == "") {
		return nil, settings.Usage("--images and --labels: give both, the paths of a case's " +
			"image and of its labels")
	}
	if err := (&cases.Options{Images: c.ImageFiles, Labels: c.LabelFiles}).Check(); err != nil {
		return nil, &settings.UsageError{Err: err}
	}
	k := &caseChecker{AdaptCasesConfig: c, model: m, out: o}
	list, err := k.find(ctx)
	if err != nil {
		return nil, err
	}
	if err := k.check(ctx, list); err != nil {
		return nil, err
	}
	sortAdaptCases(list)
	if err := k.refuseBad(list); err != nil {
		return list, err
	}
	if err := k.assign(list); err != nil {
		return list, err
	}
	sortAdaptCases(list)
	return list, refuseDuplicates(list, o)
}

// sortAdaptCases puts cases in the order of their roles, then of their names.
func sortAdaptCases(list []AdaptCase) {
	roles := []string{RoleTrain, RoleVal, RoleTest, ""}
	slices.SortStableFunc(list, func(a, b AdaptCase) int {
		return cmp.Or(cmp.Compare(slices.Index(roles, a.Role), slices.Index(roles, b.Role)),
			cmp.Compare(a.Case, b.Case))
	})
}

// caseChecker finds and checks cases.
type caseChecker struct {
	AdaptCasesConfig
	model   adaptModel
	out     Output
	dataset *plans.Dataset // of the cases
	labels  *caseLabels
}

// find finds the cases of Cases, which have the role of training, and those of the test set.
func (k *caseChecker) find(ctx context.Context) ([]AdaptCase, error) {
	without := k.NoCases
	if k.Test != "" {
		without = append(slices.Clone(without), k.Test)
	}
	found, err := k.findIn(ctx, "--cases", k.Cases, without)
	if err != nil {
		return nil, err
	}
	if k.dataset, err = k.AdaptCasesConfig.dataset(k.model); err != nil {
		return nil, err
	}
	if k.labels, err = newCaseLabels(&k.AdaptCasesConfig, k.dataset); err != nil {
		return nil, err
	}
	list, err := k.rows(ctx, k.Cases, found.Layout, found.Cases, RoleTrain)
	if err != nil {
		return nil, err
	}
	var test []AdaptCase
	switch {
	case k.Test == "":
		test, err = k.rows(ctx, k.Cases, found.Layout, found.Test, RoleTest)
	case len(found.Test) > 0:
		k.out.Printf("%s: imagesTs and labelsTs are left out: --test is another test set", k.Cases)
		fallthrough
	default:
		if found, err = k.findIn(ctx, "--test", k.Test, k.NoCases); err != nil {
			return nil, err
		}
		test, err = k.rows(ctx, k.Test, found.Layout, found.Cases, RoleTest)
	}
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, one := range list {
		names[one.Case] = true
	}
	// another case of that name, or a duplicate, which the voxels will tell
	for _, one := range test {
		for names[one.Case] {
			one.Case += "_test"
		}
		names[one.Case] = true
		list = append(list, one)
	}
	return list, nil
}

// findIn finds the cases of a folder.
func (k *caseChecker) findIn(ctx context.Context, flag, folder string,
	without []string) (*cases.Found, error) {
	if err := exists(flag, folder, "a folder of images and labels"); err != nil {
		return nil, err
	}
	found, err := cases.Find(ctx, folder, cases.Options{Images: k.ImageFiles, Labels: k.LabelFiles,
		Without: without})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	for _, n := range found.Notes {
		k.out.Print(n)
	}
	n := fmt.Sprintf("%d cases, ", len(found.Cases))
	if found.Layout == cases.DICOM {
		n = ""
	}
	if len(found.Test) > 0 {
		n += fmt.Sprintf("and a test set of %d, ", len(found.Test))
	}
	k.out.Printf("%s: %sfound as %s", folder, n, found.Layout)
	return found, nil
}

// rows makes rows of what was found in a folder.
func (k *caseChecker) rows(ctx context.Context, folder string, layout cases.Layout,
	found []cases.Case, role string) ([]AdaptCase, error) {
	if layout == cases.DICOM && role == RoleTrain || layout == cases.DICOM && folder == k.Test {
		return k.findDICOM(ctx, folder, role)
	}
	var list []AdaptCase
	for _, c := range found {
		row := AdaptCase{Case: c.Name, Image: append([]string{}, c.Images...), Label: c.Label,
			Role: role, Problems: []string{}, Warnings: []string{}}
		if c.Problem != "" {
			row.Problems, row.advice = append(row.Problems, c.Problem), c.Advice
		}
		list = append(list, row)
	}
	return list, nil
}

// check reads all cases, several at a time as far as there is memory for them.
func (k *caseChecker) check(ctx context.Context, list []AdaptCase) error {
	limit := int64(k.MaxRAM * (1 << 30))
	if limit == 0 {
		memory, err := system.ReadMemory()
		if err != nil {
			return err
		}
		limit = system.Budget(memory.Available)
	}
	share := system.NewShare(limit)
	all := &raw.Dataset{}
	for _, c := range list {
		all.Cases = append(all.Cases, raw.Case{ID: c.Case})
	}
	return all.Each(ctx, cmp.Or(k.Workers, casesAtATime()), "checking", k.out.progress(),
		func(i int, _ raw.Case) error {
			if len(list[i].Problems) > 0 {
				return nil
			}
			need := estimateCase(&list[i])
			if err := share.Take(ctx, need); err != nil {
				return err
			}
			defer share.Give(need)
			k.checkCase(&list[i])
			return nil
		})
}

// refuseBad is the error that names every bad case, nil with SkipBad as long as others are left.
// Bad cases lose their role.
func (k *caseChecker) refuseBad(list []AdaptCase) error {
	held := k.heldOutNames()
	var lines, advice []string
	good, test := map[string]int{}, false
	for i := range list {
		c := &list[i]
		test = test || c.Role == RoleTest
		if c.emptyLabel && len(c.Problems) == 0 {
			if c.Role == RoleTrain && !slices.Contains(held, c.Case) {
				c.Problems = append(c.Problems, "no foreground in the labels: there is nothing "+
					"to learn from; --val "+c.Case+" holds it out")
			} else {
				c.Warnings = append(c.Warnings, "no foreground in the labels: scores of the "+
					"nodes found are not defined")
			}
		}
		if len(c.Problems) == 0 {
			good[c.Role]++
			continue
		}
		c.Role = ""
		lines = append(lines, fmt.Sprintf("  %s: %s", c.Case, strings.Join(c.Problems, "; ")))
		if c.advice != "" && !slices.Contains(advice, c.advice) {
			advice = append(advice, c.advice)
		}
	}
	for _, c := range list {
		for _, w := range c.Warnings {
			k.out.Printf("WARNING: case %s: %s", c.Case, w)
		}
	}
	text := fmt.Sprintf("%d of %d cases cannot be used:\n%s", len(lines), len(list),
		strings.Join(lines, "\n"))
	const most = 5
	for _, a := range advice[:min(len(advice), most)] {
		text += "\n" + a
	}
	switch {
	case len(list) == 0:
		return fmt.Errorf("%s: found no case: expected images and labels", k.Cases)
	case len(lines) == 0:
		return nil
	case good[RoleTrain] == 0:
		return errors.New(text + "\nno case is left to train on")
	case test && good[RoleTest] == 0:
		return errors.New(text + "\nno case of the test set is left")
	case k.SkipBad:
		k.out.Printf("WARNING: left out (--skip-bad): %s", text)
		return nil
	}
	return errors.New(text + "\nmend them, or go on without them with --skip-bad")
}

// writeAdaptTable prints the cases as a table: case, role, image, label, size, spacing, nodes, ml,
// what is wrong.
func writeAdaptTable(w io.Writer, cases []AdaptCase) error {
	t := report.Table{Columns: []report.Column{{Name: "case"}, {Name: "role"}, {Name: "image"},
		{Name: "label"}, {Name: "size"}, {Name: "spacing mm"}, {Name: "nodes", Right: true},
		{Name: "ml", Right: true}, {Name: "what is wrong"}}}
	folder := commonFolder(cases)
	short := func(path string) string {
		if rel, err := filepath.Rel(folder, path); folder != "" && path != "" && err == nil {
			return rel
		}
		return path
	}
	for _, c := range cases {
		image, size, spacing, nodes, ml := "", "", "", "", ""
		if len(c.Image) > 0 {
			image = short(c.Image[0])
		}
		if n := len(c.Image) - 1; n > 0 {
			image += fmt.Sprintf(" and %d more", n)
		}
		if c.Size != [3]int{} {
			size = fmt.Sprintf("%d×%d×%d", c.Size[2], c.Size[1], c.Size[0])
			spacing = fmt.Sprintf("%.4g×%.4g×%.4g", c.Spacing[2], c.Spacing[1], c.Spacing[0])
		}
		if len(c.Problems) == 0 || c.ML > 0 {
			nodes, ml = strconv.Itoa(c.Nodes), fmt.Sprintf("%.2f", c.ML)
		}
		wrong := append([]string{}, c.Problems...)
		for _, text := range c.Warnings {
			wrong = append(wrong, "note: "+text)
		}
		row := []string{c.Case, cmp.Or(c.Role, "-"), image, short(c.Label), size, spacing, nodes,
			ml, strings.Join(wrong, "; ")}
		for i := range row {
			row[i] = Printable(row[i])
		}
		t.Add(row...)
	}
	if err := t.Text(w); err != nil || folder == "" || folder == "." {
		return err
	}
	_, err := fmt.Fprintf(w, "files are below %s\n", Printable(folder))
	return err
}

// commonFolder is the folder in which, or below which, the files of all cases lie; "" if there is
// none.
func commonFolder(cases []AdaptCase) string {
	common, first := "", true
	for _, c := range cases {
		for _, path := range append(slices.Clone(c.Image), c.Label) {
			if path == "" {
				continue
			}
			dir := filepath.Dir(path)
			if first {
				common, first = dir, false
			}
			for common != dir && !strings.HasPrefix(dir, strings.TrimSuffix(common, "/")+"/") {
				up := filepath.Dir(common)
				if up == common || common == "." {
					return ""
				}
				common = up
			}
		}
	}
	return common
}
