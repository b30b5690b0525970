package pth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/lntorch/lntorch/formats/pickle"
)

// legacyMagic is the first pickle of a legacy file, an integer of 10 bytes.
var legacyMagic, _ = new(big.Int).SetString("1950a86a20f9469cfc6c", 16)

// isLegacy reports whether a file begins with a pickle of the magic number, in any protocol:
// torch.save writes protocol 2 by default.
func isLegacy(head []byte) bool {
	v, err := pickle.Unmarshal(head,
		pickle.Options{Limits: pickle.Limits{Bytes: int64(len(head)), Memory: 1 << 16, Depth: 1}})
	m, ok := v.(*big.Int)
	return err == nil && ok && m.Cmp(legacyMagic) == 0
}

// legacyVersion is the only protocol version of the non-zip format.
const legacyVersion = 1001

// readLegacy reads the format of torch before 1.6: the pickles magic, version, system, object and
// storage keys, then for each key the number of elements (int64) and the elements.
func readLegacy(r io.ReaderAt, size int64, path string) (*File, error) {
	rb := &rebuilder{file: size, storages: map[string]*Storage{},
		locate: func(s *Storage, key string) error {
			if s.Bytes() > size {
				return fmt.Errorf("storage %.40q of %d bytes in a file of %d", key, s.Bytes(), size)
			}
			s.name = fmt.Sprintf("%s: storage %.40q", path, key)
			return nil
		}}
	d := pickle.NewDecoder(io.NewSectionReader(r, 0, size), size, rb.options())
	if _, err := d.Decode(); err != nil { // the magic number, see isLegacy
		return nil, err
	}
	version, err := d.Decode()
	if err != nil {
		return nil, err
	}
	if version != int64(legacyVersion) {
		return nil, fmt.Errorf("legacy format version %v, %d is known", version, legacyVersion)
	}
	system, err := d.Decode()
	if err != nil {
		return nil, err
	}
	info, ok := system.(*pickle.Dict)
	if !ok {
		return nil, errors.New("the system record of a legacy PyTorch file is missing")
	}
	if little, ok := info.Get("little_endian"); !ok || little != true {
		return nil, errors.New("the byte order is big-endian; only little-endian checkpoints are " +
			"read: save it again on a little-endian machine")
	}
	out := &File{Legacy: true, Version: legacyVersion}
	if out.Root, err = d.Decode(); err != nil {
		return nil, err
	}
	out.Globals = d.Globals()
	keys, err := d.Decode()
	if err != nil {
		return nil, fmt.Errorf("list of storages: %w", err)
	}
	list, ok := keys.(*pickle.List)
	if !ok {
		return nil, errors.New("the list of storages is missing")
	}
	at := d.Offset()
	located := map[*Storage]bool{}
	for _, k := range list.Items {
		key, _ := k.(string)
		s := rb.storages[key]
		if s == nil || located[s] {
			return nil, fmt.Errorf("the list of storages names %.40q, which no tensor uses or "+
				"which is listed twice", key)
		}
		var head [8]byte
		if _, err := r.ReadAt(head[:], at); err != nil {
			return nil, fmt.Errorf("%s: the file ends before its data (truncated?)", s.name)
		}
		if n := int64(binary.LittleEndian.Uint64(head[:])); n != s.Numel {
			return nil, fmt.Errorf("%s: %d elements in the data, %d in the pickle", s.name, n,
				s.Numel)
		}
		at += 8
		if s.Bytes() > size-at {
			return nil, fmt.Errorf("%s: %d bytes needed, %d left (truncated?)", s.name, s.Bytes(),
				size-at)
		}
		s.src, s.off = r, at
		at += s.Bytes()
		located[s] = true
	}
	for key, s := range rb.storages {
		if !located[s] {
			return nil, fmt.Errorf("storage %.40q has no data in the file", key)
		}
	}
	return out, nil
}
