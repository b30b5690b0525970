package checkpoint

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/formats/safetensors"
)

// Extension is the file name ending of safetensors files, which Open also reads.
const Extension = ".safetensors"

// Metadata keys of the safetensors files that lntorch writes.
const (
	// AboutKey holds the entries of nnU-Net's dictionary other than tensors, as JSON. See About.
	AboutKey = "lntorch.checkpoint"
	orderKey = "lntorch.order" // the names of the state dict, separated by newlines
)

// aboutKeys lists the entries of nnU-Net's dictionary that describe its weights.
var aboutKeys = []string{"current_epoch", "init_args", "trainer_name",
	"inference_allowed_mirroring_axes"}

// About returns the checkpoint's description of its weights, as JSON: trainer, plans, dataset,
// configuration, fold, epoch and mirror axes. It is "" if the file has none.
func (f *File) About() (string, error) {
	if !f.NNUNet {
		return "", nil
	}
	return about(f.root)
}

// About returns the description of the weights that a checkpoint of this training state would hold:
// see File.About.
func (t *Training) About() (string, error) {
	root := &pickle.Dict{}
	t.setAbout(root)
	return about(root)
}

func about(root *pickle.Dict) (string, error) {
	o := &plans.Object{}
	for _, key := range aboutKeys {
		v, ok := root.Get(key)
		if !ok {
			continue
		}
		// init_args, whose device may be a torch.device, is not read by anything
		if d := pickle.AsDict(v); d != nil {
			plain := &pickle.Dict{}
			for k, e := range d.All() {
				if device, ok := e.(pickle.Device); ok {
					e = device.Type
				}
				if _, err := toJSON(e); err == nil {
					plain.Set(k, e)
				}
			}
			v = plain
		}
		if j, err := toJSON(v); err == nil { // File.Notes reports what could not be read
			o.Set(key, j)
		}
	}
	b, err := plans.EncodeJSON(o, -1, false)
	return string(b), err
}

// aboutRoot returns nnU-Net's dictionary for weights, from the text returned by About.
func aboutRoot(text string, weights *pickle.OrderedDict) (*pickle.Dict, error) {
	v, err := plans.DecodeJSON([]byte(text))
	if err != nil {
		return nil, err
	}
	said := pickle.AsDict(fromJSON(v))
	if said == nil {
		return nil, errors.New("it is not a JSON object")
	}
	root := dict("network_weights", weights, "optimizer_state", nil, "grad_scaler_state", nil,
		"logging", &pickle.Dict{}, "_best_ema", nil)
	for _, key := range aboutKeys {
		v, ok := said.Get(key)
		if !ok {
			continue
		}
		if list, ok := v.(*pickle.List); ok {
			v = pickle.Tuple(list.Items)
		}
		root.Set(key, v)
	}
	return root, nil
}

// openSafetensors opens a file of weights. Names that the metadata maps to tensors are aliases, as
// written by Python's safetensors.torch.save_model.
func openSafetensors(path string) (*File, error) {
	s, err := safetensors.Open(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	f := &File{Path: path, Format: "safetensors", Version: 1, closer: s}
	if err := f.readSafetensors(s); err != nil {
		s.Close()
		return nil, fmt.Errorf("checkpoint: %s: %w", path, err)
	}
	return f, nil
}

func (f *File) readSafetensors(s *safetensors.File) error {
	tensors := map[string]*pth.Tensor{}
	var order []string
	for _, t := range s.Tensors {
		p, err := pth.FromSafetensors(t)
		if err != nil {
			return err
		}
		tensors[t.Name] = p
		order = append(order, t.Name)
	}
	var aliases []string
	for name, of := range s.Metadata {
		if s.Tensor(of) != nil && s.Tensor(name) == nil {
			tensors[name] = tensors[of]
			aliases = append(aliases, name)
		}
	}
	slices.Sort(aliases)
	order = append(order, aliases...)
	if text := s.Metadata[orderKey]; text != "" {
		if listed := strings.Split(text, "\n"); slices.Equal(slices.Sorted(slices.Values(listed)),
			slices.Sorted(slices.Values(order))) {
			order = listed
		}
	}
	weights := &pickle.OrderedDict{}
	for _, name := range order {
		weights.Set(name, tensors[name])
	}
	if text := s.Metadata[AboutKey]; text != "" {
		root, err := aboutRoot(text, weights)
		if err != nil {
			return fmt.Errorf("metadata %s: %w", AboutKey, err)
		}
		return f.interpret(root)
	}
	if len(order) == 0 {
		return errors.New("it holds no tensors")
	}
	return f.interpret(weights)
}

// SaveSafetensors writes weights as safetensors.torch.save_model does: a tensor with several names
// is stored under the first, the others are listed in the metadata. about is File.About's text,
// which Open reads back; "" for none.
func SaveSafetensors(path string, weights []Weight, about string) error {
	metadata := map[string]string{"format": "pt"}
	if about != "" {
		metadata[AboutKey] = about
	}
	var entries []safetensors.Entry
	var order []string
	first := map[pth.View]string{}
	for _, w := range weights {
		order = append(order, w.Name)
		v := w.Tensor.View()
		if name, ok := first[v]; ok {
			metadata[w.Name] = name
			continue
		}
		first[v] = w.Name
		dtype, ok := pth.SafetensorsType(w.DType)
		if !ok {
			return fmt.Errorf("checkpoint: %s: element type %s of %s cannot be stored in a "+
				"safetensors file", path, w.DType, w.Name)
		}
		entries = append(entries, safetensors.Entry{Name: w.Name, DType: dtype, Shape: w.Size,
			Read: w.ReadInto})
	}
	metadata[orderKey] = strings.Join(order, "\n")
	if err := safetensors.Save(path, entries, metadata); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}
