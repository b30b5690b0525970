package eval

// Precision is TP / (TP + FP), the fraction of the prediction that is correct; NaN if nothing is
// predicted.
var Precision = Metric{Name: "Precision", Of: func(c Counts) float64 {
	return float64(c.TP) / float64(c.TP+c.FP)
}}
