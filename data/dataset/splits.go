package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/mt19937"
)

// Split holds the training and validation cases of one fold.
type Split struct {
	Train, Val []string

	File    string // the splits_final.json used, "" for fold all
	Random  bool   // drawn at random, because the file has no such fold
	Warning string // explains Random, for the log; "" if not Random
}

// Overlap returns the cases in both lists, as for fold "all".
func (s Split) Overlap() []string {
	return slices.DeleteFunc(slices.Clone(s.Train), func(k string) bool {
		return !slices.Contains(s.Val, k)
	})
}

const (
	// splitSeed and numSplits are those of nnU-Net 2.5.1, nnUNetTrainer.do_split.
	splitSeed = 12345
	numSplits = 5
)

// CrossValidation returns nnU-Net's five splits of the cases keys, which must be sorted:
// scikit-learn's KFold, shuffled with seed 12345, both lists in the order of keys. Fewer than five
// cases are a *FewCasesError.
func CrossValidation(keys []string) ([]Split, error) {
	n := len(keys)
	if n < numSplits {
		return nil, &FewCasesError{Keys: keys}
	}
	order := mt19937.New(splitSeed).Permutation(n)
	splits := make([]Split, numSplits)
	for i := range splits {
		size := n / numSplits
		if i < n%numSplits {
			size++
		}
		splits[i] = pick(keys, order[:size])
		order = order[size:]
	}
	return splits, nil
}

// pick puts the cases with the given indices into Val and the others into Train, in key order.
func pick(keys []string, val []int) Split {
	var s Split
	for i, k := range keys {
		if slices.Contains(val, i) {
			s.Val = append(s.Val, k)
		} else {
			s.Train = append(s.Train, k)
		}
	}
	return s
}

// beyond returns the random, seeded 80:20 split that nnU-Net uses for a fold missing in the split
// file. Train is in the order of the draw.
func beyond(keys []string, fold int) Split {
	order := mt19937.New(uint32(splitSeed + fold)).Permutation(len(keys))
	train := order[:int(float64(len(keys))*0.8)]
	s := Split{Val: pick(keys, train).Train}
	for _, i := range train {
		s.Train = append(s.Train, keys[i])
	}
	return s
}

// FewCasesError reports that there are too few cases for five folds, and the ways out.
type FewCasesError struct {
	Keys []string
	Path string // of the missing splits_final.json; may be empty
}

// Proposal returns one split per case, which validates on that case and trains on the others; a
// single case is in both lists. WriteSplits makes a splits_final.json of it.
func (e *FewCasesError) Proposal() []Split {
	if len(e.Keys) == 1 {
		return []Split{{Train: e.Keys, Val: e.Keys}}
	}
	splits := make([]Split, len(e.Keys))
	for i := range splits {
		splits[i] = pick(e.Keys, []int{i})
	}
	return splits
}

// Error names the cases, the two ways out and the text of a suitable splits_final.json.
func (e *FewCasesError) Error() string {
	path := e.Path
	if path == "" {
		path = "splits_final.json"
	}
	text := fmt.Sprintf("dataset: %d cases (%s), expected at least %d to make %d folds; "+
		"use fold all (train and validate on every case)",
		len(e.Keys), strings.Join(e.Keys, ", "), numSplits, numSplits)
	if len(e.Keys) == 0 {
		return text
	}
	ready, err := encodeSplits(e.Proposal())
	if err != nil {
		return text
	}
	return fmt.Sprintf("%s, or write your own %s, for example with one fold per case:\n%s",
		text, path, ready)
}

// ReadSplits reads a splits_final.json.
func ReadSplits(path string) ([]Split, error) {
	v, err := plans.ReadJSON(path)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	bad := func(where string) error {
		return fmt.Errorf(`dataset: %s%s: expected a list of folds {"train": [names], "val": [names]}`,
			path, where)
	}
	l, ok := v.([]any)
	if !ok || len(l) == 0 {
		return nil, bad("")
	}
	splits := make([]Split, len(l))
	for i := range l {
		o, _ := l[i].(*plans.Object)
		fields := map[string]*[]string{"train": &splits[i].Train, "val": &splits[i].Val}
		for key, dst := range fields {
			v, _ := o.Get(key)
			names, ok := v.([]any)
			if !ok {
				return nil, bad(fmt.Sprintf(": fold %d: %s", i, key))
			}
			for _, n := range names {
				name, ok := n.(string)
				if !ok {
					return nil, bad(fmt.Sprintf(": fold %d: %s", i, key))
				}
				*dst = append(*dst, name)
			}
		}
	}
	return splits, nil
}

func encodeSplits(splits []Split) ([]byte, error) {
	l := make([]any, len(splits))
	for i, s := range splits {
		o := &plans.Object{}
		o.Set("train", s.Train)
		o.Set("val", s.Val)
		l[i] = o
	}
	return plans.EncodeJSON(l, 4, true)
}

// WriteSplits writes a splits_final.json byte for byte as nnU-Net does. The file is replaced
// atomically.
func WriteSplits(path string, splits []Split) error {
	text, err := encodeSplits(splits)
	if err == nil {
		err = atomicfile.Write(path, text)
	}
	if err != nil {
		return fmt.Errorf("dataset: %s: %w", path, err)
	}
	return nil
}

// Fold returns the training and validation cases of a fold. keys are all cases, sorted. fold is
// "all" (every case in both lists) or a number. path is the splits_final.json of the preprocessed
// dataset; it is used if it exists and written otherwise. For a number beyond the file's folds the
// split is random but seeded, 80:20, as in nnU-Net, and Warning is set. Cases in the file that are
// not in keys are an error.
//
// Differs: a negative number is an error; in the reference -1 is the last fold.
func Fold(path string, keys []string, fold string) (Split, error) {
	if fold == "all" {
		return Split{Train: keys, Val: keys}, nil
	}
	number, err := strconv.Atoi(fold)
	if err != nil || number < 0 {
		return Split{}, fmt.Errorf("dataset: fold %q: expected all or a number from 0", fold)
	}
	splits, err := ReadSplits(path)
	if errors.Is(err, fs.ErrNotExist) {
		if splits, err = CrossValidation(keys); err == nil {
			err = WriteSplits(path, splits)
		}
	}
	var few *FewCasesError
	if errors.As(err, &few) {
		few.Path = path
	}
	if err != nil {
		return Split{}, err
	}
	var s Split
	if number < len(splits) {
		s = splits[number]
	} else {
		s = beyond(keys, number)
		s.Random = true
		s.Warning = fmt.Sprintf("WARNING: You requested fold %d for training but splits contain "+
			"only %d folds. I am now creating a random (but seeded) 80:20 split! It has %d "+
			"training and %d validation cases. The splits are those of %s; a model of one of its "+
			"folds may have been trained on these validation cases.",
			number, len(splits), len(s.Train), len(s.Val), path)
	}
	s.File = path
	for _, k := range slices.Concat(s.Train, s.Val) {
		if !slices.Contains(keys, k) {
			return Split{}, fmt.Errorf("dataset: %s: fold %d names case %s, which is not among "+
				"the %d preprocessed cases (%s); correct the file or preprocess the case",
				path, number, k, len(keys), abbreviate(keys))
		}
	}
	if len(s.Train) == 0 {
		return Split{}, fmt.Errorf("dataset: %s: fold %d has no training case, expected at least "+
			"one; use fold all or correct the file", path, number)
	}
	return s, nil
}

// abbreviate lists at most ten names.
func abbreviate(names []string) string {
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
