package vector

import "math"

// Powers raises numbers from 0 to 1 to a power. For powers from 0.4 to 2.5 it has a table: between
// 2^-powersOctaves and 1 there are 2^powersBits cells per octave, and within one u^g is taken as
// linear, which is 5e-7 off at most for powers to 1.5, as nnU-Net draws them, and 2e-6 above.
type Powers struct {
	exponent float32
	table    [powersLength]float32
}

const (
	powersBits    = 8
	powersOctaves = 24
	powersShift   = 23 - powersBits
	powersFirst   = (127 - powersOctaves) << powersBits // index of the first cell
	powersLength  = powersOctaves<<powersBits + 2
	powersLast    = powersLength - 2 // cell, that of 1
	powersMask    = 1<<powersShift - 1
)

// Set makes the table for an exponent above 0.
func (p *Powers) Set(exponent float32) {
	p.exponent = exponent
	if !p.tabled() {
		return
	}
	g := float64(exponent)
	down := math.Exp2(-g)
	const cells = 1 << powersBits
	for i := range cells {
		top := math.Pow((1+float64(i)/cells)/2, g) // in the octave below 1
		for octave := powersOctaves - 1; octave >= 0; octave-- {
			p.table[octave*cells+i] = float32(top)
			top *= down
		}
	}
	p.table[powersLast], p.table[powersLast+1] = 1, 1
}

// tabled reports whether the table is fine enough for the exponent.
func (p *Powers) tabled() bool { return p.exponent >= 0.4 && p.exponent <= 2.5 }

// Raise sets v to ((v-low)/divisor)^exponent·width + low.
func (p *Powers) Raise(v []float32, low, divisor, width float32) {
	if p.tabled() {
		for len(v) >= 8 {
			n := raise(v, p, low, divisor, width)
			v = v[n:]
			// a block in which a number is too small for the table, or the next 8
			m := min(len(v), 8)
			p.plain(v[:m], low, divisor, width)
			v = v[m:]
		}
	}
	p.plain(v, low, divisor, width)
}

func (p *Powers) plain(v []float32, low, divisor, width float32) {
	if !p.tabled() {
		for i, x := range v {
			u := math.Pow(float64((x-low)/divisor), float64(p.exponent))
			v[i] = float32(float32(u)*width) + low
		}
		return
	}
	for i, x := range v {
		v[i] = float32(p.power((x-low)/divisor)*width) + low
	}
}

// power returns u^exponent out of the table.
func (p *Powers) power(u float32) float32 {
	bits := math.Float32bits(u)
	cell := int(bits>>powersShift) - powersFirst
	switch {
	case u == 0:
		return 0
	case uint(cell) > powersLast:
		return float32(math.Pow(float64(u), float64(p.exponent)))
	}
	a, b := p.table[cell], p.table[cell+1]
	return a + float32((b-a)*float32(bits&powersMask)*(1.0/(1<<powersShift)))
}
