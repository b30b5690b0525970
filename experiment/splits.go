package experiment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/internal/regular"
)

// givenSplits takes the draws of a splits.json as they are. Contents are compared when they are read.
func (g *grid) givenSplits() error {
	text, err := regular.ReadFile(g.File.SplitsFile)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	s := &Splits{}
	if err := endJSON(text, d, d.Decode(s)); err != nil {
		return err
	}
	if s.Version != 1 {
		return fmt.Errorf("found version %d, expected 1: it was made by another lntorch", s.Version)
	}
	all := s.Datasets
	g.Splits = s
	s.Datasets = map[string]*DatasetSplit{}
	for _, d := range g.datasets {
		split := all[d.Name]
		if split == nil {
			return notAmong(d.Name, slices.Sorted(maps.Keys(all)), "dataset of this file")
		}
		if err := split.adopt(d, g.File); err != nil {
			return fmt.Errorf("dataset %s: %w", d.Name, err)
		}
		s.Datasets[d.Name] = split
		d.split = split
	}
	return nil
}

// adopt checks a dataset's splits, finds the cases, and takes the draws and shots that the file asks for.
func (s *DatasetSplit) adopt(d *gridDataset, f *File) (err error) {
	if s.Dataset != d.raw.Name {
		return fmt.Errorf("found splits of %s, expected of %s", s.Dataset, d.raw.Name)
	}
	if len(s.Test) == 0 || len(s.Pool) == 0 {
		return errors.New("found no test case or no pool")
	}
	if d.test, err = d.find(s.Test, d.later, d.train); err != nil {
		return err
	}
	if d.pool, err = d.find(s.Pool, d.train, d.later); err != nil {
		return err
	}
	if err := d.oneFolder(); err != nil {
		return err
	}
	if err := errors.Join(d.complete(d.test), d.complete(d.pool)); err != nil {
		return err
	}
	for _, c := range slices.Concat(s.Test, s.Pool) {
		p, ok := s.Patients[c]
		if !ok || s.Content[c] == "" {
			return fmt.Errorf("case %s has no patient or no content there", c)
		}
		if p, err = table.Name(p); err != nil {
			return fmt.Errorf("patient of case %s: %w", c, err)
		}
		s.Patients[c], d.patients[c] = p, p
	}
	if len(s.Draws) < f.Draws {
		return fmt.Errorf("found %d draws, expected the %d of draws", len(s.Draws), f.Draws)
	}
	s.Draws = s.Draws[:f.Draws]
	pool := slices.Sorted(slices.Values(s.Pool))
	for i := range s.Draws {
		draw := &s.Draws[i]
		if !slices.Equal(slices.Sorted(slices.Values(draw.Order)), pool) {
			return fmt.Errorf("draw %d is no order of the pool", i)
		}
		for text, given := range draw.Shots {
			k, err := shotCount(text, len(draw.Order))
			if err != nil || k < 1 || !slices.Equal(given, draw.Order[:k]) {
				return fmt.Errorf("draw %d: %s shots are not the first of its order", i, text)
			}
		}
		draw.Draw, draw.Shots = i, map[string][]string{}
		for _, text := range f.shotsOf(i) {
			k, err := shotCount(text, len(draw.Order))
			if err != nil {
				return err
			}
			draw.Shots[text] = draw.Order[:k]
		}
	}
	return nil
}
