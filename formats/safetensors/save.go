package safetensors

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lntorch/lntorch/internal/atomicfile"
)

// Entry is a tensor to write.
type Entry struct {
	Name  string
	DType DType
	Shape []int64
	// Read fills a buffer of the tensor's size with the elements, little-endian and row-major. It
	// is called once.
	Read func(dst []byte) error
}

// Bytes returns an Entry's Read for elements in memory.
func Bytes(b []byte) func([]byte) error {
	return func(dst []byte) error {
		if len(b) != len(dst) {
			return fmt.Errorf("%d bytes of elements, its shape needs %d", len(b), len(dst))
		}
		copy(dst, b)
		return nil
	}
}

// Save writes a file as the reference does: tensors by element type, the widest first, then by
// name; the header padded with spaces to a multiple of 8, so that every tensor is aligned. Metadata
// keys are sorted. The file appears complete or not at all.
func Save(path string, tensors []Entry, metadata map[string]string) error {
	header, sorted, err := layout(tensors, metadata)
	if err != nil {
		return fmt.Errorf("safetensors: save %s: %w", path, err)
	}
	f, err := atomicfile.Create(path)
	if err != nil {
		return fmt.Errorf("safetensors: save: %w", err)
	}
	if err := write(f, header, sorted); err != nil {
		f.Abort()
		return fmt.Errorf("safetensors: save %s: %w", path, err)
	}
	if err := f.Commit(); err != nil {
		return fmt.Errorf("safetensors: save %s: %w", path, err)
	}
	return nil
}

func write(out io.Writer, header []byte, sorted []Entry) error {
	w := bufio.NewWriterSize(out, 1<<20)
	if _, err := w.Write(header); err != nil {
		return err
	}
	var buf []byte
	for _, e := range sorted {
		n, err := byteSize(e.DType, e.Shape)
		if err != nil {
			return err
		}
		if int64(cap(buf)) < n {
			buf = make([]byte, n)
		}
		buf = buf[:n]
		if err := e.Read(buf); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return w.Flush()
}

// layout returns the header, preceded by its length, and the order of the tensors.
func layout(tensors []Entry, metadata map[string]string) ([]byte, []Entry, error) {
	sorted := slices.Clone(tensors)
	slices.SortStableFunc(sorted, func(a, b Entry) int {
		if d := b.DType.rank() - a.DType.rank(); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	b.WriteByte('{')
	if len(metadata) > 0 {
		fmt.Fprintf(&b, "%q:{", metadataKey)
		for i, k := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := text(&b, k); err != nil {
				return nil, nil, err
			}
			b.WriteByte(':')
			if err := text(&b, metadata[k]); err != nil {
				return nil, nil, err
			}
		}
		b.WriteByte('}')
	}
	seen := map[string]bool{}
	at := int64(0)
	for _, e := range sorted {
		if e.Name == metadataKey || seen[e.Name] {
			return nil, nil, fmt.Errorf("tensor name %q appears twice, or is reserved by the "+
				"format",
				e.Name)
		}
		seen[e.Name] = true
		if e.DType.Size() == 0 {
			return nil, nil, fmt.Errorf("%s: element type %q is not one of the format's", e.Name,
				e.DType)
		}
		n, err := byteSize(e.DType, e.Shape)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		if b.Len() > 9 {
			b.WriteByte(',')
		}
		if err := text(&b, e.Name); err != nil {
			return nil, nil, err
		}
		shape := strings.ReplaceAll(fmt.Sprint(e.Shape), " ", ",")
		fmt.Fprintf(&b, `:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, e.DType, shape, at, at+n)
		at += n
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	header := b.Bytes()
	if len(header)-8 > maxHeader {
		return nil, nil, fmt.Errorf("the header would have %d bytes, at most %d are allowed",
			len(header)-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(header, uint64(len(header)-8))
	return header, sorted, nil
}

// escapes lists the characters with a short escape in JSON.
var escapes = strings.NewReplacer(`"`, `\"`, `\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "\b", `\b`, "\f", `\f`)

// text writes a JSON string as the reference does, escaping only what must be escaped.
func text(b *bytes.Buffer, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%.80q is not UTF-8", s)
	}
	b.WriteByte('"')
	for _, r := range escapes.Replace(s) {
		if r < ' ' {
			fmt.Fprintf(b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	b.WriteByte('"')
	return nil
}
