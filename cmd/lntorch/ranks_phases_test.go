package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/torchtest"
)

// preparedCases is how many cases the dataset has that ranks prepare.
const preparedCases = 12

// phase is a time of a training in which rank 0 is at work, and others wait for it or work, too.
type phase struct {
	args  func(t *testing.T, dir string) []string // of the training, whose files are in dir
	in    func(dir string, first *startedRank) bool
	whole func(t *testing.T, dir string) // what is there is whole

	// What is said by another rank when one is lost, and by any when the user stops one: regular expressions, of
	// which %s are the rank, its host and pid.
	lost, stopped string

	goesOn func(t *testing.T, dir string) // what was begun is finished, by as many ranks

	disk  func(dir string) string // a folder that is full
	size  string                  // of its file system
	file  int                     // or the largest file there, in blocks of 512 bytes
	again string                  // the flag that goes on
	full  func(t *testing.T, dir string, disk string)
}

// resultsIn and foldIn are where ranks write that train in dir.
func resultsIn(dir string) string { return filepath.Join(dir, "results") }
func foldIn(dir string) string    { return foldOf(resultsIn(dir), "nnUNetTrainer") }

func glob(t *testing.T, parts ...string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(parts...))
	require.NoError(t, err)
	return paths
}

// wholeCases reads the cases in a folder of preprocessed datasets to their ends and counts them.
func wholeCases(t *testing.T, preprocessed string) int {
	t.Helper()
	paths := glob(t, preprocessed, "*", "*", "*.npz")
	for _, path := range paths {
		f, err := npz.OpenNpz(path)
		require.NoError(t, err)
		for _, name := range f.Names() {
			_, err := f.Read(name)
			require.NoError(t, err, path)
		}
		require.NoError(t, f.Close())
		require.FileExists(t, strings.TrimSuffix(path, ".npz")+".pkl")
	}
	return len(paths)
}

// wholeCheckpoints reads the checkpoints in a folder.
func wholeCheckpoints(t *testing.T, folder string) {
	t.Helper()
	for _, path := range glob(t, folder, "*.pth") {
		requireWhole(t, path)
	}
}

