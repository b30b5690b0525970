package mask

// LabelSet is the labels that belong to a mask.
type LabelSet[T Integer] struct {
	one   T
	alone bool // it is the only one
	first int64
	has   []bool
}

// NewLabelSet returns a set; labels that T cannot hold are in no map of it and left out.
func NewLabelSet[T Integer](labels []int) LabelSet[T] {
	s := LabelSet[T]{}
	var fit []int64
	for _, l := range labels {
		if int64(T(l)) == int64(l) {
			fit = append(fit, int64(l))
		}
	}
	if len(fit) == 0 {
		return s
	}
	lo, hi := fit[0], fit[0]
	for _, l := range fit {
		lo, hi = min(lo, l), max(hi, l)
	}
	s.one, s.alone, s.first = T(lo), lo == hi, lo
	s.has = make([]bool, hi-lo+1)
	for _, l := range fit {
		s.has[l-lo] = true
	}
	return s
}

// Holds reports whether a voxel with this label is in the mask.
func (s *LabelSet[T]) Holds(label T) bool {
	if s.alone {
		return label == s.one
	}
	i := uint64(int64(label) - s.first)
	return i < uint64(len(s.has)) && s.has[i]
}
