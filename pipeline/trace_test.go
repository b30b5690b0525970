package pipeline

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
)

// A trace without --amp is float32's on CUDA, too, where auto would be fp16, which Trace refuses. The ranks meet with
// what is tested here.
func TestATraceIsOfFloat32UnlessToldOtherwise(t *testing.T) {
	for amp, want := range map[machine.AMP]machine.AMP{"": machine.AMPOff, machine.AMPAuto: machine.AMPOff, machine.AMPOff: machine.AMPOff,
		machine.AMPBF16: machine.AMPBF16, machine.AMPFP16: machine.AMPFP16} {
		c := settings.New[TraceConfig]()
		c.Checkpoint, c.Batches, c.Output, c.MethodName = "a.pth", "batches", "out", "full"
		c.AMP = amp
		traced, err := c.trace(Output{})
		require.NoError(t, err)
		require.Equal(t, want, traced.AMP, "--amp %q", amp)
	}
}
