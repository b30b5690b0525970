package report

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Scalar is a value with a tag such as "loss/train".
type Scalar struct {
	Tag   string
	Value float32
}

// Events writes scalars for TensorBoard: a file of TFRecords, each an Event protocol buffer. Each
// record is written in one call, so only the last one can be truncated if the process is killed;
// OpenEvents removes it. Events is not safe for concurrent use.
//
// Source: tensorboard/compat/proto/{event,summary}.proto and
// tensorboard/summary/writer/record_writer.py.
type Events struct {
	f *os.File
}

// maxRecord bounds the allocation for a record of an existing file; records are below 1 KiB.
const maxRecord = 1 << 20

// OpenEvents appends to the newest event file of this program in folder, or creates one
// (…/events.out.tfevents.<seconds>.<host>.lntorch). In an existing file the run restarts at step:
// TensorBoard discards that step and later ones.
func OpenEvents(folder string, step int64, now time.Time) (*Events, error) {
	old, err := filepath.Glob(filepath.Join(globEscape(folder), "events.out.tfevents.*.lntorch"))
	if err != nil {
		return nil, fmt.Errorf("report: events in %s: %w", folder, err)
	}
	if len(old) > 0 {
		path := slices.Max(old) // seconds have ten digits until 2286
		e, err := appendTo(path, now)
		if err == nil {
			err = e.write(sessionStart(now, step))
		}
		if err != nil {
			return nil, fmt.Errorf("report: events: continue %s: %w", path, err)
		}
		return e, nil
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	name := fmt.Sprintf("events.out.tfevents.%010d.%s.lntorch", now.Unix(), host)
	path := filepath.Join(folder, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("report: events: %w", err)
	}
	e := &Events{f: f}
	if err := e.write(fileVersion(now)); err != nil {
		f.Close()
		return nil, fmt.Errorf("report: events: write %s: %w", path, err)
	}
	return e, nil
}

// globEscape escapes a folder name for a glob pattern.
func globEscape(folder string) string {
	var out []byte
	for i := range len(folder) {
		if c := folder[i]; c == '*' || c == '?' || c == '[' || c == '\\' {
			out = append(out, '\\')
		}
		out = append(out, folder[i])
	}
	return string(out)
}

// appendTo opens an event file for appending, truncated after its last complete record.
func appendTo(path string, now time.Time) (*Events, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	whole, err := wholeRecords(f)
	if err == nil {
		err = f.Truncate(whole)
	}
	if err == nil && whole == 0 {
		err = (&Events{f: f}).write(fileVersion(now))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Events{f: f}, nil
}

// wholeRecords returns the length of the leading part of r with complete records.
func wholeRecords(r io.Reader) (int64, error) {
	in := bufio.NewReader(r)
	var size int64
	for {
		var head [12]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return size, unlessEnd(err)
		}
		n := binary.LittleEndian.Uint64(head[:8])
		if binary.LittleEndian.Uint32(head[8:]) != maskedCRC(head[:8]) || n > maxRecord {
			return size, nil
		}
		body := make([]byte, n+4)
		if _, err := io.ReadFull(in, body); err != nil {
			return size, unlessEnd(err)
		}
		if binary.LittleEndian.Uint32(body[n:]) != maskedCRC(body[:n]) {
			return size, nil
		}
		size += int64(len(head) + len(body))
	}
}

func unlessEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// Path returns the path of the file.
func (e *Events) Path() string { return e.f.Name() }

// Write records the values of one step.
func (e *Events) Write(step int64, now time.Time, scalars ...Scalar) error {
	if err := e.write(scalarEvent(now, step, scalars)); err != nil {
		return fmt.Errorf("report: events: write %s: %w", e.f.Name(), err)
	}
	return nil
}

// Close flushes and closes the file.
func (e *Events) Close() error { return errors.Join(e.f.Sync(), e.f.Close()) }

// write appends a TFRecord: length, its checksum, the event, its checksum.
func (e *Events) write(event []byte) error {
	record := binary.LittleEndian.AppendUint64(nil, uint64(len(event)))
	record = binary.LittleEndian.AppendUint32(record, maskedCRC(record))
	record = append(record, event...)
	record = binary.LittleEndian.AppendUint32(record, maskedCRC(event))
	_, err := e.f.Write(record)
	return err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is CRC-32C, rotated and shifted as required by TFRecord files.
func maskedCRC(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// The three kinds of events, as protocol buffers; a field is its number and wire type in one byte,
// then the value.

func event(now time.Time, step int64) []byte {
	b := append([]byte(nil), 1<<3|1) // double wall_time = 1
	seconds := float64(now.Unix()) + float64(now.Nanosecond())/1e9
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(seconds))
	if step != 0 {
		b = append(b, 2<<3) // int64 step = 2
		b = binary.AppendUvarint(b, uint64(step))
	}
	return b
}

func fileVersion(now time.Time) []byte {
	return message(event(now, 0), 3, []byte("brain.Event:2")) // string file_version = 3
}

func sessionStart(now time.Time, step int64) []byte {
	// SessionLog session_log = 7 {status = START}
	return message(event(now, step), 7, []byte{1 << 3, 1})
}

func scalarEvent(now time.Time, step int64, scalars []Scalar) []byte {
	var summary []byte
	for _, s := range scalars {
		value := message(nil, 1, []byte(s.Tag)) // string tag = 1
		value = append(value, 2<<3|5)           // float simple_value = 2
		value = binary.LittleEndian.AppendUint32(value, math.Float32bits(s.Value))
		summary = message(summary, 1, value) // repeated Value value = 1
	}
	return message(event(now, step), 5, summary) // Summary summary = 5
}

// message appends a length-delimited field.
func message(b []byte, field byte, body []byte) []byte {
	b = append(b, field<<3|2)
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}
