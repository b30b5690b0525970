// Package figures draws the pictures of an experiment, as SVG and PNG: scores by shots, paired
// differences, recall by size of nodes, training curves, what DGST updated, cost beside score. Methods
// differ in colour, mark and dashes, so that colour-blind readers and prints in grey tell them apart.
//
// It computes no statistics: numbers are those of a table.Table, and of the runs' records. Pictures of
// cases are package report's.
package figures
