package pipeline

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/internal/settings"
)

// asTrained is --reorient without a value: the orientation of most training images.
const asTrained = "trained"

// trainedOrientations counts the orientations of the training images, as `lntorch train` wrote them
// into the run.json beside a checkpoint; nil where there is none.
func trainedOrientations(checkpoint string) map[string]int {
	dirs := []string{filepath.Dir(checkpoint), filepath.Dir(filepath.Dir(checkpoint))} // of an adapter's folder, too
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "run.json"))
		if err != nil {
			continue
		}
		var run struct {
			Data struct {
				Orientations map[string]int `json:"orientations"`
			} `json:"data"`
		}
		if json.Unmarshal(b, &run) == nil && len(run.Data.Orientations) > 0 {
			return run.Data.Orientations
		}
	}
	return nil
}

// chooseOrientation finds what --reorient turns images to.
func (s *segmenter) chooseOrientation() error {
	if s.Reorient == "" {
		return nil
	}
	switch {
	case s.reader.Name() == "NibabelIOWithReorient":
		s.out.Print("WARNING: --reorient: the model's NibabelIOWithReorient turns every image to RAS itself")
		return nil
	case s.Probabilities:
		return settings.Usage("--reorient and --save_probabilities are both given: probabilities are not turned back; turn the images with other software first")
	case s.Reorient != asTrained:
		if _, err := images.NewTurn(s.Reorient, s.Reorient); err != nil {
			return settings.Usage("--reorient: %w", err)
		}
		s.orientation = s.Reorient
		return nil
	case len(s.model.orientations) == 0:
		return settings.Usage("--reorient: no run.json of lntorch train beside %s tells the orientation of the training images: give it, as in --reorient=LPS",
			s.model.folds[0].path)
	}
	for _, name := range slices.Sorted(maps.Keys(s.model.orientations)) {
		if s.orientation == "" || s.model.orientations[name] > s.model.orientations[s.orientation] {
			s.orientation = name
		}
	}
	return nil
}

// turn is how the image is turned before it is preprocessed. An orientation that the model was not
// trained with is warned of.
func (s *segmenter) turn(p *preparedCase) error {
	if s.reader.Name() == "NibabelIOWithReorient" || s.orientation == "" && len(s.model.orientations) == 0 {
		return nil
	}
	own, err := p.read.Orientation()
	if err != nil {
		return fmt.Errorf("%s: %w", p.images[0], err)
	}
	p.record.Orientation = own
	if s.orientation != "" {
		if p.turn, err = images.NewTurn(own, s.orientation); err == nil && !p.turn.None() {
			p.record.TurnedTo = s.orientation
		}
		return err
	}
	if seen := s.model.orientations; seen[own] == 0 {
		var list []string
		for _, name := range slices.Sorted(maps.Keys(seen)) {
			list = append(list, fmt.Sprintf("%s (%d)", name, seen[name]))
		}
		p.record.Warnings = append(p.record.Warnings, fmt.Sprintf("orientation %s; the training images have %s: --reorient turns the image to theirs and its labels back",
			own, strings.Join(list, ", ")))
	}
	return nil
}
