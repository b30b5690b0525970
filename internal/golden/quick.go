package golden

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Quick fails a call that takes longer than 10 s, or memory for more than 512 MiB beyond what is in use
// before: the bounds for hostile files.
func Quick(t testing.TB, f func()) {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before := m.HeapInuse
	stop, peak := make(chan bool), make(chan uint64)
	go func() {
		most := before
		for {
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	start := time.Now()
	defer func() {
		took := time.Since(start)
		close(stop)
		most := <-peak
		require.Less(t, took, 10*time.Second)
		require.Less(t, most-before, uint64(512<<20))
	}()
	f()
}