// phases are the phases by name.
func phases() map[string]phase {
	return map[string]phase{
		"preparation": {
			args: func(t *testing.T, dir string) []string {
				raw := filepath.Join(dir, "raw", "Dataset102_PhantomTarget")
				if _, err := os.Stat(raw); err != nil {
					require.NoError(t, os.CopyFS(raw, os.DirFS(repo(t, "testdata/phantom-mini/raw/Dataset102_PhantomTarget"))))
					for i := 4; i < preparedCases; i++ {
						for _, name := range []string{"imagesTr/LN_%03d_0000.nii.gz", "labelsTr/LN_%03d.nii.gz"} {
							require.NoError(t, os.Link(filepath.Join(raw, fmt.Sprintf(name, 0)), filepath.Join(raw, fmt.Sprintf(name, i))))
						}
					}
					about := filepath.Join(raw, "dataset.json")
					text := strings.Replace(read(t, about), `"numTraining": 4`, fmt.Sprintf(`"numTraining": %d`, preparedCases), 1)
					require.NoError(t, os.WriteFile(about, []byte(text), 0o600))
				}
				return []string{"train", "102", "3d_phantom", "0", "-p", "nnUNetPlansAdopted", "--raw", filepath.Dir(raw), "--preprocessed", filepath.Join(dir, "preprocessed"),
					"--results", resultsIn(dir), "-pretrained_weights", repo(t, sourceModel+"/fold_0/checkpoint_final.pth"), "--epochs", "1", "--iterations", "1",
					"--val-iterations", "1", "--patch-size", "16,48,48", "--disable_tta", "-device", "cpu", "--threads", "1"}
			},
			in: func(dir string, _ *startedRank) bool {
				made, _ := filepath.Glob(filepath.Join(dir, "preprocessed", "*", "*", "*.npz"))
				return len(made) > 0 && len(made) < preparedCases
			},
			whole: func(t *testing.T, dir string) {
				n := wholeCases(t, filepath.Join(dir, "preprocessed"))
				require.Positive(t, n)
				require.Less(t, n, preparedCases)
				require.NoDirExists(t, resultsIn(dir))
			},
			lost:    `^lntorch: rank %s \(host %s, pid %s\) is gone`,
			stopped: `stopped by the user\n$`,
			goesOn: func(t *testing.T, dir string) {
				list := startRanks(t, 2, phases()["preparation"].args(t, dir))
				for _, r := range list {
					r.within(t, time.Minute)
					require.Equal(t, 0, r.ProcessState.ExitCode(), r.err.String())
				}
				require.Equal(t, preparedCases, wholeCases(t, filepath.Join(dir, "preprocessed")))
				require.NotContains(t, list[0].err.String(), ", 0 kept", "what was made is not made again")
			},
			disk: func(dir string) string { return filepath.Join(dir, "preprocessed") },
			size: "500k", file: 100,
			full: func(t *testing.T, _, disk string) { require.Less(t, wholeCases(t, disk), preparedCases) },
		},
		"checkpoint": {
			args: func(t *testing.T, dir string) []string { return longRanks(t, resultsIn(dir), "--save-every", "1") },
			in: func(dir string, _ *startedRank) bool {
				paths, _ := filepath.Glob(filepath.Join(foldIn(dir), ".*.tmp"))
				for _, path := range paths {
					if info, err := os.Stat(path); err == nil && info.Size() > 300_000 { // no other file is as large
						return true
					}
				}
				return false
			},
			whole: func(t *testing.T, dir string) { wholeCheckpoints(t, foldIn(dir)) },
			lost: `lntorch: rank %s \(host %s, pid %s\) is gone: epoch \d+, iteration \d+\. ` +
				`(No checkpoint was written yet|Last saved: \S+/checkpoint_(latest|best)\.pth \(epoch \d+\)\. Go on with --c)\n$`,
			stopped: `lntorch: train: stopped in epoch \d+ after \d+ iterations, saved in \S+/checkpoint_latest.pth; continue with --c\n$`,
			goesOn: func(t *testing.T, dir string) {
				list := startRanks(t, 2, append(phases()["checkpoint"].args(t, dir), "--c"))
				list[0].says(t, "train_loss")
				require.NoError(t, list[0].Process.Signal(os.Interrupt))
				for _, r := range list {
					r.within(t, time.Minute)
					require.Equal(t, 130, r.ProcessState.ExitCode(), r.err.String())
				}
				wholeCheckpoints(t, foldIn(dir))
			},
			disk: resultsIn,
			size: "7m", file: 4000, again: "--c",
			full: func(t *testing.T, dir, disk string) { wholeCheckpoints(t, foldOf(disk, "nnUNetTrainer")) },
		},
		"validation": {
			args: func(t *testing.T, dir string) []string {
				args := trainArgs(t, resultsIn(dir), "-device", "cpu", "--threads", "1", "--epochs", "1", "--iterations", "1")
				args[slices.Index(args, "8,16,16")] = "16,48,48" // fewer tiles
				return args
			},
			in: func(dir string, first *startedRank) bool {
				done, _ := filepath.Glob(filepath.Join(foldIn(dir), "validation", "*.nii.gz"))
				return strings.Contains(first.err.String(), "predicting LN_") && len(done) == 0
			},
			whole: func(t *testing.T, dir string) {
				wholeCheckpoints(t, foldIn(dir))
				for _, path := range glob(t, foldIn(dir), "validation", "*.nii.gz") {
					_, err := image.Read(path)
					require.NoError(t, err)
				}
				require.NoFileExists(t, filepath.Join(foldIn(dir), "validation", "summary.json"))
			},
			lost:    `lntorch: train: validation: rank %s \(host %s, pid %s\) is gone; training is complete, in \S+/checkpoint_final\.pth: validate it with --val\n$`,
			stopped: `lntorch: train: validation.* stopped by the user.*; training is complete, in \S+/checkpoint_final\.pth: validate it with --val\n$`,
			goesOn: func(t *testing.T, dir string) {
				for _, r := range startRanks(t, 2, append(phases()["validation"].args(t, dir), "--val")) {
					r.within(t, time.Minute)
					require.Equal(t, 0, r.ProcessState.ExitCode(), r.err.String())
				}
				require.FileExists(t, filepath.Join(foldIn(dir), "validation", "summary.json"))
			},
			disk: func(dir string) string { return filepath.Join(foldIn(dir), "validation") },
			size: "4k", file: 1,
			full: func(t *testing.T, _, disk string) { require.Empty(t, glob(t, disk, "*.nii.gz")) },
		},
	}
}

