package finetune_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/finetune"
)

type method struct{ values finetune.Values }

func (method) Trains(string, []int64) bool { return true }

func entry(name string) finetune.Entry {
	return finetune.Entry{Name: name, Options: []finetune.Option{
		{Name: name + "-rank", Default: "32"},
		{Name: name + "-kind", Default: "a", Values: []string{"a", "b"}},
	}, New: func(v finetune.Values) (finetune.Method, error) { return method{v}, nil }}
}

func TestMakeGivesTheMethodEveryOption(t *testing.T) {
	for _, c := range []struct{ given, want finetune.Values }{
		{nil, finetune.Values{"m-rank": "32", "m-kind": "a"}},
		{finetune.Values{"m-kind": "b"}, finetune.Values{"m-rank": "32", "m-kind": "b"}},
		{finetune.Values{"m-rank": "", "m-kind": "a"}, finetune.Values{"m-rank": "",
			"m-kind": "a"}},
	} {
		m, err := entry("m").Make(c.given)
		require.NoError(t, err)
		require.Equal(t, c.want, m.(method).values)
	}
}

func TestMakeRefusesWhatIsNotAnOption(t *testing.T) {
	_, err := entry("m").Make(finetune.Values{"m-kind": "c"})
	require.EqualError(t, err, `finetune: --m-kind "c": expected one of a, b`)
	_, err = entry("m").Make(finetune.Values{"n-kind": "a"})
	require.EqualError(t, err, "finetune: method m has no option --n-kind")
}

func TestRegisteredMethodsAreFoundAndSorted(t *testing.T) {
	require.Empty(t, finetune.Entries(),
		"methods are registered by their packages; this one has none")
	for _, name := range []string{"zeta", "alpha", "middle"} {
		finetune.Register(entry(name))
	}
	e, err := finetune.Lookup("middle")
	require.NoError(t, err)
	require.Equal(t, "middle", e.Name)
	require.True(t, slices.IsSortedFunc(finetune.Entries(),
		func(a, b finetune.Entry) int { return strings.Compare(a.Name, b.Name) }))
	_, err = finetune.Lookup("adam")
	require.EqualError(t, err, `finetune: unknown method "adam"; expected one of alpha, middle, zeta`)
}
