package torch_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

func TestCreateFillsShapeTypeAndDevice(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			d := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				e := s.Empty([]int64{2, 0, 3}, torch.Float16, d)
				require.Equal(t, []int64{2, 0, 3}, e.Shape())
				require.Equal(t, 3, e.Dim())
				require.Zero(t, e.Numel())
				require.Equal(t, torch.Float16, e.DType())
				require.Equal(t, d.Type, e.Device().Type)
				f := s.Full([]int64{2, 2}, 1.5, torch.Float32, d)
				require.Equal(t, []float32{1.5, 1.5, 1.5, 1.5}, torchtest.Float32s(t, f))
				require.Equal(t, []float32{0, 0, 0},
					torchtest.Float32s(t, s.Zeros([]int64{3}, torch.Float32, d)))
				require.Equal(t, []float32{0, 0, 0, 0}, torchtest.Float32s(t, s.ZerosLike(f)))
				require.Equal(t, []float32{1, 3, 5},
					torchtest.Float32s(t, s.Arange(1, 6, 2, torch.Float32, d)))
				n, err := torch.Slice[int64](s.Arange(0, 3, 1, torch.Int64, d))
				require.NoError(t, err)
				require.Equal(t, []int64{0, 1, 2}, n)
				c := s.Clone(f)
				s.Fill_(c, -2)
				require.Equal(t, []float32{-2, -2, -2, -2}, torchtest.Float32s(t, c))
				require.Equal(t, []float32{1.5, 1.5, 1.5, 1.5}, torchtest.Float32s(t, f))
				s.Copy_(f, torch.FromSlice(s, []float64{7, 8}, 2), false) // broadcast, converted, from the CPU
				require.Equal(t, []float32{7, 8, 7, 8}, torchtest.Float32s(t, f))
				v, err := s.Full(nil, 2.25, torch.Float64, d).Item()
				require.NoError(t, err)
				require.Equal(t, 2.25, v)
				return nil
			}))
		})
	}
}

func TestToConverts(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float32{-1.75, 0, 2.5, 300}, 4)
		require.True(t, s.To(x, torch.Float32, torch.CPU).SharesStorage(x))
		require.True(t, s.ToAsync(x, torch.Float32, torch.CPU).SharesStorage(x))
		i, err := torch.Slice[int16](s.To(x, torch.Int16, torch.CPU))
		require.NoError(t, err)
		require.Equal(t, []int16{-1, 0, 2, 300}, i)
		b, err := torch.Slice[bool](s.To(x, torch.Bool, torch.CPU))
		require.NoError(t, err)
		require.Equal(t, []bool{true, false, true, true}, b)
		// bfloat16 keeps 8 bits: 300 becomes 300 (1.171875·2^8), 2.5 stays; 257 rounds to even.
		require.Equal(t, []float32{256},
			torchtest.Float32s(t, s.To(s.To(torch.FromSlice(s, []float32{257}, 1), torch.BFloat16,
				torch.CPU), torch.Float32, torch.CPU)))
		inf := torchtest.Float32s(t,
			s.To(s.To(torch.FromSlice(s, []float32{7e4}, 1), torch.Float16, torch.CPU),
				torch.Float32, torch.CPU))
		require.True(t, math.IsInf(float64(inf[0]), 1))
		return nil
	}))
}

func TestContiguousLaysElementsOut(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x := torchtest.Tensor(s, 1, 2, 3, 4, 5)
		require.True(t, s.Contiguous(x, torch.Contiguous).SharesStorage(x))
		last := s.Contiguous(x, torch.ChannelsLast)
		require.Equal(t, []int64{60, 1, 15, 3}, last.Strides())
		require.False(t, last.IsContiguous())
		require.Equal(t, torchtest.Fill(1, 120), torchtest.Float32s(t, last),
			"the logical order stays")
		require.Equal(t, []int64{60, 20, 5, 1}, s.Contiguous(last, torch.Contiguous).Strides())
		x3 := torchtest.Tensor(s, 1, 1, 2, 2, 2, 2)
		require.Equal(t, []int64{16, 1, 8, 4, 2}, s.Contiguous(x3, torch.ChannelsLast3d).Strides())
		same, err := torch.Equal(x, last)
		require.NoError(t, err)
		require.True(t, same)
		return nil
	}))
}

