package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
)

// FindBestConfig names trained models of a dataset: every trainer with every configuration and
// every plans.
type FindBestConfig struct {
	Dataset        string   // number or name
	Plans          []string `flag:"plans" nnunet:"p" list:"true" default:"nnUNetPlans" help:"names of plans files, without .json; several may follow"`
	Configurations []string `flag:"configuration" short:"c" list:"true" default:"2d,3d_fullres,3d_lowres,3d_cascade_fullres" help:"configurations; several may follow; those that the plans lack are left out"`
	Trainers       []string `flag:"trainer" nnunet:"tr" list:"true" default:"nnUNetTrainer" help:"trainers; several may follow"`
	Folds          []int    `flag:"folds" short:"f" list:"true" default:"0,1,2,3,4" range:"0.." help:"folds; several may follow"`
	NoEnsembles    bool     `flag:"disable-ensembling" help:"compare the models alone, without their pairs"`
	NoOverwrite    bool     `flag:"no-overwrite" help:"keep label volumes of an earlier run"`
	RawFolder
	PreprocessedFolder
	ResultsFolder
	Workers int `flag:"np" nnunet:"np" range:"1.." help:"cases at a time (default: the cores, eight at most); an ensemble takes 7 bytes a voxel of each"`
}

// BestConfiguration is the model, or the ensemble of two, with the best cross-validation.
type BestConfiguration struct {
	Candidates     []Candidate `json:"candidates"` // models, then pairs of them
	Best           string      `json:"best"`       // name of a candidate
	Postprocessing *Determined `json:"postprocessing"`
	Information    string      `json:"inference_information"`  // file
	Instructions   string      `json:"inference_instructions"` // file
}

// Candidate is a model or an ensemble that was scored.
type Candidate struct {
	Name   string  `json:"name"`
	Folder string  `json:"folder"` // of label volumes of all folds, and their scores
	Dice   float64 `json:"dice"`   // mean over the foreground

	models []trained
}

// FindBest scores the cross-validations of models and of all pairs of them, determines
// post-processing for the best, and writes how to predict with it. Every model that the plans have
// must be trained; ensembles need the probabilities of the validations.
// Source: nnunetv2/evaluation/find_best_configuration.py.
func FindBest(ctx context.Context, c FindBestConfig, o Output) (*BestConfiguration, error) {
	s, err := openChoice(c, o)
	if err != nil {
		return nil, err
	}
	b := &BestConfiguration{}
	for _, v := range s.validations {
		scored, err := v.accumulate(ctx, s.folder(v.joined(), v.references), o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.name, err)
		}
		b.Candidates = append(b.Candidates, Candidate{v.name.String(), v.joined(),
			scored.Foreground(eval.Dice), []trained{v.name}})
	}
	for i, first := range s.validations {
		for _, second := range s.validations[i+1:] {
			if c.NoEnsembles {
				continue
			}
			candidate, err := s.ensemble(ctx, first, second, o)
			if err != nil {
				return nil, err
			}
			b.Candidates = append(b.Candidates, candidate)
		}
	}
	best, err := bestOf(b.Candidates)
	if err != nil {
		return nil, err
	}
	b.Best = best.Name
	b.Postprocessing, err = DeterminePostprocessing(ctx, DeterminePostprocessingConfig{
		Input: best.Folder, Reference: s.references, Workers: s.workers}, o)
	if err != nil {
		return nil, err
	}
	return b, s.save(b, best)
}

// choice is a search for the best configuration under way.
type choice struct {
	FindBestConfig
	dataset     string
	workers     int
	references  string // of ensembles and of post-processing
	validations []*candidateValidation
}

// candidateValidation is the cross-validation of a model that may be the best.
type candidateValidation struct {
	*crossValidation
	name          trained
	references    string
	probabilities member
}

func (s *choice) folder(path, references string) scoredFolder {
	return scoredFolder{path: path, references: references, keep: s.NoOverwrite, workers: s.workers}
}

