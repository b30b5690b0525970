package experiment

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/internal/nearest"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
)

func number(n any) string { return fmt.Sprint(n) }

// Find finds a run by its key, or the beginning of it.
func (p *Plan) Find(key string) (*Run, error) {
	var found []*Run
	var known []string
	for _, r := range p.Runs {
		known = append(known, r.Key)
		if key != "" && strings.HasPrefix(r.Key, key) {
			found = append(found, r)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, settings.Usage("%d runs have a key that begins with %q: give more of it", len(found), key)
	}
	if n := nearest.Name(key, known); n != "" {
		return nil, settings.Usage("no run has the key %q; did you mean %s?", key, n)
	}
	return nil, settings.Usage("no run has the key %q: `lntorch experiment plan FILE` shows them", key)
}

// Commands are the command lines that do a run by hand, to the same bits: they adopt plans, train,
// predict and score, and leave everything below folder.
func (p *Plan) Commands(r *Run, folder string) ([]string, error) {
	model := r.base.network.model.File
	predictions := filepath.Join(folder, "predictions")
	machine := settings.New[pipeline.PredictConfig]().Machine
	if record := p.record(r); record != nil {
		machine.DeviceName, machine.Threads = record.Device, record.Threads
	}
	var lines []string
	if r.Trains() {
		a, err := p.Adoption(r)
		if err != nil {
			return nil, err
		}
		t, err := p.Training(r)
		if err != nil {
			return nil, err
		}
		a.Preprocessed = filepath.Join(folder, "preprocessed")
		t.Preprocessed, t.Results, t.NoPrepare = a.Preprocessed, filepath.Join(folder, "results"), false
		t.Machine = machine
		t.NoMirroring = true // of the final validation, which experiments leave out
		lines = append(lines, commandLine("adopt", []string{a.Model}, &a, nil),
			commandLine("train", []string{t.Dataset, t.Configuration, t.Fold}, &t, t.Options))
		trainer, _ := r.Settings["trainer"].(string)
		model = filepath.Join(t.Results, t.Dataset, trainer+"__"+t.PlansName+"__"+t.Configuration)
	}
	c, err := p.Prediction(r, model, predictions)
	if err != nil {
		return nil, err
	}
	c.Machine = machine
	e, err := p.Evaluation(r, predictions)
	if err != nil {
		return nil, err
	}
	return append(lines, commandLine("predict", nil, &c, nil),
		commandLine("evaluate", []string{e.Reference, e.Prediction}, &e, nil)), nil
}

// commandLine writes a config as the command line that gives it. Defaults are left out.
func commandLine(name string, args []string, config any, options map[string]pipeline.OptionValue) string {
	words := append([]string{"lntorch", name}, args...)
	defaults := reflect.New(reflect.TypeOf(config).Elem()).Interface()
	settings.Defaults(defaults)
	usual := settings.Fields(defaults)
	for i, f := range settings.Fields(config) {
		text := f.String()
		switch {
		case reflect.DeepEqual(f.Value(), usual[i].Value()) || text == "":
		case f.IsBool():
			words = append(words, "--"+f.Name)
		case f.IsList() && f.List:
			words = append(append(words, "--"+f.Name), f.GetSlice()...)
		default:
			words = append(words, "--"+f.Name, text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		words = append(words, "--"+name, options[name].Text)
	}
	for i, w := range words {
		if words[i] = pipeline.Quoted(w); w == "" {
			words[i] = "''"
		}
	}
	return strings.Join(words, " ")
}
