package augment

import (
	"math/rand/v2"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
)

// RemoveLabelTansform (spelt as in batchgeneratorsv2) replaces a label, in all channels: -1, which
// is outside of the image's nonzero region, becomes background.
// Source: batchgeneratorsv2 0.2.1, RemoveLabelTansform.
type RemoveLabelTansform struct {
	LabelValue int16 `json:"label_value" need:"true"`
	SetTo      int16 `json:"set_to" need:"true"`
}

// Name returns RemoveLabelTansform.
func (RemoveLabelTansform) Name() string { return "RemoveLabelTansform" }

// Draw draws nothing.
func (t RemoveLabelTansform) Draw(*rand.Rand) Parameters { return &t }

// Apply replaces the label.
func (t *RemoveLabelTansform) Apply(p *Patch) error {
	if p.Seg == nil {
		return nil
	}
	vector.Replace(p.Seg.Data, t.LabelValue, t.SetTo)
	return nil
}
