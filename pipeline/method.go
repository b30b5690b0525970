package pipeline

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
)

// OptionValue is the value of a method's option.
type OptionValue struct {
	Text string
	// Shared: from a file or the environment, which may hold settings of several methods. Any other
	// option of another method than the chosen one is an error.
	Shared bool
}

// Method chooses how a network is fine-tuned.
type Method struct {
	MethodName string                 `flag:"method" help:"fine-tuning method"`
	Options    map[string]OptionValue // by finetune.Option.Name; what is missing has its default
}

// MethodNames lists the fine-tuning methods.
func MethodNames() []string {
	var names []string
	for _, e := range finetune.Entries() {
		names = append(names, e.Name)
	}
	return names
}

// make builds the method of an entry, and gives the options as they are in force.
func (m Method) make(entry finetune.Entry) (finetune.Method, map[string]string, error) {
	own := finetune.Values{}
	for _, o := range entry.Options {
		own[o.Name] = o.Default
	}
	for name, v := range m.Options {
		if _, ok := own[name]; ok {
			own[name] = v.Text
			continue
		}
		if v.Shared {
			continue
		}
		for _, e := range finetune.Entries() {
			for _, o := range e.Options {
				if o.Name == name {
					return nil, nil, settings.Usage("--%s belongs to method %s, not to %s", name, e.Name, entry.Name)
				}
			}
		}
		return nil, nil, settings.Usage("no method has an option --%s", name)
	}
	method, err := entry.Make(own)
	if err != nil {
		return nil, nil, &settings.UsageError{Err: err}
	}
	return method, own, nil
}

// stockEpochs is what nnU-Net trains from scratch.
const stockEpochs = 1000

var epochsTrainer = regexp.MustCompile(`^nnUNetTrainer_([0-9]+)epochs?(_NoMirroring)?$`)

// entry finds the method, the trainer's name and its defaults from the method's name and the trainer's.
func (m Method) entry(trainer string, pretrained bool) (finetune.Entry, string, error) {
	byTrainer := func(name string) (finetune.Entry, bool) {
		for _, e := range finetune.Entries() {
			if e.Trainer == name {
				return e, true
			}
		}
		return finetune.Entry{}, false
	}
	stock, err := finetune.Stock()
	if err != nil {
		return stock, "", err
	}
	if m.MethodName != "" {
		e, err := finetune.Lookup(m.MethodName)
		if err != nil {
			return e, "", &settings.UsageError{Err: err}
		}
		if trainer == "" {
			trainer = e.Trainer
		} else if other, ok := byTrainer(trainer); ok && other.Name != e.Name {
			return e, "", settings.Usage("-tr %s is the trainer of method %s, but --method is %s", trainer, other.Name, m.MethodName)
		}
		if e.Stock && !pretrained {
			e.Epochs = stockEpochs
		}
		if n, ok := models.ByTrainer(trainer); ok && e.Trainer == stock.Trainer {
			e.LR, e.Epochs = n.LR, n.Epochs
		}
		return e, trainer, nil
	}
	if trainer == "" {
		trainer = stock.Trainer
	}
	if found := epochsTrainer.FindStringSubmatch(trainer); found != nil {
		n, err := strconv.Atoi(found[1])
		stock.Epochs = n
		return stock, trainer, err
	}
	if n, ok := models.ByTrainer(trainer); ok { // stock training of another network
		stock.LR, stock.Epochs = n.LR, n.Epochs
		return stock, trainer, nil
	}
	if err := augment.CheckTrainer(trainer); err != nil {
		return stock, "", &settings.UsageError{Err: err}
	}
	e, ok := byTrainer(trainer)
	if !ok && slices.Contains(augment.Trainers(), trainer) { // stock training on other batches
		e, ok = stock, true
	}
	if !ok {
		known := slices.Concat(models.Trainers(), augment.Trainers())
		for _, e := range finetune.Entries() {
			known = append(known, e.Trainer)
		}
		return e, "", settings.Usage("trainer %s is not known; known: %s, nnUNetTrainer_Nepochs(_NoMirroring); or give --method, which may have any -tr name", trainer, strings.Join(known, ", "))
	}
	if e.Name == stock.Name && !pretrained {
		e.Epochs = stockEpochs
	}
	return e, trainer, nil
}

// MethodHelp has a line for each method.
func MethodHelp() string {
	var b strings.Builder
	for _, e := range finetune.Entries() {
		fmt.Fprintf(&b, "  %-6s  %s; %d epochs, lr %g (%s)\n", e.Name, e.Summary, e.Epochs, e.LR, e.Trainer)
	}
	return strings.TrimRight(b.String(), "\n")
}

// NetworkHelp has a line for each network that plans do not describe.
func NetworkHelp() string {
	var b strings.Builder
	for _, e := range models.Entries() {
		if e.Trainer != "" {
			fmt.Fprintf(&b, "  %-25s  %s; %d epochs, lr %g\n", e.Trainer, e.Summary, e.Epochs, e.LR)
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

// Make builds the method; without a name nnU-Net's own training.
func (m Method) Make() (finetune.Entry, finetune.Method, error) {
	entry, _, err := m.entry("", true)
	if err != nil {
		return entry, nil, err
	}
	method, _, err := m.make(entry)
	return entry, method, err
}

// BatchTrainers are nnU-Net's trainers that differ from nnUNetTrainer in their batches alone.
func BatchTrainers() []string { return augment.Trainers() }
