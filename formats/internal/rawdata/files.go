package rawdata

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// maxFiles is the number of data files that an image may have.
const maxFiles = 1 << 16

// errOutside refuses what a header of a stranger must not make the program read.
// Differs: ITK reads any path.
func errOutside(name string) error {
	return fmt.Errorf("found the data file %q, expected a file in the folder of the header or below it",
		name)
}

// Check compares names of data files with the rules that hold before any is opened: they lie in the
// header's folder or below, and none is there twice.
func Check(names []string) error {
	if len(names) > maxFiles {
		return fmt.Errorf("found %d data files, expected at most %d", len(names), maxFiles)
	}
	seen := map[string]bool{}
	for _, name := range names {
		if name == "" || strings.IndexByte(name, 0) >= 0 || !filepath.IsLocal(name) {
			return errOutside(name)
		}
		clean := filepath.Clean(name)
		if seen[clean] {
			return fmt.Errorf("found the data file %q twice, expected one for each part", name)
		}
		seen[clean] = true
	}
	return nil
}

// conversion is what a pattern of names has for the number: the d of C's printf, with a width.
var conversion = regexp.MustCompile(`%(0?)(\d{0,3})d`)

// Pattern lists the n names of a pattern such as "slice%03d.raw", with the numbers from, from+step, ….
func Pattern(pattern string, from, step, n int) ([]string, error) {
	at := conversion.FindStringSubmatchIndex(pattern)
	if at == nil || strings.Contains(pattern[:at[0]]+pattern[at[1]:], "%") {
		return nil, fmt.Errorf("found the data files %q, expected one number such as %%03d", pattern)
	}
	if n < 1 || n > maxFiles {
		return nil, fmt.Errorf("found %d data files, expected 1 to %d", n, maxFiles)
	}
	zero := at[2] < at[3]
	width, _ := strconv.Atoi(pattern[at[4]:at[5]])
	names := make([]string, n)
	for i := range names {
		number := fmt.Sprintf("%*d", width, from+i*step)
		if zero {
			number = fmt.Sprintf("%0*d", width, from+i*step)
		}
		names[i] = pattern[:at[0]] + number + pattern[at[1]:]
	}
	return names, nil
}

// FileBytes is the size of the data files in a folder, of those that are there.
func FileBytes(path string, names []string) int64 {
	root, err := os.OpenRoot(path)
	if err != nil {
		return 0
	}
	defer root.Close()
	n := int64(0)
	for _, name := range names {
		if info, err := root.Stat(name); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
	}
	return n
}

// folder opens the data files of a header.
type folder struct {
	root   *os.Root
	header fs.FileInfo
}

func open(path string, header *os.File, names []string) (*folder, error) {
	if err := Check(names); err != nil {
		return nil, err
	}
	info, err := header.Stat()
	if err != nil {
		return nil, bare(err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, bare(err)
	}
	return &folder{root, info}, nil
}

func (f *folder) close() { f.root.Close() }

// open opens a data file and returns its length. Links may lead anywhere in the folder. A pipe would
// wait for its writer; a device is not even opened.
func (f *folder) open(name string) (*os.File, int64, error) {
	info, err := f.root.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, 0, bare(err)
	}
	file, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, bare(err)
	}
	info, err = file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = errors.New("not a regular file")
	case os.SameFile(info, f.header):
		err = errors.New("the header names itself as data file, expected another file")
	}
	if err != nil {
		file.Close()
		return nil, 0, bare(err)
	}
	return file, info.Size(), nil
}
