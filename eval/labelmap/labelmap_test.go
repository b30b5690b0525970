package labelmap_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval/labelmap"
)

func TestOthersAreLabelsThatAreNotKnown(t *testing.T) {
	small := &labelmap.Map{Small: []uint8{0, 0, 7, 1, 7, 255, 3}}
	require.Equal(t, []int{7, 255}, small.Others([]int{0, 1, 3}))
	require.Empty(t, small.Others([]int{1, 3, 7, 255}))
	wide := &labelmap.Map{Wide: []int32{900, 900, 0, -5, 1, 900}}
	require.Equal(t, []int{-5, 900}, wide.Others([]int{1}))
	noise := &labelmap.Map{}
	for i := range int32(100000) {
		noise.Wide = append(noise.Wide, i)
	}
	require.Len(t, noise.Others(nil), 20)
}
