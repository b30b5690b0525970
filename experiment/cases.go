package experiment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/filehash"
	"github.com/lntorch/lntorch/internal/nearest"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/volume"
)

// caseFiles are the files of a case.
type caseFiles struct {
	name   string
	folder string // imagesTr or imagesTs
	images []string
	label  string
}

// content is what a case holds, whatever its files are called.
type content struct {
	images   string // sha256 of the voxels of all channels
	whole    string // of those and of the label's: content in splits.json
	geometry string // of spacing, origin and direction of all: a training depends on them, too
}

// all is what trainings and predictions follow from.
func (c *content) all() string { return c.whole + " " + c.geometry }

// gridDataset is a dataset of the file with what was found of it.
type gridDataset struct {
	*Dataset
	raw      *raw.Dataset
	train    []caseFiles // of imagesTr
	later    []caseFiles // of imagesTs
	test     []caseFiles
	pool     []caseFiles
	patients map[string]string
	testing  map[string]*content // of test
	training map[string]*content // of pool
	tested   string              // digest of the contents of test
	split    *DatasetSplit
}

// openDataset finds a raw dataset and its cases.
func openDataset(d *Dataset, root string) (*gridDataset, error) {
	name, err := raw.FindName(d.Dataset, root)
	if err != nil {
		return nil, err
	}
	g := &gridDataset{Dataset: d}
	if g.raw, err = raw.Open(root, name); err != nil {
		return nil, err
	}
	for _, c := range g.raw.Cases {
		g.train = append(g.train, caseFiles{c.ID, "imagesTr", c.Images, c.Label})
	}
	ending := g.raw.JSON.FileEnding
	list, err := raw.Images(filepath.Join(g.raw.Folder, "imagesTs"), ending)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, c := range list {
		g.later = append(g.later, caseFiles{c.ID, "imagesTs", c.Images,
			filepath.Join(g.raw.Folder, "labelsTs", c.ID+ending)})
	}
	return g, nil
}

// complete refuses cases whose files are not all there.
func (g *gridDataset) complete(list []caseFiles) error {
	channels := len(g.raw.JSON.ChannelNames)
	for _, c := range list {
		if len(c.images) != channels {
			return fmt.Errorf("case %s has %d image files in %s, expected %d: %s_0000%s, …", c.name,
				len(c.images), filepath.Join(g.raw.Folder, c.folder), channels, c.name,
				g.raw.JSON.FileEnding)
		}
		if !isFile(c.label) {
			return fmt.Errorf("case %s has no label: expected %s", c.name, c.label)
		}
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

func names(list []caseFiles) []string {
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = c.name
	}
	return out
}

// find finds the files of named cases, in one of several lists.
func (g *gridDataset) find(cases []string, lists ...[]caseFiles) ([]caseFiles, error) {
	byName := map[string]caseFiles{}
	var known []string
	for _, list := range slices.Backward(lists) {
		for _, c := range list {
			byName[c.name] = c
			known = append(known, c.name)
		}
	}
	var out []caseFiles
	for _, name := range cases {
		c, ok := byName[name]
		if !ok {
			if n := nearest.Name(name, known); n != "" {
				return nil, fmt.Errorf("%s has no case %s; did you mean %s?", g.raw.Name, name, n)
			}
			return nil, fmt.Errorf("%s has no case %s among its %d", g.raw.Name, name, len(known))
		}
		out = append(out, c)
	}
	return out, nil
}

// readPatients says whose each case is.
func (g *gridDataset) readPatients() error {
	g.patients = map[string]string{}
	listed := map[string]string{}
	if g.Patients != "" {
		var err error
		if listed, err = patientList(g.Patients); err != nil {
			return err
		}
	}
	for _, c := range slices.Concat(g.train, g.later) {
		patient := c.name
		switch {
		case g.Patients != "":
			var ok bool
			if patient, ok = listed[strings.TrimSpace(c.name)]; !ok {
				return fmt.Errorf("%s has no row of case %s", g.Patients, c.name)
			}
		case g.pattern != nil:
			found := g.pattern.FindStringSubmatch(c.name)
			if found == nil || strings.TrimSpace(found[1]) == "" {
				return fmt.Errorf("the pattern %q finds no patient in the name of case %s", g.Patient, c.name)
			}
			patient = found[1]
		}
		var err error
		if g.patients[c.name], err = table.Name(patient); err != nil { // one patient for draws, leaks and tables
			return fmt.Errorf("patient of case %s: %w", c.name, err)
		}
	}
	return nil
}

// patientList reads a CSV file with columns case, patient. Names are those of tables, without spaces around them.
func patientList(path string) (map[string]string, error) {
	text, err := regular.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff")))) // as Excel writes it
	r.FieldsPerRecord = -1
	header, err := r.Read()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range header {
		header[i] = strings.TrimSpace(header[i])
	}
	at, of := slices.Index(header, "case"), slices.Index(header, "patient")
	if at < 0 || of < 0 {
		return nil, fmt.Errorf("%s: line 1: found columns %s, expected case and patient", path,
			strings.Join(header, ", "))
	}
	list := map[string]string{}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		line, _ := r.FieldPos(0)
		for i := range row {
			if row[i], err = table.Name(row[i]); err != nil && (i == at || i == of) {
				return nil, fmt.Errorf("%s: line %d: %s: %w", path, line, header[i], err)
			}
		}
		if len(row) <= max(at, of) || row[at] == "" || row[of] == "" {
			return nil, fmt.Errorf("%s: line %d: found no case or no patient", path, line)
		}
		if _, ok := list[row[at]]; ok {
			return nil, fmt.Errorf("%s: line %d: case %s is there twice", path, line, row[at])
		}
		list[row[at]] = row[of]
	}
}

