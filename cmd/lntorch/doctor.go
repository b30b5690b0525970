package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newDoctor() *cobra.Command {
	var c pipeline.DoctorConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "reports what this machine has, what is wrong, and how to fix it",
		Long: `doctor looks for libtorch, devices, memory and nnU-Net's folders. A line marked "!" is a problem, "?" something that may be one.
It ends with 1 when training could not run.`,
		Example: `  lntorch doctor
  LNTORCH_LIB=/opt/lntorch/liblntorch.so lntorch doctor`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := pipeline.Doctor(c, output(cmd))
			if asJSON {
				if err := printJSON(checks); err != nil {
					return err
				}
			}
			wrong := false
			for _, k := range checks {
				wrong = wrong || k.State == "problem"
				if !asJSON {
					mark := map[string]string{"ok": " ", "warning": "?", "problem": "!"}[k.State]
					fmt.Printf("%s %-19s %s\n", mark, k.Name, strings.ReplaceAll(k.Text, "\n", "\n"+strings.Repeat(" ", 22)))
				}
			}
			if wrong {
				return errors.New("training cannot run on this machine as it is: the lines marked ! say why")
			}
			return nil
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}
