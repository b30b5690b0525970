package loader

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// Stats tells what a loader's workers did between New and Close.
type Stats struct {
	Workers int
	Patches int
	Elapsed time.Duration
	Times   // all workers together
	// Transforms has the time of each transform, and how often it acted.
	Transforms map[string]TransformTime
	// Batches that waited when one was taken.
	QueueMedian, QueueMin int

	queue []int // batches by how many waited: queue[n] were taken when n did
}

// Times is where the time of workers went.
type Times struct {
	Read    time.Duration // choice of cases and places, and reading of cases that are not in memory
	Augment time.Duration // transforms, with the reading of the patch
	Targets time.Duration // what follows for the loss
}

// Plus is the time of both.
func (t Times) Plus(u Times) Times {
	return Times{t.Read + u.Read, t.Augment + u.Augment, t.Targets + u.Targets}
}

func (t Times) minus(u Times) Times {
	return Times{t.Read - u.Read, t.Augment - u.Augment, t.Targets - u.Targets}
}

// TransformTime is the time of a transform.
type TransformTime struct {
	Total time.Duration
	Count int
}

// Busy is the share of the workers' time that they worked. Batches count when they are ready.
func (s Stats) Busy() float64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return min(float64(s.Read+s.Augment+s.Targets)/float64(s.Elapsed)/float64(s.Workers), 1)
}

// spent is what a worker did since its last report.
type spent struct {
	patches    int
	times      Times
	transforms map[string]TransformTime
}

func (s *spent) transform(name string, d time.Duration) {
	if s.transforms == nil {
		s.transforms = map[string]TransformTime{}
	}
	t := s.transforms[name]
	s.transforms[name] = TransformTime{t.Total + d, t.Count + 1}
}

// clock gathers what the workers spend.
type clock struct {
	mu      sync.Mutex
	began   time.Time
	ended   time.Time // zero: the workers work
	workers int
	spent   spent
	queue   []int // batches by how many waited: queue[n] were taken when n did
}

func (c *clock) start(workers int) { c.began, c.workers = time.Now(), workers }

// stop is the end of the workers' time, when it is first called.
func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.IsZero() {
		c.ended = time.Now()
	}
}

// elapsed is the workers' time.
func (c *clock) elapsed() time.Duration {
	if c.ended.IsZero() {
		return time.Since(c.began)
	}
	return c.ended.Sub(c.began)
}

// add takes over what a worker reports.
func (c *clock) add(s *spent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spent.patches += s.patches
	c.spent.times = c.spent.times.Plus(s.times)
	for name, t := range s.transforms {
		if c.spent.transforms == nil {
			c.spent.transforms = map[string]TransformTime{}
		}
		sum := c.spent.transforms[name]
		c.spent.transforms[name] = TransformTime{sum.Total + t.Total, sum.Count + t.Count}
	}
	clear(s.transforms)
	*s = spent{transforms: s.transforms}
}

// taken notes that a batch was taken, and how many wait behind it.
func (c *clock) taken(waiting int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) <= waiting {
		c.queue = append(c.queue, 0)
	}
	c.queue[waiting]++
}

// Stats tells what the workers did since New, until Close.
func (l *Loader) Stats() Stats {
	c := &l.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{Workers: c.workers, Patches: c.spent.patches, Elapsed: c.elapsed(),
		Times: c.spent.times, Transforms: maps.Clone(c.spent.transforms),
		queue: slices.Clone(c.queue)}
	s.depth()
	return s
}

// Since is what the workers did after an earlier call of Stats.
func (s Stats) Since(earlier Stats) Stats {
	s.Patches -= earlier.Patches
	s.Elapsed -= earlier.Elapsed
	s.Times = s.Times.minus(earlier.Times)
	s.Transforms = maps.Clone(s.Transforms)
	for name, t := range earlier.Transforms {
		now := s.Transforms[name]
		s.Transforms[name] = TransformTime{now.Total - t.Total, now.Count - t.Count}
	}
	s.queue = slices.Clone(s.queue)
	for depth, n := range earlier.queue {
		s.queue[depth] -= n
	}
	s.depth()
	return s
}

// depth finds how many batches waited.
func (s *Stats) depth() {
	total, below := 0, 0
	for _, n := range s.queue {
		total += n
	}
	s.QueueMedian = 0
	s.QueueMin = max(slices.IndexFunc(s.queue, func(n int) bool { return n > 0 }), 0)
	for depth, n := range s.queue {
		if below += n; 2*below >= total && n > 0 {
			s.QueueMedian = depth
			break
		}
	}
}
