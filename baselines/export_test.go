package baselines

import "github.com/lntorch/lntorch/finetune"

// PlainDropout lets fast adapters drop what the reference drops, so that the two can be compared.
func PlainDropout(m finetune.Method) {
	for _, l := range m.(*lora).layers {
		l.lean = false
	}
}
