package preprocess

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/filehash"
	"github.com/lntorch/lntorch/internal/folderlock"
)

// Cases that training could not read are preprocessed again, whatever files have their name.
func TestDamagedCasesArePreprocessedAgain(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	_, err := j.Run(t.Context())
	require.NoError(t, err)
	sound := content(t, j.Folder)
	archive, pkl := filepath.Join(j.Folder, "LN_000.npz"), filepath.Join(j.Folder, "LN_000.pkl")
	key, _, err := pklKey(pkl)
	require.NoError(t, err)
	cut := func(path string, n int64) func() {
		return func() {
			if n < 0 {
				n += int64(len(sound[path]))
			}
			require.NoError(t, os.Truncate(path, n))
		}
	}
	f := open(t, archive)
	data, seg := array(t, f, "data"), array(t, f, "seg")
	again := func(members map[string]*npz.Array) func() {
		return func() {
			w, err := npz.CreateWith(archive, npz.Options{Comment: key})
			require.NoError(t, err)
			for _, name := range []string{"data", "seg"} {
				if members[name] != nil {
					require.NoError(t, w.Add(name, members[name]))
				}
			}
			require.NoError(t, w.Close())
		}
	}
	put := func(path, text string) func() {
		return func() { require.NoError(t, os.WriteFile(path, []byte(text), 0o666)) }
	}
	doubles, err := data.Float64s()
	require.NoError(t, err)
	double, err := npz.New(doubles, data.Shape...)
	require.NoError(t, err)
	flat := *data
	flat.Shape = append([]int{1}, data.Shape...)
	turned := *seg
	turned.Shape = []int{1, seg.Shape[3], seg.Shape[1], seg.Shape[2]}
	for name, damage := range map[string]func(){
		"no .pkl":                      func() { require.NoError(t, os.Remove(pkl)) },
		"empty .pkl":                   cut(pkl, 0),
		".pkl of 100 bytes":            cut(pkl, 100),
		".pkl without its STOP":        cut(pkl, -int64(len(key))-3),
		"nnU-Net's .pkl":               put(pkl, theirs(t, ".pkl")),
		".pkl of another case":         put(pkl, sound[filepath.Join(j.Folder, "LN_001.pkl")]),
		".pkl without a dict":          put(pkl, "\x80\x02N.\n"+key+"\n"),
		".pkl of a prediction":         put(pkl, "\x80\x02}.\n"+key+"\n"),
		"a truncated .npy":             put(filepath.Join(j.Folder, "LN_000.npy"), strings.Repeat("x", 4*data.Numel())),
		"a _seg.npy of another case":   put(filepath.Join(j.Folder, "LN_000_seg.npy"), strings.Repeat("x", seg.Numel()+20000)),
		"no .npz":                      func() { require.NoError(t, os.Remove(archive)) },
		"empty .npz":                   cut(archive, 0),
		"half an .npz":                 cut(archive, int64(len(sound[archive])/2)),
		".npz without its last byte":   cut(archive, -1),
		"both empty":                   func() { cut(archive, 0)(); cut(pkl, 0)() },
		"both truncated":               func() { cut(archive, 100)(); cut(pkl, 100)() },
		"a hole in the .npz":           put(archive, sound[archive][:1000]+sound[archive][2000:]),
		".npz without seg":             again(map[string]*npz.Array{"data": data}),
		".npz without data":            again(map[string]*npz.Array{"seg": seg}),
		"float64":                      again(map[string]*npz.Array{"data": double, "seg": seg}),
		"data of five axes":            again(map[string]*npz.Array{"data": &flat, "seg": seg}),
		"labels of another shape":      again(map[string]*npz.Array{"data": data, "seg": &turned}),
		"labels in float32":            again(map[string]*npz.Array{"data": data, "seg": data}),
		"a .npz of an earlier setting": put(archive, strings.ReplaceAll(sound[archive], key, key[:len(key)-1]+"x")),
	} {
		for path, text := range sound {
			require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		}
		damage()
		s, err := j.Run(t.Context())
		require.NoError(t, err, name)
		require.Equal(t, []int{1, 4}, []int{s.Made, s.Kept}, name)
		require.Equal(t, sound, content(t, j.Folder), name)
	}
	save := func(name string, a *npz.Array) {
		f, err := os.Create(filepath.Join(j.Folder, name))
		require.NoError(t, err)
		require.NoError(t, npz.WriteNpy(f, a))
		require.NoError(t, f.Close())
	}
	save("LN_000.npy", data) // as training unpacks them
	save("LN_000_seg.npy", seg)
	s, err := j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5, s.Kept)
	j.Settings.Schemes = append(j.Settings.Schemes, j.Settings.Schemes[0])
	require.False(t, current(j.Folder, "LN_000", key, 2), "of another number of channels")
	require.True(t, current(j.Folder, "LN_000", key, 1))
}

