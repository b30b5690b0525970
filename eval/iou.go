package eval

// IoU is TP / (TP + FP + FN); NaN when neither map has the target.
var IoU = Metric{Name: "IoU", NNUNet: true, Of: func(c Counts) float64 {
	return float64(c.TP) / float64(c.TP+c.FP+c.FN)
}}
