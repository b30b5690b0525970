// Package parallel divides work among goroutines, for the formats whose slices or frames do not
// depend on each other.
package parallel

import (
	"runtime"
	"sync"
)

// Each calls f for 0 to n-1 on so many goroutines, 0 for as many as there are processors. After an
// error it begins no more; of the errors it returns that of the lowest index.
func Each(n, workers int, f func(i int) error) error {
	return EachWith(n, workers, func() struct{} { return struct{}{} },
		func(_ struct{}, i int) error { return f(i) })
}

// EachWith is Each where every goroutine makes something of its own first, such as a buffer.
func EachWith[T any](n, workers int, own func() T, f func(own T, i int) error) error {
	if workers < 1 {
		workers = runtime.GOMAXPROCS(0)
	}
	var lock sync.Mutex
	next, failedAt := 0, n
	var failed error
	take := func() int {
		lock.Lock()
		defer lock.Unlock()
		next++
		if failed != nil {
			return n
		}
		return next - 1
	}
	var group sync.WaitGroup
	for range min(workers, n) {
		group.Go(func() {
			mine := own()
			for i := take(); i < n; i = take() {
				if err := f(mine, i); err != nil {
					lock.Lock()
					if i < failedAt {
						failed, failedAt = err, i
					}
					lock.Unlock()
				}
			}
		})
	}
	group.Wait()
	return failed
}
