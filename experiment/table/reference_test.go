package table

import (
	"encoding/csv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// referred is a table of scores with a reference.
func referred(t *testing.T, text, reference string) *Table {
	t.Helper()
	s := settings()
	s.Reference = reference
	return made(t, text, s)
}

// twoNetworks is scores of methods a and b by networks u and v, b the better.
func twoNetworks(shots ...string) string {
	head, rows, _ := strings.Cut(grid(2, 20, 3, 1, shots...), "\n")
	text := "network," + head + "\n"
	for _, network := range []string{"u", "v"} {
		for line := range strings.Lines(rows) {
			text += network + "," + line
		}
	}
	return text
}

// Where the reference is a network, methods are compared with the best of them, and their tables say so.
func TestNotesOfMethodsWhereTheReferenceIsANetwork(t *testing.T) {
	of := referred(t, twoNetworks("5"), "u")
	groups := of.Groups(true)
	require.Len(t, groups, 2)
	for _, g := range groups {
		note := of.Note(g)
		require.Contains(t, note, "p: the same analysis of the paired difference from the best, after Holm")
		require.Contains(t, note, "Bold: the best, and what it does not beat at 0.05.")
		require.Contains(t, note, "W/T/L: patients for whom the method is better than the best, ")
		require.NotContains(t, note, "from u")
		require.Equal(t, "best", g.Rows[1].Role)
		require.True(t, g.Rows[1].Bold)
		require.Same(t, g.Rows[1], g.Rows[0].To)
		require.Empty(t, g.OneRun())
	}
	for _, p := range of.Pairs {
		require.True(t, p.By == "method" || p.B == "u")
	}

	of = referred(t, twoNetworks("5"), "b")
	require.Contains(t, of.Note(of.Groups(true)[0]), "the paired difference from b, after Holm")
	require.Contains(t, of.Note(of.Groups(true)[0]), "Bold: better than b at 0.05.")
	require.Contains(t, of.Note(of.Groups(true)[0]), "the method is better than b, ")
	of = referred(t, twoNetworks("5"), "")
	require.Contains(t, of.Note(of.Groups(true)[0]), "the paired difference from the best, after Holm")
	// One method alone is compared with nothing.
	of = made(t, grid(1, 20, 3, 1, "5"), settings())
	note := of.Note(of.Groups(true)[0])
	require.Contains(t, note, "No methods are compared here; 0 tests between methods or networks were made of Dice.")
	for _, claim := range []string{"paired difference", "Bold", "W/T/L"} {
		require.NotContains(t, note, claim)
	}
}

// The network as it is, which is at 0 shots, is a reference at every number of shots: each other method is compared
// with its one run, as with rows of it that are repeated for each draw and seed.
func TestTheNetworkAsItIsIsAReference(t *testing.T) {
	text := grid(2, 20, 3, 2, "1", "5")
	none, repeated := "", ""
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "a,1,0,0,"); ok {
			rest = strings.Replace(rest, ",0.5", ",0.6", 1)
			none += "none,0,0,0," + rest
			for _, run := range []string{"1,0,0", "1,0,1", "1,1,0", "1,1,1", "1,2,0", "1,2,1", "5,0,0", "5,0,1", "5,1,0", "5,1,1", "5,2,0", "5,2,1"} {
				repeated += "none," + run + "," + rest
			}
		}
	}
	of, want := referred(t, text+none, "none"), referred(t, text+repeated, "none")
	require.Equal(t, asJSON(t, want)["pairs"], asJSON(t, of)["pairs"])
	require.Len(t, of.Pairs, 2*2*2, "two methods, shots, metrics")
	require.Equal(t, want.Tests, of.Tests)
	require.NotContains(t, strings.Join(of.Warnings, "\n"), "nothing is compared")
	g := of.Groups(true)[0]
	require.Equal(t, "none 0 reference", strings.Join([]string{g.Rows[0].Method, g.Rows[0].Shots, g.Rows[0].Role}, " "))
	better := 0
	for _, l := range g.Rows[1:] {
		require.Same(t, g.Rows[0], l.To)
		require.Equal(t, "none", l.Against.B)
		require.Equal(t, "draw", *l.Against.Factor)
		require.Empty(t, l.Role)
		require.Equal(t, l.Against.PHolm < 0.05 && l.Against.Difference > 0, l.Bold)
		if l.Bold {
			better++
		}
	}
	require.Positive(t, better)
	note := of.Note(g)
	require.Contains(t, note, "the paired difference from none, after Holm")
	require.Contains(t, note, "none is one run, of the network as it is, which stands for each draw and seed.")
	require.Contains(t, note, "Bold: better than none at 0.05.")
	require.NotContains(t, note, "the best")
	require.Empty(t, want.Groups(true)[0].OneRun())
	records, err := csv.NewReader(strings.NewReader(csvOf(of))).ReadAll()
	require.NoError(t, err)
	require.Equal(t, "against", records[0][20])
	require.Equal(t, []string{"", "none", "none"}, []string{records[1][20], records[2][20], records[3][20]})

	// Where several runs stand at 0 shots, none of them is that of the network.
	of = referred(t, text+none+strings.ReplaceAll(none, "none,0,0,0", "none,0,1,0"), "none")
	require.Empty(t, of.Pairs)
	require.Contains(t, of.Warnings, "nothing is compared where none has no scores: 1 shots; 5 shots")
}

// A reference that is missing at some shots, or everywhere, is said to be: nothing is called the best there, nor
// compared.
func TestAReferenceThatIsMissingIsNamed(t *testing.T) {
	of := referred(t, strings.Join(without(twoNetworks("1", "5"), "u,a,1", "v,a"), "\n"), "a")
	require.Contains(t, of.Warnings, "nothing is compared where a has no scores: u, 1 shots; v, 1 shots; v, 5 shots")
	groups := of.Groups(true)
	u, v := of.Note(groups[0]), of.Note(groups[1])
	require.Contains(t, u, "the paired difference from a, after Holm")
	require.Contains(t, u, "Nothing is compared at 1 shots, where there is no a.")
	require.Contains(t, v, "No methods are compared here; 3 tests between methods or networks were made of Dice. Nothing is compared "+
		"at 1, 5 shots, where there is no a.") // b with a by u, and b of the two networks
	require.NotContains(t, v, "difference from")
	for _, g := range groups {
		for _, l := range g.Rows {
			require.NotEqual(t, "best", l.Role)
			require.Equal(t, l.Shots == "5" && g.Network == "u" && l.Method == "b", l.To != nil)
		}
	}
	// A network that is missing in a method.
	of = referred(t, strings.Join(without(twoNetworks("5"), "u,a"), "\n"), "u")
	require.Contains(t, of.Warnings, "nothing is compared where u has no scores: a, 5 shots")
}
