// Package nearest finds the name that was probably meant.
package nearest

import "strings"

// Name returns the name that is at most a third of its letters away from text, or that text begins;
// "" if there is none.
func Name(text string, names []string) string {
	if len(text) > 200 {
		return ""
	}
	best, at := "", 0
	for _, n := range names {
		d := distance(text, n)
		if len(text) > 2 && strings.HasPrefix(n, text) {
			d = 1
		}
		if d <= max(1, len(n)/3) && d < len(n) && (best == "" || d < at) {
			best, at = n, d
		}
	}
	return best
}

// distance returns the number of letters to insert, delete or replace (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := before
			if a[i] != b[j] {
				d = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
