// Package loss holds nnU-Net's training losses: soft Dice with cross-entropy for label maps, soft
// Dice with binary cross-entropy for regions, both with an optional ignore label, summed over the
// heads of deep supervision; and the counts for the pseudo-Dice logged in validation. It is not a
// collection of losses: it has those that nnU-Net 2.5.1 trains with.
//
// Without Config.Fast the operators and their order are the reference's, so the value and gradients
// are bit-equal to Python's on the same machine with the same libtorch and thread count.
//
// Axes in this package: n samples, c classes or regions, then two or three spatial axes, written
// "…".
// Source: nnU-Net 2.5.1, training/loss/compound_losses.py, dice.py, robust_ce_loss.py,
// deep_supervision.py.
package loss

import (
	"fmt"
	"math"

	"github.com/lntorch/lntorch/torch"
)

// smooth is added to the numerator and the denominator of the soft Dice. Source:
// nnUNetTrainer._build_loss.
const smooth = 1e-5

// Config chooses a loss.
type Config struct {
	// Regions: targets have one channel per region (regions may overlap) and the logits go through
	// a sigmoid; otherwise targets are label maps and the logits go through a softmax.
	Regions bool
	// IgnoreLabel marks voxels excluded from the loss; nil for none. In label maps it is their
	// value; with Regions the last channel of the targets marks them and the value is not used.
	IgnoreLabel *int
	// BatchDice computes the Dice over the whole batch instead of per sample.
	BatchDice bool
	// Weights of the network's heads, highest resolution first (plans.DeepSupervisionWeights); a
	// head with weight 0 is skipped and gets no gradient. nil: one head, no deep supervision.
	Weights []float64
	// Fast computes cross-entropy and Dice of label maps in one operator where one exists: on the
	// CPU, without ignore label. Results differ by rounding. On a GPU it never synchronises: an
	// invalid label makes the loss NaN instead of failing the scope.
	Fast bool
	// Ranks of a distributed training; nil: the batch is whole.
	Ranks *Ranks
}

// Loss computes one loss. It is stateless and may be used by several goroutines, each with its own
// scope.
type Loss struct{ cfg Config }

// New returns the loss of cfg, or an error if all weights are 0.
func New(cfg Config) (*Loss, error) {
	used := cfg.Weights == nil
	for _, w := range cfg.Weights {
		used = used || w != 0
	}
	if !used {
		return nil, fmt.Errorf("loss: weights %v: expected at least one that is not 0", cfg.Weights)
	}
	return &Loss{cfg}, nil
}

// Forward is the loss of a batch: a float32 scalar in s, ready for Backward.
//
// heads: logits (n, c, …), highest resolution first, one per weight. targets: per head (n, 1, …)
// integer labels 0 to c-1 or the ignore label; with Regions (n, c, …) bool or uint8 0/1, plus a
// channel that marks ignored voxels if there is an ignore label. Nothing is modified. Mismatched
// shapes and invalid labels fail s; the error names the head, what was found and what was expected.
func (l *Loss) Forward(s *torch.Scope, heads, targets []*torch.Tensor) *torch.Tensor {
	if s.Err() != nil {
		return nil
	}
	weights := l.cfg.Weights
	if weights == nil {
		weights = []float64{1}
	}
	if len(heads) != len(targets) || len(heads) != len(weights) {
		s.Fail(fmt.Errorf("loss: %d heads and %d targets for %d weights: the network's deep "+
			"supervision, the loader's and the loss's must agree",
			len(heads), len(targets), len(weights)))
		return nil
	}
	if l.cfg.Ranks != nil && l.cfg.Fast {
		return l.shared(s, heads, targets, weights)
	}
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		var total *torch.Tensor
		for i, w := range weights {
			if w == 0 {
				continue
			}
			term := s.Block(func(s *torch.Scope) *torch.Tensor {
				if err := l.check(i, heads[i], targets[i]); err != nil {
					s.Fail(err)
					return nil
				}
				if l.cfg.Regions {
					return l.diceBCE(s, heads[i], targets[i])
				}
				return l.diceCE(s, i, heads[i], targets[i])
			})
			if l.cfg.Weights == nil {
				return term
			}
			term = s.MulScalar(term, w)
			if total != nil {
				term = s.Add(total, term)
			}
			total = term
		}
		return total
	})
}

