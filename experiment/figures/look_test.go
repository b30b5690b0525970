package figures

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/lntorch/lntorch/experiment/table"
)

func TestLook(t *testing.T) {
	text, _ := os.ReadFile(os.Getenv("LOOK"))
	s, err := table.Read(text, "x", nil)
	if err != nil { t.Fatal(err) }
	tab, err := table.Make(context.Background(), s, table.Settings{Primary: s.Metrics[0], Reference: os.Getenv("REF"), Alpha: .05, Resamples: 100, Lower: table.LowerIsBetter})
	if err != nil { t.Fatal(err) }
	var runs []Run
	r := rand.New(rand.NewPCG(1, 1))
	seen := map[string]int{}
	for _, c := range tab.Cells {
		if c.Metric != tab.Primary { continue }
		seen[c.Method]++
		for d := range 3 {
			sec := 300 * (1 + float64(len(c.Method)%5)) * (1 + .1*r.Float64())
			b := int64(1.2e9 * (1 + float64(len(c.Method)%4)))
			run := Run{Dataset: c.Dataset, Network: c.Network, Method: c.Method, Shots: c.Shots, Draw: Name(fmt.Sprint(d)), Seed: "0", Seconds: &sec, PeakBytes: &b}
			if c.Shots == "0" { run.Seconds, run.PeakBytes = nil, nil } else {
			for e := range 100 {
				l := -0.2 - .5*(1-math.Exp(-float64(e)/20))*c.Mean + .02*r.NormFloat64()
				dd := c.Mean * (1 - math.Exp(-float64(e)/15)) + .01*r.NormFloat64()
				run.Curves.Loss = append(run.Curves.Loss, &l)
				run.Curves.PseudoDice = append(run.Curves.PseudoDice, &dd)
			}
			if len(c.Method) > 4 && c.Method[:4] == "dgst" {
				for st := range 6 {
					for cv := range 2 {
						for _, n := range []string{"weight"} {
							run.Touched = append(run.Touched, Layer{fmt.Sprintf("encoder.stages.%d.0.convs.%d.conv.%s", st, cv, n), int64(100 * r.Float64() * float64(len(c.Method)-8)), 1000})
						}
					}
				}
				for st := range 5 { for cv := range 2 {
					run.Touched = append(run.Touched, Layer{fmt.Sprintf("decoder.stages.%d.convs.%d.conv.weight", st, cv), int64(50 * r.Float64()* float64(len(c.Method)-8)), 1000}) } }
			} }
			for k, cl := range []string{"<5", "5-10", ">=10"} {
				run.Sizes = append(run.Sizes, SizeClass{"", cl, int(float64(100) * min(1, c.Mean*(0.5+.4*float64(k))*(1+.05*r.NormFloat64()))), 100})
			}
			runs = append(runs, run)
		}
	}
	Complete(tab, runs)
	for _, f := range Draw(tab, runs) {
		w, _ := os.Create("/tmp/exppics/look/" + f.Name + ".png")
		if err := f.PNG(w); err != nil { t.Fatal(err) }
		w.Close()
		w, _ = os.Create("/tmp/exppics/look/" + f.Name + ".svg")
		f.SVG(w)
		w.Close()
		t.Log(f.Name, f.Title, "|", f.Caption, "|", f.Alt[:min(200, len(f.Alt))])
	}
}
