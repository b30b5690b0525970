package pipeline

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/nodes"
)

// smallVolumes are the volumes in mm³ below which components are removed on trial. 0 is none.
var smallVolumes = []float64{0, 10, 20, 30, 50, 100, 200}

// nodeIoU is from which IoU on a node counts as found: that of the HECKTOR 2025 challenge.
const nodeIoU = 0.3

// SmallTrial is the scores when components of the foreground below a volume are removed.
type SmallTrial struct {
	Below float64                 `json:"below_mm3"`
	Dice  float64                 `json:"dice"`  // mean over the foreground
	Nodes map[string]nodes.Counts `json:"nodes"` // of each label or region, over all cases
	F1    map[string]float64      `json:"f1"`
	Kept  bool                    `json:"kept"`
}

// trySmall removes small components of the foreground, after the rules that were chosen, and keeps
// the volume with the best mean Dice, the smallest of equals, if it raises it and F1 of no label
// or region falls. Each file is read once for all volumes.
func (s *search) trySmall(ctx context.Context) error {
	cases := make([][]eval.Case, len(smallVolumes))
	found := make([][][]nodes.Counts, len(smallVolumes)) // by volume, case and target
	for v := range smallVolumes {
		cases[v] = make([]eval.Case, len(s.cases.Cases))
		found[v] = make([][]nodes.Counts, len(s.cases.Cases))
	}
	err := s.cases.Each(ctx, s.workers, "removing small components", s.o.progress(),
		func(i int, c raw.Case) error {
			pred, err := s.read(c.Images[0])
			if err != nil {
				return err
			}
			if err := s.chosen.apply(pred); err != nil {
				return fmt.Errorf("%s: %w", c.Images[0], err)
			}
			ref, err := s.read(c.Label)
			if err != nil {
				return err
			}
			scorer, err := s.newSmallScorer(ref, pred)
			if err != nil {
				return fmt.Errorf("%s: %w", c.Images[0], err)
			}
			for v, below := range smallVolumes {
				scorer.remove(below)
				counts, err := labelmap.Compare(ref, pred, s.targets, s.dataset.Labels.IgnoreLabel)
				if err != nil {
					return err
				}
				cases[v][i] = eval.Case{ReferenceFile: c.Label, Counts: counts,
					PredictionFile: joined(joined(s.c.Input, "postprocessed"), c.ID)}
				if found[v][i], err = scorer.count(); err != nil {
					return err
				}
			}
			return nil
		})
	if err != nil {
		return err
	}
	best := 0
	summaries := make([]*eval.Summary, len(smallVolumes))
	for v, below := range smallVolumes {
		if summaries[v], err = eval.Summarise(s.targets, cases[v]); err != nil {
			return err
		}
		t := SmallTrial{Below: below, Dice: summaries[v].Foreground(eval.Dice),
			Nodes: map[string]nodes.Counts{}, F1: map[string]float64{}}
		for k, target := range s.targets {
			var sum nodes.Counts
			for _, counts := range found[v] {
				sum.Add(counts[k])
			}
			t.Nodes[target.Key()], t.F1[target.Key()] = sum, sum.F1()
		}
		s.small = append(s.small, t)
		if t.Dice > s.small[best].Dice && !t.falls(s.small[0]) {
			best = v
		}
	}
	if best == 0 {
		return nil
	}
	s.small[best].Kept = true
	rule := RemoveSmall{Labels: slices.Clone(s.dataset.Labels.ForegroundLabels), Below: smallVolumes[best]}
	s.chosen, s.after = append(s.chosen, rule), summaries[best]
	return nil
}

// falls says that F1 of a label or region is lower than before, or no longer defined.
func (t SmallTrial) falls(before SmallTrial) bool {
	for key, f1 := range before.F1 {
		if !math.IsNaN(f1) && !(t.F1[key] >= f1) {
			return true
		}
	}
	return false
}

// smallScorer removes components of the prediction of a case, volume by volume, and matches nodes.
type smallScorer struct {
	*search
	ref, pred  *labelmap.Map
	reference  []*components.Components // nodes of each target
	foreground *components.Components   // of pred at the beginning
	mm3        float64                  // of a voxel of pred
}

func (s *search) newSmallScorer(ref, pred *labelmap.Map) (_ *smallScorer, err error) {
	c := &smallScorer{search: s, ref: ref, pred: pred}
	if c.mm3, err = voxelVolume(pred); err != nil {
		return nil, err
	}
	if c.foreground, err = findComponents(pred, s.dataset.Labels.ForegroundLabels); err != nil {
		return nil, err
	}
	for _, t := range s.targets {
		found, err := findComponents(ref, t.Labels())
		if err != nil {
			return nil, err
		}
		c.reference = append(c.reference, found)
	}
	return c, nil
}

// remove removes the components below a volume. It is called with rising volumes.
func (c *smallScorer) remove(below float64) {
	RemoveSmall{Below: below}.remove(c.pred, c.foreground, c.mm3)
}

// count matches the nodes of each target. Where the reference has the ignore label there are none.
func (c *smallScorer) count() ([]nodes.Counts, error) {
	pred := c.pred
	if ignore := c.dataset.Labels.IgnoreLabel; ignore != nil {
		pred = &labelmap.Map{Shape: pred.Shape, Small: slices.Clone(pred.Small), Wide: slices.Clone(pred.Wide)}
		ignored, err := findComponents(c.ref, []int{*ignore})
		if err != nil {
			return nil, err
		}
		ignored.Runs(func(_, from, to int) {
			setLabels(pred, from, to, 0)
		})
	}
	var counts []nodes.Counts
	for k, t := range c.targets {
		found, err := findComponents(pred, t.Labels())
		if err != nil {
			return nil, err
		}
		overlaps, err := nodes.Compare(c.reference[k], found)
		if err != nil {
			return nil, err
		}
		counts = append(counts, overlaps.Count(nodeIoU))
	}
	return counts, nil
}
