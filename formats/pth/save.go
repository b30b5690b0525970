package pth

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/atomicfile"
)

// Save writes root as torch.save does: a zip container of uncompressed records aligned to 64 bytes,
// with the pickle in protocol 2. Shared tensors and storages stay shared. Storages of an open File
// are copied in pieces, so a file can be read, changed and written without holding it in memory,
// even to its own path. torch's restricted loader (weights_only) opens the file unless root holds
// numpy values, bytes, sets or defaultdicts.
//
// The file appears under its name only once it is complete and durable; an error leaves no file
// behind and an existing file untouched.
func Save(path string, root any) error {
	f, err := atomicfile.Create(path)
	if err != nil {
		return fmt.Errorf("pth: save: %w", err)
	}
	if err := write(f, archiveName(path), root); err != nil {
		f.Abort()
		return fmt.Errorf("pth: save %s: %w", path, err)
	}
	if err := f.Commit(); err != nil {
		return fmt.Errorf("pth: save %s: %w", path, err)
	}
	return nil
}

// archiveName returns the folder inside the zip: the file's name without its extension, as in
// torch.
func archiveName(path string) string {
	name := filepath.Base(path)
	name = strings.TrimSuffix(name, filepath.Ext(name))
	if strings.Trim(name, ".") == "" || strings.ContainsAny(name, "\\\x00") ||
		!utf8.ValidString(name) {
		return "archive"
	}
	return name
}

// part is a record to write.
type part struct {
	name    string
	data    []byte   // or
	storage *Storage // a storage to copy
	size    uint64
	crc     uint32
	header  uint64 // offset of the local header
	extra   int    // bytes of its padding field
	start   uint64 // offset of the data
}

const (
	localHeader = 30
	zip64Local  = 20
	alignment   = 64
	copyChunk   = 1 << 20
	big32       = 0xffffffff
)

// write first lays out the container, as all sizes are known, and then fills it on several
// goroutines.
func write(f io.WriterAt, folder string, root any) error {
	r := &replacer{keys: map[*Storage]int{}}
	data, err := pickle.Marshal(root, r.replace)
	if err != nil {
		return err
	}
	parts := []*part{
		{name: folder + "/data.pkl", data: data},
		{name: folder + "/byteorder", data: []byte("little")},
	}
	for i, s := range r.order {
		parts = append(parts, &part{name: fmt.Sprintf("%s/data/%d", folder, i), storage: s})
	}
	parts = append(parts, &part{name: folder + "/version", data: []byte("3\n")})
	end := layout(parts)
	if err := parallel(len(parts), 0, func(i int) error { return parts[i].write(f) }); err != nil {
		return err
	}
	_, err = f.WriteAt(directory(parts, end), int64(end))
	return err
}

// layout assigns offsets to the records and returns the offset of the central directory.
func layout(parts []*part) uint64 {
	var at uint64
	for _, p := range parts {
		p.size = uint64(len(p.data))
		if p.storage != nil {
			p.size = uint64(p.storage.Bytes())
		}
		p.header = at
		fixed := at + localHeader + uint64(len(p.name)) + 4
		if p.size >= big32 {
			fixed += zip64Local
		}
		p.start = (fixed + alignment - 1) / alignment * alignment
		p.extra = int(p.start - fixed)
		at = p.start + p.size
	}
	return at
}

// write copies the data and then, with the checksum known, writes the local header before it.
func (p *part) write(f io.WriterAt) error {
	if p.storage == nil {
		p.crc = crc32.ChecksumIEEE(p.data)
		if _, err := f.WriteAt(p.data, int64(p.start)); err != nil {
			return err
		}
	} else if err := p.copyStorage(f); err != nil {
		return err
	}
	_, err := f.WriteAt(p.local(), int64(p.header))
	return err
}

func (p *part) copyStorage(f io.WriterAt) error {
	var buf []byte
	inMemory := p.storage.src == nil && p.storage.inflate == nil
	for off := int64(0); off < int64(p.size); off += copyChunk {
		n := min(copyChunk, int64(p.size)-off)
		var chunk []byte
		if inMemory {
			chunk = p.storage.mem[off : off+n]
		} else {
			if buf == nil {
				buf = make([]byte, min(copyChunk, p.size))
			}
			chunk = buf[:n]
			if _, err := p.storage.ReadAt(chunk, off); err != nil {
				return err
			}
		}
		p.crc = crc32.Update(p.crc, crc32.IEEETable, chunk)
		if _, err := f.WriteAt(chunk, int64(p.start)+off); err != nil {
			return err
		}
	}
	return nil
}