// openChoice finds the models and their files. All that is missing is named at once, before
// anything is computed.
func openChoice(c FindBestConfig, o Output) (*choice, error) {
	if len(c.Folds) == 0 || len(c.Plans) == 0 || len(c.Configurations) == 0 || len(c.Trainers) == 0 {
		return nil, settings.Usage("-p, -c, -tr and -f need at least one value each")
	}
	if err := errors.Join(given("results", c.Results),
		given("preprocessed", c.Preprocessed)); err != nil {
		return nil, err
	}
	s := &choice{FindBestConfig: c, workers: cmp.Or(c.Workers, casesAtATime())}
	var err error
	if s.dataset, err = raw.FindName(c.Dataset, c.Preprocessed, c.Raw, c.Results); err != nil {
		return nil, err
	}
	models, err := s.models(o)
	if err != nil {
		return nil, err
	}
	s.references, err = referenceFolder(c.preprocessedLabels(s.dataset), c.rawLabels(s.dataset))
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, m := range models {
		v, err := s.open(m, len(models) > 1 && !c.NoEnsembles)
		if problems = append(problems, err); err == nil {
			s.validations = append(s.validations, v)
		}
	}
	if err := errors.Join(problems...); err != nil || len(models) == 1 || c.NoEnsembles {
		return s, err
	}
	var members []member
	for _, v := range s.validations {
		members = append(members, v.probabilities)
	}
	_, err = commonCases(members)
	return s, err
}

// models lists the models whose configurations the plans have, in nnU-Net's order. A model without
// a folder is an error.
func (s *choice) models(o Output) ([]trained, error) {
	has := map[string][]string{}
	var known []string
	for _, name := range s.Plans {
		path := joined(joined(s.Preprocessed, s.dataset), name+".json")
		p, err := plans.Load(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is not there: it says which configurations the dataset has; "+
				"plan the dataset with lntorch plan, or name its plans with -p", path)
		}
		if err != nil {
			return nil, err
		}
		has[name] = p.ConfigurationNames()
		known = append(known, has[name]...)
	}
	var models []trained
	var missing []string
	for _, trainer := range s.Trainers {
		for _, configuration := range s.Configurations {
			for _, name := range s.Plans {
				m := trained{trainer, name, configuration}
				if slices.Contains(models, m) {
					return nil, settings.Usage("-p, -c, -tr: the model %s is named twice", m)
				}
				if !slices.Contains(has[name], configuration) {
					o.Printf("%s has no configuration %s: left out", name, configuration)
					continue
				}
				models = append(models, m)
				_, err := os.Stat(m.folder(s.Results, s.dataset))
				if err != nil {
					missing = append(missing, m.String())
				}
			}
		}
	}
	if len(models) == 0 {
		return nil, fmt.Errorf("the plans of %s have none of the configurations %s; there are %s: "+
			"name some of them with -c", s.dataset, strings.Join(s.Configurations, ", "),
			strings.Join(known, ", "))
	}
	if missing != nil {
		return nil, fmt.Errorf("%s: found no model %s; there are %s: train every configuration of "+
			"the plans (lntorch train %s CONFIGURATION FOLD --npz), or name the trained ones with -c, "+
			"-tr and -p", joined(s.Results, s.dataset), strings.Join(missing, ", "),
			cmp.Or(several(s.trainedModels()), "none"), s.Dataset)
	}
	return models, nil
}

// trainedModels lists the folders of models of the dataset.
func (s *choice) trainedModels() (names []string) {
	entries, _ := os.ReadDir(joined(s.Results, s.dataset))
	for _, e := range entries {
		if e.IsDir() && strings.Count(e.Name(), "__") == 2 {
			names = append(names, e.Name())
		}
	}
	return names
}

// open finds the validation files of a model.
func (s *choice) open(m trained, ensembles bool) (*candidateValidation, error) {
	v, err := openCrossValidation(m.folder(s.Results, s.dataset), s.Folds)
	if v == nil {
		return nil, err
	}
	c := &candidateValidation{crossValidation: v, name: m}
	problems := []error{err}
	if ensembles {
		files, err := v.files(".npz", "--val --npz")
		if err != nil {
			problems = append(problems, fmt.Errorf("%w (or compare the models alone with "+
				"--disable-ensembling)", err))
		}
		c.probabilities = newMember(v.model, files)
	}
	c.references, err = referenceFolder(s.rawLabels(v.plans.DatasetName),
		s.preprocessedLabels(v.plans.DatasetName))
	return c, errors.Join(append(problems, err)...)
}

