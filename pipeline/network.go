package pipeline

import (
	"fmt"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/models"
)

// network is what the names and shapes of a file's tensors tell about the network they belong to.
type network struct {
	Class      string // or "not recognised"
	Channels   int    // of the input
	Classes    int    // of the logits
	Parameters int64  // trainable numbers, aliases counted once
	// Architecture holds the arguments that shapes reveal, and no others; nil where the network is not recognised.
	Architecture models.Architecture
	Adapters     int    // tensors of LoRA adapters
	Adapter      string // one of their names
}

const notRecognised = "not recognised"

// recogniseNetwork recovers the class and the constructor's arguments.
func recogniseNetwork(weights []checkpoint.Weight) *network {
	n := &network{Class: notRecognised}
	for _, w := range weights {
		if strings.Contains(w.Name, ".lora_") {
			n.Adapters, n.Adapter = n.Adapters+1, w.Name
		}
	}
	if s := models.Recognise(checkpoint.Shapes(weights)); s != nil {
		n.Class, n.Architecture, n.Channels, n.Classes = s.Architecture.Class(), s.Architecture, s.InputChannels, s.NumClasses
	}
	n.count(weights)
	return n
}

// count sums up Parameters. Aliases share their memory, unless the file was written by a program that copied them: then
// their names tell. Buffers are no parameters.
func (n *network) count(weights []checkpoint.Weight) {
	seen := map[pth.View]bool{}
	for _, w := range weights {
		v := w.Tensor.View()
		buffer := strings.HasSuffix(w.Name, ".running_mean") || strings.HasSuffix(w.Name, ".running_var")
		alias := n.Architecture != nil && models.Canonical(w.Name) != w.Name
		if seen[v] || alias || buffer || !floating(w.DType) {
			continue
		}
		seen[v] = true
		n.Parameters += w.Numel()
	}
}

func floating(d pth.DType) bool {
	switch d {
	case pth.Float64, pth.Float32, pth.Float16, pth.BFloat16:
		return true
	}
	return false
}

// String is the network in one line.
func (n *network) String() string {
	if n.Architecture == nil {
		return n.Class
	}
	return n.Architecture.Describe()
}

// compare lists where the file's plans and dataset.json mean another network than its weights.
func (n *network) compare(f *checkpoint.File) []string {
	if f.Plans == nil || n.Architecture == nil || !models.Planned(n.Class) {
		return nil
	}
	conf, err := f.Plans.Configuration(f.Configuration)
	if err != nil {
		return []string{err.Error()}
	}
	want, err := models.Parse(conf)
	if err != nil {
		return []string{err.Error()}
	}
	out := models.Differences(want, n.Architecture)
	check := func(what string, plans, weights int) {
		if plans != weights {
			out = append(out, fmt.Sprintf("%s: plans %d, weights %d", what, plans, weights))
		}
	}
	if f.Dataset != nil {
		check("input channels", f.Dataset.NumInputChannels(conf), n.Channels)
		check("classes", f.Dataset.Labels.NumSegmentationHeads(), n.Classes)
	}
	return out
}
