package models

import "fmt"

// This file holds helpers that infer a network from the names and shapes of its tensors.

// axisOf returns the size of axis i of a tensor, 0 if it is missing.
func axisOf(shapes map[string][]int64, name string, i int) int {
	if s := shapes[name]; len(s) > i {
		return int(s[i])
	}
	return 0
}

// countOf returns the number of consecutive tensors prefix0suffix, prefix1suffix, ….
func countOf(shapes map[string][]int64, prefix, suffix string) int {
	i := 0
	for shapes[fmt.Sprint(prefix, i, suffix)] != nil {
		i++
	}
	return i
}

// kernelOf returns the kernel size of a convolution weight.
func kernelOf(shapes map[string][]int64, name string) []int {
	var k []int
	for i := 2; i < len(shapes[name]); i++ {
		k = append(k, int(shapes[name][i]))
	}
	return k
}
