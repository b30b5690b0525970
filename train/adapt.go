package train

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
)

// loadPretrained fills the network from a checkpoint that may have been trained with other labels or channels, and notes
// in t.decisions what becomes of heads and first layers.
func (t *trainer) loadPretrained(gen *torch.Generator) error {
	c := &t.cfg
	f := t.source
	o := checkpoint.LoadOptions{AllowUnexpected: true}
	var remaps []func(name string, file, model []int64) *checkpoint.Remap
	fresh := models.IsHead
	switch c.Head {
	case HeadKeep:
		fresh = nil
		t.decide("segmentation heads are kept (--head keep)")
	case HeadReset:
		o.Keep = fresh
		t.decide("segmentation heads are reinitialised (--head reset)")
	case HeadExtend:
		remaps = append(remaps, t.extendHeads(f))
	default:
		fresh, o.Keep = models.IsSegLayer, models.IsSegLayer
		t.decide("segmentation heads by nnU-Net's rule: " + models.SegLayers + " are reinitialised, any other is kept (--head keep, reset or extend override it)")
	}
	if c.Channels == ChannelsExtend {
		remaps = append(remaps, t.extendChannels(f))
	}
	o.Remap = func(name string, file, model []int64) *checkpoint.Remap {
		for _, remap := range remaps {
			if m := remap(name, file, model); m != nil {
				return m
			}
		}
		return nil
	}
	if fresh != nil {
		if err := t.Net.Module().Reset(gen, func(path string) bool { return fresh(path + ".") }); err != nil {
			return err
		}
	}
	err := t.loadWeights(f, o)
	if err == nil {
		t.base, err = baseOf(f)
		return err
	}
	if c.Head != HeadReset && t.onlyHeadsMisfit() {
		err = fmt.Errorf("%w\nonly segmentation heads do not fit: --head reset reinitialises them, "+
			"--head extend keeps the classes that both have", err)
	}
	if was := channelNames(f.Dataset); was != nil && len(was) != len(t.data.Dataset.ChannelNames) && c.Channels == ChannelsKeep {
		err = fmt.Errorf("%w\nthe checkpoint's images have the channels %s, these %s: --channels extend takes the known ones along", err,
			strings.Join(was, ", "), strings.Join(t.data.Dataset.ChannelNames, ", "))
	}
	return err
}

// onlyHeadsMisfit reports whether every weight that is missing or has another shape belongs to a
// segmentation head.
func (t *trainer) onlyHeadsMisfit() bool {
	if t.loading == nil {
		return false
	}
	misfits := 0
	for _, row := range t.loading.Rows {
		if row.Status != checkpoint.Missing && row.Status != checkpoint.Mismatched {
			continue
		}
		if !models.IsHead(row.Name) {
			return false
		}
		misfits++
	}
	return misfits > 0
}

func (t *trainer) decide(format string, a ...any) {
	t.decisions = append(t.decisions, fmt.Sprintf(format, a...))
}

// extendHeads takes along the classes that the checkpoint knows: by name where a foreground name is in both dataset.json, else
// by number. Other classes are reinitialised.
func (t *trainer) extendHeads(f *checkpoint.File) func(string, []int64, []int64) *checkpoint.Remap {
	here := rowNames(t.data.Dataset.Labels)
	var there []string
	if f.Dataset != nil {
		there = rowNames(f.Dataset.Labels)
		if f.Dataset.Labels.HasRegions != t.data.Dataset.Labels.HasRegions {
			t.decide("segmentation heads are reinitialised: the classes of one side are regions, of the other labels")
			return func(name string, _, model []int64) *checkpoint.Remap {
				if !models.IsHead(name) {
					return nil
				}
				return &checkpoint.Remap{From: slices.Repeat([]int{-1}, int(model[0]))}
			}
		}
	}
	logged := map[int]bool{}
	return func(name string, file, model []int64) *checkpoint.Remap {
		if !models.IsHead(name) || int(model[0]) != len(here) {
			return nil
		}
		n := int(file[0])
		from, how := match(there, here, n)
		if !logged[n] { // once, not for each level of deep supervision
			logged[n] = true
			for to, i := range from {
				if i < 0 {
					t.decide("segmentation heads, class %d (%s): reinitialised", to, here[to])
					continue
				}
				t.decide("segmentation heads, class %d (%s): the checkpoint's %d, by %s", to, here[to], i, how)
			}
			for i := range n {
				if !slices.Contains(from, i) {
					t.decide("segmentation heads: the checkpoint's class %d%s is dropped", i, parenthesis(there, i))
				}
			}
		}
		return &checkpoint.Remap{From: from}
	}
}

// extendChannels takes along the input channels that the checkpoint knows, by name or else by number; the first layers'
// weights of others start at 0, so that the network begins with the outputs it had.
func (t *trainer) extendChannels(f *checkpoint.File) func(string, []int64, []int64) *checkpoint.Remap {
	here, there := t.data.Dataset.ChannelNames, channelNames(f.Dataset)
	return func(name string, file, model []int64) *checkpoint.Remap {
		if len(file) < 4 || len(model) != len(file) || file[1] == model[1] || int(model[1]) != len(here) || there != nil && int(file[1]) != len(there) {
			return nil
		}
		from, how := match(there, here, int(file[1]))
		for to, i := range from {
			if i < 0 {
				t.decide("%s, channel %d (%s): starts at 0", name, to, here[to])
				continue
			}
			t.decide("%s, channel %d (%s): the checkpoint's %d, by %s", name, to, here[to], i, how)
		}
		return &checkpoint.Remap{Axis: 1, From: from, Zero: true}
	}
}

// match finds, for each name of the data (here), its index among the checkpoint's n (there): by name where
// names are unique and one other than background is in both, else by number; -1 for none. there is nil where
// the checkpoint's names are not known.
func match(there, here []string, n int) (from []int, how string) {
	byName := len(there) == n && unique(there) && unique(here) && slices.ContainsFunc(here, func(name string) bool { return name != background && slices.Contains(there, name) })
	how = "number"
	if byName {
		how = "name"
	}
	for i, name := range here {
		at := -1
		if byName {
			at = slices.Index(there, name)
		} else if i < n {
			at = i
		}
		from = append(from, at)
	}
	return from, how
}

func unique(names []string) bool {
	sorted := slices.Sorted(slices.Values(names))
	return len(slices.Compact(sorted)) == len(names)
}

const background = "background"

// rowNames are the names of a head's rows: of regions, or of label values in ascending order.
func rowNames(l *plans.Labels) []string {
	var names []string
	if l.HasRegions {
		for _, r := range l.Regions {
			names = append(names, r.Name)
		}
		return names
	}
	for _, v := range l.AllLabels {
		i := slices.IndexFunc(l.Entries, func(e plans.Label) bool { return e.Name != "ignore" && slices.Contains(e.Values, v) })
		names = append(names, l.Entries[i].Name)
	}
	return names
}

func channelNames(d *plans.Dataset) []string {
	if d == nil {
		return nil
	}
	return d.ChannelNames
}

func parenthesis(names []string, i int) string {
	if i >= len(names) {
		return ""
	}
	return " (" + names[i] + ")"
}
