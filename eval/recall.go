package eval

// Recall is TP / (TP + FN), the fraction of the reference that is found; NaN if the target is not
// in the reference.
var Recall = Metric{Name: "Recall", Of: func(c Counts) float64 {
	return float64(c.TP) / float64(c.TP+c.FN)
}}
