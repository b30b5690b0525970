package preprocess

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/volume"
)

// keyPrefix is the prefix of all cache keys.
const keyPrefix = "lntorch "

// Save writes NAME.pkl and then NAME.npz into folder, each complete or not at all. Files that
// training unpacked from an older case of that name are removed. key, if not empty, is stored as a
// line behind the pickle, which unpicklers do not read, and as the comment of the .npz.
func (c *Case) Save(folder, name, key string, threads int) error {
	for _, old := range []string{".npy", "_seg.npy"} {
		err := os.Remove(filepath.Join(folder, name+old))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	b, err := pickle.Marshal(c.Properties, nil)
	if err != nil {
		return fmt.Errorf("properties: %w", err)
	}
	if key != "" {
		b = append(b, "\n"+key+"\n"...)
	}
	if err := atomicfile.Write(filepath.Join(folder, name+".pkl"), b); err != nil {
		return err
	}
	w, err := npz.CreateWith(filepath.Join(folder, name+".npz"),
		npz.Options{Deflate: true, Threads: max(threads, 1), Comment: key})
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
	return w.Close() // also returns earlier errors
}

// little returns values as little-endian bytes.
func little[T bits.Number](v []T, size int) []byte {
	b := bits.Bytes(v)
	if !bits.LittleEndian {
		b = append([]byte(nil), b...)
		bits.Swap(b, size)
	}
	return b
}

// pklKey reads the cache key behind the pickle of a .pkl, "" if there is none. two reports a pickle
// of protocol 2: lntorch's, including those of versions without cache keys. nnU-Net writes protocol
// 4 or newer.
func pklKey(path string) (key string, two bool, err error) {
	f, err := regular.Open(path)
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", false, err
	}
	var head [2]byte
	if _, err := f.ReadAt(head[:], 0); err != nil && err != io.EOF {
		return "", false, err
	}
	tail := make([]byte, min(info.Size(), 100))
	if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil && err != io.EOF {
		return "", false, err
	}
	if at := bytes.LastIndex(tail, []byte("\n"+keyPrefix)); at >= 0 && tail[len(tail)-1] == '\n' {
		key = string(tail[at+1 : len(tail)-1])
	}
	return key, head == [2]byte{0x80, 2}, nil
}

// current reports whether training can read case NAME, whose .npz has that key: both files are from
// the same run and complete, judging by their ends, headers and sizes.
func current(folder, name, key string, channels int) bool {
	f, err := npz.OpenNpz(filepath.Join(folder, name+".npz"))
	if err != nil {
		return false
	}
	defer f.Close()
	data, dataType, err := f.Shape("data")
	if err != nil || dataType != "<f4" || len(data) != 4 || data[0] != channels ||
		slices.Min(data) < 1 {
		return false
	}
	seg, segType, err := f.Shape("seg")
	if err != nil || segType != "|i1" && segType != "<i2" ||
		!slices.Equal(seg, append([]int{1}, data[1:]...)) {
		return false
	}
	segSize := int64(1)
	if segType == "<i2" {
		segSize = 2
	}
	if !unpacked(filepath.Join(folder, name+".npy"), data, 4) ||
		!unpacked(filepath.Join(folder, name+"_seg.npy"), seg, segSize) {
		return false
	}
	path := filepath.Join(folder, name+".pkl")
	behind, two, err := pklKey(path)
	if err != nil || behind != key && (behind != "" || !two) {
		return false
	}
	v, err := pickle.ReadFile(path)
	if err != nil {
		return false
	}
	properties, ok := v.(*pickle.Dict)
	if !ok {
		return false
	}
	locations, _ := properties.Get("class_locations")
	_, ok = locations.(*pickle.Dict)
	return ok
}

// unpacked reports whether a .npy, which training prefers to the .npz, is missing or of the
// expected size.
func unpacked(path string, shape []int, size int64) bool {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	for _, n := range shape {
		size *= int64(n)
	}
	const header = 10 << 10 // at most
	return err == nil && info.Size() > size && info.Size() <= size+header
}

// removeCase deletes the files of a case.
func removeCase(folder, name string) error {
	for _, ending := range []string{".npz", ".pkl", ".npy", "_seg.npy"} {
		err := os.Remove(filepath.Join(folder, name+ending))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// CopyNewer copies a file, with its time, if to is missing, older, or a truncated copy.
// Source: nnU-Net 2.5.1, plan_and_preprocess_api.py, which copies labels to gt_segmentations.
// Differs: nnU-Net keeps truncated copies.
func CopyNewer(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if old, err := os.Stat(to); err == nil && !info.ModTime().After(old.ModTime()) {
		if old.Size() >= info.Size() {
			return nil
		}
		if cut, err := begins(from, to, old.Size()); err != nil || !cut {
			return err
		}
	}
	in, err := regular.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return atomicfile.Copy(to, in, info.ModTime())
}

// begins reports whether the first n bytes of whole equal those of part.
func begins(whole, part string, n int64) (bool, error) {
	var sums [2][sha256.Size]byte
	for i, path := range []string{whole, part} {
		f, err := regular.Open(path)
		if err != nil {
			return false, err
		}
		h := sha256.New()
		_, err = io.CopyN(h, f, n)
		f.Close()
		if err != nil {
			return false, err
		}
		sums[i] = [sha256.Size]byte(h.Sum(nil))
	}
	return sums[0] == sums[1], nil
}
