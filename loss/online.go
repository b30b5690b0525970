package loss

import "github.com/lntorch/lntorch/torch"

// OnlineCounts returns, per foreground class or region, the true positive, false positive and false
// negative voxels of a batch. The prediction is the argmax of the logits (n, c, …), or with regions
// a sigmoid above 0.5; target is that of Forward for the highest resolution; ignored voxels are
// excluded. nnU-Net's pseudo-Dice sums these counts over an epoch.
//
// Compat: as in the reference, counts of labels are summed in float32, which rounds above 2^24
// voxels, and those of regions in int64.
// Source: nnUNetTrainer.validation_step, dice.get_tp_fp_fn_tn.
func (l *Loss) OnlineCounts(s *torch.Scope, logits, target *torch.Tensor) (tp, fp, fn []int64,
	err error) {
	err = torch.NoGrad(func() error {
		return s.With(func(s *torch.Scope) error {
			tp, fp, fn, err = l.count(s, logits, target)
			return err
		})
	})
	return tp, fp, fn, err
}

func (l *Loss) count(s *torch.Scope, x, target *torch.Tensor) (tp, fp, fn []int64, err error) {
	if err := l.check(0, x, target); err != nil {
		return nil, nil, nil, err
	}
	var predicted, truth, mask *torch.Tensor
	if l.cfg.Regions {
		predicted = s.To(s.CompareScalar(s.Sigmoid(x), torch.Gt, 0.5), torch.Int64, x.Device())
		truth, mask = l.regions(s, target)
	} else {
		predicted = s.Scatter(s.Zeros(x.Shape(), torch.Float32, x.Device()), 1,
			s.Argmax(x, 1, true), 1)
		var labels *torch.Tensor
		labels, mask, _ = l.labels(s, 0, x, target, true)
		truth = s.Scatter(s.Zeros(x.Shape(), torch.Bool, x.Device()), 1, labels, 1)
	}
	if err := s.Err(); err != nil {
		return nil, nil, nil, err
	}
	axes := []int64{0}
	for a := 2; a < x.Dim(); a++ {
		axes = append(axes, int64(a))
	}
	sum := func(a, b *torch.Tensor) []int64 {
		t := s.Mul(a, b)
		if mask != nil {
			t = s.Mul(t, mask)
		}
		t = s.To(s.SumDims(t, false, axes...), torch.Int64, torch.CPU)
		if s.Err() != nil {
			return nil
		}
		v, err := torch.Slice[int64](t)
		if err != nil {
			s.Fail(err)
			return nil
		}
		if !l.cfg.Regions {
			v = v[1:]
		}
		return v
	}
	tp = sum(predicted, truth)
	fp = sum(predicted, s.LogicalNot(truth))
	fn = sum(s.AddScalar(s.Neg(predicted), 1), truth)
	return tp, fp, fn, s.Err()
}
