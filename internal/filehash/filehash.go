// Package filehash computes sha256 sums of files, or of what is in them, and caches them by the file's path, size, times
// and inode, in memory and optionally in a small file for the next program.
package filehash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/regular"
)

// Name is the name of the cache file in the folder of a preprocessed dataset.
const Name = ".lntorch-hashes"

// Sum is a sha256.
type Sum [sha256.Size]byte

func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// Cache holds sums of files. It may be used by several goroutines. The zero value and a nil *Cache
// are ready to use; the latter caches nothing.
type Cache struct {
	path string

	mu      sync.Mutex
	entries map[string]entry
	changed bool
}

// entry is the sum of a file and its stamp when it was read.
type entry struct {
	Stamp stamp  `json:"stamp"`
	SHA   string `json:"sha256"`
}

// stamp distinguishes a file from later versions of it. Times are in nanoseconds; those that the
// system lacks are 0.
type stamp struct {
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime"`
	Ctime int64  `json:"ctime"`
	Inode uint64 `json:"inode"`
}

// racy is the minimum age of a file's last change for its sum to be cached: a file that is written
// again soon after may get the same times. FAT has a resolution of two seconds; the rest allows for
// server clocks.
const racy = 3 * time.Second

// maxFile bounds the cache file: a hundred thousand entries take a third of it.
const maxFile = 64 << 20

// Open reads the cache that Save wrote to path. A missing or damaged file gives an empty cache,
// which only costs time.
func Open(path string) *Cache {
	c := &Cache{path: path}
	c.entries = load(path)
	return c
}

// load reads the cache file: a line of JSON followed by the sum of that line.
func load(path string) map[string]entry {
	entries := map[string]entry{}
	f, err := regular.Open(path)
	if err != nil {
		return entries
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return entries
	}
	text, sum, _ := bytes.Cut(b, []byte("\n"))
	if string(sum) != check(text) {
		return entries
	}
	var doc document
	if json.Unmarshal(text, &doc) != nil || doc.Version != version {
		return entries
	}
	for k, e := range doc.Files {
		if b, err := hex.DecodeString(e.SHA); err == nil && len(b) == sha256.Size {
			entries[k] = e
		}
	}
	return entries
}

type document struct {
	Version int              `json:"lntorch_hashes"`
	Files   map[string]entry `json:"files"`
}

const version = 1

func check(text []byte) string { return fmt.Sprintf("%x\n", sha256.Sum256(text)) }

// Derived returns a sum that follows from a file's content, such as that of the pixels in it.
// compute is called only if the sum is not cached; what names the computation.
func (c *Cache) Derived(path, what string, compute func() (Sum, error)) (Sum, error) {
	return c.sum(path, what, func() (Sum, stamp, error) {
		before, err := os.Stat(path)
		if err != nil {
			return Sum{}, stamp{}, err
		}
		s, err := compute()
		if err != nil {
			return s, stamp{}, err
		}
		after, err := os.Stat(path)
		if err != nil {
			return Sum{}, stamp{}, err
		}
		at := stampOf(before)
		if at != stampOf(after) || !before.Mode().IsRegular() {
			at = stamp{}
		}
		return s, at, nil
	})
}

// SHA256 returns the sum of a file's content. The file is read only if its sum is not cached.
func (c *Cache) SHA256(path string) (Sum, error) {
	return c.Sum(context.Background(), path)
}

// Sum is SHA256, given up when ctx is done.
func (c *Cache) Sum(ctx context.Context, path string) (Sum, error) {
	return c.sum(path, "", func() (Sum, stamp, error) { return read(ctx, path) })
}

// sum returns what is cached of a file, or computes it.
func (c *Cache) sum(path, what string, compute func() (Sum, stamp, error)) (Sum, error) {
	key, err := filepath.Abs(path)
	if err != nil {
		return Sum{}, err
	}
	if what != "" {
		key += separator + what
	}
	if c != nil {
		info, err := os.Stat(path)
		if err != nil {
			return Sum{}, err
		}
		c.mu.Lock()
		e, ok := c.entries[key]
		c.mu.Unlock()
		if ok && e.Stamp == stampOf(info) {
			var s Sum
			hex.Decode(s[:], []byte(e.SHA))
			return s, nil
		}
	}
	start := time.Now()
	s, at, err := compute()
	if err != nil || c == nil {
		return s, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.settled(start) {
		if c.entries == nil {
			c.entries = map[string]entry{}
		}
		c.entries[key] = entry{at, s.String()}
		c.changed = true
	} else if _, ok := c.entries[key]; ok {
		delete(c.entries, key)
		c.changed = true
	}
	return s, nil
}

// separator is between a path, in which it cannot be, and what was derived from the file.
const separator = "\x00"

// read computes a sum. The stamp is zero if the file changed during reading, or is a pipe or
// device.
func read(ctx context.Context, path string) (Sum, stamp, error) {
	f, err := regular.Open(path)
	if err != nil {
		return Sum{}, stamp{}, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return Sum{}, stamp{}, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, reader{ctx, f}); err != nil {
		return Sum{}, stamp{}, err
	}
	after, err := f.Stat()
	if err != nil {
		return Sum{}, stamp{}, err
	}
	at := stampOf(before)
	if at != stampOf(after) || !before.Mode().IsRegular() {
		at = stamp{}
	}
	return Sum(h.Sum(nil)), at, nil
}

// reader reads until ctx is done.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{Size: info.Size(), Mtime: info.ModTime().UnixNano()}
	s.system(info)
	return s
}

// settled reports whether a file read at time start had been unchanged for long enough, like git's
// check for racy index entries.
func (s stamp) settled(start time.Time) bool {
	return s != stamp{} && max(s.Mtime, s.Ctime) < start.Add(-racy).UnixNano()
}

// Save writes new sums to the cache file atomically, merged with what other programs wrote there.
// Files that no longer exist are dropped. A cache without a file or without new sums is not
// written.
func (c *Cache) Save() error {
	if c == nil || c.path == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.changed {
		return nil
	}
	doc := document{version, load(c.path)}
	for k, e := range c.entries {
		doc.Files[k] = e
	}
	for k := range doc.Files {
		path, _, _ := strings.Cut(k, separator)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			delete(doc.Files, k)
		}
	}
	text, err := json.Marshal(doc)
	if err == nil && len(text) < maxFile-100 {
		err = atomicfile.Write(c.path, append(append(text, '\n'), check(text)...))
	}
	if err != nil {
		return fmt.Errorf("cache of sums: %w", err)
	}
	c.changed = false
	return nil
}