// ensemble scores the mean of two models.
// Source: nnunetv2/ensembling/ensemble.py, ensemble_crossvalidations.
func (s *choice) ensemble(ctx context.Context, first, second *candidateValidation, o Output) (c Candidate, err error) {
	c.Name = "ensemble___" + first.name.String() + "___" + second.name.String() + "___" +
		foldsText(s.Folds)
	c.Folder = joined(joined(joined(s.Results, s.dataset), "ensembles"), c.Name)
	c.models = []trained{first.name, second.name}
	members := []member{first.probabilities, second.probabilities}
	cases, err := commonCases(members)
	if err != nil {
		return c, err
	}
	e, err := newEnsemble(first.labelling, len(members), nil)
	if err != nil {
		return c, err
	}
	ending := first.dataset.FileEnding
	var names []string
	for _, id := range cases {
		names = append(names, id+ending)
	}
	scored, err := e.fill(ctx, s.folder(c.Folder, s.references), names, "ensembling", o,
		func(name, folder string) error {
			return e.merge(ctx, members, strings.TrimSuffix(name, ending), folder)
		})
	if err != nil {
		return c, fmt.Errorf("%s: %w", c.Name, err)
	}
	c.Dice = scored.Foreground(eval.Dice)
	return c, nil
}

// bestOf gives the first of those with the highest Dice.
// Differs: a Dice that is not defined never wins; Python's max depends on where it stands.
func bestOf(candidates []Candidate) (best Candidate, err error) {
	best.Dice = math.NaN()
	for _, c := range candidates {
		if c.Dice > best.Dice || math.IsNaN(best.Dice) && !math.IsNaN(c.Dice) {
			best = c
		}
	}
	if best.Name == "" {
		return best, fmt.Errorf("the mean Dice of all %d candidates is undefined: a label or region "+
			"is in no reference and in no prediction; see %s", len(candidates),
			joined(candidates[0].Folder, "summary.json"))
	}
	return best, nil
}

// save writes inference_information.json, which nnU-Net reads, too, and inference_instructions.txt.
func (s *choice) save(b *BestConfiguration, best Candidate) error {
	scores := &plans.Object{}
	for _, c := range b.Candidates {
		scores.Set(c.Name, c.Dice)
	}
	var considered, selected []any
	for _, v := range s.validations {
		considered = append(considered, plans.NewObject("plans", v.name.plans, "configuration",
			v.name.configuration, "trainer", v.name.trainer))
	}
	for _, m := range best.models {
		selected = append(selected, plans.NewObject("configuration", m.configuration, "trainer",
			m.trainer, "plans_identifier", m.plans))
	}
	pkl, plansFile := joined(best.Folder, "postprocessing.pkl"), joined(best.Folder, "plans.json")
	folder := joined(s.Results, s.dataset)
	b.Information = joined(folder, "inference_information.json")
	b.Instructions = joined(folder, "inference_instructions.txt")
	err := plans.WriteJSON(b.Information, plans.NewObject(
		"folds", s.Folds, "dataset_name_or_id", s.dataset, "considered_models", considered,
		"ensembling_allowed", !s.NoEnsembles, "all_results", scores,
		"best_model_or_ensemble", plans.NewObject(
			"result_on_crossval_pre_pp", best.Dice, "result_on_crossval_post_pp", b.Postprocessing.After,
			"postprocessing_file", pkl, "some_plans_file", plansFile,
			"selected_model_or_models", selected)), true)
	if err != nil {
		return err
	}
	text, err := s.instructions(best, pkl, plansFile)
	if err != nil {
		return err
	}
	return atomicfile.Write(b.Instructions, []byte(text))
}

