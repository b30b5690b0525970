package experiment

import "github.com/lntorch/lntorch/experiment/table"

// File is an experiment's file: YAML, TOML or JSON. Lists keep the file's order.
type File struct {
	Path string

	Name       string `flag:"name" bare:"true" help:"name of the experiment"`
	Datasets   []*Dataset
	Networks   []*Network
	Methods    []*Method
	Train      []Setting // for all
	Shots      []string  `flag:"shots" list:"true" help:"numbers of cases, ascending; all last"`
	Draws      int       `flag:"draws" default:"3" range:"1..1000" help:"draws of cases"`
	Seeds      []uint64
	Seed       int    `flag:"seed" range:"0..4294967295" help:"seed of draws and bootstrap"`
	Draw       string `flag:"draw" default:"balanced" values:"balanced,random" help:"rule of draws"`
	SplitsFile string `flag:"splits" path:"true" help:"splits.json to take draws from"`
	Evaluate   EvaluateSettings
	Statistics Statistics
	Keep       Keep
}

// Dataset is an entry of datasets.
type Dataset struct {
	Name    string // of the entry
	Dataset string `flag:"dataset" help:"raw dataset: number or name"`
	Patient string `flag:"patient" help:"pattern whose group 1 is the patient of a case's name"`
}

// Network is an entry of networks.
type Network struct {
	Name       string
	Checkpoint string    `flag:"checkpoint" path:"true" help:"checkpoint or model folder"`
	Settings   []Setting // flags of lntorch train
}

// Method is an entry of methods.
type Method struct {
	Name     string
	Settings []Setting // flags of lntorch train
}

// Setting is a flag of lntorch train with its values.
type Setting struct {
	Name   string
	Values []string
	Line   int
}

// EvaluateSettings is the part evaluate.
type EvaluateSettings struct {
	Metrics  []string `flag:"metrics" default:"Dice,NSD_2,HD95,recall,F1" list:"true" help:"names of scores.json"`
	NoMirror bool     `flag:"disable-tta" help:"no mirroring"`
}

// Statistics is the part statistics.
type Statistics struct {
	Primary   string  `flag:"primary" default:"Dice" help:"the metric that the study is about"`
	Reference string  `flag:"reference" help:"method, or network, that each other is compared with"`
	Alpha     float64 `flag:"alpha" default:"0.05" range:">0..<1" help:"intervals hold with 1-alpha"`
	Resamples int     `flag:"resamples" default:"10000" range:"1..1000000" help:"of the bootstrap"`
	Tie       map[string]float64
}

// Table is the statistics as experiment/table takes them.
func (f *File) Table() table.Settings {
	return table.Settings{Primary: f.Statistics.Primary, Reference: f.Statistics.Reference,
		Alpha: f.Statistics.Alpha, Resamples: f.Statistics.Resamples, Seed: uint32(f.Seed),
		Tie: f.Statistics.Tie, Lower: table.LowerIsBetter}
}

// Keep is the part keep.
type Keep struct {
	Checkpoints string `flag:"checkpoints" default:"delta" values:"all,final,delta,none" help:"which weights stay"`
	Predictions bool   `flag:"predictions" help:"predictions stay"`
}