const (
	version20 = 20
	version45 = 45     // ZIP64
	utf8Names = 0x0800 // general purpose flag
	dosDate   = 0x21   // 1980-01-01: equal content gives equal files
)

// local returns the local file header up to the data, with torch's padding field "FB".
func (p *part) local() []byte {
	le := binary.LittleEndian
	version, size := uint16(version20), uint32(p.size)
	extra := 4 + p.extra
	if p.size >= big32 {
		version, size, extra = version45, big32, extra+zip64Local
	}
	b := []byte("PK\x03\x04")
	b = le.AppendUint16(b, version)
	b = le.AppendUint16(b, utf8Names)
	b = le.AppendUint16(b, 0) // stored
	b = le.AppendUint16(b, 0) // time
	b = le.AppendUint16(b, dosDate)
	b = le.AppendUint32(b, p.crc)
	b = le.AppendUint32(b, size)
	b = le.AppendUint32(b, size)
	b = le.AppendUint16(b, uint16(len(p.name)))
	b = le.AppendUint16(b, uint16(extra))
	b = append(b, p.name...)
	if p.size >= big32 {
		b = le.AppendUint16(b, 1)
		b = le.AppendUint16(b, 16)
		b = le.AppendUint64(b, p.size)
		b = le.AppendUint64(b, p.size)
	}
	b = append(b, "FB"...)
	b = le.AppendUint16(b, uint16(p.extra))
	return append(b, strings.Repeat("Z", p.extra)...)
}

// directory returns the central directory, to be written at offset at, with its end records; always
// including the ZIP64 ones, as in torch.
func directory(parts []*part, at uint64) []byte {
	le := binary.LittleEndian
	var b []byte
	for _, p := range parts {
		var extra []byte
		size, header := uint32(p.size), uint32(p.header)
		if p.size >= big32 {
			size = big32
			extra = le.AppendUint64(le.AppendUint64(extra, p.size), p.size)
		}
		if p.header >= big32 {
			header = big32
			extra = le.AppendUint64(extra, p.header)
		}
		version := uint16(version20)
		if extra != nil {
			version = version45
			field := le.AppendUint16([]byte{1, 0}, uint16(len(extra)))
			extra = append(field, extra...)
		}
		b = append(b, "PK\x01\x02"...)
		b = le.AppendUint16(b, version) // made by
		b = le.AppendUint16(b, version) // needed
		b = le.AppendUint16(b, utf8Names)
		b = le.AppendUint16(b, 0)
		b = le.AppendUint16(b, 0)
		b = le.AppendUint16(b, dosDate)
		b = le.AppendUint32(b, p.crc)
		b = le.AppendUint32(b, size)
		b = le.AppendUint32(b, size)
		b = le.AppendUint16(b, uint16(len(p.name)))
		b = le.AppendUint16(b, uint16(len(extra)))
		b = append(b, make([]byte, 10)...) // comment length, disk, attributes
		b = le.AppendUint32(b, header)
		b = append(b, p.name...)
		b = append(b, extra...)
	}
	size, count := uint64(len(b)), uint64(len(parts))
	b = append(b, "PK\x06\x06"...)
	b = le.AppendUint64(b, 44) // remaining bytes of this record
	b = le.AppendUint16(b, version45)
	b = le.AppendUint16(b, version45)
	b = le.AppendUint64(b, 0) // disks
	b = le.AppendUint64(b, count)
	b = le.AppendUint64(b, count)
	b = le.AppendUint64(b, size)
	b = le.AppendUint64(b, at)
	b = append(b, "PK\x06\x07"...)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, at+size)
	b = le.AppendUint32(b, 1)
	b = append(b, "PK\x05\x06"...)
	b = le.AppendUint32(b, 0) // disks
	b = le.AppendUint16(b, uint16(min(count, 0xffff)))
	b = le.AppendUint16(b, uint16(min(count, 0xffff)))
	b = le.AppendUint32(b, uint32(min(size, big32)))
	b = le.AppendUint32(b, uint32(min(at, big32)))
	return le.AppendUint16(b, 0)
}
