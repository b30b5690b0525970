package settings

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

type machine struct {
	AMP string `flag:"amp" values:"auto,off" default:"auto" keep:"amp"`
}

type config struct {
	machine
	LR       float64  `flag:"lr" range:">0.." keep:"lr" help:"learning rate"`
	Momentum float64  `flag:"momentum" default:"0.99" range:"0..<1" keep:"momentum"`
	Seed     uint64   `flag:"seed"`
	Patch    []int    `flag:"patch-size" range:"1.." keep:"patch_size"`
	Train    []string `flag:"train" keep:"train"`
	Raw      string   `flag:"raw" env:"nnUNet_raw" path:"true"`
	Force    bool     `flag:"force" record:"forced"`
	Numerics string   `flag:"numerics" default:"fast" keep:"numerics" before:"*"`
	Internal int
}

func field(t *testing.T, c *config, name string) *Field {
	t.Helper()
	for _, f := range Fields(c) {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no field %s", name)
	return nil
}

func TestEveryTaggedFieldIsASetting(t *testing.T) {
	c := New[config]()
	var names []string
	for _, f := range Fields(&c) {
		names = append(names, f.Name)
	}
	require.Equal(t, []string{"amp", "lr", "momentum", "seed", "patch-size", "train", "raw", "force", "numerics"}, names)
	require.Equal(t, 0.99, c.Momentum)
	require.Equal(t, "auto", c.AMP)
}

func TestValuesOutOfRangeAreRefused(t *testing.T) {
	for _, x := range []struct{ flag, text, err string }{
		{"lr", "0", `found "0", expected a number above 0`},
		{"lr", "nan", `found "nan", expected a number above 0`},
		{"lr", "inf", `expected a number above 0`},
		{"lr", "-1", `expected a number above 0`},
		{"lr", "1e-3", ""},
		{"momentum", "1", `expected a number of at least 0 and below 1`},
		{"momentum", "0", ""},
		{"raw", "", "found an empty value: give one, or leave the flag out"},
		{"numerics", "", "found an empty value"},
		{"seed", "-1", `expected a whole number from 0 on`},
		{"seed", "18446744073709551615", ""},
		{"patch-size", "16,0,16", `found "0", expected whole numbers of at least 1`},
		{"patch-size", "16,x", `found "x"`},
		{"patch-size", "16,48,48", ""},
		{"amp", "fp8", `found "fp8", expected auto or off`},
		{"force", "maybe", `expected true or false`},
		{"raw", "~other/x", "home folder of another user"},
	} {
		c := New[config]()
		err := field(t, &c, x.flag).Set(x.text)
		if x.err == "" {
			require.NoError(t, err, "%s %s", x.flag, x.text)
			continue
		}
		require.ErrorContains(t, err, x.err, "%s %s", x.flag, x.text)
	}
}

func TestAZeroThatWasSetStays(t *testing.T) {
	c := New[config]()
	require.NoError(t, field(t, &c, "momentum").Set("0"))
	require.Equal(t, 0.0, Record(&c)["momentum"])
	require.Equal(t, "0", Kept(&c)["momentum"])
}

func TestListsReplaceTheirDefaultAndThenGrow(t *testing.T) {
	c := New[config]()
	c.Train = []string{"default"}
	f := field(t, &c, "train")
	require.NoError(t, f.Set("a.*"))
	require.NoError(t, f.Set("b.*,c"))
	require.Equal(t, []string{"a.*", "b.*", "c"}, c.Train)
	require.Equal(t, "a.*,b.*,c", f.String())
	require.Equal(t, "a.* b.* c", Kept(&c)["train"])
}

func TestHomeIsExpanded(t *testing.T) {
	t.Setenv("HOME", "/home/someone")
	c := New[config]()
	require.NoError(t, field(t, &c, "raw").Set("~/raw"))
	require.Equal(t, "/home/someone/raw", c.Raw)
	require.NoError(t, field(t, &c, "raw").Set("~"))
	require.Equal(t, os.Getenv("HOME"), c.Raw)
}

// What a checkpoint keeps is compared; a setting that it does not know had the value from before it existed, or any.
func TestCompareKnowsSettingsThatCameLater(t *testing.T) {
	c := New[config]()
	c.LR = 0.01
	kept := Kept(&c)
	require.Empty(t, Compare(&c, kept))
	delete(kept, "numerics") // before:"*"
	delete(kept, "train")    // before: none
	require.Empty(t, Compare(&c, kept))
	c.Train = []string{"x"}
	c.Patch = []int{1, 2}
	require.Equal(t, []Change{{"patch_size", "[]", "[1 2]"}, {"train", "", "x"}}, Compare(&c, kept))
}

func TestRecordsUseTheirNames(t *testing.T) {
	c := New[config]()
	r := Record(&c)
	require.Contains(t, r, "forced")
	require.Contains(t, r, "patch_size")
	require.NotContains(t, r, "Internal")
}

func TestWrongTagsPanic(t *testing.T) {
	require.Panics(t, func() {
		Fields(&struct {
			X complex128 `flag:"x"`
		}{})
	})
	require.Panics(t, func() {
		Fields(&struct {
			X int `flag:"x" range:"3"`
		}{})
	})
	require.Panics(t, func() {
		Defaults(&struct {
			X int `flag:"x" default:"two"`
		}{})
	})
	require.Panics(t, func() {
		Fields(&struct {
			X int `flag:"x"`
			Y int `flag:"x"`
		}{})
	})
}

// A struct that was filled without flags is held to the same tags.
func TestCheckHoldsStructsToTheirTags(t *testing.T) {
	c := New[config]()
	require.NoError(t, Check(&c))
	c.LR, c.Patch = 0.1, []int{8, 8}
	require.NoError(t, Check(&c))
	c.Patch = []int{8, -1}
	require.ErrorContains(t, Check(&c), `--patch-size: found "-1"`)
	c.Patch, c.AMP = nil, "fp8"
	require.ErrorContains(t, Check(&c), "--amp")
	c.AMP, c.LR = "auto", -1
	require.ErrorContains(t, Check(&c), "--lr")
}

// A path may hold commas: its flag is repeated instead.
func TestPathsKeepTheirCommas(t *testing.T) {
	c := struct {
		Input []string `flag:"input" path:"true"`
	}{}
	f := Fields(&c)[0]
	require.NoError(t, f.Set("scan, portal.nii.gz"))
	require.NoError(t, f.Set("b.nii"))
	require.Equal(t, []string{"scan, portal.nii.gz", "b.nii"}, c.Input)
}
