package pipeline

import (
	"fmt"
	"os"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
)

// ConvertConfig rewrites a checkpoint.
type ConvertConfig struct {
	File string
	WeightsOutput
	StripOptimizer bool `flag:"strip-optimizer" help:"omit optimizer and gradient scaler state"`
	WeightsOnly    bool `flag:"weights-only" help:"write only the state dict"`
}

// Convert writes the new file and gives its size in bytes.
func Convert(c ConvertConfig, o Output) (int64, error) {
	if err := c.WeightsOutput.check(); err != nil {
		return 0, err
	}
	if err := convert(c.File, c.Path, c.StripOptimizer, c.WeightsOnly, o); err != nil {
		return 0, err
	}
	info, err := os.Stat(c.Path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func convert(path, out string, strip, weights bool, o Output) error {
	if strings.HasSuffix(path, checkpoint.Extension) || strings.HasSuffix(out, checkpoint.Extension) {
		return convertSafetensors(path, out, strip, weights, o)
	}
	p, err := pth.Open(path)
	if err != nil {
		return err
	}
	defer p.Close()
	// The copy gets checksums of its own, which would hide damage that those of the original show.
	if err := p.Verify(0); err != nil {
		o.Print("WARNING:", err)
	}
	if !strip && !weights { // whatever the pickle holds, a checkpoint or not
		return pth.Save(out, p.Root)
	}
	root := pickle.AsDict(p.Root)
	if root == nil {
		return fmt.Errorf("%s is no dictionary: there is nothing to leave out", path)
	}
	if weights {
		for _, key := range []string{"network_weights", "state_dict"} {
			if state, ok := root.Get(key); ok {
				return pth.Save(out, state)
			}
		}
		if f, err := checkpoint.Open(path); err == nil && f.Under != "" {
			defer f.Close()
			o.notes(f)
			state, _ := f.Root().Get(f.Under)
			return pth.Save(out, state)
		}
		return fmt.Errorf("%s has neither network_weights nor state_dict, nor weights under another key: "+
			"it holds only weights already, or none (`lntorch inspect` shows it)", path)
	}
	if _, ok := root.Get("optimizer_state"); !ok {
		return fmt.Errorf("%s has no optimizer_state: there is nothing to leave out", path)
	}
	root.Set("optimizer_state", nil)
	if _, ok := root.Get("grad_scaler_state"); ok {
		root.Set("grad_scaler_state", nil)
	}
	return pth.Save(out, root)
}

// convertSafetensors converts to or from that format, or both.
func convertSafetensors(path, out string, strip, weights bool, o Output) error {
	f, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	o.notes(f)
	if strip && strings.HasSuffix(path, checkpoint.Extension) {
		return fmt.Errorf("%s has no optimizer: there is nothing to leave out", path)
	}
	if !strings.HasSuffix(out, checkpoint.Extension) {
		if state, ok := f.Root().Get("network_weights"); ok && weights {
			return pth.Save(out, state)
		}
		if !f.NNUNet {
			return pth.Save(out, &pickle.OrderedDict{Dict: *f.Root()})
		}
		return pth.Save(out, f.Root())
	}
	about := ""
	if !weights {
		if about, err = f.About(); err != nil {
			return err
		}
	}
	if v, _ := f.Root().Get("optimizer_state"); v != nil && !strip && !weights {
		o.Print("the optimizer's state and the log have no place in a safetensors file and are left out")
	}
	return checkpoint.SaveSafetensors(out, f.Weights, about)
}
