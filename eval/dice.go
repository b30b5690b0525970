package eval

// Dice is 2 TP / (2 TP + FP + FN); NaN if the target is in neither map, 0 if it is in one of them.
var Dice = Metric{Name: "Dice", NNUNet: true, Of: func(c Counts) float64 {
	return float64(2*c.TP) / float64(2*c.TP+c.FP+c.FN)
}}
