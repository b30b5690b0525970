package models

import "fmt"

// This file holds what networks need to be recognised by the names and shapes of their tensors.

// axisOf is the size of axis i of a tensor, 0 without it.
func axisOf(shapes map[string][]int64, name string, i int) int {
	if s := shapes[name]; len(s) > i {
		return int(s[i])
	}
	return 0
}

// countOf is the number of prefix0suffix, prefix1suffix, … that are there.
func countOf(shapes map[string][]int64, prefix, suffix string) int {
	i := 0
	for shapes[fmt.Sprint(prefix, i, suffix)] != nil {
		i++
	}
	return i
}

// kernelOf is a convolution weight's kernel.
func kernelOf(shapes map[string][]int64, name string) []int {
	var k []int
	for i := 2; i < len(shapes[name]); i++ {
		k = append(k, int(shapes[name][i]))
	}
	return k
}
