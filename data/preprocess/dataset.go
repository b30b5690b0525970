package preprocess

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/filehash"
	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// Job preprocesses the cases of a raw dataset into a folder.
type Job struct {
	Dataset  *raw.Dataset
	Reader   images.Reader
	Settings *Settings
	Folder   string // <preprocessed>/<dataset>/<data_identifier>; gt_segmentations is its sibling
	Workers  int    // cases at a time
	Threads  int    // per case
	MaxRAM   int64  // bound on the estimated bytes in use; a larger case runs alone. 0: no bound
	Clean    bool   // preprocess again what is current, too
	Progress raw.Progress
	Log      io.Writer // warnings of readers, removed cases; may be nil

	hashes *filehash.Cache // of the raw files
}

// Summary is the result of a Job.
type Summary struct {
	Made, Kept int
	Removed    []string // cases that the dataset no longer has
	Failed     []string
	Times      Times // sum over the cases preprocessed
}

// revision is part of a case's cache key. It is raised when the result of preprocessing changes,
// but only for the configurations affected: their cases are preprocessed again, others stay
// current.
func (s *Settings) revision() string {
	for _, scheme := range s.Schemes {
		if scheme.Name == "ZScoreNormalization" {
			return "2" // since 2, mean and standard deviation are summed in numpy's blocks
		}
	}
	return "1"
}

// Run preprocesses every case whose files are missing, incomplete or made of other inputs or
// settings. A case that fails does not stop the others; the error names all that failed. When ctx
// is cancelled, the cases in progress are dropped and those completed are kept.
//
// Run writes nothing to a folder that lntorch did not create or that another Run holds
// (*folderlock.HeldError). Cases that the dataset no longer has are removed and logged, unless that
// would remove all of them: then the raw data are probably missing. Raw files are hashed again only
// if their size or times have changed; the hashes are stored beside the folder (internal/filehash).
func (j *Job) Run(ctx context.Context) (Summary, error) {
	var s Summary
	fail := func(err error) (Summary, error) {
		return s, fmt.Errorf("preprocess: %s: %w", j.Dataset.Name, err)
	}
	root := filepath.Dir(j.Folder)
	if err := os.MkdirAll(root, 0o777); err != nil {
		return fail(err)
	}
	lock, err := folderlock.Beside(j.Folder)
	// A read-only folder needs no lock, and its cases may be current.
	if err != nil && !readOnly(err) {
		return fail(err)
	}
	defer lock.Release()
	if lock != nil && lock.Warning != "" {
		j.log("WARNING: %s", lock.Warning)
	}
	owner, err := FindOwner(j.Folder)
	if err == nil {
		err = owner.Refusal()
	}
	if err == nil {
		s.Removed, err = j.others(owner)
	}
	if err == nil && len(j.Dataset.Cases) == 0 {
		_, err = j.Dataset.Example() // an error that names the folder
	}
	if err != nil {
		return fail(err)
	}
	gt := filepath.Join(root, "gt_segmentations")
	for _, f := range []string{j.Folder, gt} {
		if err := os.MkdirAll(f, 0o777); err != nil {
			return fail(err)
		}
		if err := atomicfile.Sweep(f); err != nil {
			return fail(err)
		}
	}
	if len(s.Removed) > 0 {
		j.log("WARNING: removing %d preprocessed cases that the dataset no longer has: %s",
			len(s.Removed), strings.Join(s.Removed, ", "))
	}
	for i, name := range s.Removed {
		if err := removeCase(j.Folder, name); err != nil {
			s.Removed = s.Removed[:i]
			return fail(err)
		}
	}
	j.hashes = filehash.Open(filepath.Join(root, filehash.Name))
	defer func() {
		if err := j.hashes.Save(); err != nil && !readOnly(err) {
			j.log("cannot store the hashes of the raw files, the next run will read all of them "+
				"again: %v", err)
		}
	}()
	var mu sync.Mutex
	memory := system.NewShare(j.MaxRAM)
	err = j.Dataset.Each(ctx, j.Workers, "preprocessing",
		j.Progress, func(_ int, c raw.Case) error {
			err := CopyNewer(c.Label, filepath.Join(gt, c.ID+j.Dataset.JSON.FileEnding))
			key := ""
			if err == nil {
				key, err = j.cacheKey(c)
			}
			kept := err == nil && !j.Clean && owner.keys[c.ID] == key &&
				current(j.Folder, c.ID, key, len(j.Settings.Schemes))
			if err == nil && j.Clean {
				err = removeCase(j.Folder, c.ID)
			}
			var times Times
			if err == nil && !kept {
				need := j.estimate(c)
				if err := memory.Take(ctx, need); err != nil {
					return err
				}
				times, err = j.one(ctx, c, key)
				memory.Give(need)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil && ctx.Err() != nil: // cancelled, not failed
			case err != nil:
				s.Failed = append(s.Failed, c.ID)
			case kept:
				s.Kept++
			default:
				s.Made++
				s.Times.add(times)
			}
			return err
		})
	if err != nil && !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("preprocess: %s: %d of %d cases failed: %w",
			j.Dataset.Name, len(s.Failed), len(j.Dataset.Cases), err)
	}
	return s, err
}

