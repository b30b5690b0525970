package table

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// analysed is the JSON of a table of scores whose runs have keys, without what is said beside its numbers.
func analysed(t *testing.T, text string, key func(Run) string) (numbers map[string]any, of *Table) {
	t.Helper()
	scores, err := Read([]byte(text), "scores.csv", nil)
	require.NoError(t, err)
	if key != nil {
		scores.Identify(key)
	}
	of, err = Make(context.Background(), scores, settings())
	require.NoError(t, err)
	numbers = asJSON(t, of)
	delete(numbers, "warnings")
	return numbers, of
}

// Draws are not the same whose scores differ in a column that is not asked for.
func TestDrawsDifferInAnyColumn(t *testing.T) {
	for recall, want := range map[string]int{"0.5": 1, "0.25": 2} {
		text := "method,shots,draw,seed,case,Dice,recall,comment\n"
		for _, c := range []string{"p", "q", "r"} {
			text += "a,1,0,0," + c + ",0.5,0.5,of draw 0\n" + "a,1,1,0," + c + ",0.5," + recall + ",of draw 1\n"
		}
		scores, err := Read([]byte(text), "scores.csv", []string{"Dice"})
		require.NoError(t, err)
		of, err := Make(context.Background(), scores, settings())
		require.NoError(t, err)
		require.Equal(t, want, of.Cells[0].Draws, recall)
	}
}

// copied is the scores with the runs of a draw at some shots under other draws, too, in place of theirs.
func copied(text, shots, draw string, to ...string) string {
	var lines []string
	for line := range strings.Lines(text) {
		of := strings.SplitN(line, ",", 4) // method, shots, draw
		if of[1] == shots && slices.Contains(to, of[2]) {
			continue
		}
		lines = append(lines, line)
		if of[1] == shots && of[2] == draw {
			for _, d := range to {
				of[2] = d
				lines = append(lines, strings.Join(of, ","))
			}
		}
	}
	return strings.Join(lines, "")
}

// Draws with the same training cases are one: a training that is listed three times is analysed as the one it is,
// alone, beside another method, and in gains. So it is for a grid, whose keys say which runs are one, and for
// scores of which nothing else is known than that they are the same everywhere.
func TestDrawsOfTheSameCasesCountOnce(t *testing.T) {
	text := grid(2, 20, 3, 3, "1", "5")
	all := copied(text, "5", "0", "1", "2")
	byDraw := func(r Run) string { // the whole pool at 5 shots
		if r.Shots == "5" {
			r.Draw = "0"
		}
		return strings.Join([]string{r.Method, r.Shots, r.Draw, r.Seed}, " ")
	}
	want, alone := analysed(t, strings.Join(without(text, "a,5,1", "a,5,2", "b,5,1", "b,5,2"), "\n"), nil)
	for name, key := range map[string]func(Run) string{"keys": byDraw, "scores": nil} {
		got, of := analysed(t, all, key)
		require.Equal(t, want, got, name)
		at5 := of.Cells[slices.IndexFunc(of.Cells, func(c Cell) bool { return c.Shots == "5" })]
		require.Equal(t, []int{1, 3}, []int{at5.Draws, at5.Seeds})
		require.False(t, at5.Incomplete)
		pair := of.Pairs[slices.IndexFunc(of.Pairs, func(p Pair) bool { return p.Shots == "5" })]
		require.Equal(t, "seed", *pair.Factor)
		require.Equal(t, "seed", *of.Gains[0].Factor)
		require.Contains(t, of.Note(of.Groups(true)[0]), "1 to 3 draws")
		const note = "draws 0, 1, 2 have the same scores everywhere at 5 shots: they are taken for the same training cases, " +
			"and count as one draw"
		if key == nil {
			require.Equal(t, append([]string{note}, alone.Warnings...), of.Warnings)
			require.Contains(t, of.Note(of.Groups(true)[0]), "Caution: "+note)
		} else {
			require.Equal(t, alone.Warnings, of.Warnings, "the experiment says it by itself")
		}
	}
	// Two of three draws.
	want, _ = analysed(t, strings.Join(without(text, "a,1,2", "b,1,2"), "\n"), nil)
	got, of := analysed(t, copied(text, "1", "0", "2"), nil)
	require.Equal(t, want, got)
	require.Equal(t, 2, of.Cells[0].Draws)
	require.Equal(t, "draw", *of.Pairs[0].Factor)
	require.Equal(t, 2, of.Gains[0].Draws)
	require.Equal(t, "draws 0, 2 have the same scores everywhere at 1 shots: they are taken for the same training cases, and "+
		"count as one draw", of.Warnings[0])

	// One method alone that has the same scores is one that is not trained, its rows repeated, or does nothing;
	// and keys that differ are of different trainings.
	untrained := copied(strings.Join(without(text, "b,5"), "\n")+"\n", "5", "0", "1", "2")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "b,5") {
			untrained += line
		}
	}
	_, of = analysed(t, untrained, nil)
	require.Equal(t, 3, of.Cells[2].Draws)
	require.NotContains(t, strings.Join(of.Warnings, ""), "the same scores everywhere")
	_, of = analysed(t, all, func(r Run) string { return strings.Join([]string{r.Method, r.Shots, r.Draw, r.Seed}, " ") })
	require.Equal(t, 3, of.Cells[2].Draws)
	// Nothing is drawn at 0 shots.
	_, of = analysed(t, strings.ReplaceAll(all, ",5,", ",0,"), nil)
	at0 := of.Cells[slices.IndexFunc(of.Cells, func(c Cell) bool { return c.Shots == "0" })]
	require.Equal(t, 3, at0.Draws)
}
