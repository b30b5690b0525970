// Package finetune says what a fine-tuning method is: which parameters it trains and where it may step into a training
// iteration. The methods themselves are in packages dgst and baselines; the loop in train knows this package alone.
package finetune

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
)

// Method decides what is trained. It may implement further interfaces of this package: Updater, Fixed, Sparse,
// Chooser, Seeded, Stateful, Counter, Injector, Exporter, Noter.
type Method interface {
	// Trains is asked once for each parameter, before the optimizer is built. A parameter that does not train gets no
	// gradient, no momentum and no decay: its bits stay.
	Trains(name string, shape []int64) bool
}

// Param is a parameter that trains. Its gradient is nil when the loss does not reach it.
type Param struct {
	Name string
	T    *torch.Tensor
}

// Updater chooses, in every iteration, which entries move and by which rule.
type Updater interface {
	// Update is called after unscaling and clipping, before the optimizer's step. step counts the iterations of the whole
	// training from 0. The result has an entry for each of params, or is nil for an ordinary step. Tensors in it
	// live in s or longer.
	Update(s *torch.Scope, step int64, params []Param) ([]optim.Mask, error)
}

// Fixed tells of an Updater from which call of Update on, counted from 0, its masks never change; ok is false when they
// always may.
type Fixed interface {
	FixedFrom() (call int64, ok bool)
}

// Sparse methods select entries in each step, whose gradients reach the optimizer: all of them where a
// parameter is dense.
type Sparse interface {
	Entries(name string, shape []int64) int64
}

// Chooser is an Updater whose choice can be had by itself, so that it can be timed. It gives the number of entries.
type Chooser interface {
	Choose(s *torch.Scope, step int64, params []Param) (int64, error)
}

// Seeded methods draw random numbers; they are given the training's seed before its first iteration.
type Seeded interface{ Seed(seed uint64) }

// Stateful methods have memory that a checkpoint must carry.
type Stateful interface {
	State() ([]StateEntry, error)
	Restore(state []StateEntry) error
}

// StateEntry is one named value of a method's memory: an int64, float64, string, []int64 or []byte.
type StateEntry struct {
	Name  string
	Value any
}

// Injection is what an Injector gets.
type Injection struct {
	Module    *nn.Module
	Builder   nn.Builder // for new parameters
	Seed      uint64
	Reference bool // compute as the reference does, operator for operator
}

// Injector methods attach adapters to layers of the network.
type Injector interface {
	// Inject is called once, when the network is built: before Trains is asked, and before weights are loaded.
	Inject(in Injection) error
	// Merge puts what the adapters do into the weights and detaches them: training is over.
	Merge() error
}

// Exporter methods leave a result of their own beside the checkpoints.
type Exporter interface {
	// Export writes it into folder when training is over, before Merge, and tells its path; "" when there is nothing to
	// leave. about is text that belongs to it: what it was trained from and for.
	Export(folder string, about map[string]string) (path string, err error)
}

// Noter methods have something to say in the log when training begins.
type Noter interface{ Notes() []string }

// Counter counts the selected entries of sparse parameters: in the last step, and in any step so far.
type Counter interface {
	Counts() (step, ever int64)
}

// Option is a setting of one method; the command line offers it as a flag of the same name.
type Option struct {
	Name    string   // such as "dgst-mode"
	Default string   // as text
	Values  []string // what it may be; nil for any
	Help    string
}

// Values holds the settings of a method by Option name. Get gives the default for what is not set.
type Values map[string]string

// Entry describes a method to the registry.
type Entry struct {
	Name    string // as in --method
	Trainer string // LN-Seg-FM's trainer class, which names the result folder
	Summary string // one line for --help
	LR      float64
	Epochs  int
	Stock   bool // nnU-Net's own training, which is meant where no method is named
	Options []Option
	New     func(v Values) (Method, error) // v holds every option, checked against Values
}

var entries []Entry

// Register makes a method known. Each method file calls it from init.
func Register(e Entry) {
	entries = append(entries, e)
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
}

// Entries lists the registered methods by name.
func Entries() []Entry { return entries }

// Lookup finds a method by its name.
func Lookup(name string) (Entry, error) {
	var known []string
	for _, e := range entries {
		if e.Name == name {
			return e, nil
		}
		known = append(known, e.Name)
	}
	return Entry{}, fmt.Errorf("finetune: method %q is not known; known: %s", name, strings.Join(known, ", "))
}

// Stock is the entry that stands for nnU-Net's own training.
func Stock() (Entry, error) {
	for _, e := range entries {
		if e.Stock {
			return e, nil
		}
	}
	return Entry{}, errors.New("finetune: no registered method stands for nnU-Net's own training")
}

// Make builds the method with the given settings; options that are missing take their defaults.
func (e Entry) Make(v Values) (Method, error) {
	full := Values{}
	for _, o := range e.Options {
		value, ok := v[o.Name]
		if !ok {
			value = o.Default
		}
		if o.Values != nil && !slices.Contains(o.Values, value) {
			return nil, fmt.Errorf("finetune: --%s %q: expected one of %s", o.Name, value, strings.Join(o.Values, ", "))
		}
		full[o.Name] = value
	}
	for name := range v {
		if _, ok := full[name]; !ok {
			return nil, fmt.Errorf("finetune: method %s has no option --%s", e.Name, name)
		}
	}
	return e.New(full)
}
