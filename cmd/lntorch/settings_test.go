package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/settings"
)

// parsed gives the flags of a command as a command line, the environment and the --config file set them.
func parsed(t *testing.T, args ...string) (*cobra.Command, error) {
	t.Helper()
	root := newRoot()
	args = nnunetArgs(root, args)
	cmd, rest, err := root.Find(args)
	require.NoError(t, err)
	if err := cmd.ParseFlags(rest); err != nil {
		return cmd, err
	}
	return cmd, applySettings(cmd, nil)
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestFlagsComeBeforeTheEnvironmentTheFileAndDefaults(t *testing.T) {
	file := write(t, "s.yaml", "iterations: 10\nepochs: 20\nlr: 0.5\nmethod: dgst\n")
	t.Setenv("LNTORCH_EPOCHS", "30")
	t.Setenv("LNTORCH_ITERATIONS", "40")
	cmd, err := parsed(t, "train", "1", "c", "0", "--iterations", "50", "--config", file)
	require.NoError(t, err)
	for name, want := range map[string][2]string{
		"iterations": {"50", "command line"},
		"epochs":     {"30", "LNTORCH_EPOCHS"},
		"lr":         {"0.5", file},
		"method":     {"dgst", file},
		"momentum":   {"0.99", "default"},
	} {
		f := cmd.Flags().Lookup(name)
		require.Equal(t, want, [2]string{f.Value.String(), source(f)}, name)
	}
	t.Setenv("LNTORCH_CONFIG", file)
	cmd, err = parsed(t, "train", "1", "c", "0")
	require.NoError(t, err)
	require.Equal(t, "0.5", cmd.Flags().Lookup("lr").Value.String(), "the file may be named in the environment")
}

func TestSettingsOfEachFileFormat(t *testing.T) {
	for name, text := range map[string]string{
		"s.yaml": "patch_size: [8, 16, 32]\nval_best: true\nepochs: 1000000\nlr: 1e-5\nseed: 18446744073709551615\n",
		"s.toml": "patch-size = [8, 16, 32]\nval-best = true\nepochs = 1000000\nlr = 1e-5\n",
		"s.json": `{"patch-size": [8, 16, 32], "val-best": true, "epochs": 1000000, "lr": 1e-5}`,
	} {
		cmd, err := parsed(t, "train", "1", "c", "0", "--config", write(t, name, text))
		require.NoError(t, err, name)
		f := cmd.Flags()
		value := func(name string) any { return f.Lookup(name).Value.(*settings.Field).Value() }
		require.Equal(t, []any{[]int{8, 16, 32}, true, 1000000, 1e-5}, []any{value("patch-size"), value("val-best"), value("epochs"), value("lr")}, name)
		if name == "s.yaml" {
			require.EqualValues(t, uint64(1<<64-1), value("seed"))
		}
	}
	t.Setenv("LNTORCH_PATCH_SIZE", "8,16,32")
	cmd, err := parsed(t, "train", "1", "c", "0")
	require.NoError(t, err)
	require.Equal(t, "8,16,32", cmd.Flags().Lookup("patch-size").Value.String())
}

func TestSettingErrorsNameThePlaceAndTheSetting(t *testing.T) {
	for text, want := range map[string]string{
		"lr: [1, 2]":           "s.yaml: setting lr: found a list, expected one value",
		"method: [a, b]":       "s.yaml: setting method: found a list, expected one value",
		"lr:\n  a: 1":          "s.yaml: setting lr: found a table, expected one value",
		"epochs: many":         `s.yaml: setting epochs: found "many", expected a whole number`,
		"epoch: 3":             `no command has a flag "epoch"; did you mean epochs?`,
		"zzzzzz: 3":            `no command has a flag "zzzzzz"`,
		"patch-size: [a]":      "s.yaml: setting patch-size",
		"{ not: [ yaml":        "s.yaml",
		"training:\n  lr: 0.1": `no command has a flag "training.lr"`,
	} {
		_, err := parsed(t, "train", "1", "c", "0", "--config", write(t, "s.yaml", text))
		require.ErrorContains(t, err, want, text)
		var u *usageError
		require.ErrorAs(t, err, &u, text)
	}
	_, err := parsed(t, "train", "1", "c", "0", "--config", "/nowhere.yaml")
	require.ErrorContains(t, err, "/nowhere.yaml")
	t.Setenv("LNTORCH_EPOCHS", "many")
	_, err = parsed(t, "train", "1", "c", "0")
	require.ErrorContains(t, err, "LNTORCH_EPOCHS: setting epochs")
}

// A file or an environment for several methods is no mistake; --dgst-k 3 for method full is.
func TestSettingsOfAnotherMethodMayStandInAFile(t *testing.T) {
	method := func(args ...string) error {
		cmd, err := parsed(t, append([]string{"train", "1", "c", "0", "--method", "full"}, args...)...)
		require.NoError(t, err)
		_, _, err = cmd.Flags().Lookup("dgst-k").Value.(*optionFlag).method.Make()
		return err
	}
	require.NoError(t, method("--config", write(t, "s.yaml", "dgst-k: 3\n")))
	require.ErrorContains(t, method("--dgst-k", "3"), "--dgst-k belongs to method dgst")
	t.Setenv("LNTORCH_DGST_K", "3")
	require.NoError(t, method())
}

// Numbers out of range, however they come, are a mistake that names the flag and what it may be.
func TestNumbersOutOfRangeAreRefused(t *testing.T) {
	for _, c := range [][]string{
		{"threads", "-1", "a whole number of at least 1"}, {"batch-size", "0", "at least 1"}, {"lr", "nan", "a number above 0"}, {"lr", "0", "above 0"},
		{"epochs", "0", "at least 1"}, {"iterations", "0", "at least 1"}, {"momentum", "1", "below 1"}, {"weight-decay", "-1", "at least 0"},
		{"oversample", "1.5", "at most 1"}, {"patch-size", "16,0,16", "at least 1"}, {"workers", "-3", "at least 1"}, {"save-every", "0", "at least 1"},
		{"val-iterations", "-1", "at least 1"}, {"seed", "-1", "whole number from 0 on"}, {"amp", "fp8", "auto, off, fp16 or bf16"},
	} {
		_, err := parsed(t, "train", "1", "c", "0", "--"+c[0]+"="+c[1])
		require.ErrorContains(t, err, "--"+c[0], "%v", c)
		require.ErrorContains(t, err, c[2], "%v", c)
	}
	require.Equal(t, 2, lntorch(t, "train", "1", "c", "0", "--lr", "nan").code)
	// Each numeric setting of each command has a range, or any number will do.
	anyNumber := []string{"seed"}
	for _, c := range newRoot().Commands() {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			s, ok := f.Value.(*settings.Field)
			if !ok || !slices.Contains([]string{"int", "ints", "float", "floats"}, s.Type()) || slices.Contains(anyNumber, f.Name) {
				return
			}
			require.Error(t, s.Set("-1"), "%s --%s", c.Name(), f.Name)
		})
	}
}

