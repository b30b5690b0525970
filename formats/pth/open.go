// Package pth reads and writes PyTorch checkpoints: the zip container of torch 1.6 and later and,
// for reading only, the legacy format of consecutive pickles. Package pickle reads the pickle as
// data, so opening a file runs no code from it. Tensors stay in the file until they are read.
//
// It refuses TorchScript archives, big-endian files and the tar files of PyTorch 0.1.
package pth

import (
	"archive/zip"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/formats/internal/archive"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/sniff"
)

// File is an open checkpoint. Its tensors can be read until Close, from several goroutines.
type File struct {
	// Root is the pickled value, with torch's tensors and storages as *Tensor and *Storage.
	Root any
	// Legacy is set for the non-zip format of torch before 1.6.
	Legacy bool
	// Version is the container's version number (3 in current torch; 1001 for legacy files).
	Version int
	// Globals are the Python names in the pickle, in order of appearance.
	Globals []pickle.Global

	f       *os.File
	records []record
}

// record is an entry of the zip container, for Verify.
type record struct {
	name  string
	entry *zip.File
}

// Open reads the structure of a checkpoint. Storages are located and their sizes checked, but not
// read. Errors name the file and the problem.
func Open(path string) (*File, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, fmt.Errorf("pth: %w", err)
	}
	out, err := open(f, path)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("pth: %s: %w", path, err)
	}
	out.f = f
	return out, nil
}

func open(f *os.File, path string) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	return read(f, info.Size(), path)
}

// Close closes the file. Its tensors cannot be read afterwards.
func (f *File) Close() error { return f.f.Close() }

// read detects the format by the first bytes.
func read(r io.ReaderAt, size int64, path string) (*File, error) {
	head := make([]byte, min(sniff.HeadSize, size))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, err
	}
	if len(head) == 0 {
		return nil, errors.New("the file is empty; copy or download it again")
	}
	if bytes.HasPrefix(head, []byte("PK\x03\x04")) {
		return readZip(r, size, path)
	}
	if isLegacy(head) {
		return readLegacy(r, size, path)
	}
	found, next := sniff.What(head)
	switch {
	case head[0] == 0x80:
		found, next = "a file of Python's pickle module",
			"load it in Python and save it with torch.save"
	case found == "":
		found = fmt.Sprintf("a file that begins with the bytes % x", head[:min(4, len(head))])
		next = "choose another file, or copy it again if it should be a checkpoint"
	}
	return nil, fmt.Errorf("found %s, expected a PyTorch checkpoint: %s", found, next)
}

// maxPickle is the largest data.pkl that is read; real ones have a few megabytes. A compressed one
// could expand a thousandfold.
const (
	maxPickle   = 1 << 30
	maxDeflated = 64 << 20
)

// container is the checked central directory of a zip file.
type container struct {
	entries map[string]*zip.File
	starts  map[string]int64 // offset of the data
}

// readDirectory reads the central directory and checks that the entries have safe, distinct names,
// lie inside the file and do not overlap.
func readDirectory(r io.ReaderAt, size int64) (*container, error) {
	z, err := archive.Open(r, size)
	if err != nil {
		return nil, fmt.Errorf("damaged or truncated zip container: %w; copy or download the "+
			"file again", err)
	}
	c := &container{entries: map[string]*zip.File{}, starts: map[string]int64{}}
	type extent struct {
		from, to int64
		name     string
	}
	var extents []extent
	for _, e := range z.File {
		name := e.Name
		for part := range strings.SplitSeq(strings.TrimSuffix(name, "/"), "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\\\x00") {
				return nil, fmt.Errorf("zip entry with the unsafe path %.80q", name)
			}
		}
		if c.entries[name] != nil {
			return nil, fmt.Errorf("two zip entries are named %.80q", name)
		}
		if e.Flags&1 != 0 {
			return nil, fmt.Errorf("zip entry %.80q is encrypted", name)
		}
		if e.Method != zip.Store && e.Method != zip.Deflate {
			return nil, fmt.Errorf("zip entry %.80q is compressed by the unknown method %d", name,
				e.Method)
		}
		start, err := e.DataOffset()
		if err != nil {
			return nil, fmt.Errorf("zip entry %.80q: %w", name, err)
		}
		if start < 0 || start > size || e.CompressedSize64 > uint64(size-start) {
			return nil, fmt.Errorf("zip entry %.80q of %d bytes reaches beyond the end of the "+
				"file (truncated?)", name, e.CompressedSize64)
		}
		if e.Method == zip.Store && e.UncompressedSize64 != e.CompressedSize64 {
			return nil, fmt.Errorf("zip entry %.80q states contradictory sizes", name)
		}
		// Deflate compresses by a factor of 1032 at most.
		if e.Method == zip.Deflate && e.UncompressedSize64/1040 > e.CompressedSize64+1 {
			return nil, fmt.Errorf("zip entry %.80q claims %d bytes out of %d", name,
				e.UncompressedSize64, e.CompressedSize64)
		}
		c.entries[name], c.starts[name] = e, start
		extents = append(extents, extent{start, start + int64(e.CompressedSize64), name})
	}
	slices.SortFunc(extents, func(a, b extent) int { return cmp.Compare(a.from, b.from) })
	for i := 1; i < len(extents); i++ {
		// An entry's local header, at least 30 bytes and its name, precedes its data.
		if a, b := extents[i-1], extents[i]; a.to > b.from-30-int64(len(b.name)) {
			return nil, fmt.Errorf("zip entries %.80q and %.80q overlap", a.name, b.name)
		}
	}
	return c, nil
}

