package experiment

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/lntorch/lntorch/pipeline"
)

// Analysis is how the file has scores analysed: those of the experiment in a folder, whose tables,
// pictures and page go there, too.
func (f *File) Analysis(folder string) pipeline.ExperimentTableConfig {
	t := f.Table()
	c := pipeline.ExperimentTableConfig{Scores: filepath.Join(folder, ScoresFile), Out: folder,
		Primary: t.Primary, Reference: t.Reference, Alpha: t.Alpha, Resamples: t.Resamples, Seed: int(t.Seed)}
	for _, name := range slices.Sorted(maps.Keys(t.Tie)) {
		c.Tie = append(c.Tie, name+"="+strconv.FormatFloat(t.Tie[name], 'g', -1, 64))
	}
	return c
}
