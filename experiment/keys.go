package experiment

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// key is the first 16 hex digits of the sha256 of a value's canonical JSON: sorted keys, no spaces,
// UTF-8 as it is.
func key(value any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return "", err
	}
	sum := sha256.Sum256(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	return hex.EncodeToString(sum[:8]), nil
}

// withoutEffect are flags of a training that change none of its weights.
var withoutEffect = []string{"workers", "save-every"}

// withoutTime are flags of a training that change nothing about how long an iteration takes.
var withoutTime = []string{"epochs", "iterations", "val-iterations", "lr", "momentum", "weight-decay"}

// weighs reports whether a setting belongs into a key.
func weighs(name string) bool { return !slices.Contains(withoutEffect, name) }

// addLabels adds to what a key is made of which labels the dataset has, and with regions in which order they are
// painted, which decides the labels of overlapping ones.
func (g *gridDataset) addLabels(to map[string]any) {
	labels := g.raw.JSON.Labels
	to["labels"] = labels.Entries
	if labels.HasRegions {
		to["regions_class_order"] = labels.RegionsClassOrder
	}
}

// contentsOf lists the contents of cases by the cases' order of names, in which batches draw them. The
// names themselves are in no key.
func contentsOf(cases []string, of map[string]*content) []string {
	var out []string
	for _, c := range slices.Sorted(slices.Values(cases)) {
		out = append(out, of[c].all())
	}
	return out
}