// A path that the shell left with its ~ is a path in the home folder.
func TestHomeFoldersAreExpanded(t *testing.T) {
	t.Setenv("HOME", "/home/someone")
	t.Setenv("nnUNet_raw", "~/raw")
	cmd, err := parsed(t, "train", "1", "c", "0", "--preprocessed=~/pre")
	require.NoError(t, err)
	require.Equal(t, "/home/someone/pre", cmd.Flags().Lookup("preprocessed").Value.String())
	require.Equal(t, "/home/someone/raw", cmd.Flags().Lookup("raw").Value.String())
}

// nnU-Net's own command line, with its names.
func TestNnUNetFlagsOfOneDash(t *testing.T) {
	cmd, err := parsed(t, "train", "102", "3d_fullres", "all", "-tr", "nnUNetTrainer_DGST", "-p", "nnUNetResEncUNetMPlans", "-pretrained_weights", "m.pth",
		"-num_gpus=1", "-device", "cuda:1", "--val_best", "--c", "--disable_checkpointing", "--use_compressed", "--npz")
	require.NoError(t, err)
	for name, want := range map[string]string{
		"trainer": "nnUNetTrainer_DGST", "plans": "nnUNetResEncUNetMPlans", "pretrained-weights": "m.pth", "num-gpus": "1", "device": "cuda:1",
		"val-best": "true", "c": "true", "disable-checkpointing": "true", "use-compressed": "true", "npz": "true", "val": "false",
	} {
		require.Equal(t, want, cmd.Flags().Lookup(name).Value.String(), name)
	}
	require.Equal(t, []string{"102", "3d_fullres", "all"}, cmd.Flags().Args())
	root := newRoot()
	require.Equal(t, []string{"train", "--", "-tr"}, nnunetArgs(root, []string{"train", "--", "-tr"}), "what follows -- is no flag")
}

