package atomicfile

import (
	"os"
	"syscall"
)

// beginWriting has the kernel write what is in its memory of the file, and does not wait for it. Where
// that fails, Commit writes it.
func beginWriting(f *os.File) {
	const write = 2 // SYNC_FILE_RANGE_WRITE
	syscall.SyncFileRange(int(f.Fd()), 0, 0, write)
}
