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

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/nearest"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
)

// Annotations of flags.
const (
	sourceNote = "source" // variable or file that a value comes from
	nnunetNote = "nnunet" // nnU-Net's single-dash flag of it
	listNote   = "list"   // several values may follow the flag
)

// bind declares the settings of a command's config struct as its flags, with their defaults.
func bind(cmd *cobra.Command, config any) {
	settings.Defaults(config)
	for _, s := range settings.Fields(config) {
		help := s.Usage()
		if s.NNUNet != "" && s.NNUNet != s.Name {
			help += " (-" + s.NNUNet + ")"
		}
		if s.Env != "" && os.Getenv(s.Env) != "" {
			if err := s.SetDefault(os.Getenv(s.Env)); err != nil {
				help += fmt.Sprintf(" ($%s: %v)", s.Env, err)
			}
		}
		f := cmd.Flags().VarPF(s, s.Name, s.Short, help)
		f.DefValue = ""
		if s.Env == "" {
			f.DefValue = s.Default()
		}
		f.Hidden = s.Hidden
		if s.IsBool() {
			f.NoOptDefVal, f.DefValue = "true", "false"
		}
		if s.Alone != "" {
			f.NoOptDefVal = s.Alone
		}
		annotate(f, nnunetNote, s.NNUNet)
		if s.List {
			annotate(f, listNote, "true")
		}
	}
}

func annotate(f *pflag.Flag, key, value string) {
	if value == "" {
		return
	}
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[key] = []string{value}
}

// optionFlag is a method's option as a flag.
type optionFlag struct {
	option finetune.Option
	method *pipeline.Method
}

func (o *optionFlag) String() string {
	if o == nil || o.method == nil {
		return ""
	}
	if v, ok := o.method.Options[o.option.Name]; ok {
		return v.Text
	}
	return o.option.Default
}

func (o *optionFlag) Type() string { return "string" }

// Set gives the option a value, as the command line does.
func (o *optionFlag) Set(text string) error {
	if o.method.Options == nil {
		o.method.Options = map[string]pipeline.OptionValue{}
	}
	o.method.Options[o.option.Name] = pipeline.OptionValue{Text: text}
	return nil
}

// share records that the value comes from where settings of several methods may stand.
func (o *optionFlag) share() {
	v := o.method.Options[o.option.Name]
	v.Shared = true
	o.method.Options[o.option.Name] = v
}

// bindOptions declares the options of every method as flags.
func bindOptions(cmd *cobra.Command, m *pipeline.Method) {
	cmd.Flags().Lookup("method").Usage += ": " + strings.Join(pipeline.MethodNames(), ", ")
	for _, e := range finetune.Entries() {
		for _, o := range e.Options {
			help := o.Help
			if o.Values != nil {
				help += ": " + strings.Join(o.Values, ", ")
			}
			f := cmd.Flags().VarPF(&optionFlag{o, m}, o.Name, "", help)
			if slices.Equal(o.Values, []string{"false", "true"}) {
				f.NoOptDefVal = "true" // a switch
			}
		}
	}
}

// nnunetArgs turns nnU-Net's single-dash flags into ours: -tr NAME becomes --trainer NAME, and -d 2 4 becomes
// -d 2 -d 4.
func nnunetArgs(root *cobra.Command, args []string) []string {
	args = runOfFile(args)
	cmd, _, err := root.Find(args)
	if err != nil {
		return args
	}
	single, lists := map[string]string{}, map[string]bool{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		own := f.Annotations[nnunetNote]
		if own != nil {
			single[own[0]] = f.Name
		}
		if f.Annotations[listNote] == nil {
			return
		}
		lists[f.Name] = true
		if f.Shorthand != "" {
			lists[f.Shorthand] = true
		}
		if own != nil {
			lists[strings.ReplaceAll(own[0], "_", "-")] = true
		}
	})
	out := joinLists(lists, args)
	for i, a := range out {
		if a == "--" {
			break
		}
		if !strings.HasPrefix(a, "-") || strings.HasPrefix(a, "--") {
			continue
		}
		name, value, found := strings.Cut(a[1:], "=")
		ours, ok := single[name]
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

// joinLists repeats a list flag for each of its values.
func joinLists(lists map[string]bool, args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		out = append(out, args[i])
		if args[i] == "--" {
			return append(out, args[i+1:]...)
		}
		if !strings.HasPrefix(args[i], "-") || !lists[strings.ReplaceAll(strings.TrimLeft(args[i], "-"), "_", "-")] {
			continue
		}
		n := i + 1
		for n < len(args) && !strings.HasPrefix(args[n], "-") {
			n++
		}
		for k := i + 1; k < n; k++ {
			if k > i+1 {
				out = append(out, args[i])
			}
			out = append(out, args[k])
		}
		i = n - 1
	}
	return out
}

