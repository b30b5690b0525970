package train

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lntorch/lntorch/internal/filehash"
)

// hashes works out the sha256 sums for run.json: of files that were there before in the background, each
// once, known again by size and times; of checkpoints when they are asked for.
type hashes struct {
	cache *filehash.Cache
	done  chan map[string]string
	stop  context.CancelFunc
	ended chan struct{}
	sums  map[string]string // by name, once done
	own   map[string]ownSum // of checkpoints, by path
}

type ownSum struct {
	size int64
	time time.Time
	sum  string
}

// startHashes begins with the files; those that are missing are left out.
func startHashes(cache string, files map[string]string) *hashes {
	ctx, stop := context.WithCancel(context.Background())
	h := &hashes{cache: filehash.Open(cache), done: make(chan map[string]string, 1), stop: stop, ended: make(chan struct{}), own: map[string]ownSum{}}
	go func() {
		defer close(h.ended)
		sums := map[string]string{}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if ctx.Err() != nil {
				break
			}
			if sum, err := h.cache.Sum(ctx, files[name]); err == nil {
				sums[name] = sum.String()
			}
		}
		_ = h.cache.Save() // costs time only
		h.done <- sums
	}()
	return h
}

// known gives the sums that are there; with wait, all of them.
func (h *hashes) known(wait bool) map[string]string {
	if h.sums != nil {
		return h.sums
	}
	if wait {
		h.sums = <-h.done
		return h.sums
	}
	select {
	case h.sums = <-h.done:
		return h.sums
	default:
		return nil
	}
}

// checkpoint is the sum of a file that the training wrote; "" if it is not there.
func (h *hashes) checkpoint(path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if k, ok := h.own[path]; ok && k.size == info.Size() && k.time.Equal(info.ModTime()) {
		return k.sum, nil
	}
	sum, err := (*filehash.Cache)(nil).SHA256(path)
	if err != nil {
		return "", err
	}
	h.own[path] = ownSum{info.Size(), info.ModTime(), sum.String()}
	return sum.String(), nil
}

// close stops the work and waits for it to end: nothing is written after the training run.
func (h *hashes) close() {
	if h != nil {
		h.stop()
		<-h.ended
	}
}

// hashFiles names what a training reads.
func (t *trainer) hashFiles() map[string]string {
	c := &t.cfg
	files := map[string]string{"plans": filepath.Join(c.Preprocessed, c.PlansName+".json")}
	if c.Pretrained != "" {
		files["pretrained_weights"] = c.Pretrained
	}
	for _, k := range slices.Concat(t.data.Split.Train, t.data.Split.Val) {
		files["case "+k] = filepath.Join(t.data.Cases.Folder(), k+".npz")
	}
	return files
}
