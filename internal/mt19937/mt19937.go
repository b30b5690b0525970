// Package mt19937 reproduces the random numbers of numpy's legacy RandomState, which define
// nnU-Net's splits and class locations. Use math/rand/v2 for anything else.
package mt19937

import (
	"math/bits"
	"slices"
)

const (
	size  = 624
	shift = 397
)

// Source is a Mersenne Twister that is seeded and sampled like numpy.random.RandomState.
type Source struct {
	state [size]uint32
	next  int
}

// New returns a source seeded as RandomState(seed) seeds itself from an integer below 2³².
func New(seed uint32) *Source {
	s := &Source{next: size}
	s.state[0] = seed
	for i := 1; i < size; i++ {
		prev := s.state[i-1]
		s.state[i] = 1812433253*(prev^prev>>30) + uint32(i)
	}
	return s
}

// Uint32 returns the next 32 random bits.
func (s *Source) Uint32() uint32 {
	if s.next == size {
		s.twist()
	}
	y := s.state[s.next]
	s.next++
	return temper(y)
}

func (s *Source) twist() {
	mix := func(a, b, c uint32) uint32 {
		y := a&0x80000000 | b&0x7fffffff
		return c ^ y>>1 ^ -(y&1)&0x9908b0df
	}
	t := &s.state
	for i := range size - shift {
		t[i] = mix(t[i], t[i+1], t[i+shift])
	}
	for i := size - shift; i < size-1; i++ {
		t[i] = mix(t[i], t[i+1], t[i+shift-size])
	}
	t[size-1] = mix(t[size-1], t[0], t[shift-1])
	s.next = 0
}

func temper(y uint32) uint32 {
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

// IntN returns an integer in [0, n), as randint(n) and one draw of choice(n) do: bits are masked to
// the smallest power of two and redrawn while too large; n = 1 draws nothing. It panics if n < 1 or
// n > 2³².
func (s *Source) IntN(n int) int {
	if n < 1 || n > 1<<32 {
		panic("mt19937: IntN of an empty or too large range")
	}
	limit := uint32(n - 1)
	if limit == 0 {
		return 0
	}
	mask := uint32(1)<<bits.Len32(limit) - 1
	for {
		if v := s.Uint32() & mask; v <= limit {
			return int(v)
		}
	}
}

// Permutation returns 0…n-1 in the order of permutation(n), which is also shuffle(arange(n)).
// choice(n, k, replace=False) is its first k entries.
func (s *Source) Permutation(n int) []int {
	p := make([]int, n)
	for i := range p {
		p[i] = i
	}
	for i := n - 1; i > 0; i-- {
		j := s.IntN(i + 1)
		p[i], p[j] = p[j], p[i]
	}
	return p
}

// Choice returns k draws with replacement from 0…n-1, as choice(n, k) does.
func (s *Source) Choice(n, k int) []int {
	c := make([]int, k)
	for i := range c {
		c[i] = s.IntN(n)
	}
	return c
}

// Sample returns k distinct values of 0…n-1, as choice(n, k, replace=False) does: the first k of a
// permutation. It uses 4·n bytes of memory.
func (s *Source) Sample(n, k int) []uint32 {
	p := make([]uint32, n)
	for i := range p {
		p[i] = uint32(i)
	}
	for i := n - 1; i > 0; i-- {
		j := s.IntN(i + 1)
		p[i], p[j] = p[j], p[i]
	}
	return slices.Clone(p[:k])
}

// IntsN fills dst with draws from 0…n-1, as choice(n, len(dst)) does: IntN in bulk.
func (s *Source) IntsN(dst []uint32, n int) {
	if n < 1 || n > 1<<32 {
		panic("mt19937: IntsN of an empty or too large range")
	}
	limit := uint32(n - 1)
	if limit == 0 {
		clear(dst)
		return
	}
	mask := uint32(1)<<bits.Len32(limit) - 1
	for k := 0; k < len(dst); {
		if s.next == size {
			s.twist()
		}
		// The remaining draws need at least that many words, so none is drawn in excess.
		block := s.state[s.next:min(size, s.next+len(dst)-k)]
		s.next += len(block)
		for _, y := range block {
			v := temper(y) & mask
			dst[k] = v // overwritten by the next draw if too large
			if v <= limit {
				k++
			}
		}
	}
}
