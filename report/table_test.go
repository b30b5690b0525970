package report

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func dice() *Table {
	t := &Table{Columns: []Column{{Name: "case"}, {Name: "before", Right: true}, {Name: "ΔDice", Right: true}, {Name: "note"}}}
	t.Add("LN_004", "0.471", "+0.046")
	t.Add("LN_005 | largest", "1", "0", "two\nlines")
	return t
}

func TestTextIsAligned(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, dice().Text(&b))
	require.Equal(t, ""+
		"case              before   ΔDice  note\n"+
		"----------------  ------  ------  ---------\n"+
		"LN_004             0.471  +0.046\n"+
		"LN_005 | largest       1       0  two lines\n", b.String())
}

func TestMarkdownIsAligned(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, dice().Markdown(&b))
	require.Equal(t, ""+
		"| case              | before |  ΔDice | note      |\n"+
		"| ----------------- | -----: | -----: | --------- |\n"+
		"| LN_004            |  0.471 | +0.046 |           |\n"+
		"| LN_005 \\| largest |      1 |      0 | two lines |\n", b.String())
}

func TestTooManyCellsPanic(t *testing.T) {
	require.PanicsWithValue(t, "report: 5 cells in a table of 4 columns", func() { dice().Add("1", "2", "3", "4", "5") })
}

func ExampleTable() {
	t := Table{Columns: []Column{{Name: "method"}, {Name: "Dice", Right: true}}}
	t.Add("before", "0.471")
	t.Add("dgst", "0.517")
	_ = t.Text(os.Stdout)
	// Output:
	// method   Dice
	// ------  -----
	// before  0.471
	// dgst    0.517
}