// instructions are the commands that predict with the best candidate: nnU-Net's text with the
// previous stage of a cascade (Differs: nnU-Net forgets it), and the same commands of lntorch.
// Source: find_best_configuration.py, generate_inference_command and print_inference_instructions.
func (s *choice) instructions(best Candidate, pkl, plansFile string) (string, error) {
	var predict, outputs []string
	for j, m := range best.models {
		out, previous := "OUTPUT_FOLDER", "OUTPUT_FOLDER_PREV_STAGE"
		if len(best.models) > 1 {
			out = fmt.Sprintf("OUTPUT_FOLDER_MODEL_%d", j+1)
			previous = fmt.Sprintf("OUTPUT_FOLDER_PREV_STAGE_MODEL_%d", j+1)
		}
		outputs = append(outputs, out)
		stage, err := s.previousStage(m)
		if err != nil {
			return "", err
		}
		command := s.predict(m, out)
		if stage != nil {
			if k := slices.Index(best.models[:j], *stage); k >= 0 {
				previous = outputs[k] // a member of the ensemble
			} else {
				predict = append(predict, s.predict(*stage, previous))
			}
			command += " -prev_stage_predictions " + previous
		}
		if len(best.models) > 1 {
			command += " --save_probabilities"
		}
		predict = append(predict, command)
	}
	const processes = 8 // nnU-Net's default
	apply := fmt.Sprintf("nnUNetv2_apply_postprocessing -i OUTPUT_FOLDER -o OUTPUT_FOLDER_PP "+
		"-pp_pkl_file %s -np %d -plans_json %s", Quoted(pkl), processes, Quoted(plansFile))
	var b strings.Builder
	b.WriteString("***Run inference like this:***\n\n")
	commands := slices.Clone(predict)
	if len(best.models) > 1 {
		b.WriteString("An ensemble won! What a surprise! Run the following commands to run " +
			"predictions with the ensemble members:\n\n")
	}
	b.WriteString(strings.Join(predict, "\n") + "\n")
	if len(best.models) > 1 {
		join := "nnUNetv2_ensemble -i " + strings.Join(outputs, " ") + " -o OUTPUT_FOLDER"
		fmt.Fprintf(&b, "\nThe run ensembling with:\n\n%s -np %d\n", join, processes)
		commands = append(commands, join)
	}
	fmt.Fprintf(&b, "\n***Once inference is completed, run postprocessing like this:***\n\n%s\n", apply)
	commands = append(commands, apply)
	b.WriteString("\n***The same with lntorch:***\n\n")
	results, err := filepath.Abs(s.Results)
	if err != nil {
		return "", err
	}
	for _, c := range commands {
		c = strings.Replace(strings.TrimPrefix(c, "nnUNetv2_"), " -f  ", " -f ", 1)
		if strings.HasPrefix(c, "predict ") {
			c += " --results " + Quoted(results)
		}
		for _, path := range []string{pkl, plansFile} { // wherever they are run
			if absolute, err := filepath.Abs(path); err == nil {
				c = strings.ReplaceAll(c, " "+Quoted(path), " "+Quoted(absolute))
			}
		}
		b.WriteString("lntorch " + c + "\n")
	}
	return b.String(), nil
}

// predict is nnU-Net's command for a model, with the two spaces that it prints behind -f.
func (s *choice) predict(m trained, out string) string {
	folds := ""
	for _, f := range s.Folds {
		folds += fmt.Sprintf(" %d", f)
	}
	return fmt.Sprintf("nnUNetv2_predict -d %s -i INPUT_FOLDER -o %s -f %s -tr %s -c %s -p %s",
		s.dataset, out, folds, m.trainer, m.configuration, m.plans)
}

// previousStage is the model whose predictions m takes, nil if it takes none.
func (s *choice) previousStage(m trained) (*trained, error) {
	i := slices.IndexFunc(s.validations, func(v *candidateValidation) bool { return v.name == m })
	c, err := s.validations[i].plans.Configuration(m.configuration)
	if err != nil || c.PreviousStage == "" {
		return nil, err
	}
	return &trained{m.trainer, m.plans, c.PreviousStage}, nil
}