// says waits until a rank has said text.
func (r *startedRank) says(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(r.err.String(), text) || r.over() }, time.Minute, 5*time.Millisecond)
	require.Contains(t, r.err.String(), text)
}

// over reports whether the rank has ended.
func (r *startedRank) over() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// rests waits until a process computes nothing.
func (r *startedRank) rests(t *testing.T) {
	t.Helper()
	last, since := "", time.Now()
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.Process.Pid))
		require.NoError(t, err)
		used := strings.Join(strings.Fields(string(b))[13:15], " ")
		if used != last {
			last, since = used, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	}, time.Minute, 10*time.Millisecond)
}

// freezeIn stops a process where a condition holds, and still does when it has stopped.
func (r *startedRank) freezeIn(t *testing.T, in func() bool) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(300 * time.Microsecond) {
		require.False(t, r.over(), "%s", &r.err)
		require.Less(t, time.Since(begin), time.Minute)
		if !in() {
			continue
		}
		require.NoError(t, r.Process.Signal(syscall.SIGSTOP))
		require.Eventually(t, func() bool { return allStopped(r.Process.Pid) }, 20*time.Second, 100*time.Microsecond)
		if in() {
			return
		}
		require.NoError(t, r.Process.Signal(syscall.SIGCONT))
	}
}

// allStopped reports whether all threads of a process are stopped.
func allStopped(pid int) bool {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range paths {
		b, e := os.ReadFile(path)
		err = errors.Join(err, e)
		if i := strings.LastIndex(string(b), ") "); i < 0 || b[i+2] != 'T' {
			return false
		}
	}
	return err == nil && len(paths) > 0
}

// Whatever rank 0 is at, a rank that is killed or stopped ends all of them, each with one sentence, long before a time
// limit; what is there is whole, and the same command with --c, or --val, goes on with it.
func TestWhateverTheRanksAreAtTheyEndTogether(t *testing.T) {
	torchtest.Require(t)
	type act struct {
		at     int
		signal syscall.Signal
		goesOn bool // what was begun is finished
		apart  bool // rank 1 does not see the results, so that it has no case to validate
	}
	for name, p := range phases() {
		acts := map[string]act{
			"kill -9 of rank 0": {0, syscall.SIGKILL, true, false},
			"kill -9 of rank 1": {1, syscall.SIGKILL, false, false},
			"Ctrl-C at rank 0":  {0, syscall.SIGINT, false, false},
			"Ctrl-C at rank 1":  {1, syscall.SIGINT, true, false},
		}
		if name == "validation" {
			acts["Ctrl-C at rank 1, which waits"] = act{1, syscall.SIGINT, false, true}
		}
		for what, a := range acts {
			t.Run(name+"/"+what, func(t *testing.T) {
				dir := t.TempDir()
				list := startRanksEach(t, 2, func(rank int) []string {
					args := p.args(t, dir)
					if a.apart && rank == 1 {
						args = append(args, "--results", t.TempDir())
					}
					return args
				})
				list[0].freezeIn(t, func() bool { return p.in(dir, list[0]) })
				if a.apart {
					list[1].rests(t)
				}
				require.NoError(t, list[a.at].Process.Signal(a.signal))
				start := time.Now()
				_ = list[0].Process.Signal(syscall.SIGCONT) // it may be the one that is killed
				for rank, r := range list {
					r.within(t, 30*time.Second)
					said := r.err.String()
					switch {
					case a.signal == syscall.SIGINT:
						require.Equal(t, 130, r.ProcessState.ExitCode(), "rank %d: %s", rank, said)
						require.Regexp(t, p.stopped, said, "rank %d", rank)
					case rank != a.at:
						require.Equal(t, 1, r.ProcessState.ExitCode(), said)
						require.Regexp(t, fmt.Sprintf(p.lost, fmt.Sprint(a.at), `\S+`, fmt.Sprint(list[a.at].Process.Pid)), lastLine(said))
					}
					if a.signal == syscall.SIGINT || rank != a.at {
						require.Equal(t, 1, strings.Count(said, "lntorch: "), said)
					}
				}
				t.Logf("all had ended after %v: %s", time.Since(start).Round(time.Millisecond), lastLine(list[1-a.at].err.String()))
				p.whole(t, dir)
				if name == "checkpoint" && a.signal == syscall.SIGKILL && a.at > 0 {
					said := regexp.MustCompile(`Last saved: (\S+) \(epoch (\d+)\)`).FindStringSubmatch(list[0].err.String())
					require.Len(t, said, 3, "rank 0 knows what it wrote")
					require.Equal(t, said[2], fmt.Sprint(requireWhole(t, said[1])))
					if latest := filepath.Join(foldIn(dir), "checkpoint_latest.pth"); said[1] != latest { // which --c prefers
						require.NoFileExists(t, latest)
					}
				}
				if !a.goesOn {
					return
				}
				p.goesOn(t, dir)
				_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
					require.NoError(t, err)
					require.NotRegexp(t, `\.tmp$`, path, "left behind")
					return nil
				})
			})
		}
	}
}

