package settings

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Record gives the settings of config by the names they have in run records.
func Record(config any) map[string]any {
	m := map[string]any{}
	for _, f := range Fields(config) {
		m[f.Record] = f.Value()
	}
	return m
}

// Kept gives, as text, the settings of config that a training keeps to its end, because other values
// would change its bits.
func Kept(config any) map[string]string {
	m := map[string]string{}
	for _, f := range Fields(config) {
		if f.Keep != "" {
			m[f.Keep] = keptText(f)
		}
	}
	return m
}

// keptText writes lists with spaces, as checkpoints always had them.
func keptText(f *Field) string {
	if f.kind() == "strings" {
		return strings.Join(f.GetSlice(), " ")
	}
	return fmt.Sprint(f.Value())
}

// A Change is a setting that is not what the training had.
type Change struct{ Name, Was, Is string }

// Compare lists the settings in kept that are not those of config, by name. A setting that kept lacks is
// newer than the checkpoint: it had the value of its tag before.
func Compare(config any, kept map[string]string) []Change {
	var changes []Change
	now := Kept(config)
	before := map[string]string{}
	for _, f := range Fields(config) {
		if f.Keep != "" {
			before[f.Keep] = f.Before
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		was, ok := kept[name]
		if !ok {
			if was = before[name]; was == "*" {
				continue
			}
		}
		if was != now[name] {
			changes = append(changes, Change{name, was, now[name]})
		}
	}
	return changes
}

// Check says which settings of config are outside of what their tags allow, for a struct that was filled
// without flags. A zero stands for a setting that is not given.
func Check(config any) error {
	for _, f := range Fields(config) {
		if f.value.IsZero() {
			continue
		}
		texts := f.GetSlice()
		for _, text := range texts {
			e := reflect.New(f.elem()).Elem()
			if err := f.parseOne(e, text); err != nil {
				return Usage("--%s: %w", f.Name, err)
			}
		}
	}
	return nil
}
