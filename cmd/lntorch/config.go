package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lntorch/lntorch/report"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config [COMMAND]",
		Short: "prints the settings in force, and where each comes from",
		Long: `config shows every flag of a command (train, if none is named) with the value that the environment (LNTORCH_…), the --config file and
the defaults give it.`,
		Example: `  LNTORCH_THREADS=4 lntorch config train --config experiment.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Errorf("found %d arguments, expected at most one: COMMAND", len(args)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "train"
			if len(args) == 1 {
				name = args[0]
			}
			target, _, err := cmd.Root().Find([]string{name})
			if err != nil || target == cmd.Root() {
				return usage(cmd, fmt.Errorf("no command %q", name))
			}
			if file, _ := cmd.Flags().GetString("config"); file != "" {
				if err := target.ParseFlags([]string{"--config", file}); err != nil {
					return usage(cmd, err)
				}
			} else if err := target.ParseFlags(nil); err != nil {
				return usage(cmd, err)
			}
			if err := applySettings(target, nil); err != nil {
				return err
			}
			return printSettings(cmd, target)
		},
	}
	cmd.Flags().Bool("json", false, "print JSON")
	return cmd
}

// setting is one flag as --json prints it.
type setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

func printSettings(cmd, target *cobra.Command) error {
	list := []setting{}
	target.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "config" {
			return
		}
		list = append(list, setting{f.Name, f.Value.String(), source(f)})
	})
	if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
		return printJSON(list)
	}
	t := report.Table{Columns: []report.Column{{Name: "setting"}, {Name: "value"}, {Name: "from"}}}
	for _, s := range list {
		t.Add(s.Name, s.Value, s.Source)
	}
	return t.Text(os.Stdout)
}
