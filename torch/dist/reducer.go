package dist

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lntorch/lntorch/torch"
)

// Compress is the type as which gradients are sent.
type Compress = torch.Compress

// Types of messages.
const (
	Uncompressed = torch.CompressNone
	FP16         = torch.CompressFP16
	BF16         = torch.CompressBF16
)

// PyTorch's limits of buckets, in bytes.
// Source: torch/csrc/distributed/c10d/reducer.hpp, kDefaultFirstBucketBytes and
// kDefaultBucketBytesCap.
const (
	DefaultFirstBucket = 1 << 20
	DefaultBucket      = 25 << 20
)

// ReducerConfig are the settings of NewReducer. The zero value is what DistributedDataParallel
// does.
type ReducerConfig struct {
	Names []string // of the parameters, for messages

	// Limits of the first bucket to be full in the backward pass, and of the others; 0: PyTorch's.
	FirstBucket, Bucket int64
	// Buckets are used from the first iteration on. PyTorch's first iteration has one bucket with
	// every parameter, whatever the limits: with three ranks and more it has other bits.
	Split bool
	// Gradients are views of the buckets instead of copies. Clear them (torch.ClearGrads) before
	// Forward, or buckets that are made anew keep the old ones' memory.
	Views    bool
	Compress Compress
}

// Reducer averages gradients over the ranks, during the backward pass. A step is
//
//	r.Forward()
//	// the forward pass and the loss
//	r.Backward()
//	g.Explain(loss.Backward())
//	r.Wait(ctx)
//
// Without r.Backward and r.Wait gradients are accumulated on each rank (PyTorch's no_sync), and the
// next backward pass with them averages the sum.
type Reducer struct {
	g     *Group
	r     *torch.Reducer
	names []string
}

// NewReducer returns a Reducer for params: leaves that require grad, the same names, shapes and
// dtypes in the same order on every rank; else the error is *Disagree, on every rank.
func NewReducer(g *Group, params []*torch.Tensor, c ReducerConfig) (*Reducer, error) {
	if len(params) == 0 {
		return nil, errors.New("dist: there are no parameters to train")
	}
	if c.Names != nil && len(c.Names) != len(params) {
		return nil, fmt.Errorf("dist: %d names for %d parameters", len(c.Names), len(params))
	}
	r := &Reducer{g: g, names: c.Names}
	if r.names == nil {
		for i := range params {
			r.names = append(r.names, fmt.Sprintf("parameter %d", i))
		}
	}
	var list strings.Builder
	for i, p := range params {
		fmt.Fprintf(&list, "%s %v %v\n", r.names[i], p.Shape(), p.DType())
	}
	said := fmt.Sprintf("%d parameters (sha256 of names, shapes and dtypes %.6x…), compression %d",
		len(params), sha256.Sum256([]byte(list.String())), c.Compress)
	if err := g.same(said); err != nil {
		return nil, err
	}
	if c.FirstBucket <= 0 {
		c.FirstBucket = DefaultFirstBucket
	}
	if c.Bucket <= 0 {
		c.Bucket = DefaultBucket
	}
	var err error
	r.r, err = torch.NewReducer(g.pg, params, torch.ReducerConfig{First: c.FirstBucket,
		Bucket: c.Bucket, Whole: !c.Split, Views: c.Views, Compress: c.Compress})
	return r, err
}

// Forward is called before every forward pass. Before the second it makes the buckets anew, in the
// order in which gradients came, and waits for rank 0's order.
func (r *Reducer) Forward() error {
	if _, err := r.r.Forward(); err != nil {
		return r.g.verdict(err, 0)
	}
	return nil
}

// Backward is called between the forward pass and loss.Backward, when the gradients of that pass
// are to be averaged. loss.Backward then waits for the other ranks; Group.Explain says why it
// failed, if it did.
func (r *Reducer) Backward() error {
	if err := r.g.Err(); err != nil {
		return err
	}
	return r.r.Backward()
}

// Wait is called after loss.Backward: all gradients are averages then. waited is the time from the
// moment when the last gradient was there. The error is *NoGradient if a parameter got none.
func (r *Reducer) Wait(ctx context.Context) (waited time.Duration, err error) {
	if err := r.g.Err(); err != nil {
		return 0, err
	}
	missing, err := r.r.Missing(len(r.names))
	if err != nil {
		return 0, err
	}
	if len(missing) > 0 {
		e := &NoGradient{}
		for _, i := range missing {
			e.Names = append(e.Names, r.names[i])
		}
		return 0, e
	}
	_, waited = r.g.pg.Clock()
	return waited, ctx.Err()
}

// Buckets are the bytes of each bucket.
func (r *Reducer) Buckets() ([]int64, error) { return r.r.Buckets() }

// Close removes the Reducer's hooks from the parameters.
func (r *Reducer) Close() { r.r.Free() }
