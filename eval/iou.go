package eval

// IoU is TP / (TP + FP + FN); NaN if the target is in neither map.
var IoU = Metric{Name: "IoU", NNUNet: true, Of: func(c Counts) float64 {
	return float64(c.TP) / float64(c.TP+c.FP+c.FN)
}}
