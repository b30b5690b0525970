package filehash

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sum returns the cached sum and compares it with the file's actual content.
func sum(t *testing.T, c *Cache, path string) Sum {
	t.Helper()
	got, err := c.SHA256(path)
	require.NoError(t, err)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, Sum(sha256.Sum256(b)), got)
	return got
}

// settle waits until files that were just written count as settled.
func settle() { time.Sleep(racy + 50*time.Millisecond) }

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
}

// forge puts wrong sums into the cache, which show when it is used.
func forge(c *Cache) {
	for k, e := range c.entries {
		e.SHA = strings.Repeat("ab", sha256.Size)
		c.entries[k] = e
	}
}

var forged = Sum(bytes.Repeat([]byte{0xab}, sha256.Size))

func TestAFileIsReadOnceUnlessItChanges(t *testing.T) {
	folder := t.TempDir()
	a, b, store := filepath.Join(folder, "a"), filepath.Join(folder, "b"),
		filepath.Join(folder, Name)
	write(t, a, "1234")
	write(t, b, "")
	c := Open(store)
	sum(t, c, a)
	require.Empty(t, c.entries,
		"a file that was just written may be written again within the same tick")
	require.NoError(t, c.Save())
	require.NoFileExists(t, store)

	settle()
	require.Equal(t, "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4",
		sum(t, c, a).String())
	sum(t, c, b)
	require.Len(t, c.entries, 2)
	require.NoError(t, c.Save())
	next := Open(store)
	require.Equal(t, c.entries, next.entries)
	forge(next)
	remembered := func(path string) bool {
		got, err := next.SHA256(path)
		require.NoError(t, err)
		return got == forged
	}
	require.True(t, remembered(a))
	t.Chdir(folder)
	require.True(t, remembered("a"), "the same file by a relative path")

	// Equal size and mtime but changed content: detected by the other fields of the stamp.
	info, err := os.Stat(a)
	require.NoError(t, err)
	write(t, a, "4321")
	require.NoError(t, os.Chtimes(a, time.Time{}, info.ModTime()))
	sum(t, next, a)
	require.Len(t, next.entries, 1, "and the old sum is forgotten")
	write(t, b, "5")
	sum(t, next, b)
	write(t, b, "6")
	sum(t, next, b)
	require.NoError(t, os.Chtimes(b, time.Time{}, time.Now().Add(time.Hour)))
	sum(t, next, b)
	require.Empty(t, next.entries, "a modification time in the future is not trusted")
	require.NoError(t, os.Remove(b))
	_, err = next.SHA256(b)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Each field of a stamp detects a change that the others do not.
func TestAnyDifferenceIsAChange(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a")
	write(t, path, "1234")
	settle()
	for _, change := range []func(*stamp){
		func(s *stamp) { s.Size++ }, func(s *stamp) { s.Mtime-- }, func(s *stamp) { s.Ctime-- },
		func(s *stamp) { s.Inode++ },
	} {
		c := &Cache{}
		sum(t, c, path)
		forge(c)
		for k, e := range c.entries {
			change(&e.Stamp)
			c.entries[k] = e
		}
		sum(t, c, path)
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	s := stampOf(info)
	latest := max(s.Mtime, s.Ctime)
	require.False(t, s.settled(time.Unix(0, latest)))
	require.False(t, s.settled(time.Unix(0, latest).Add(racy)))
	require.True(t, s.settled(time.Unix(0, latest).Add(racy+1)))
	require.False(t, stamp{}.settled(time.Now()),
		"the stamp of a file that changed while it was read")
}

func TestADamagedCacheIsAnEmptyOne(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	a, store := filepath.Join(folder, "a"), filepath.Join(folder, Name)
	write(t, a, "1234")
	settle()
	c := Open(store)
	sum(t, c, a)
	require.NoError(t, c.Save())
	whole, err := os.ReadFile(store)
	require.NoError(t, err)
	require.Len(t, Open(store).entries, 1)
	for i := range whole {
		for _, text := range [][]byte{whole[:i],
			append(append(bytes.Clone(whole[:i]), whole[i]^1), whole[i+1:]...)} {
			require.NoError(t, os.WriteFile(store, text, 0o666))
			c := Open(store)
			require.Empty(t, c.entries, "byte %d", i)
		}
	}
	for _, text := range []string{`null`, `{"lntorch_hashes":2}`,
		`{"lntorch_hashes":1,"files":{"/x":{"sha256":"00"}}}`, `[]`} {
		write(t, store, text+"\n"+check([]byte(text)))
		require.Empty(t, Open(store).entries, text)
		sum(t, Open(store), a)
	}
	require.Empty(t, Open(folder).entries)
}

func TestSaveKeepsWhatOthersLearntAndDropsWhatIsGone(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	store := filepath.Join(folder, Name)
	for _, name := range []string{"a", "b", "c"} {
		write(t, filepath.Join(folder, name), name)
	}
	settle()
	first, second := Open(store), Open(store)
	sum(t, first, filepath.Join(folder, "a"))
	sum(t, first, filepath.Join(folder, "c"))
	require.NoError(t, first.Save())
	require.NoError(t, os.Remove(filepath.Join(folder, "c")))
	sum(t, second, filepath.Join(folder, "b"))
	require.NoError(t, second.Save())
	require.Len(t, Open(store).entries, 2)

	info, err := os.Stat(store)
	require.NoError(t, err)
	require.NoError(t, second.Save())
	again, err := os.Stat(store)
	require.NoError(t, err)
	require.True(t, os.SameFile(info, again), "nothing new, nothing written")
	lost := Open(filepath.Join(folder, "none", Name))
	sum(t, lost, filepath.Join(folder, "a"))
	require.ErrorContains(t, lost.Save(), "no such file")
}

func TestNilAndZeroCaches(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	write(t, path, "1234")
	var none *Cache
	sum(t, none, path)
	require.NoError(t, none.Save())
	c := &Cache{}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if _, err := c.SHA256(path); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	require.NoError(t, c.Save())
	_, err := c.SHA256(filepath.Dir(path))
	require.Error(t, err, "a folder")
}

// What is derived from a file is computed again when the file has changed, and cached beside its sum.
func TestDerivedSumsAreComputedOncePerVersionOfAFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	a, store := filepath.Join(folder, "a"), filepath.Join(folder, Name)
	write(t, a, "1234")
	settle()
	calls := 0
	derive := func(c *Cache, what string) Sum {
		s, err := c.Derived(a, what, func() (Sum, error) {
			calls++
			b, err := os.ReadFile(a)
			return sha256.Sum256([]byte(what + string(b))), err
		})
		require.NoError(t, err)
		return s
	}
	c := Open(store)
	first := derive(c, "pixels")
	require.NotEqual(t, first, derive(c, "header"))
	require.NotEqual(t, first, sum(t, c, a))
	require.NoError(t, c.Save())
	next := Open(store)
	require.Equal(t, first, derive(next, "pixels"))
	require.Equal(t, 2, calls)
	write(t, a, "12345")
	require.NotEqual(t, first, derive(next, "pixels"))
	require.Equal(t, 3, calls)
	require.NoError(t, os.Remove(a))
	require.NoError(t, next.Save())
	require.Empty(t, Open(store).entries)
	_, err := next.Derived(a, "pixels", func() (Sum, error) { panic("of no file") })
	require.ErrorIs(t, err, os.ErrNotExist)
}
