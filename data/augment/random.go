package augment

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
)

// RandomStream is the number of the scheme by which random numbers follow from a seed. It changes
// when the same seed would give other batches.
const RandomStream = 1

// Streams returns the random numbers of a transform of one sample; name is its class and its
// number among the transforms of that class. What one transform uses does not move the numbers of
// another.
type Streams func(name string) *rand.Rand

// Sample names one sample of a stream of batches. All that is random about it follows from that.
type Sample struct {
	Seed      uint64
	Stream    string // such as "train" or "val"
	Iteration int    // batch of the stream
	Index     int    // sample of the batch
}

// Rand returns the random numbers for one purpose: case, place, …. Those of different purposes, and
// of different samples, are independent.
func (s Sample) Rand(purpose string) *rand.Rand {
	b := make([]byte, 0, 128)
	b = binary.LittleEndian.AppendUint64(b, RandomStream)
	b = binary.LittleEndian.AppendUint64(b, s.Seed)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Iteration))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Index))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s.Stream)))
	b = append(append(b, s.Stream...), purpose...)
	sum := sha256.Sum256(b)
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum[:]),
		binary.LittleEndian.Uint64(sum[8:])))
}

// Augmentation returns the random numbers of a transform, for List.Draw.
func (s Sample) Augmentation(name string) *rand.Rand { return s.Rand("augmentation/" + name) }
