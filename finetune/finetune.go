// Package finetune defines a fine-tuning method: the parameters it trains, and optional hooks into
// the training iteration. It holds no method and no loop: methods are in packages dgst and
// baselines, and the loop in train depends only on this package.
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

// Method selects the parameters to train. It may also implement the optional interfaces of this
// package: Updater, Fixed, Sparse, Chooser, Seeded, Stateful, Counter, Injector, Exporter, Noter.
type Method interface {
	// Trains is asked once for each parameter, before the optimizer is built. A frozen parameter
	// gets no gradient, momentum or weight decay: its bits do not change.
	Trains(name string, shape []int64) bool
}

// Param is a parameter that trains. Its gradient is nil when the loss does not reach it.
type Param struct {
	Name string
	T    *torch.Tensor
}

// Updater selects, in every iteration, the elements to update and the update rule.
type Updater interface {
	// Update is called after unscaling and clipping, before the optimizer's step. step is the
	// iteration, counted from 0 over the whole training run. The result has one mask per element of
	// params, or is nil for an ordinary step. Its tensors live in s or longer.
	Update(s *torch.Scope, step int64, params []Param) ([]optim.Mask, error)
}

// Fixed is an Updater whose masks may become constant: call is the first call of Update, counted
// from 0, from which they no longer change; ok is false if they may always change.
type Fixed interface {
	FixedFrom() (call int64, ok bool)
}

// Sparse methods select entries in each step, whose gradients reach the optimizer: all of them where a
// parameter is dense.
type Sparse interface {
	Entries(name string, shape []int64) int64
}

// Chooser is an Updater whose selection can run separately, so that it can be timed. Choose returns
// the number of elements selected.
type Chooser interface {
	Choose(s *torch.Scope, step int64, params []Param) (int64, error)
}

// Seeded methods draw random numbers. They get the seed of the training run before its first
// iteration.
type Seeded interface{ Seed(seed uint64) }

// Stateful methods have state that must be saved in checkpoints.
type Stateful interface {
	State() ([]StateEntry, error)
	Restore(state []StateEntry) error
}

// StateEntry is one named value of a method's state: an int64, float64, string, []int64 or []byte.
type StateEntry struct {
	Name  string
	Value any
}

// Injection is the argument of Injector.Inject.
type Injection struct {
	Module    *nn.Module
	Builder   nn.Builder // for new parameters
	Seed      uint64
	Reference bool // run the reference's operators in its order
}

// Injector methods attach adapters to layers of the network.
type Injector interface {
	// Inject is called once, when the network is built: before Trains is asked, and before weights
	// are loaded.
	Inject(in Injection) error
	// Merge folds the adapters into the weights and detaches them. Called when training has ended.
	Merge() error
}

// Exporter methods write a result of their own next to the checkpoints.
type Exporter interface {
	// Export writes it into folder after training, before Merge, and returns its path; "" if there
	// is nothing to export. about is its metadata: what it was trained from and for.
	Export(folder string, about map[string]string) (path string, err error)
}

// Noter methods add lines to the log when training starts.
type Noter interface{ Notes() []string }

// Counter counts the selected entries of sparse parameters: in the last step, and in any step so far.
type Counter interface {
	Counts() (step, ever int64)
}

// Option is a setting of one method. The command line has a flag of the same name.
type Option struct {
	Name    string   // such as "dgst-mode"
	Default string   // in text form
	Values  []string // allowed values; nil for any
	Help    string
}

// Values holds the settings of a method by Option name. Entry.Make fills in the defaults.
type Values map[string]string

// Entry describes a method to the registry.
type Entry struct {
	Name    string // as in --method
	Trainer string // LN-Seg-FM's trainer class; part of the result folder's name
	Summary string // one line for --help
	LR      float64
	Epochs  int
	Stock   bool // nnU-Net's own training; the default method
	Options []Option
	New     func(v Values) (Method, error) // v holds every option, validated against Values
}

var entries []Entry

// Register adds a method to the registry. Each method file calls it from init.
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
	return Entry{}, fmt.Errorf("finetune: unknown method %q; expected one of %s", name,
		strings.Join(known, ", "))
}

// Stock returns the entry of nnU-Net's own training.
func Stock() (Entry, error) {
	for _, e := range entries {
		if e.Stock {
			return e, nil
		}
	}
	return Entry{}, errors.New("finetune: no registered method is nnU-Net's own training")
}

// Make builds the method with the given settings. Missing options get their defaults.
func (e Entry) Make(v Values) (Method, error) {
	full := Values{}
	for _, o := range e.Options {
		value, ok := v[o.Name]
		if !ok {
			value = o.Default
		}
		if o.Values != nil && !slices.Contains(o.Values, value) {
			return nil, fmt.Errorf("finetune: --%s %q: expected one of %s", o.Name, value,
				strings.Join(o.Values, ", "))
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