func TestTruncatedLabelsAreCopiedAgain(t *testing.T) {
	folder := t.TempDir()
	from, to := filepath.Join(folder, "from"), filepath.Join(folder, "to")
	for text, want := range map[string]string{"": "label", "lab": "label", "label": "label", "labels": "labels", "corr": "corr"} {
		require.NoError(t, os.WriteFile(from, []byte("label"), 0o666))
		require.NoError(t, os.Chtimes(from, time.Time{}, time.Now().Add(-time.Hour)))
		require.NoError(t, os.WriteFile(to, []byte(text), 0o666))
		require.NoError(t, CopyNewer(from, to))
		b, err := os.ReadFile(to)
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
}

// 243 letters is the maximum of nnU-Net: CASE_0000.nii.gz has 255.
func TestTheLongestCaseNames(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	c := j.Dataset.Cases[0]
	c.ID = strings.Repeat("n", 243)
	for i, path := range append([]string{c.Label}, c.Images...) {
		long := filepath.Join(filepath.Dir(path), c.ID+map[bool]string{true: ".nii.gz", false: "_0000.nii.gz"}[i == 0])
		require.NoError(t, os.Rename(path, long))
		if i == 0 {
			c.Label = long
		} else {
			c.Images = []string{long}
		}
	}
	j.Dataset.Cases = append(j.Dataset.Cases[:0:0], c)
	s, err := j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, s.Made)
	require.Equal(t, []string{c.ID + ".npz", c.ID + ".pkl"}, files(t, j.Folder))
}

// opened returns which files of some folders were opened since the last call.
func opened(t *testing.T, folders ...string) func() []string {
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	for _, f := range folders {
		_, err := syscall.InotifyAddWatch(fd, f, syscall.IN_OPEN|syscall.IN_ACCESS)
		require.NoError(t, err)
	}
	return func() []string {
		seen := map[string]bool{}
		b := make([]byte, 1<<16)
		for {
			n, err := syscall.Read(fd, b)
			if err != nil || n <= 0 {
				break
			}
			for at := 0; at+syscall.SizeofInotifyEvent <= n; {
				length := int(binary.NativeEndian.Uint32(b[at+12:]))
				name := string(bytes.TrimRight(b[at+syscall.SizeofInotifyEvent:][:length], "\x00"))
				if name != "" {
					seen[name] = true
				}
				at += syscall.SizeofInotifyEvent + length
			}
		}
		var names []string
		for name := range seen {
			names = append(names, name)
		}
		return names
	}
}

func TestRawFilesAreReadOnce(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	look := opened(t, filepath.Join(j.Dataset.Folder, "imagesTr"), filepath.Join(j.Dataset.Folder, "labelsTr"))
	run := func() (made int, read []string) {
		s, err := j.Run(t.Context())
		require.NoError(t, err)
		return s.Made, look()
	}
	made, read := run()
	require.Equal(t, 5, made)
	require.Len(t, read, 10)
	_, read = run()
	require.Len(t, read, 10, "files that were just written may be written again within the same tick")
	time.Sleep(3100 * time.Millisecond)
	_, read = run()
	require.Len(t, read, 10)
	made, read = run()
	require.Zero(t, made)
	require.Empty(t, read)
	require.FileExists(t, filepath.Join(filepath.Dir(j.Folder), filehash.Name))

	// Same size, other content: gzip's header has the operating system, which is not used. Even the
	// time may be the old one.
	for _, keep := range []bool{false, true} {
		label := j.Dataset.Cases[1].Label
		info, err := os.Stat(label)
		require.NoError(t, err)
		b, err := os.ReadFile(label)
		require.NoError(t, err)
		b[9]++
		require.NoError(t, os.WriteFile(label, b, 0o666))
		if keep {
			require.NoError(t, os.Chtimes(label, time.Time{}, info.ModTime()))
		}
		look()
		made, read = run()
		require.Equal(t, 1, made)
		require.ElementsMatch(t, []string{filepath.Base(label), "LN_001_0000.nii.gz"}, read)
	}

	// Without the stored hashes all files are read again, and nothing is preprocessed.
	require.NoError(t, os.Remove(filepath.Join(filepath.Dir(j.Folder), filehash.Name)))
	made, read = run()
	require.Zero(t, made)
	require.Len(t, read, 10)
}

func TestOneFolderHasOneWriter(t *testing.T) {
	j := job(t, "Dataset101_PhantomSource", "nnUNetPlans", "3d_fullres")
	second := *j
	var held *folderlock.HeldError
	calls := 0
	j.Workers = 1
	j.Progress = progress(func(int) {
		s, err := second.Run(t.Context())
		require.ErrorAs(t, err, &held)
		require.Equal(t, Summary{}, s)
		calls++
	})
	s, err := j.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5, s.Made)
	require.Equal(t, 5, calls)
	require.Equal(t, os.Getpid(), held.Holder.PID)
	require.Equal(t, j.Folder, held.Folder)
	s, err = second.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5, s.Kept)
	for _, name := range files(t, filepath.Dir(j.Folder)) {
		require.NotContains(t, name, "lock")
	}
}