// load reads a small entry and checks its CRC.
func (c *container) load(name string, limit uint64) ([]byte, error) {
	e := c.entries[name]
	if e == nil {
		return nil, fmt.Errorf("the record %q is missing", name)
	}
	if e.UncompressedSize64 > limit {
		return nil, fmt.Errorf("the record %q has %d bytes, at most %d are read", name,
			e.UncompressedSize64, limit)
	}
	b, err := inflate(e)
	if err != nil {
		return nil, fmt.Errorf("the record %q: %w", name, err)
	}
	return b, nil
}

// unpickle reads a pickle from an entry as a stream and checks the entry's CRC.
func (c *container) unpickle(name string, o pickle.Options, root *any) (*pickle.Decoder, error) {
	e := c.entries[name]
	if limit := uint64(maxDeflated); e.Method != zip.Store && e.UncompressedSize64 > limit {
		return nil, fmt.Errorf("%d bytes in %d compressed ones, at most %d are read: torch.save "+
			"does not compress; save the file again with torch.save",
			e.UncompressedSize64, e.CompressedSize64, limit)
	}
	if e.UncompressedSize64 > maxPickle {
		return nil, fmt.Errorf("%d bytes, at most %d are read", e.UncompressedSize64, maxPickle)
	}
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	d := pickle.NewDecoder(r, int64(e.UncompressedSize64), o)
	*root, err = d.Decode()
	// A wrong checksum is a better message than the pickle error that the damage caused.
	if _, rest := io.Copy(io.Discard, io.LimitReader(r, maxDeflated)); rest != nil {
		return nil, fmt.Errorf("the record is damaged (%w); copy or download the file again", rest)
	}
	return d, err
}

// inflate decompresses an entry into memory that grows with the data.
func inflate(e *zip.File) ([]byte, error) {
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var buf bytes.Buffer
	buf.Grow(int(min(e.UncompressedSize64, 1<<20)))
	if _, err := io.Copy(&buf, io.LimitReader(r, int64(e.UncompressedSize64)+1)); err != nil {
		return nil, err
	}
	if uint64(buf.Len()) != e.UncompressedSize64 {
		return nil, fmt.Errorf("found %d bytes, expected %d", buf.Len(), e.UncompressedSize64)
	}
	return buf.Bytes(), nil
}