// check compares the shapes of head i and its target.
func (l *Loss) check(i int, x, y *torch.Tensor) error {
	if x == nil || y == nil {
		return fmt.Errorf("loss: head %d or its target is missing", i)
	}
	xs, ys := x.Shape(), y.Shape()
	if len(xs) < 3 || len(xs) != len(ys) {
		return fmt.Errorf("loss: head %d has shape %v, its target %v: expected (n, c, …) and the "+
			"same number of axes", i, xs, ys)
	}
	for a := range xs {
		if a != 1 && xs[a] != ys[a] {
			return fmt.Errorf("loss: head %d has shape %v, its target %v: batch and spatial "+
				"sizes must agree", i, xs, ys)
		}
	}
	switch want := l.targetChannels(xs[1]); {
	case ys[1] == want:
	case !l.cfg.Regions:
		return fmt.Errorf("loss: target %d has %d channels, expected 1 (a label map)", i, ys[1])
	case l.cfg.IgnoreLabel != nil:
		return fmt.Errorf("loss: target %d has %d channels, expected %d: the network's %d "+
			"regions and the ignore mask", i, ys[1], want, xs[1])
	default:
		return fmt.Errorf("loss: target %d has %d channels, expected %d: the network's regions", i,
			ys[1], want)
	}
	return nil
}

func (l *Loss) targetChannels(classes int64) int64 {
	switch {
	case !l.cfg.Regions:
		return 1
	case l.cfg.IgnoreLabel != nil:
		return classes + 1
	}
	return classes
}

// diceCE is DC_and_CE_loss: cross-entropy plus the soft Dice of the softmax without its background
// channel.
func (l *Loss) diceCE(s *torch.Scope, i int, x, target *torch.Tensor) *torch.Tensor {
	if l.fused(x) {
		value, known := s.DiceCE(x, target, l.cfg.BatchDice, smooth)
		if !known {
			l.labels(s, i, x, target, true) // fails s with the label
		}
		return value
	}
	labels, mask, wrong := l.labels(s, i, x, target, !l.waitless(x))
	p, y := foreground(s, x, labels)
	dice := l.dice(s, p, y, mask)
	ignore := int64(torch.IgnoreNothing)
	if mask != nil {
		ignore = int64(*l.cfg.IgnoreLabel)
		valid := s.Any(mask)
		if s.Err() != nil {
			return nil
		}
		some, err := valid.Item()
		if err != nil {
			s.Fail(err)
			return nil
		}
		if some == 0 {
			return dice // the mean over zero voxels would be NaN
		}
		labels = s.To(target, torch.Int64, x.Device())
	}
	total := s.Add(s.CrossEntropy(x, s.Select(labels, 1, 0), ignore, torch.ReduceMean), dice)
	if wrong != nil {
		total = s.MaskedFill(total, wrong, math.NaN())
	}
	return total
}

// foreground gives what the Dice of label maps compares: the softmax and the labels one-hot, without
// background.
func foreground(s *torch.Scope, x, labels *torch.Tensor) (p, y *torch.Tensor) {
	onehot := s.Scatter(s.Zeros(x.Shape(), torch.Bool, x.Device()), 1, labels, 1)
	return channels(s, s.Softmax(x, 1), 1, 0), channels(s, onehot, 1, 0)
}

// fused reports whether cross-entropy and Dice of x are computed in one operator.
func (l *Loss) fused(x *torch.Tensor) bool {
	return l.cfg.Fast && !l.cfg.Regions && l.cfg.IgnoreLabel == nil &&
		x.Device().Type == torch.DeviceCPU && x.Dim() > 3 && x.Shape()[1] > 1
}

// labels converts target to int64 (n, 1, …) with ignored voxels as background, and returns the mask
// of the voxels that count, nil for all. It fails s if a label is not a class of x, because the
// following operators would access memory out of bounds on a GPU. Without wait such labels become
// background and wrong, a bool scalar, reports them; otherwise wrong is nil.
func (l *Loss) labels(s *torch.Scope, i int, x, target *torch.Tensor, wait bool) (labels, mask,
	wrong *torch.Tensor) {
	labels = s.To(target, torch.Int64, x.Device())
	if l.cfg.IgnoreLabel != nil {
		mask = s.CompareScalar(labels, torch.Ne, float64(*l.cfg.IgnoreLabel))
		labels = s.MaskedFill(labels, s.LogicalNot(mask), 0)
	}
	classes := x.Shape()[1]
	outside := s.Maximum(s.CompareScalar(labels, torch.Lt, 0),
		s.CompareScalar(labels, torch.Ge, float64(classes)))
	wrong = s.Any(outside)
	if s.Err() != nil {
		return nil, nil, nil
	}
	if !wait {
		return s.MaskedFill(labels, outside, 0), mask, wrong
	}
	some, err := wrong.Item()
	if err == nil && some != 0 {
		err = wrongLabel(labels, i, classes)
	}
	if err != nil {
		s.Fail(err)
		return nil, nil, nil
	}
	return labels, mask, nil
}

// waitless reports whether the loss of x is computed without reading values back from the device.
// With an ignore label the reference itself checks whether any voxel is left.
func (l *Loss) waitless(x *torch.Tensor) bool {
	return l.cfg.Fast && l.cfg.IgnoreLabel == nil && x.Device().Type != torch.DeviceCPU
}