// Case reads and preprocesses one case.
func (j *Job) Case(ctx context.Context, c raw.Case) (*Case, error) {
	start := time.Now()
	im, properties, err := j.Reader.Read(c.Images)
	if err != nil {
		return nil, err
	}
	if len(properties.Spacing) != 3 {
		return nil, fmt.Errorf("%s: found a spacing of %d axes, expected 3",
			c.Images[0], len(properties.Spacing))
	}
	var seg *volume.Image
	if c.Label != "" {
		if seg, _, err = j.Reader.ReadSeg(c.Label); err != nil {
			return nil, err
		}
	}
	if len(properties.Warnings) > 0 {
		j.log("case %s: %s", c.ID, strings.Join(properties.Warnings, "; "))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	read := time.Since(start)
	out, err := j.Settings.Run(im, seg, [3]float64(properties.Spacing), properties.Dict(),
		j.Threads)
	if labels := (labelError{}); errors.As(err, &labels) {
		err = fmt.Errorf("%s: %w", c.Label, err)
	}
	if err != nil {
		return nil, err
	}
	out.Times.Read = read
	return out, nil
}

func (j *Job) one(ctx context.Context, c raw.Case, key string) (Times, error) {
	out, err := j.Case(ctx, c)
	if err != nil {
		return Times{}, err
	}
	if err := ctx.Err(); err != nil {
		return Times{}, err
	}
	start := time.Now()
	err = out.Save(j.Folder, c.ID, key, j.Threads)
	out.Times.Write = time.Since(start)
	return out.Times, err
}

// cacheKey identifies the inputs of a case: the content of its files, the reader class, the
// settings.
func (j *Job) cacheKey(c raw.Case) (string, error) {
	h := sha256.New()
	s := j.Settings
	fmt.Fprintf(h, "%s %s %v %v %v", s.revision(), j.Reader.Name(), s.Transpose, s.Spacing,
		s.Schemes)
	for _, o := range []Options{s.Data, s.Seg} {
		fmt.Fprintf(h, " %d %d", o.Order, o.OrderZ)
		if o.ForceSeparateZ != nil {
			fmt.Fprintf(h, " %v", *o.ForceSeparateZ)
		}
	}
	for _, k := range s.Classes {
		fmt.Fprintf(h, " %T%v", k.key, k.Labels)
	}
	for _, path := range append([]string{c.Label}, c.Images...) {
		if path == "" {
			continue
		}
		sum, err := j.hashes.SHA256(path)
		if err != nil {
			return "", err
		}
		h.Write(sum[:])
	}
	return keyPrefix + hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// others lists the cases in the folder that the dataset does not have: training would use them. It
// is an error if these are all, unless the user asked for a clean start and the dataset has cases.
func (j *Job) others(o Owner) ([]string, error) {
	known := map[string]bool{}
	for _, c := range j.Dataset.Cases {
		known[c.ID] = true
	}
	others := slices.DeleteFunc(slices.Clone(o.Ours), func(name string) bool { return known[name] })
	if len(others) == 0 || len(others) < len(o.Ours) || j.Clean && len(j.Dataset.Cases) > 0 {
		return others, nil
	}
	way := "use --clean to remove them and start again"
	found := fmt.Sprintf("has %d other cases", len(j.Dataset.Cases))
	if len(j.Dataset.Cases) == 0 {
		way = "delete that folder yourself if they are no longer needed"
		found = "has no training case"
	}
	return nil, fmt.Errorf("%s %s, but %d cases are preprocessed in %s (%s). "+
		"None was removed: is the disk with the images mounted? "+
		"To train on what is preprocessed, use train --no-prepare; otherwise %s",
		j.Dataset.Folder, found, len(others), j.Folder, abbreviate(others), way)
}

// abbreviate lists at most ten names.
func abbreviate(names []string) string {
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// readOnly reports whether err is due to a folder without write permission.
func readOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// log prints a line to Log.
func (j *Job) log(format string, args ...any) {
	if j.Log != nil {
		fmt.Fprintf(j.Log, format+"\n", args...)
	}
}

// estimate is the approximate peak memory of a case, in bytes.
func (j *Job) estimate(c raw.Case) int64 {
	const slack = 64 << 20
	total, voxels := int64(0), int64(0)
	var relative float64 // voxels after resampling, relative
	for _, path := range c.Images {
		h, err := image.Header(path)
		if err != nil { // damaged
			if info, err := os.Stat(path); err == nil {
				total += 16 * info.Size()
			}
			continue
		}
		n := int64(1)
		relative = 1
		for i, d := range h.Size {
			n *= int64(d)
			// of two axes, x and y
			if g := h.Geometry; g != nil && i < min(len(j.Settings.Spacing), len(g.Spacing)) {
				relative *= g.Spacing[i]
			}
		}
		voxels = n
		total += int64(volume.MakePixels(h.Type, 0).Size()) * n
	}
	for _, v := range j.Settings.Spacing {
		relative /= v
	}
	out := int64(float64(voxels) * max(relative, 0))
	if j.Settings.Transpose != [3]int{0, 1, 2} {
		total *= 2
	}
	// Labels before and after, the float32 image, and one float64 channel between the passes.
	return total + 3*voxels + out + 4*out*int64(len(c.Images)) + 8*max(voxels, out) + slack
}
