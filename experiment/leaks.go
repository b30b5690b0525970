package experiment

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/internal/regular"
)

// A LeakError names all test cases that are training cases, too.
type LeakError struct{ Leaks []string }

func (e *LeakError) Error() string {
	const most = 50
	list := e.Leaks
	if len(list) > most {
		list = append(slices.Clone(list[:most]), fmt.Sprintf("and %d more", len(e.Leaks)-most))
	}
	return "test cases are training cases:\n  " + strings.Join(list, "\n  ") +
		"\nscores on them say nothing: take them out of test or out of pool"
}

// leaks names the test cases that are in the pool: by name, by patient, by content. Voxels of the
// images decide: the same scan with other labels is the same scan.
func (g *gridDataset) leaks() (leaks []string) {
	byImage := map[string]string{}
	byPatient := map[string]string{}
	pool := map[string]bool{}
	for _, c := range g.pool {
		pool[c.name] = true
		byImage[g.training[c.name].images] = c.name
		byPatient[g.patients[c.name]] = c.name
	}
	for _, c := range g.test {
		twin, same := byImage[g.testing[c.name].images]
		other, known := byPatient[g.patients[c.name]]
		switch {
		case pool[c.name]:
			leaks = append(leaks, fmt.Sprintf("%s: case %s is in test and in pool", g.Name, c.name))
		case same:
			leaks = append(leaks, fmt.Sprintf("%s: test case %s has the voxels of case %s of the pool", g.Name, c.name, twin))
		case known:
			leaks = append(leaks, fmt.Sprintf("%s: test case %s is of the same patient as case %s of the pool", g.Name, c.name, other))
		}
	}
	return leaks
}

// twins counts cases of the test set, or of the pool, whose image is another's, too.
func (g *gridDataset) twins() (notes []string) {
	for _, set := range []struct {
		what     string
		list     []caseFiles
		contents map[string]*content
	}{{"test", g.test, g.testing}, {"pool", g.pool, g.training}} {
		seen := map[string]bool{}
		for _, c := range set.list {
			seen[set.contents[c.name].images] = true
		}
		if n := len(set.list) - len(seen); n > 0 {
			notes = append(notes, fmt.Sprintf("%s: %d of the %d cases of %s have the voxels of another of them", g.Name, n,
				len(set.list), set.what))
		}
	}
	return notes
}

// learnt is what a network was trained on.
type learnt struct {
	from   []string          // datasets or files
	images map[string]string // case by the sum of its images' voxels
	whole  map[string]string // the same by content
	parts  []string          // datasets of which some images are missing
}

var contentHash = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

// learnt finds the training data of a network: what trained_on says, else the dataset that the
// checkpoint names, where its raw images are. nil: not known. Images that are missing are noted in parts; a dataset
// without any is as good as none.
func (r *reads) learnt(ctx context.Context, n *gridNetwork, root string) (*learnt, error) {
	l := &learnt{images: map[string]string{}, whole: map[string]string{}}
	named := n.TrainedOn
	if named == nil {
		if n.model.DatasetName == "" {
			return nil, nil
		}
		named = []string{n.model.DatasetName}
		if _, err := raw.Open(root, n.model.DatasetName); err != nil {
			return nil, nil
		}
	}
	for _, name := range named {
		if !datasetName(name) {
			text, err := regular.ReadFile(name)
			if err != nil {
				return nil, err
			}
			found := contentHash.FindAllString(string(text), -1)
			if found == nil {
				return nil, fmt.Errorf("%s: found no content hash, expected some: 64 hexadecimal digits each, "+
					"as in a splits.json", name)
			}
			for _, h := range found {
				l.whole[h] = filepath.Base(name)
			}
			l.from = append(l.from, filepath.Base(name))
			continue
		}
		d, err := openDataset(&Dataset{Name: name, Dataset: name}, root)
		if err != nil {
			return nil, err
		}
		there := d.withImages()
		if len(there) == 0 {
			if n.TrainedOn == nil {
				return nil, nil
			}
			return nil, fmt.Errorf("%s: found no training images, expected CASE_0000%s, … in %s: give a file of their content hashes",
				d.raw.Name, d.raw.JSON.FileEnding, filepath.Join(d.raw.Folder, "imagesTr"))
		}
		all := len(d.train)
		if trained, err := d.raw.JSON.NumTraining(); err == nil {
			all = max(all, trained)
		}
		if len(there) < all {
			l.parts = append(l.parts, fmt.Sprintf("images of %d of the %d cases of %s are there", len(there), all, d.raw.Name))
		}
		contents, err := r.all(ctx, d.raw.Name, there)
		if err != nil {
			return nil, err
		}
		for name, c := range contents {
			l.images[c.images] = d.raw.Name + ", case " + name
		}
		l.from = append(l.from, d.raw.Name)
	}
	return l, nil
}

// withImages are the training cases whose images are all there, without labels: the images decide, and labels of
// training data may be gone.
func (g *gridDataset) withImages() []caseFiles {
	var list []caseFiles
	for _, c := range g.train {
		missing := func(path string) bool { return !isFile(path) }
		if len(c.images) == len(g.raw.JSON.ChannelNames) && !slices.ContainsFunc(c.images, missing) {
			c.label = ""
			list = append(list, c)
		}
	}
	return list
}

// holds says where a case was, "" if it was not trained on.
func (l *learnt) holds(c *content) string {
	if where, ok := l.images[c.images]; ok {
		return where
	}
	return l.whole[c.whole]
}

// compare names the test cases that the network has seen, and warns of such cases of the pool.
func (l *learnt) compare(n *gridNetwork, g *gridDataset) (leaks, warnings []string) {
	for _, c := range g.test {
		if where := l.holds(g.testing[c.name]); where != "" {
			leaks = append(leaks, fmt.Sprintf("%s: test case %s was in the training data of network %s (%s)",
				g.Name, c.name, n.Name, where))
		}
	}
	seen := 0
	for _, c := range g.pool {
		if l.holds(g.training[c.name]) != "" {
			seen++
		}
	}
	if seen > 0 {
		warnings = append(warnings, fmt.Sprintf("%s: network %s was trained on %d of the %d cases of the pool", g.Name,
			n.Name, seen, len(g.pool)))
	}
	return leaks, warnings
}