// choose finds the test cases and the pool.
func (g *gridDataset) choose(seed int64) (err error) {
	switch {
	case g.Test.Number > 0:
		drawn, err := drawTest(g.Test.Number, seed, names(g.train), g.patients)
		if err != nil {
			return &atLine{g.Test.line, "test", err}
		}
		if g.test, err = g.find(drawn, g.train); err != nil {
			return err
		}
	case g.Test.Folder != "":
		g.test = g.later
	default:
		if g.test, err = g.find(g.Test.Cases, g.later, g.train); err != nil {
			return &atLine{g.Test.line, "test", err}
		}
	}
	if len(g.test) == 0 {
		return &atLine{g.Test.line, "test", fmt.Errorf("%s has no test case: expected images in %s and labels in labelsTs beside it, "+
			"or give a list of cases, or a number to draw from imagesTr", g.raw.Name, filepath.Join(g.raw.Folder, "imagesTs"))}
	}
	if g.Pool.Cases != nil {
		if g.pool, err = g.find(g.Pool.Cases, g.train, g.later); err != nil {
			return &atLine{g.Pool.line, "pool", err}
		}
	} else {
		// Test cases that are named, or drawn, in imagesTr leave it, unless the file says that the pool
		// is all of it.
		leave := names(g.test)
		if g.Test.Folder != "" || g.Test.Number == 0 && g.Pool.line > 0 {
			leave = nil
		}
		for _, c := range g.train {
			if !slices.Contains(leave, c.name) {
				g.pool = append(g.pool, c)
			}
		}
	}
	if len(g.pool) == 0 {
		return &atLine{max(g.Pool.line, g.line), "pool", fmt.Errorf("%s has no case to draw shots from", g.raw.Name)}
	}
	if err := g.oneFolder(); err != nil {
		return &atLine{g.Test.line, "test", err}
	}
	return errors.Join(g.complete(g.test), g.complete(g.pool))
}

// oneFolder refuses test cases of imagesTr and of imagesTs: their labels, too, would be in two folders, and
// `evaluate` takes one.
func (g *gridDataset) oneFolder() error {
	for _, c := range g.test {
		if c.folder != g.test[0].folder {
			return fmt.Errorf("found cases of %s (%s) and of %s (%s), expected those of one folder",
				g.test[0].folder, g.test[0].name, c.folder, c.name)
		}
	}
	return nil
}

// atLine is an error about a key of an entry of the file.
type atLine struct {
	line int
	key  string
	err  error
}

func (e *atLine) Error() string { return e.key + ": " + e.err.Error() }

func (e *atLine) Unwrap() error { return e.err }

// reads looks into image files. Sums are cached.
type reads struct {
	cache    *filehash.Cache
	progress pipeline.Progress // nil: none
}

// apart are the endings of headers whose pixels are in another file: the header's stamp says nothing
// of these, so nothing is cached.
var apart = []string{".nhdr", ".mhd", ".hdr", ".img"}

// file gives the sums of a file's voxels and geometry.
func (r *reads) file(path string) (voxels, geometry filehash.Sum, err error) {
	read := sync.OnceValues(func() (*volume.Image, error) {
		f, err := image.Read(path)
		if err != nil {
			return nil, err
		}
		im, _, err := f.Image()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return im, nil
	})
	cache := r.cache
	if slices.Contains(apart, strings.ToLower(filepath.Ext(path))) {
		cache = nil
	}
	voxels, err = cache.Derived(path, "voxels", func() (s filehash.Sum, err error) {
		im, err := read()
		if err != nil {
			return s, err
		}
		_, err = hex.Decode(s[:], []byte(im.Content()))
		return s, err
	})
	if err != nil {
		return voxels, geometry, err
	}
	geometry, err = cache.Derived(path, "geometry", func() (s filehash.Sum, err error) {
		im, err := read()
		if err != nil {
			return s, err
		}
		return sha256.Sum256(fmt.Append(nil, im.Geometry)), nil
	})
	return voxels, geometry, err
}

// of gives the content of a case.
func (r *reads) of(c caseFiles) (*content, error) {
	var voxels, geometry strings.Builder
	out := &content{}
	for i, path := range append(slices.Clone(c.images), c.label) {
		if i == len(c.images) {
			out.images = sum(voxels.String())
		}
		if path == "" {
			continue
		}
		v, g, err := r.file(path)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&voxels, "%v\n", v)
		fmt.Fprintf(&geometry, "%v\n", g)
	}
	out.whole, out.geometry = sum(voxels.String()), sum(geometry.String())
	return out, nil
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// all gives the contents of cases of a dataset, several at a time.
func (r *reads) all(ctx context.Context, dataset string, list []caseFiles) (map[string]*content, error) {
	if r.progress != nil {
		r.progress.Begin("contents of "+dataset, len(list))
		defer r.progress.End()
	}
	out := make([]*content, len(list))
	errs := make([]error, len(list))
	var wait sync.WaitGroup
	places := make(chan struct{}, min(4, system.Cores()))
	for i, c := range list {
		if ctx.Err() != nil {
			break
		}
		wait.Add(1)
		places <- struct{}{}
		if r.progress != nil {
			r.progress.Done(i, "")
		}
		go func() {
			defer wait.Done()
			defer func() { <-places }()
			out[i], errs[i] = r.of(c)
		}()
	}
	wait.Wait()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return nil, err
	}
	byName := map[string]*content{}
	for i, c := range list {
		byName[c.name] = out[i]
	}
	return byName, nil
}
