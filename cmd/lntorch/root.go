package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	// Methods register themselves.
	_ "github.com/lntorch/lntorch/baselines"
	_ "github.com/lntorch/lntorch/dgst"
)

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lntorch",
		Short: "few-shot fine-tuning of CT lymph-node segmentation models",
		Long: `lntorch adapts CT lymph-node segmentation foundation models (nnU-Net networks) to a new hospital with a few
annotated scans, by Dynamic Gradient Sparsification Training (DGST) and the methods it is compared with. It opens the
checkpoints that PyTorch and nnU-Net wrote, and writes checkpoints that nnU-Net opens.

nnU-Net's commands keep their argument order and their single-dash flags (-tr, -p, -device, …).
Settings come from flags, then LNTORCH_… variables, then --config FILE, then defaults; ` + "`lntorch config`" + ` shows them.`,
		Example: `  lntorch train 102 3d_fullres 0 -tr nnUNetTrainer_DGST -pretrained_weights model/checkpoint_final.pth
  lntorch inspect model/checkpoint_final.pth
  lntorch doctor`,
		Version:           version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: applySettings,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentFlags().String("config", "", "file of settings (YAML, TOML or JSON): flag names and values")
	root.PersistentFlags().Bool("quiet", false, "no progress")
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-")) // nnU-Net's --val_best is --val-best
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	root.AddCommand(newTrain(), newValidate(), newCompare(), newTrace(), newForward(), newInspect(), newConvert(), newExport(), newConfig(), newDoctor(), newBench())
	return root
}

func usage(cmd *cobra.Command, err error) error {
	path := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "lntorch"), " ")
	if path != "" {
		path += " "
	}
	return &usageError{path, err}
}

// exactly checks the number of positional arguments and names them in the message.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return usage(cmd, fmt.Errorf("found %d arguments, expected %d: %s", len(args), len(names), strings.Join(names, " ")))
	}
}

// singleDash lists, for each command, nnU-Net's flags of one dash and several letters, or of another name than ours.
var singleDash = map[string]map[string]string{
	"train": {"tr": "trainer", "p": "plans", "pretrained_weights": "pretrained-weights", "num_gpus": "num-gpus", "device": "device"},
	"*":     {"device": "device"},
}

// nnunetArgs turns nnU-Net's single-dash flags into ours: -tr NAME becomes --trainer NAME.
func nnunetArgs(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil {
		return args
	}
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = a
		if !strings.HasPrefix(a, "-") || strings.HasPrefix(a, "--") {
			continue
		}
		name, value, found := strings.Cut(a[1:], "=")
		ours, ok := singleDash[cmd.Name()][name]
		if !ok {
			ours, ok = singleDash["*"][name]
		}
		if !ok {
			continue
		}
		out[i] = "--" + ours
		if found {
			out[i] += "=" + value
		}
	}
	return out
}

// applySettings gives every flag that the command line did not set its value from the environment or the --config file.
func applySettings(cmd *cobra.Command, _ []string) error {
	v, err := settings(cmd)
	if err != nil {
		return err
	}
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || failed != nil || !v.IsSet(f.Name) || f.Name == "config" || f.Name == "help" {
			return
		}
		text := v.GetString(f.Name)
		if _, ok := f.Value.(pflag.SliceValue); ok {
			text = strings.Join(v.GetStringSlice(f.Name), ",")
		}
		if text == f.DefValue {
			return
		}
		if err := cmd.Flags().Set(f.Name, text); err != nil {
			failed = usage(cmd, fmt.Errorf("%s: setting %s: %w", source(cmd, f.Name), f.Name, err))
		}
	})
	return failed
}

// settings reads the environment and the --config file of a command. A name in the file that no command has is an error.
func settings(cmd *cobra.Command) (*viper.Viper, error) {
	v := viper.New()
	v.SetEnvPrefix("LNTORCH")
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	v.AutomaticEnv()
	file, err := cmd.Flags().GetString("config")
	if err != nil || file == "" {
		if file = os.Getenv("LNTORCH_CONFIG"); file == "" {
			return v, err
		}
	}
	v.SetConfigFile(file)
	if err := v.ReadInConfig(); err != nil {
		return nil, usage(cmd, fmt.Errorf("--config %s: %w", file, err))
	}
	known := map[string]bool{}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
		c.PersistentFlags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(cmd.Root())
	for _, key := range v.AllKeys() {
		name := strings.ReplaceAll(key, "_", "-")
		if !known[name] {
			return nil, usage(cmd, fmt.Errorf("--config %s: no command has a flag %q", file, key))
		}
		if name != key {
			v.Set(name, v.Get(key))
		}
	}
	return v, nil
}

// source tells where a flag's value comes from.
func source(cmd *cobra.Command, name string) string {
	env := "LNTORCH_" + strings.ReplaceAll(strings.ToUpper(name), "-", "_")
	if os.Getenv(env) != "" {
		return env
	}
	file, _ := cmd.Flags().GetString("config")
	if file == "" {
		file = os.Getenv("LNTORCH_CONFIG")
	}
	if file != "" {
		return file
	}
	return "default"
}

// folders adds --raw, --preprocessed and --results, whose defaults are nnU-Net's variables.
func folders(cmd *cobra.Command, names ...string) {
	for _, n := range names {
		cmd.Flags().String(n, os.Getenv("nnUNet_"+n), "nnU-Net's folder of that name (default: $nnUNet_"+n+")")
		cmd.Flags().Lookup(n).DefValue = ""
	}
}

// folder gives the value of such a flag, which must be set.
func folder(cmd *cobra.Command, name string) (string, error) {
	path, err := cmd.Flags().GetString(name)
	if err == nil && path == "" {
		err = usage(cmd, fmt.Errorf("--%s is not given and nnUNet_%s is not set", name, name))
	}
	return path, err
}

// findDataset gives the folder name of a dataset, named in full or by its number, as nnU-Net finds it.
func findDataset(arg string, roots ...string) (string, error) {
	if strings.HasPrefix(arg, "Dataset") {
		return arg, nil
	}
	var id int
	if n, err := fmt.Sscanf(arg, "%d", &id); n != 1 || err != nil || id < 0 {
		return "", fmt.Errorf("dataset %q: expected a number or a name that begins with Dataset", arg)
	}
	prefix := fmt.Sprintf("Dataset%03d", id)
	var found []string
	for _, root := range roots {
		if root == "" {
			continue
		}
		matches, err := filepath.Glob(filepath.Join(root, prefix+"*"))
		if err != nil {
			return "", err
		}
		for _, m := range matches {
			if info, err := os.Stat(m); err != nil || !info.IsDir() {
				continue
			}
			name := filepath.Base(m)
			rest := name[len(prefix):]
			// Differs: nnU-Net takes Dataset1001_X for number 100, too.
			if !contains(found, name) && (rest == "" || rest[0] < '0' || rest[0] > '9') {
				found = append(found, name)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("dataset %s: no folder %s_… in %s", arg, prefix, strings.Join(present(roots), ", "))
	}
	return "", fmt.Errorf("dataset %s: found %s; give the full name", arg, strings.Join(found, ", "))
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func present(list []string) []string {
	var out []string
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}
