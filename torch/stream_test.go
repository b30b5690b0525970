package torch_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// Tensors that a goroutine makes on a stream of its own, of memory that it fills again at once when
// the copy is over, are used on another's while it makes the next: no value is early or late. On the
// CPU the same calls do nothing but keep the order.
func TestStreamsHandTensorsOver(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			const n, rounds = 1 << 20, 30
			staging, err := torch.NewStaging(device)
			require.NoError(t, err)
			defer staging.Close()
			stream, err := device.NewStream()
			require.NoError(t, err)
			var there [2]*torch.Event
			for i := range there {
				there[i], err = device.NewEvent()
				require.NoError(t, err)
				defer there[i].Free()
			}
			type made struct {
				scope *torch.Scope
				x     *torch.Tensor
			}
			ready := make(chan made)
			var maker sync.WaitGroup
			maker.Go(func() {
				defer close(ready)
				err := torch.OnStream(stream, func() error {
					host, err := staging.Float32s(n)
					if err != nil {
						return err
					}
					for round := range rounds {
						for i := range host {
							host[i] = float32(round)
						}
						s, err := torch.NewScope()
						if err != nil {
							return err
						}
						x := torch.Upload(s, device, staging, host[:n/2], 2, n/4)
						for range 20 {
							x = s.AddScalar(x, 1)
						}
						if err := s.Err(); err != nil {
							return err
						}
						if err := there[round%2].Record(); err != nil {
							return err
						}
						ready <- made{s, x}
						if err := there[round%2].Synchronize(); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
			round := 0
			for m := range ready {
				require.NoError(t, there[round%2].Block())
				require.NoError(t, m.x.RecordStream())
				require.NoError(t, torch.With(func(s *torch.Scope) error {
					y := m.x
					for range 20 { // keeps the stream busy while the maker goes on
						y = s.AddScalar(y, 1)
					}
					m.scope.Close() // its memory must outlast the work above
					require.Equal(t, []int64{2, n / 4}, y.Shape())
					low, err := s.Amin(y, false, 0, 1).Item()
					require.NoError(t, err)
					high, err := s.Neg(s.Amin(s.Neg(y), false, 0, 1)).Item()
					require.NoError(t, err)
					require.EqualValues(t, round+40, low)
					require.EqualValues(t, round+40, high)
					return s.Err()
				}))
				round++
			}
			maker.Wait()
			require.Equal(t, rounds, round)
		})
	}
}

// What lies in staging and what does not arrives, in any type; a copy is a copy.
func TestUploadsAreCopies(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			g, err := torch.NewStaging(device)
			require.NoError(t, err)
			defer g.Close()
			f, err := g.Float32s(6)
			require.NoError(t, err)
			i, err := g.Int16s(5)
			require.NoError(t, err)
			u, err := g.Uint8s(4)
			require.NoError(t, err)
			copy(f, []float32{1, 2, 3, 4, 5, 6})
			copy(i, []int16{-1, 2, -3, 4, 5})
			copy(u, []uint8{255, 0, 1, 2})
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				x := torch.Upload(s, device, g, f[:4], 2, 2)
				y := torch.Upload(s, device, g, i, 5)
				z := torch.Upload(s, device, g, u, 2, 1, 2)
				w := torch.Upload(s, device, g, f[1:5], 4) // begins elsewhere: not what was lent
				v := torch.Upload(s, device, nil, []float64{0.5, 1.5}, 2)
				require.NoError(t, s.Err())
				require.NoError(t, device.Synchronize())
				clear(f)
				clear(i)
				clear(u)
				require.Equal(t, []int64{2, 1, 2}, z.Shape())
				for _, c := range []struct {
					want, got any
				}{
					{[]float32{1, 2, 3, 4}, all[float32](t, x)}, {[]int16{-1, 2, -3, 4, 5}, all[int16](t, y)},
					{[]uint8{255, 0, 1, 2}, all[uint8](t, z)}, {[]float32{2, 3, 4, 5}, all[float32](t, w)},
					{[]float64{0.5, 1.5}, all[float64](t, v)},
				} {
					require.Equal(t, c.want, c.got)
				}
				return nil
			}))
			require.Error(t, torch.With(func(s *torch.Scope) error {
				torch.Upload(s, device, g, f, 7)
				return s.Err()
			}))
			_, err = g.Int16s(0)
			require.Error(t, err)
			g.Close()
			_, err = g.Int16s(3)
			require.ErrorContains(t, err, "scope is closed")
		})
	}
}

func all[T torch.Element](t *testing.T, x *torch.Tensor) []T {
	t.Helper()
	v, err := torch.Slice[T](x)
	require.NoError(t, err)
	return v
}

// An event of the CPU is reached at once; one that was freed is an error on a device.
func TestEventsOfTheCPUAreReached(t *testing.T) {
	torchtest.Require(t)
	e, err := torch.CPU.NewEvent()
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, e.Record())
		require.NoError(t, e.Block())
		require.NoError(t, e.Synchronize())
		e.Free()
	}
	s, err := torch.CPU.NewStream()
	require.NoError(t, err)
	ran := false
	require.ErrorContains(t, torch.OnStream(s, func() error { ran = true; return errors.New("test") }), "test")
	require.True(t, ran)
	require.Error(t, (*torch.Tensor)(nil).RecordStream())

	d := torch.Device{Type: torch.DeviceCUDA, Index: 0}
	if torch.CheckDevice(d) != nil {
		_, err = d.NewStream()
		require.Error(t, err, "there is no such device")
		return
	}
	e, err = d.NewEvent()
	require.NoError(t, err)
	e.Free()
	require.ErrorContains(t, e.Record(), "the event was freed")
}
