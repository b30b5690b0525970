package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
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
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, suggest(cmd, err)) })
	root.AddCommand(newTrain(), newValidate(), newCompare(), newTrace(), newForward(), newInspect(), newConvert(), newMerge(), newExport(), newFingerprint(), newPlan(), newMovePlans(), newAdopt(), newConfig(), newDoctor(), newBench())
	root.AddCommand(newImage())
	root.AddCommand(newPhantom())
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
	"fingerprint": {"np": "np", "fpe": "fpe"},
	"plan": {"pl": "planner", "gpu_memory_target": "gpu-memory-target", "preprocessor_name": "preprocessor-name", "overwrite_target_spacing": "overwrite-target-spacing",
		"overwrite_plans_name": "overwrite-plans-name"},
	"adopt":      {"np": "np"},
	"move-plans": {"sp": "source-plans", "tp": "target-plans"},
	"train":      {"tr": "trainer", "p": "plans", "pretrained_weights": "pretrained-weights", "num_gpus": "num-gpus", "device": "device"},
	"*":          {"device": "device"},
}

// listFlags are those of nnU-Net's flags that take several values: -d 2 4 5 becomes -d 2,4,5.
var listFlags = map[string][]string{
	"fingerprint": {"d"},
	"plan":        {"d", "overwrite_target_spacing"},
}

// joinLists puts the values of list flags together.
func joinLists(command string, args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		out = append(out, args[i])
		if args[i] == "--" {
			return append(out, args[i+1:]...)
		}
		if !slices.Contains(listFlags[command], strings.ReplaceAll(strings.TrimLeft(args[i], "-"), "-", "_")) || !strings.HasPrefix(args[i], "-") {
			continue
		}
		n := i + 1
		for n < len(args) && !strings.HasPrefix(args[n], "-") {
			n++
		}
		if n > i+1 {
			out = append(out, strings.Join(args[i+1:n], ","))
			i = n - 1
		}
	}
	return out
}

// nnunetArgs turns nnU-Net's single-dash flags into ours: -tr NAME becomes --trainer NAME.
func nnunetArgs(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil {
		return args
	}
	out := joinLists(cmd.Name(), args)
	for i, a := range out {
		if a == "--" {
			break
		}
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

// suggest adds to the error about an unknown flag the flag that was probably meant.
func suggest(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	given := unknown.GetSpecifiedShortnames()
	names := map[string]string{}
	if given == "" {
		given = unknown.GetSpecifiedName()
	} else {
		for _, known := range []map[string]string{singleDash["*"], singleDash[cmd.Name()]} {
			for name := range known {
				names[name] = "-" + name
			}
		}
		given, _, _ = strings.Cut(given, "=")
		err = fmt.Errorf("unknown flag: -%s", given)
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if names[f.Name] == "" && !f.Hidden {
			names[f.Name] = "--" + f.Name
		}
	})
	if name := nearest(given, slices.Sorted(maps.Keys(names))); name != "" {
		return fmt.Errorf("%w; did you mean %s?", err, names[name])
	}
	return err
}

// nearest gives the name that is at most a third of its letters away from text, or that text begins; "" if there is none.
func nearest(text string, names []string) string {
	best, at := "", 0
	for _, n := range names {
		d := distance(text, n)
		if len(text) > 2 && strings.HasPrefix(n, text) {
			d = 1
		}
		if d <= max(1, len(n)/3) && d < len(n) && (best == "" || d < at) {
			best, at = n, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete or replace (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := before
			if a[i] != b[j] {
				d = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}

// sourceNote is the annotation of a flag whose value came from the environment or the --config file.
const sourceNote = "source"

// applySettings gives every flag that the command line did not set its value from the environment or the --config file.
func applySettings(cmd *cobra.Command, _ []string) error {
	file, err := cmd.Flags().GetString("config")
	if err == nil && file == "" {
		file = os.Getenv("LNTORCH_CONFIG")
	}
	if err != nil {
		return err
	}
	v, err := settings(cmd, file)
	if err != nil {
		return err
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || err != nil || f.Name == "config" || f.Name == "help" {
			return
		}
		from := "LNTORCH_" + strings.ReplaceAll(strings.ToUpper(f.Name), "-", "_")
		text := os.Getenv(from)
		if text == "" {
			if !v.IsSet(f.Name) {
				return
			}
			from = file
			text, err = settingText(f, v.Get(f.Name))
		}
		if text == f.DefValue && err == nil {
			return // so that "the method's default" stays what it is
		}
		if err == nil {
			err = cmd.Flags().Set(f.Name, text)
		}
		if err == nil {
			err = cmd.Flags().SetAnnotation(f.Name, sourceNote, []string{from})
		}
		if err != nil {
			err = usage(cmd, fmt.Errorf("%s: setting %s: %w", from, f.Name, err))
		}
	})
	return err
}

// settingText writes a value of the --config file as the command line would give it.
func settingText(f *pflag.Flag, value any) (string, error) {
	switch x := value.(type) {
	case []any:
		if _, ok := f.Value.(pflag.SliceValue); !ok {
			return "", errors.New("found a list, expected one value")
		}
		parts := make([]string, len(x))
		for i, e := range x {
			var err error
			if parts[i], err = settingText(f, e); err != nil {
				return "", err
			}
		}
		return strings.Join(parts, ","), nil
	case map[string]any:
		return "", errors.New("found a table, expected one value")
	case float64: // as JSON gives whole numbers, too
		return strconv.FormatFloat(x, 'f', -1, 64), nil
	}
	return fmt.Sprint(value), nil
}

// settings reads the --config file, if there is one. A name in it that no command has is an error.
func settings(cmd *cobra.Command, file string) (*viper.Viper, error) {
	v := viper.New()
	if file == "" {
		return v, nil
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
		if table, _, found := strings.Cut(name, "."); found && known[table] {
			continue // settingText says that a table is none of a flag's values
		}
		if !known[name] {
			err := fmt.Errorf("--config %s: no command has a flag %q", file, key)
			if n := nearest(name, slices.Sorted(maps.Keys(known))); n != "" {
				err = fmt.Errorf("%w; did you mean %s?", err, n)
			}
			return nil, usage(cmd, err)
		}
		if name != key {
			v.Set(name, v.Get(key))
		}
	}
	return v, nil
}

// source tells where a flag's value comes from: a variable, a file, "command line" or "default".
func source(f *pflag.Flag) string {
	switch {
	case f.Annotations[sourceNote] != nil:
		return f.Annotations[sourceNote][0]
	case f.Changed:
		return "command line"
	case f.Value.String() != f.DefValue:
		return "nnUNet_" + f.Name
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
