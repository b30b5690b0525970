package eval

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzDecodeSummary: arbitrary bytes are rejected, or the same after encoding and decoding again.
func FuzzDecodeSummary(f *testing.F) {
	const values = `{"Dice":NaN,"FN":0,"FP":1.0,"IoU":-Infinity,"TN":2,"TP":0,"n_pred":1,"n_ref":0}`
	f.Add(`{"foreground_mean":` + values + `,"mean":{"1":` + values + `,"(1, 2)":` + values + `},"metric_per_case":[]}`)
	f.Add(`{"foreground_mean":` + values + `,"mean":{"(1,)":` + values + `},"metric_per_case":[{"metrics":{"(1,)":` + values + `},"prediction_file":"\udcff\"NaN","reference_file":""}]}`)
	f.Add(`{"foreground_mean":` + values + `,"mean":{"1":` + values + `,"01":` + values + `},"metric_per_case":[]}`)
	f.Fuzz(func(t *testing.T, raw string) {
		s, err := decodeSummary([]byte(raw))
		if err != nil {
			return
		}
		text := string(s.Encode())
		again, err := decodeSummary([]byte(text))
		require.NoError(t, err)
		require.Equal(t, text, string(again.Encode()))
	})
}
