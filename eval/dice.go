package eval

// Dice is 2 TP / (2 TP + FP + FN); NaN when neither map has the target, 0 when only one of them has
// it.
var Dice = Metric{Name: "Dice", NNUNet: true, Of: func(c Counts) float64 {
	return float64(2*c.TP) / float64(2*c.TP+c.FP+c.FN)
}}
