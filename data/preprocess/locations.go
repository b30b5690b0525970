package preprocess

import (
	"encoding/binary"
	"math"
	"slices"
	"sort"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/mt19937"
	"github.com/lntorch/lntorch/volume"
)

// Class is one entry of class_locations, used for foreground oversampling: a label, a region of
// several labels, or (with an ignore label) everything annotated.
type Class struct {
	Labels []int
	key    any // key in class_locations, with its Python type
}

// Classes lists the classes of a dataset in nnU-Net's order.
// Source: nnU-Net 2.5.1, default_preprocessor.py, run_case_npy; label_handling.py.
func Classes(l *plans.Labels) []Class {
	var list []Class
	if l.HasRegions {
		for _, r := range l.Regions {
			c := Class{Labels: r.Values}
			if !r.Region {
				c.key = int64(r.Values[0])
				list = append(list, c)
				continue
			}
			t := make(pickle.Tuple, len(r.Values))
			for i, v := range r.Values {
				t[i] = int64(v)
			}
			c.key = t
			list = append(list, c)
		}
	} else {
		for _, v := range l.ForegroundLabels {
			list = append(list, Class{[]int{v}, numpyInt(v)})
		}
	}
	if l.IgnoreLabel != nil {
		t := make(pickle.Tuple, len(l.AllLabels))
		for i, v := range l.AllLabels {
			t[i] = numpyInt(v)
		}
		list = append(list, Class{l.AllLabels, t})
	}
	return list
}

func int64Type() pickle.NumpyDType {
	var t pickle.NumpyDType
	t.Order, t.Kind, t.Size = '<', 'i', 8
	return t
}

func numpyInt(v int) *pickle.NumpyScalar {
	data := binary.LittleEndian.AppendUint64(nil, uint64(v))
	return &pickle.NumpyScalar{DType: int64Type(), Data: data}
}

// drawn holds the sampled voxels of one class: rows (0, z, y, x).
type drawn struct {
	Class
	rows []int64
}

// locations samples 10000 voxels or 1 % of each class, whichever is more, or all if there are
// fewer.
// Source: nnU-Net 2.5.1, default_preprocessor.py, _sample_foreground_locations.
func locations[L Label](seg *volume.Volume[L], classes []Class) []drawn {
	const least, part = 10000, 0.01
	n := seg.Spatial()
	// spans holds the range of non-zero voxels of each row; most rows have none.
	spans := make([][2]int32, n[0]*n[1])
	for i := range spans {
		row := seg.Data[i*n[2]:][:n[2]]
		lo, hi := 0, n[2]
		for lo < hi && row[lo] == 0 {
			lo++
		}
		for hi > lo && row[hi-1] == 0 {
			hi--
		}
		spans[i] = [2]int32{int32(lo), int32(hi)}
	}
	random := mt19937.New(1234)
	upto := make([]int, len(spans)) // cumulative number of the class's voxels, this row included
	list := make([]drawn, len(classes))
	for i, c := range classes {
		list[i].Class = c
		whole := slices.Contains(c.Labels, 0)
		in := func(v L) bool { return slices.Contains(c.Labels, int(v)) }
		if len(c.Labels) == 1 {
			only := L(c.Labels[0])
			if int(only) != c.Labels[0] {
				continue // not representable in seg
			}
			in = func(v L) bool { return v == only }
		}
		row := func(r int) (cells []L, x int) {
			lo, hi := int(spans[r][0]), int(spans[r][1])
			if whole {
				lo, hi = 0, n[2]
			}
			return seg.Data[r*n[2]:][lo:hi], lo
		}
		total := 0
		for r := range spans {
			cells, _ := row(r)
			for _, v := range cells {
				if in(v) {
					total++
				}
			}
			upto[r] = total
		}
		if total == 0 {
			continue
		}
		k := max(min(least, total), int(math.Ceil(float64(total)*part)))
		for _, pick := range random.Sample(total, k) {
			r := sort.SearchInts(upto, int(pick)+1)
			left := int(pick)
			if r > 0 {
				left -= upto[r-1]
			}
			cells, x := row(r)
			for j, v := range cells {
				if in(v) {
					if left == 0 {
						list[i].rows = append(list[i].rows, 0, int64(r/n[1]), int64(r%n[1]),
							int64(x+j))
						break
					}
					left--
				}
			}
		}
	}
	return list
}

// locationsDict returns the class_locations of a case's properties.
func locationsDict(list []drawn) *pickle.Dict {
	d := &pickle.Dict{}
	for _, c := range list {
		if c.rows == nil {
			d.Set(c.key, &pickle.List{})
			continue
		}
		a := &pickle.NumpyArray{
			DType: int64Type(),
			Shape: []int64{int64(len(c.rows) / 4), 4},
			Data:  make([]byte, 0, 8*len(c.rows)),
		}
		for _, v := range c.rows {
			a.Data = binary.LittleEndian.AppendUint64(a.Data, uint64(v))
		}
		d.Set(c.key, a)
	}
	return d
}
