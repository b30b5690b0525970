package rawdata

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/volume"
)

// maxWord is the longest number that is read, in bytes.
const maxWord = 512

// text reads the pixels from up to to of p from numbers. What follows them is left alone.
// Differs: ITK takes the part of a word that is a number, drops fractions of whole types, and wraps
// what they do not hold.
func text(r *bufio.Reader, p volume.Pixels, from, to int) error {
	switch p := p.(type) {
	case volume.Slice[uint8]:
		return numbers(r, p[from:to], unsigned[uint8](8))
	case volume.Slice[int8]:
		return numbers(r, p[from:to], signed[int8](8))
	case volume.Slice[uint16]:
		return numbers(r, p[from:to], unsigned[uint16](16))
	case volume.Slice[int16]:
		return numbers(r, p[from:to], signed[int16](16))
	case volume.Slice[uint32]:
		return numbers(r, p[from:to], unsigned[uint32](32))
	case volume.Slice[int32]:
		return numbers(r, p[from:to], signed[int32](32))
	case volume.Slice[uint64]:
		return numbers(r, p[from:to], unsigned[uint64](64))
	case volume.Slice[int64]:
		return numbers(r, p[from:to], signed[int64](64))
	case volume.Slice[float32]:
		return numbers(r, p[from:to], float[float32](32))
	case volume.Slice[float64]:
		return numbers(r, p[from:to], float[float64](64))
	}
	return fmt.Errorf("pixels of type %s cannot be read as text", p.Type())
}

func unsigned[T volume.Pixel](bits int) func(string) (T, error) {
	return func(s string) (T, error) {
		v, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, bits)
		return T(v), err
	}
}

func signed[T volume.Pixel](bits int) func(string) (T, error) {
	return func(s string) (T, error) {
		v, err := strconv.ParseInt(s, 10, bits)
		return T(v), err
	}
}

func float[T volume.Pixel](bits int) func(string) (T, error) {
	return func(s string) (T, error) {
		if strings.ContainsAny(s, "xX_") {
			return 0, strconv.ErrSyntax
		}
		v, err := strconv.ParseFloat(s, bits)
		return T(v), err
	}
}

func numbers[T volume.Pixel](r *bufio.Reader, to []T, parse func(string) (T, error)) error {
	word := make([]byte, 0, maxWord)
	for i := range to {
		word = word[:0]
		for {
			c, err := r.ReadByte()
			if err != nil && (err != io.EOF || len(word) == 0) {
				if err == io.EOF {
					err = fmt.Errorf("found %d numbers, expected %d: the file is cut off", i, len(to))
				}
				return err
			}
			if err == io.EOF || space(c) || c == ',' {
				if len(word) > 0 {
					break
				}
				continue
			}
			if len(word) == maxWord {
				return fmt.Errorf("number %d has more than %d characters", i+1, maxWord)
			}
			word = append(word, c)
		}
		v, err := parse(string(word))
		if errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("number %d of the text is one that %T does not hold", i+1, v)
		}
		if err != nil {
			return fmt.Errorf("number %d of the text is none that %T holds", i+1, v)
		}
		to[i] = v
	}
	return nil
}

func space(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// hex reads bytes as two digits each.
func hex(r *bufio.Reader, raw []byte) error {
	for i := 0; i < 2*len(raw); {
		c, err := r.ReadByte()
		if err != nil {
			if err == io.EOF {
				err = fmt.Errorf("found %d hexadecimal digits, expected %d: the file is cut off", i,
					2*len(raw))
			}
			return err
		}
		var v byte
		switch {
		case space(c):
			continue
		case c >= '0' && c <= '9':
			v = c - '0'
		case c >= 'a' && c <= 'f':
			v = c - 'a' + 10
		case c >= 'A' && c <= 'F':
			v = c - 'A' + 10
		default:
			return fmt.Errorf("digit %d of the text is not hexadecimal", i+1)
		}
		raw[i/2] = raw[i/2]<<4 | v
		i++
	}
	return nil
}
