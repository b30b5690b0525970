package regular

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A named pipe without a writer is refused at once; os.Open would wait.
func TestPipesAreRefusedAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe.pth")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	done := make(chan error, 1)
	go func() { _, err := Open(path); done <- err }()
	select {
	case err := <-done:
		require.ErrorIs(t, err, ErrNotRegular)
		require.ErrorContains(t, err, path)
	case <-time.After(10 * time.Second):
		t.Fatal("Open waits for a writer")
	}
	_, err := Open(os.DevNull)
	require.ErrorIs(t, err, ErrNotRegular)
}

func TestRegularFilesAreRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(path, []byte("text"), 0o600))
	b, err := ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "text", string(b))
	_, err = Open(path + "2")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A file of images given for a text is refused by its size; nothing of it is read.
func TestHugeFilesAreRefusedAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge.json")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, 4<<30))
	_, err := ReadFile(path)
	require.ErrorContains(t, err, path+": found 4096 MiB, expected a text such as JSON, 256 MiB at most")
}
