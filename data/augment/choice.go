package augment

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/settings"
)

// Choice is what a user says about the list of transforms. Nothing said means the trainer's.
type Choice struct {
	Augmentation string `flag:"augmentation" path:"true" help:"list of transforms: nnunet, mirror (mirroring alone), none, or a FILE as lntorch augment pipeline prints (default: the trainer's)"`
	MirrorAxes   string `flag:"mirror-axes" help:"axes to mirror over, such as 0,1, or none (default: the trainer's)"`
	Fixes        bool   `flag:"augmentation-fixes" help:"the intended form of what batchgeneratorsv2 0.2.1 gets wrong: low resolution acts everywhere, voxels beyond the crop become background"`
}

// List returns the list in force. A FILE's is named by the file without its folder, and the first
// digits of the sum of its bytes. warning is what a user should know about a FILE, or "". What is
// wrong with the choice itself is a *settings.UsageError.
func (c Choice) List(s Setting) (l List, warning string, err error) {
	s.Fixes = c.Fixes
	if s.MirrorAxes, err = c.axes(); err != nil {
		return l, "", err
	}
	if c.Augmentation == "" || slices.Contains(Augmentations, c.Augmentation) {
		s.Augmentation = c.Augmentation
		if l, err = New(s); err == nil {
			err = l.checkSize(s.Channels)
		}
		if err != nil {
			return l, "", &settings.UsageError{Err: err}
		}
		return l, "", nil
	}
	text, err := regular.ReadFile(c.Augmentation)
	if errors.Is(err, fs.ErrNotExist) {
		return l, "", settings.Usage("--augmentation: found %q, expected %s, or a file",
			c.Augmentation, strings.Join(Augmentations, ", "))
	}
	if err != nil {
		return l, "", err
	}
	if l, warning, err = Read(text, s); err == nil {
		err = l.checkSize(s.Channels)
	}
	if err != nil {
		return l, "", fmt.Errorf("augment: %s: %w", c.Augmentation, err)
	}
	if warning != "" {
		warning = c.Augmentation + ": " + warning
	}
	l.Augmentation = fmt.Sprintf("%s (sha256 %.8x)", filepath.Base(c.Augmentation), sha256.Sum256(text))
	return l, warning, nil
}

// checkSize complains of what would be cut out of a case.
func (l List) checkSize(channels int) error {
	left := maxVoxels / channels
	for _, n := range l.InitialPatchSize {
		if left /= max(n, 1); left == 0 {
			return fmt.Errorf("patch size %v: patches of %v with %d channels would be cut out, expected "+
				"2^27 voxels at most", l.PatchSize, l.InitialPatchSize, channels)
		}
	}
	return nil
}

// axes are those to mirror over; nil: the trainer's.
func (c Choice) axes() (*[]int, error) {
	switch c.MirrorAxes {
	case "":
		return nil, nil
	case "none":
		return &[]int{}, nil
	}
	axes := []int{}
	for part := range strings.SplitSeq(c.MirrorAxes, ",") {
		a, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil {
			return nil, settings.Usage("--mirror-axes: found %q, expected axes such as 0,1, or none",
				c.MirrorAxes)
		}
		axes = append(axes, a)
	}
	return &axes, nil
}

// Restore makes a list again of the text that a checkpoint holds: its JSON.
func Restore(text []byte, s Setting) (List, error) {
	var head fileHead
	if err := json.Unmarshal(text, &head); err != nil {
		return List{}, fmt.Errorf("augment: %w", err)
	}
	var l List
	var err error
	if slices.Contains(Augmentations, head.Augmentation) {
		s.Augmentation, s.MirrorAxes = head.Augmentation, &head.MirrorAxes
		l, err = New(s)
	} else if l, _, err = Read(text, s); err == nil {
		l.Augmentation = head.Augmentation
	}
	if err == nil {
		err = l.checkSize(s.Channels)
	}
	if err != nil {
		return List{}, err
	}
	if now, err := json.Marshal(l); err != nil || string(now) != string(text) {
		return List{}, fmt.Errorf("augment: the list %s has become another one: %s",
			head.Augmentation, Difference(text, now))
	}
	return l, nil
}

// Difference tells where two lists, as JSON, are not the same; "" if they are. Their names do not
// count.
func Difference(a, b []byte) string {
	type list struct {
		PatchSize        []int             `json:"patch_size"`
		InitialPatchSize []int             `json:"initial_patch_size"`
		MirrorAxes       []int             `json:"mirror_axes"`
		Transforms       []json.RawMessage `json:"transforms"`
	}
	var x, y list
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		return err.Error()
	}
	switch {
	case !slices.Equal(x.PatchSize, y.PatchSize):
		return fmt.Sprintf("patch_size %v, now %v", x.PatchSize, y.PatchSize)
	case !slices.Equal(x.MirrorAxes, y.MirrorAxes):
		return fmt.Sprintf("mirror_axes %v, now %v", x.MirrorAxes, y.MirrorAxes)
	case !slices.Equal(x.InitialPatchSize, y.InitialPatchSize):
		return fmt.Sprintf("initial_patch_size %v, now %v", x.InitialPatchSize, y.InitialPatchSize)
	}
	for i := range max(len(x.Transforms), len(y.Transforms)) {
		was, is := "none", "none"
		if i < len(x.Transforms) {
			was = string(x.Transforms[i])
		}
		if i < len(y.Transforms) {
			is = string(y.Transforms[i])
		}
		if was != is {
			return fmt.Sprintf("transform %d %s, now %s", i, was, is)
		}
	}
	return ""
}
