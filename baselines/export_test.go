package baselines

import "github.com/lntorch/lntorch/finetune"

// PlainDropout gives fast adapters the reference's dropout masks, so that the two can be compared.
func PlainDropout(m finetune.Method) {
	for _, l := range m.(*lora).layers {
		l.lean = false
	}
}