func TestElementsGoInAndOut(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		roundTrip(t, s, []float32{1, float32(math.Inf(-1)), 3e-45, -0})
		roundTrip(t, s, []float64{math.Pi, math.MaxFloat64})
		roundTrip(t, s, []int64{math.MinInt64, math.MaxInt64})
		roundTrip(t, s, []int32{math.MinInt32, 5})
		roundTrip(t, s, []int16{-3, 4})
		roundTrip(t, s, []int8{-128, 127})
		roundTrip(t, s, []uint8{0, 255})
		roundTrip(t, s, []bool{true, false, true})
		roundTrip(t, s, []float32{})

		x := torchtest.Tensor(s, 1, 3, 4)
		require.NoError(t, torch.CopyIn(s.Transpose(x, 0, 1), torchtest.Fill(2, 12)),
			"into a view that is not contiguous")
		require.Equal(t, torchtest.Fill(2, 12), torchtest.Float32s(t, s.Transpose(x, 0, 1)))
		require.EqualError(t, torch.CopyIn(x, []float64{1}),
			"torch: copy 1 float64 into tensor [3 4] of float32")
		require.EqualError(t, torch.CopyIn(x, []float32{1}),
			"torch: copy 1 float32 into tensor [3 4] of float32")
		require.EqualError(t, torch.CopyOut(x, make([]int64, 12)),
			"torch: copy tensor [3 4] of float32 into 12 int64")
		_, err := torch.Slice[int32](x)
		require.Error(t, err)

		raw, err := x.Bytes()
		require.NoError(t, err)
		require.Len(t, raw, 48)
		out := make([]byte, 48)
		require.NoError(t, x.CopyBytesOut(out))
		require.Equal(t, raw, out)
		y := s.Empty([]int64{3, 4}, torch.Float32, torch.CPU)
		require.NoError(t, y.CopyBytesIn(out))
		require.Equal(t, torchtest.Bits(torchtest.Float32s(t, x)),
			torchtest.Bits(torchtest.Float32s(t, y)))
		return nil
	}))
	// Wrong lengths fail the scope of a new tensor too, without a leak.
	require.EqualError(t, torch.With(func(s *torch.Scope) error {
		require.Nil(t, torch.FromSlice(s, []int64{1, 2}, 3))
		return nil
	}), "torch: copy 2 int64 into tensor [3] of int64")
}

func roundTrip[T torch.Element](t *testing.T, s *torch.Scope, data []T) {
	t.Helper()
	x := torch.FromSlice(s, data, int64(len(data)))
	require.Equal(t, torch.DTypeOf[T](), x.DType())
	got, err := torch.Slice[T](x)
	require.NoError(t, err)
	require.Equal(t, data, got)
}

func TestEqualComparesShapeAndElements(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		a := torch.FromSlice(s, []float32{1, 2}, 2)
		nan := torch.FromSlice(s, []float32{float32(math.NaN())}, 1)
		for _, c := range []struct {
			a, b *torch.Tensor
			want bool
		}{{a, s.Clone(a), true}, {a, torch.FromSlice(s, []float32{1, 3}, 2), false},
			{a, s.Reshape(a, 1, 2), false}, {nan, nan, false}} {
			got, err := torch.Equal(c.a, c.b)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		}
		require.Contains(t, a.String(), "CPUFloatType{2}")
		return nil
	}))
}

func TestDTypesKnowNameAndSize(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		for d, name := range map[torch.DType]string{torch.Uint8: "uint8", torch.Int8: "int8",
			torch.Int16: "int16", torch.Int32: "int32",
			torch.Int64: "int64", torch.Float16: "float16", torch.Float32: "float32",
			torch.Float64: "float64", torch.Bool: "bool",
			torch.BFloat16: "bfloat16"} {
			require.Equal(t, name, d.String())
			raw, err := s.Empty([]int64{3}, d, torch.CPU).Bytes()
			require.NoError(t, err)
			require.EqualValues(t, len(raw), 3*d.Size())
		}
		return nil
	}))
	require.Equal(t, "dtype(99)", torch.DType(99).String())
	require.Zero(t, torch.DType(99).Size())
}

func TestParseDevice(t *testing.T) {
	for text, want := range map[string]string{"cpu": "cpu", "cuda": "cuda:0", "cuda:3": "cuda:3"} {
		d, err := torch.ParseDevice(text)
		require.NoError(t, err)
		require.Equal(t, want, d.String())
	}
	for _, text := range []string{"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0"} {
		_, err := torch.ParseDevice(text)
		require.EqualError(t, err, `torch: device "`+text+`": expected cpu, cuda or cuda:N`)
	}
}

func TestCheckDeviceSaysWhatToDo(t *testing.T) {
	torchtest.Require(t)
	require.NoError(t, torch.CheckDevice(torch.CPU))
	n, err := torch.DeviceCount(torch.DeviceCUDA)
	require.NoError(t, err)
	err = torch.CheckDevice(torch.Device{Type: torch.DeviceCUDA, Index: n})
	if n == 0 {
		require.ErrorContains(t, err,
			"has no CUDA device; use --device cpu, or build with `make libtorch CUDA=1`")
		require.Error(t, torch.With(func(s *torch.Scope) error {
			s.Zeros([]int64{1}, torch.Float32, torch.Device{Type: torch.DeviceCUDA})
			return nil
		}))
	} else {
		require.ErrorContains(t, err, "CUDA device(s), cuda:0 to")
	}
	name, err := torch.CPU.Name()
	require.NoError(t, err)
	require.Equal(t, "cpu", name)
	require.NoError(t, torch.CPU.Synchronize())
	require.NoError(t, torch.CPU.EmptyCache())
	free, total, err := torch.CPU.Memory()
	require.NoError(t, err)
	require.Zero(t, free+total)
}