func wrongLabel(labels *torch.Tensor, i int, classes int64) error {
	values, err := torch.Slice[int64](labels)
	if err != nil {
		return err
	}
	for _, v := range values {
		if v < 0 || v >= classes {
			return fmt.Errorf("loss: target %d holds label %d, but the network has %d classes (0 "+
				"to %d): check the labels in dataset.json against the segmentations",
				i, v, classes, classes-1)
		}
	}
	return nil
}

// diceBCE is DC_and_BCE_loss: binary cross-entropy plus the soft Dice of the sigmoids of all
// regions.
func (l *Loss) diceBCE(s *torch.Scope, x, target *torch.Tensor) *torch.Tensor {
	regions, mask := l.regions(s, target)
	dice := l.dice(s, s.Sigmoid(x), regions, mask)
	bce := binaryEntropy(s, x, regions, mask)
	if mask != nil {
		// Compat: the divisor counts each voxel once, not once per region.
		bce = s.Div(bce, s.ClampMin(s.Sum(mask), 1e-8))
	}
	return s.Add(bce, dice)
}

// binaryEntropy is the mean over all voxels and regions, or with a mask the sum over those that
// count.
func binaryEntropy(s *torch.Scope, x, regions, mask *torch.Tensor) *torch.Tensor {
	wanted := s.To(regions, torch.Float32, x.Device())
	if mask == nil {
		return s.BCEWithLogits(x, wanted, torch.ReduceMean)
	}
	return s.Sum(s.Mul(s.BCEWithLogits(x, wanted, torch.ReduceNone), mask))
}

// regions splits target into the regions (bool) and the mask of the voxels that count, nil for all.
func (l *Loss) regions(s *torch.Scope, target *torch.Tensor) (regions, mask *torch.Tensor) {
	regions = s.To(target, torch.Bool, target.Device())
	if l.cfg.IgnoreLabel == nil || s.Err() != nil {
		return regions, nil
	}
	last := regions.Shape()[1] - 1
	return channels(s, regions, 0, 1), s.LogicalNot(s.Narrow(regions, 1, last, 1))
}

// dice is minus the mean soft Dice (MemoryEfficientSoftDiceLoss): p probabilities and y one-hot,
// both (n, c, …), mask (n, 1, …) or nil.
//
//	I = Σ p·y·m   P = Σ p·m   G = Σ y·m   dice = -mean((2I + smooth) / max(G + P + smooth, 1e-8))
//
// Sums are over space, and with BatchDice also over the batch. An absent class counts, with a Dice
// near 0.
func (l *Loss) dice(s *torch.Scope, p, y, mask *torch.Tensor) *torch.Tensor {
	intersect, predicted, truth := overlap(s, p, y, mask)
	if l.cfg.BatchDice {
		intersect, predicted, truth = l.overBatch(s, intersect), l.overBatch(s, predicted),
			l.overBatch(s, truth)
	}
	return diceOf(s, intersect, predicted, truth)
}

// overlap gives the sums over space of dice, (n, c) each.
func overlap(s *torch.Scope, p, y, mask *torch.Tensor) (intersect, predicted,
	truth *torch.Tensor) {
	if s.Err() != nil {
		return nil, nil, nil
	}
	var space []int64
	for a := 2; a < p.Dim(); a++ {
		space = append(space, int64(a))
	}
	masked := func(t *torch.Tensor) *torch.Tensor {
		if mask == nil {
			return t
		}
		return s.Mul(t, mask)
	}
	truth = s.SumDims(masked(y), false, space...)
	intersect = s.SumDims(masked(s.Mul(p, y)), false, space...)
	predicted = s.SumDims(masked(p), false, space...)
	return intersect, predicted, truth
}

// overBatch sums t (n, c) over the rows of the batch, with ranks as nnU-Net does.
//
// Differs: where ranks have unequal numbers of rows, which end nnU-Net's process, each sums over its
// own first.
func (l *Loss) overBatch(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	r := l.cfg.Ranks
	if r == nil {
		return s.SumDims(t, false, 0)
	}
	if r.All%r.World != 0 {
		t = s.SumDims(t, true, 0)
	}
	if s.Err() != nil {
		return nil
	}
	return s.SumDims(s.SumDims(r.Gather(s, t), false, 0), false, 0)
}

// diceOf is minus the mean Dice of sums.
func diceOf(s *torch.Scope, intersect, predicted, truth *torch.Tensor) *torch.Tensor {
	numerator := s.AddScalar(s.MulScalar(intersect, 2), smooth)
	denominator := s.ClampMin(s.AddScalar(s.Add(truth, predicted), smooth), 1e-8)
	return s.Neg(s.Mean(s.Div(numerator, denominator)))
}

// channels drops the first and last channels of t (n, c, …); a view.
func channels(s *torch.Scope, t *torch.Tensor, first, last int64) *torch.Tensor {
	if s.Err() != nil {
		return nil
	}
	return s.SliceDim(t, 1, first, t.Shape()[1]-last, 1)
}
