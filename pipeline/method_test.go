package pipeline

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/settings"

	_ "github.com/lntorch/lntorch/baselines"
	_ "github.com/lntorch/lntorch/dgst"
)

// Which method, result folder, epochs and rate a command line means. Epochs and rates are the released ones
// (LN-Seg-FM's trainers; nnU-Net's 1000 without pretrained weights).
func TestTrainersAndMethodsFindEachOther(t *testing.T) {
	for _, c := range []struct {
		method, trainer string
		pretrained      bool
		want            string // method, trainer, epochs, rate
	}{
		{"", "", false, "full nnUNetTrainer 1000 0.01"},
		{"", "", true, "full nnUNetTrainer 200 0.01"},
		{"full", "", true, "full nnUNetTrainer 200 0.01"},
		{"full", "", false, "full nnUNetTrainer 1000 0.01"},
		{"", "nnUNetTrainer", false, "full nnUNetTrainer 1000 0.01"},
		{"", "nnUNetTrainer_DGST", true, "dgst nnUNetTrainer_DGST 50 0.001"},
		{"dgst", "", false, "dgst nnUNetTrainer_DGST 50 0.001"},
		{"dgst", "nnUNetTrainer_DGST", true, "dgst nnUNetTrainer_DGST 50 0.001"},
		{"dgst", "MyTrainer", true, "dgst MyTrainer 50 0.001"},
		{"", "nnUNetTrainer_bias", true, "bias nnUNetTrainer_bias 200 0.01"},
		{"norm", "", true, "norm nnUNetTrainer_norm 200 0.001"},
		{"head", "", true, "head nnUNetTrainer_head 200 0.01"},
		{"", "nnUNetTrainer_SwinUNETR", true, "full nnUNetTrainer_SwinUNETR 2000 0.01"},
		{"", "nnUNetTrainer_SwinUNETRv2", false, "full nnUNetTrainer_SwinUNETRv2 2000 0.01"},
		{"full", "nnUNetTrainer_SwinUNETRv2", true, "full nnUNetTrainer_SwinUNETRv2 2000 0.01"},
		{"dgst", "nnUNetTrainer_SwinUNETR", true, "dgst nnUNetTrainer_SwinUNETR 50 0.001"},
		{"", "nnUNetTrainer_5epochs", true, "full nnUNetTrainer_5epochs 5 0.01"},
		{"", "nnUNetTrainer_1epoch", false, "full nnUNetTrainer_1epoch 1 0.01"},
		{"", "nnUNetTrainer_50epochs_NoMirroring", true, "full nnUNetTrainer_50epochs_NoMirroring 50 0.01"},
		{"", "nnUNetTrainerNoDA", true, "full nnUNetTrainerNoDA 200 0.01"},
		{"", "nnUNetTrainerNoMirroring", false, "full nnUNetTrainerNoMirroring 1000 0.01"},
		{"", "nnUNetTrainer_DASegOrd0", true, "full nnUNetTrainer_DASegOrd0 200 0.01"},
		{"dgst", "nnUNetTrainer_onlyMirror01", true, "dgst nnUNetTrainer_onlyMirror01 50 0.001"},
	} {
		e, trainer, err := Method{MethodName: c.method}.entry(c.trainer, c.pretrained)
		require.NoError(t, err, "%+v", c)
		require.Equal(t, c.want, fmt.Sprintf("%s %s %d %g", e.Name, trainer, e.Epochs, e.LR), "%+v", c)
	}
	for want, c := range map[string][2]string{
		"trainer of method dgst, but --method is full": {"full", "nnUNetTrainer_DGST"},
		`unknown method "dgts"; expected one of `:      {"dgts", ""},
		"nnUNetTrainer_Nepochs":                        {"", "nnUNetTrainerBig"},
		"uses another library's transforms":            {"", "nnUNetTrainerDA5ord0"},
		"nnUNetTrainer_SwinUNETR, ":                    {"", "nnUNetTrainer_SwinUNETRv3"},
	} {
		_, _, err := Method{MethodName: c[0]}.entry(c[1], true)
		require.ErrorContains(t, err, want)
	}
}

// An option of another method is refused, unless it comes from where settings of several methods may stand.
func TestOptionsBelongToTheirMethod(t *testing.T) {
	m := Method{MethodName: "full", Options: map[string]OptionValue{"dgst-k": {Text: "3"}}}
	_, _, err := m.Make()
	var usage *settings.UsageError
	require.ErrorAs(t, err, &usage)
	require.ErrorContains(t, err, "--dgst-k belongs to method dgst, not to full")
	m.Options["dgst-k"] = OptionValue{Text: "3", Shared: true}
	_, _, err = m.Make()
	require.NoError(t, err)
	m.Options = map[string]OptionValue{"dgts-k": {Text: "3"}}
	_, _, err = m.Make()
	require.ErrorContains(t, err, "no method has an option --dgts-k")
	m = Method{MethodName: "dgst", Options: map[string]OptionValue{"dgst-mode": {Text: "loose"}}}
	_, _, err = m.Make()
	require.ErrorAs(t, err, &usage)
}