// lastLine is the last line of what a program said.
func lastLine(text string) string {
	lines := strings.SplitAfter(strings.TrimRight(text, "\n")+"\n", "\n")
	return lines[len(lines)-2]
}

// A disk that is full, of rank 0, is what all ranks end with; what stands there is whole, and with room the same command
// goes on.
func TestAFullDiskOfRankZeroEndsAll(t *testing.T) {
	torchtest.Require(t)
	const script = `
folder=$1 size=$2 blocks=$3 again=$4; shift 4
mkdir -p "$folder"
if [ -n "$size" ]; then
	mount -t tmpfs -o "size=$size" tmpfs "$folder"
	"$@"; echo "first $?"
	cp -r "$folder" "$folder.first"
	mount -o remount,size=64m "$folder"
else
	(ulimit -f "$blocks"; exec "$@"); echo "first $?"
	cp -r "$folder" "$folder.first"
fi
LNTORCH_DIST=off "$@" $again; echo "second $?"
cp -r "$folder" "$folder.second"
`
	mounts := exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", t.TempDir()).Run() == nil
	for name, p := range phases() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			args := append(p.args(t, dir), "--epochs", "3", "--dist-timeout", "200")
			if name == "validation" {
				r := lntorch(t, args...)
				require.Equal(t, 0, r.code, r.errOut)
				args = append(args, "--val")
			}
			if name == "preparation" {
				args = append(args, "--epochs", "1")
			}
			disk := p.disk(dir)
			list := startCommands(t, 2, func(rank int) *exec.Cmd {
				own := command(t, args...)
				if rank > 0 {
					return own
				}
				size, shell := p.size, []string{"unshare", "-rm"}
				if !mounts {
					size, shell = "", nil
				}
				shell = append(append(shell, "sh", "-c", script, "sh", disk, size, fmt.Sprint(p.file), p.again), own.Args...)
				cmd := exec.Command(shell[0], shell[1:]...)
				cmd.Env = own.Env
				return cmd
			})
			const full = "(no space left on device|file too large)"
			list[1].within(t, time.Minute)
			require.Equal(t, 1, list[1].ProcessState.ExitCode(), list[1].err.String())
			require.Regexp(t, `lntorch: (.*\n)*.*`+full, list[1].err.String())
			if name != "validation" { // whose failures all ranks hear of together, in the end
				require.Contains(t, list[1].err.String(), "rank 0 (host ")
			}
			require.Equal(t, 1, strings.Count(list[1].err.String(), "lntorch: "))
			list[0].within(t, time.Minute)
			require.Contains(t, list[0].out.String(), "first 1\n", "%s", &list[0].err)
			require.Regexp(t, full, list[0].err.String())
			require.Contains(t, list[0].out.String(), "second 0\n", "%s", &list[0].err)
			t.Log(lastLine(list[1].err.String()))
			p.full(t, dir, disk+".first")
			require.NoError(t, filepath.WalkDir(disk+".first", func(path string, _ os.DirEntry, err error) error {
				require.NotRegexp(t, `\.tmp$`, path, "left behind")
				return err
			}))
		})
	}
}
