// Package experiment runs few-shot grids: datasets × networks × methods × shots × draws × seeds
// from one file. Open reads the file, draws the shots, refuses leaks of test cases, and gives every
// run a key that follows from what determines its scores. Training, prediction and evaluation are
// pipeline's; the statistics are experiment/stats and experiment/table.
package experiment

import (
	"path/filepath"
	"time"

	"github.com/lntorch/lntorch/pipeline"
)

// Engine is part of every key. It is raised when a change of the program changes what a training or
// a prediction of the same settings computes.
const Engine = 1

// State is how far a run is.
type State string

// States of runs. A partial run was interrupted and goes on where it was.
const (
	Done    State = "done"
	Running State = "running"
	Partial State = "partial"
	Failed  State = "failed"
	Missing State = "missing"
)

// NoTraining is the method of the foundation model as it is.
const NoTraining = "none"

// AllShots is the number of shots that stands for the whole pool.
const AllShots = "all"

// Run is one training with its prediction and scores. Names are those of the file.
type Run struct {
	Key      string `json:"key"`       // 16 hex digits of what determines the scores
	TrainKey string `json:"train_key"` // 16 hex digits of what determines the weights
	Dataset  string `json:"dataset"`
	Network  string `json:"network"`
	Method   string `json:"method"`
	Shots    string `json:"shots"` // a number, or all
	Draw     int    `json:"draw"`
	Seed     uint64 `json:"seed"`

	Cases    []string       `json:"cases"`    // of the training, in the order of the draw
	Settings map[string]any `json:"settings"` // effective flags of lntorch train
	State    State          `json:"state"`
	Seconds  *float64       `json:"seconds"` // that it took, or is expected to take

	Memory *pipeline.Memory `json:"memory"` // forecast by Plan.Forecast, at most; nil: not known

	// Also lists the places where the same run counts besides its own: draws with the same set of
	// cases are one run, and so are methods with the same settings.
	Also []Place `json:"-"`

	base   *combination
	unseen time.Duration // how long the worker that holds its lock was not seen for; 0: it was, or there is none
}

// Place is where a run counts in the grid, by the names of the file.
type Place struct {
	Dataset, Network, Method, Shots string
	Draw                            int
	Seed                            uint64
}

// Places are all places of a run in the grid, its own first.
func (r *Run) Places() []Place {
	return append([]Place{{r.Dataset, r.Network, r.Method, r.Shots, r.Draw, r.Seed}}, r.Also...)
}

// Trains reports whether the run trains at all: the method none scores the network as it is.
func (r *Run) Trains() bool { return r.Settings["method"] != NoTraining }

// Cost is what the runs that are not done will take.
type Cost struct {
	Seconds  *float64 `json:"seconds"`   // one after the other; nil: not known
	GPUHours *float64 `json:"gpu_hours"` // nil where no GPU trains, or not known
	Bytes    int64    `json:"bytes"`     // on disk, of what `keep` keeps

	Memory *pipeline.Memory `json:"memory"`           // the most of one run, of each kind; nil: not known
	Covers string           `json:"covers,omitempty"` // what Seconds are of: "training" where no prediction was timed

	Peak int64 `json:"-"` // memory, the most that a finished run took; 0: not known
}

// Options are where an experiment finds and leaves things.
type Options struct {
	Dir string // of the experiment; empty: <results>/experiments/<name>
	pipeline.RawFolder
	pipeline.PreprocessedFolder
	pipeline.ResultsFolder
	Output pipeline.Output
}

// Plan is an experiment that was read and checked.
type Plan struct {
	File   *File
	Splits *Splits
	Runs   []*Run // shots and draws outermost, so that comparisons of all methods are complete early
	Cost   Cost

	Dir      string   // of the experiment
	Warnings []string // for every table
	options  Options
	locks    *locks // of Refresh, which takes none

	forecasts forecasts
	timed     string // device of a run that was timed; "": none was
	prefer    prefer // of figures
}

// Splits is splits.json: the draws and the content of their cases. It holds no voxel and no path.
type Splits struct {
	Version  int                      `json:"version"`
	Seed     uint64                   `json:"seed"`
	Rule     string                   `json:"rule"` // balanced or random
	Datasets map[string]*DatasetSplit `json:"datasets"`
}

// DatasetSplit is the part of a dataset in splits.json.
type DatasetSplit struct {
	Dataset  string            `json:"dataset"` // nnU-Net's name
	Test     []string          `json:"test"`
	Pool     []string          `json:"pool"`
	Patients map[string]string `json:"patients"` // by case
	Content  map[string]string `json:"content"`  // by case: sha256 of the decoded voxels
	Draws    []Draw            `json:"draws"`
}

// Draw is an order of the pool; k shots are its first k cases.
type Draw struct {
	Draw  int                 `json:"draw"`
	Order []string            `json:"order"`
	Shots map[string][]string `json:"shots"`
}

// Folder is where a run's files are.
func (p *Plan) Folder(r *Run) string { return filepath.Join(p.Dir, RunsFolder, r.Key) }

// Lock is the file that says who works on a run.
func (p *Plan) Lock(r *Run) string { return p.Folder(r) + lockEnding }

// Names of files in a run's folder.
const (
	DoneFile   = "done"        // last of all
	RunFile    = "run.json"    // RunRecord
	FailedFile = "failed.json" // FailedRecord
)

// RunRecord is run.json: what `plan`, `status` and the report know of a run that is done.
type RunRecord struct {
	Key       string         `json:"key"`
	TrainKey  string         `json:"train_key"`
	Settings  map[string]any `json:"settings"`
	Threads   int            `json:"threads"`
	Device    string         `json:"device"`
	Seconds   float64        `json:"seconds"` // of training, prediction and evaluation together
	TrainedIn float64        `json:"train_seconds"`
	Bytes     int64          `json:"bytes"`      // of the folder
	PeakBytes int64          `json:"peak_bytes"` // of memory, on the device that trained
	Trained   int64          `json:"trained_parameters"`
	Version   string         `json:"version"`
}

// FailedRecord is failed.json: why a run failed.
type FailedRecord struct {
	Time  string   `json:"time"` // RFC 3339
	Error string   `json:"error"`
	Log   []string `json:"log"` // last lines
}
