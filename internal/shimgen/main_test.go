package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSymbolTableIsCurrent(t *testing.T) {
	header, err := os.ReadFile("../../torch/csrc/lntorch.h")
	require.NoError(t, err)
	h, c, err := Generate(string(header))
	require.NoError(t, err)
	for name, want := range map[string][]byte{"../../torch/shim_gen.h": h,
		"../../torch/shim_gen.c": c} {
		got, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "%s is stale: run go generate ./torch", name)
	}
}

func TestGenerateRefusesWhatItCannotRead(t *testing.T) {
	_, _, err := Generate("LNT_API char* lnt_split(void* x,\n    void* y);\n")
	require.EqualError(t, err, "not a one-line declaration: LNT_API char* lnt_split(void* x,")
	_, _, err = Generate("int x;\n")
	require.EqualError(t, err, "no declarations")
}
