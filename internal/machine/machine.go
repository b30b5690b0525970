// Package machine describes where and how a command computes: the device, the threads, the numerics and
// the mixed precision. The same four settings stand on every command that runs a network.
package machine

import (
	"fmt"

	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/torch"
)

// AMP is automatic mixed precision.
type AMP string

// Mixed precisions: nnU-Net's choice (fp16 with gradient scaling on CUDA, none on the CPU), none, or
// the one named.
const (
	AMPAuto AMP = "auto"
	AMPOff  AMP = "off"
	AMPFP16 AMP = "fp16"
	AMPBF16 AMP = "bf16"
)

// Numerics selects the operators.
type Numerics string

// Fast may fuse operators and change memory layouts; Reference runs PyTorch's and nnU-Net's operators
// in their order.
const (
	Fast      Numerics = "fast"
	Reference Numerics = "reference"
)

// Machine is where and how a network runs. Resolve fills in what the user left to the program.
type Machine struct {
	DeviceName string   `flag:"device" nnunet:"device" default:"auto" help:"cpu, cuda or cuda:N; auto: CUDA where libtorch and a GPU are there, else the CPU"`
	Threads    int      `flag:"threads" range:"1.." help:"threads of libtorch's operators (default: all cores)"`
	Numerics   Numerics `flag:"numerics" values:"fast,reference" default:"fast" keep:"numerics" before:"*" help:"fast, or reference: the reference's operators in its order"`
	AMP        AMP      `flag:"amp" values:"auto,off,fp16,bf16" default:"auto" keep:"amp" help:"mixed precision; auto: fp16 on CUDA, off on the CPU"`

	Device torch.Device // what Name stands for
}

// Resolve finds the device, opens libtorch, and replaces auto and unset values by what they stand for.
// note states in one line what was chosen where the user left the choice.
func (m *Machine) Resolve() (note string, err error) {
	switch m.DeviceName {
	case "":
		m.DeviceName = m.Device.String()
	case "auto":
		if err := torch.Load(); err != nil {
			return "", err
		}
		m.Device = torch.CPU
		why := "no GPU that libtorch can use"
		if n, err := torch.DeviceCount(torch.DeviceCUDA); err != nil {
			why = err.Error()
		} else if n > 0 {
			m.Device = torch.Device{Type: torch.DeviceCUDA}
		}
		m.DeviceName = m.Device.String()
		note = "device " + m.DeviceName
		if m.Device.Type == torch.DeviceCPU {
			note += " (" + why + ")"
		} else if name, err := m.Device.Name(); err == nil {
			note += " (" + name + ")"
		}
	default:
		if m.Device, err = torch.ParseDevice(m.DeviceName); err != nil {
			return "", settings.Usage("-device: %w", err)
		}
	}
	if m.Threads == 0 {
		m.Threads = system.Cores()
	}
	if most := max(64, 4*system.Cores()); m.Threads > most {
		return "", settings.Usage("--threads: found %d, expected at most %d on %d cores, which more threads only slow down",
			m.Threads, most, system.Cores())
	}
	if m.Numerics == "" {
		m.Numerics = Fast
	}
	cuda := m.Device.Type != torch.DeviceCPU
	switch m.AMP {
	case "", AMPAuto:
		m.AMP = AMPOff
		if cuda {
			m.AMP = AMPFP16
		}
	case AMPOff, AMPBF16:
	case AMPFP16:
		if !cuda {
			return "", settings.Usage("--amp fp16 needs a CUDA device; on the CPU use bf16 or off")
		}
	default:
		return "", settings.Usage("--amp %q: expected auto, off, fp16 or bf16", m.AMP)
	}
	if m.Numerics != Fast && m.Numerics != Reference {
		return "", settings.Usage("--numerics %q: expected fast or reference", m.Numerics)
	}
	if err := torch.CheckDevice(m.Device); err != nil {
		return "", err
	}
	return note, nil
}

// IsReference reports whether the reference's operators run in its order.
func (m *Machine) IsReference() bool { return m.Numerics == Reference }

// DType is the type that autocast computes in, Float32 for none.
func (m *Machine) DType() torch.DType {
	switch m.AMP {
	case AMPFP16:
		return torch.Float16
	case AMPBF16:
		return torch.BFloat16
	}
	return torch.Float32
}

// Autocast runs f in the mixed precision.
func (m *Machine) Autocast(f func() error) error {
	if d := m.DType(); d != torch.Float32 {
		return torch.Autocast(m.Device.Type, d, f)
	}
	return f()
}

// Run calls f on a thread of its own for libtorch, with the machine's number of threads.
func (m *Machine) Run(f func() error) error {
	if m.Threads < 1 {
		return fmt.Errorf("machine: %d threads: Resolve was not called", m.Threads)
	}
	return torch.OnThread(m.Threads, f)
}
