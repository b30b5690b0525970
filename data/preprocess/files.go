package preprocess

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/volume"
)

// Save writes NAME.pkl and NAME.npz into folder, the latter when the former is there, both whole or not at all. What
// training unpacked of an older case of that name goes. mark, if any, goes into the .npz, as Mark reads it.
func (c *Case) Save(folder, name, mark string, threads int) error {
	for _, old := range []string{".npy", "_seg.npy"} {
		if err := os.Remove(filepath.Join(folder, name+old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	b, err := pickle.Marshal(c.Properties, nil)
	if err != nil {
		return fmt.Errorf("properties: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(folder, name+".pkl"), b); err != nil {
		return err
	}
	w, err := npz.CreateWith(filepath.Join(folder, name+".npz"), npz.Options{Deflate: true, Threads: max(threads, 1), Comment: mark})
	if err != nil {
		return err
	}
	w.Add("data", &npz.Array{DType: "<f4", Shape: c.Data.Shape[:], Data: little(c.Data.Data, 4)})
	switch v := c.Seg.(type) {
	case *volume.Volume[int8]:
		w.Add("seg", &npz.Array{DType: "|i1", Shape: v.Shape[:], Data: little(v.Data, 1)})
	case *volume.Volume[int16]:
		w.Add("seg", &npz.Array{DType: "<i2", Shape: v.Shape[:], Data: little(v.Data, 2)})
	}
	return w.Close() // says, too, what failed before
}

// little views numbers as little-endian bytes.
func little[T bits.Number](v []T, size int) []byte {
	b := bits.Bytes(v)
	if !bits.LittleEndian {
		b = append([]byte(nil), b...)
		bits.Swap(b, size)
	}
	return b
}

// Mark is what Save was given for the case, "" where that was nothing, or where there is no such case or not all of it.
func Mark(folder, name string) string {
	if _, err := os.Stat(filepath.Join(folder, name+".pkl")); err != nil {
		return ""
	}
	mark, err := npz.Comment(filepath.Join(folder, name+".npz"))
	if err != nil {
		return ""
	}
	return mark
}

// CopyNewer copies a file where to is older or not there, with its time.
// Source: nnU-Net 2.5.1, plan_and_preprocess_api.py, which copies labels to gt_segmentations so.
func CopyNewer(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if there, err := os.Stat(to); err == nil && !info.ModTime().After(there.ModTime()) {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := atomicfile.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Abort()
		return err
	}
	if err := os.Chtimes(out.Name(), time.Time{}, info.ModTime()); err != nil {
		out.Abort()
		return err
	}
	return out.Commit()
}
