package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/phantom"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

func newPhantom() *cobra.Command {
	var c pipeline.PhantomConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "phantom",
		Short: "writes synthetic head-and-neck CTs with lymph nodes in nnU-Net's raw layout",
		Long: `phantom writes a dataset of synthetic CTs: airway, larynx, spine, skull base, jaw with teeth and dental metal, muscles, glands,
carotids and jugular veins, and lymph nodes of 3 to 25 mm along them, with the noise and blur of a reconstruction kernel.
It is a demonstration and a test object, not evidence about patients: no shape, size or frequency in it was measured on anyone.

A domain is a hospital. source: 0.98×0.98×1.5 or 0.49×0.49×3 mm, mostly venous phase, soft kernel, little noise, larger nodes.
target: 1.17×1.17×2.5 mm, arterial phase or no contrast, sharp kernel, more noise, smaller nodes, more dental metal. --phase,
--kernel, --noise and the like replace single choices of the domain. --size small takes voxels of 2 to 3 mm, for trying out.

The same seed gives the same voxels, whatever --threads is. A dataset appears when all of it is written. The table shows, for
each case, the nodes of the label map (none is thinner than 1.25 voxels); phantom.json in the dataset's folder lists every one
of them, and --json prints the same.`,
		Example: `  lntorch phantom --id 501 --name PhantomSource --cases 20 -o nnUNet_raw
  lntorch phantom --id 502 --name PhantomTarget --domain target --cases 5 --test-cases 10 -o nnUNet_raw
  lntorch phantom --id 503 --name Tiny --size small --cases 5 --phase arterial --seed 7
  lntorch phantom --seed 4 --preview neck.png`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := pipeline.Phantom(cmd.Context(), c, output(cmd))
			switch {
			case err != nil:
				return err
			case s == nil:
				fmt.Println("picture:", c.Preview)
				return nil
			case asJSON:
				b, err := s.JSON()
				if err == nil {
					_, err = os.Stdout.Write(b)
				}
				return err
			}
			return printPhantom(s, c.Preview)
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printPhantom(s *phantom.Summary, preview string) error {
	t := report.Table{Columns: []report.Column{{Name: "case"}, {Name: "for"}, {Name: "shape z,y,x"}, {Name: "spacing mm"}, {Name: "phase"}, {Name: "noise HU", Right: true},
		{Name: "nodes", Right: true}, {Name: "short axes mm", Right: true}, {Name: "volume ml", Right: true}}}
	nodes, volume := 0, 0.0
	for _, c := range s.Cases {
		use := "training"
		if c.Test {
			use = "test"
		}
		axes := "–"
		if len(c.Nodes) > 0 {
			short := make([]float64, len(c.Nodes))
			for i, n := range c.Nodes {
				short[i] = n.Axes[0]
			}
			axes = fmt.Sprintf("%.1f – %.1f", slices.Min(short), slices.Max(short))
		}
		number := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
		t.Add(c.Case, use, fmt.Sprintf("%d×%d×%d", c.Shape[0], c.Shape[1], c.Shape[2]), number(c.Spacing[0])+"×"+number(c.Spacing[1])+"×"+number(c.Spacing[2]),
			string(c.Phase), number(c.Noise), strconv.Itoa(len(c.Nodes)), axes, fmt.Sprintf("%.2f", c.Volume))
		nodes += len(c.Nodes)
		volume += c.Volume
	}
	t.Add("all", "", "", "", "", "", strconv.Itoa(nodes), "", fmt.Sprintf("%.2f", volume))
	if err := t.Text(os.Stdout); err != nil {
		return err
	}
	fmt.Printf("%s\n%s\n", s.Note, s.Folder)
	if preview != "" {
		fmt.Println("picture:", preview)
	}
	return nil
}