func readZip(r io.ReaderAt, size int64, path string) (*File, error) {
	c, err := readDirectory(r, size)
	if err != nil {
		return nil, err
	}
	folder, err := archiveFolder(c)
	if err != nil {
		return nil, err
	}
	if c.entries[folder+"/constants.pkl"] != nil {
		return nil, errors.New("a TorchScript archive, which holds code; save the model's " +
			"state_dict() with torch.save instead")
	}
	out := &File{}
	if out.Version, err = containerVersion(c, folder); err != nil {
		return nil, err
	}
	if c.entries[folder+"/byteorder"] != nil {
		order, err := c.load(folder+"/byteorder", 64)
		if err != nil {
			return nil, err
		}
		if string(order) != "little" {
			return nil, fmt.Errorf("the byte order is %q; only little-endian checkpoints are "+
				"read: save it again on a little-endian machine", order)
		}
	}
	rb := &rebuilder{file: size, storages: map[string]*Storage{},
		locate: func(s *Storage, key string) error {
			name := folder + "/data/" + key
			e := c.entries[name]
			if e == nil {
				return fmt.Errorf("the record %.80q of a storage is missing", name)
			}
			if e.UncompressedSize64 != uint64(s.Bytes()) {
				return fmt.Errorf("the record %q has %d bytes, its storage of %d %s elements "+
					"needs %d",
					name, e.UncompressedSize64, s.Numel, s.DType, s.Bytes())
			}
			s.name = path + ": " + name
			if e.Method == zip.Store {
				s.src, s.off = r, c.starts[name]
			} else {
				s.inflate = func() ([]byte, error) { return inflate(e) }
			}
			return nil
		}}
	d, err := c.unpickle(folder+"/data.pkl", rb.options(), &out.Root)
	if err != nil {
		return nil, fmt.Errorf("%s/data.pkl: %w", folder, err)
	}
	out.Globals = d.Globals()
	for name, e := range c.entries {
		out.records = append(out.records, record{name, e})
	}
	slices.SortFunc(out.records, func(a, b record) int { return cmp.Compare(a.name, b.name) })
	return out, nil
}

// archiveFolder returns the folder that holds data.pkl, of which there must be exactly one.
func archiveFolder(c *container) (string, error) {
	folder := ""
	for name := range c.entries {
		if f, ok := strings.CutSuffix(name, "/data.pkl"); ok && !strings.Contains(f, "/") {
			if folder != "" {
				return "", fmt.Errorf("two checkpoints in one file: the folders %q and %q", folder,
					f)
			}
			folder = f
		}
	}
	if folder == "" {
		return "", errors.New("a zip file without FOLDER/data.pkl, so not a PyTorch checkpoint")
	}
	return folder, nil
}

// containerVersion reads the record "version", which torch requires.
func containerVersion(c *container, folder string) (int, error) {
	b, err := c.load(folder+"/version", 64)
	if err != nil {
		return 0, err
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || v < 1 || v > 10 {
		return 0, fmt.Errorf("container version %.20q, 1 to 10 are known", b)
	}
	return v, nil
}

// Verify reads the whole file and compares every record with its CRC-32, on the given number of
// workers (0: one per CPU). Legacy files have no checksums. torch itself never compares them, and
// torch.serialization.set_crc32_options can disable writing them, which also shows as a difference.
func (f *File) Verify(workers int) error {
	return parallel(len(f.records), workers, func(i int) error {
		r, err := f.records[i].entry.Open()
		if err != nil {
			return fmt.Errorf("pth: %s: record %q: %w", f.f.Name(), f.records[i].name, err)
		}
		defer r.Close()
		sum := crc32.NewIEEE()
		buf := make([]byte, 256<<10)
		_, err = io.CopyBuffer(struct{ io.Writer }{sum}, r, buf)
		if err == nil && sum.Sum32() != f.records[i].entry.CRC32 {
			err = zip.ErrChecksum
		}
		if err != nil {
			return fmt.Errorf("pth: %s: record %q is damaged: %w", f.f.Name(), f.records[i].name,
				err)
		}
		return nil
	})
}

// Walk calls visit for each tensor in root, in file order, with its path: dict keys and list
// indices joined by "/". Aliases are visited under each of their names.
func Walk(root any, visit func(path string, t *Tensor) error) error {
	return walk(root, "", visit)
}

func walk(v any, path string, visit func(string, *Tensor) error) error {
	sub := func(key, x any) error {
		switch x.(type) {
		case nil, bool, int64, float64, string:
			return nil
		}
		if path == "" {
			return walk(x, fmt.Sprint(key), visit)
		}
		return walk(x, fmt.Sprint(path, "/", key), visit)
	}
	dict := func(d *pickle.Dict) error {
		for k, x := range d.All() {
			if err := sub(k, x); err != nil {
				return err
			}
		}
		return nil
	}
	list := func(items []any) error {
		for i, x := range items {
			if err := sub(i, x); err != nil {
				return err
			}
		}
		return nil
	}
	switch v := v.(type) {
	case *Tensor:
		return visit(path, v)
	case *pickle.Dict:
		return dict(v)
	case *pickle.OrderedDict:
		return dict(&v.Dict)
	case *pickle.DefaultDict:
		return dict(&v.Dict)
	case *pickle.List:
		return list(v.Items)
	case pickle.Tuple:
		return list(v)
	}
	return nil
}