func TestUnknownNamesGetASuggestion(t *testing.T) {
	for _, c := range [][]string{
		{"-pretrained_weights?", "train", "-pretrained_weight", "m.pth"},
		{"--epochs?", "train", "--epoch", "3"},
		{"--weight-decay?", "train", "--weigth_decay", "3"},
		{"--config?", "--confg"},
		{"--digest?", "inspect", "--diggest", "x"},
		{"train", "trian"},
		{"inspect", "inspct", "x"},
	} {
		r := lntorch(t, c[1:]...)
		require.Equal(t, 2, r.code, "%v", c)
		require.Contains(t, r.errOut, c[0], "%v", c)
		require.Empty(t, r.out)
	}
	r := lntorch(t, "train", "--zzzzzzzz")
	require.NotContains(t, r.errOut, "did you mean")
}

func TestConfigShowsWhereSettingsComeFrom(t *testing.T) {
	file := write(t, "s.yaml", "epochs: 7\n")
	cmd := command(t, "config", "--json", "--config", file)
	cmd.Env = append(cmd.Env, "nnUNet_raw=/data/raw", "LNTORCH_LR=0.25", "LNTORCH_LIB=/nowhere.so")
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	var list []setting
	require.NoError(t, json.Unmarshal([]byte(r.out), &list))
	got := map[string]setting{}
	for _, s := range list {
		got[s.Name] = s
	}
	require.Equal(t, setting{"epochs", "7", file}, got["epochs"])
	require.Equal(t, setting{"lr", "0.25", "LNTORCH_LR"}, got["lr"])
	require.Equal(t, setting{"raw", "/data/raw", "nnUNet_raw"}, got["raw"])
	require.Equal(t, setting{"results", "", "default"}, got["results"])
	newTrain().Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			require.Contains(t, got, f.Name)
		}
	})
	require.Equal(t, 2, lntorch(t, "config", "nothing").code)
	require.Contains(t, lntorch(t, "config", "inspect").out, "digest")
}

// Every command's help has examples, goes to stdout, and needs no libtorch, which the program does not link.
func TestHelpOfEveryCommand(t *testing.T) {
	for _, c := range newRoot().Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		cmd := command(t, c.Name(), "--help")
		cmd.Env = append(cmd.Env, "LNTORCH_LIB=/nowhere.so")
		r := execute(t, cmd)
		require.Equal(t, 0, r.code, c.Name())
		require.Regexp(t, "(?s)Examples:.*lntorch "+c.Name(), r.out)
		require.Empty(t, r.errOut, c.Name())
	}
	bin, err := build()
	require.NoError(t, err)
	if out, err := exec.Command("ldd", bin).Output(); err == nil {
		for _, lib := range []string{"torch", "c10", "stdc++", "gomp"} {
			require.False(t, strings.Contains(string(out), lib), "%s", out)
		}
	}
}