// suggest names the flag in the error about its value, and adds to the error about an unknown flag the one
// that was probably meant.
func suggest(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return fmt.Errorf("--%s: %w", invalid.GetFlag().Name, valueError(invalid))
	}
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	given := unknown.GetSpecifiedShortnames()
	names := map[string]string{}
	if given == "" {
		given = unknown.GetSpecifiedName()
	} else {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if own := f.Annotations[nnunetNote]; own != nil {
				names[own[0]] = "-" + own[0]
			}
		})
		given, _, _ = strings.Cut(given, "=")
		err = fmt.Errorf("unknown flag: -%s", given)
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if names[f.Name] == "" && !f.Hidden {
			names[f.Name] = "--" + f.Name
		}
	})
	if name := nearest.Name(given, slices.Sorted(maps.Keys(names))); name != "" {
		return fmt.Errorf("%w; did you mean %s?", err, names[name])
	}
	return err
}

// valueError is why a flag does not take its value, in the user's words.
func valueError(invalid *pflag.InvalidValueError) error {
	var number *strconv.NumError
	if err := invalid.Unwrap(); !errors.As(err, &number) {
		return err
	}
	return fmt.Errorf("found %q, expected true or false", invalid.GetValue())
}

// applySettings gives every flag that the command line did not set its value from the environment or the --config file.
func applySettings(cmd *cobra.Command, _ []string) error {
	file, err := cmd.Flags().GetString("config")
	if err == nil && file == "" {
		file = os.Getenv("LNTORCH_CONFIG")
	}
	if err != nil {
		return err
	}
	v, err := readSettings(cmd, file)
	if err != nil {
		return err
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || err != nil || f.Name == "config" || f.Name == "help" {
			return
		}
		from := "LNTORCH_" + strings.ReplaceAll(strings.ToUpper(f.Name), "-", "_")
		texts := []string{os.Getenv(from)}
		if texts[0] == "" {
			if !v.IsSet(f.Name) {
				return
			}
			from = file
			texts, err = settingTexts(f, v.Get(f.Name))
		}
		if err == nil && strings.Join(texts, ",") == f.DefValue {
			return // so that "the method's default" stays what it is
		}
		for _, text := range texts {
			if err == nil {
				err = cmd.Flags().Set(f.Name, text)
			}
		}
		if err == nil {
			annotate(f, sourceNote, from)
			if o, ok := f.Value.(*optionFlag); ok {
				o.share()
			}
			return
		}
		var invalid *pflag.InvalidValueError
		if errors.As(err, &invalid) {
			err = valueError(invalid)
		}
		err = usage(cmd, fmt.Errorf("%s: setting %s: %w", from, f.Name, err))
	})
	return err
}

// settingTexts writes a value of the --config file as the command line would give it: several times
// where it is a list.
func settingTexts(f *pflag.Flag, value any) ([]string, error) {
	list, ok := value.([]any)
	if !ok {
		text, err := settingText(value)
		return []string{text}, err
	}
	if s, ok := f.Value.(*settings.Field); !ok || !s.IsList() {
		return nil, errors.New("found a list, expected one value")
	}
	texts := make([]string, len(list))
	for i, e := range list {
		var err error
		if texts[i], err = settingText(e); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// settingText writes one value.
func settingText(value any) (string, error) {
	switch x := value.(type) {
	case []any:
		return "", errors.New("found a list in a list, expected one value")
	case map[string]any:
		return "", errors.New("found a table, expected one value")
	case float64: // as JSON gives whole numbers, too
		return strconv.FormatFloat(x, 'f', -1, 64), nil
	}
	return fmt.Sprint(value), nil
}

// readSettings reads the --config file, if there is one. A name in it that no command has is an error.
func readSettings(cmd *cobra.Command, file string) (*viper.Viper, error) {
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
			if n := nearest.Name(name, slices.Sorted(maps.Keys(known))); n != "" {
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

// source names where a flag's value comes from: a variable, a file, "command line" or "default".
func source(f *pflag.Flag) string {
	switch {
	case f.Annotations[sourceNote] != nil:
		return f.Annotations[sourceNote][0]
	case f.Changed:
		return "command line"
	}
	if s, ok := f.Value.(*settings.Field); ok && s.Env != "" && s.String() != "" {
		return s.Env
	}
	return "default"
}
