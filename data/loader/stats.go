package loader

import (
	"slices"
	"sync"
	"time"
)

// Stats tells what a loader's workers did since New.
type Stats struct {
	Workers int
	Patches int
	Elapsed time.Duration
	// Read is the choice of cases and places, and the reading of cases that are not in memory;
	// Augment the transforms with the reading of the patch; Targets what follows for the loss. All
	// workers together.
	Read, Augment, Targets time.Duration
	// Transforms has the time of each transform, and how often it acted.
	Transforms map[string]TransformTime
	// Batches that waited when one was taken.
	QueueMedian, QueueMin int
}

// TransformTime is the time of a transform.
type TransformTime struct {
	Total time.Duration
	Count int
}

// Busy is the share of the workers' time that they worked.
func (s *Stats) Busy() float64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return float64(s.Read+s.Augment+s.Targets) / float64(s.Elapsed) / float64(s.Workers)
}

// spent is what a worker did since its last report.
type spent struct {
	patches                int
	read, augment, targets time.Duration
	transforms             map[string]TransformTime
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
	workers int
	spent   spent
	queue   []int // batches by how many waited: queue[n] were taken when n did
}

func (c *clock) start(workers int) { c.began, c.workers = time.Now(), workers }

// add takes over what a worker reports.
func (c *clock) add(s *spent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spent.patches += s.patches
	c.spent.read += s.read
	c.spent.augment += s.augment
	c.spent.targets += s.targets
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

// Stats tells what the workers did since New.
func (l *Loader) Stats() Stats {
	c := &l.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{Workers: c.workers, Patches: c.spent.patches, Elapsed: time.Since(c.began),
		Read: c.spent.read, Augment: c.spent.augment, Targets: c.spent.targets,
		Transforms: map[string]TransformTime{}}
	for name, t := range c.spent.transforms {
		s.Transforms[name] = t
	}
	total, below := 0, 0
	for _, n := range c.queue {
		total += n
	}
	s.QueueMin = max(slices.IndexFunc(c.queue, func(n int) bool { return n > 0 }), 0)
	for depth, n := range c.queue {
		if below += n; 2*below >= total && n > 0 {
			s.QueueMedian = depth
			break
		}
	}
	return s
}
