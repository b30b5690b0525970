package page

import "github.com/lntorch/lntorch/eval/scores"

// Scores writes scores.html: what scores.json, scores.csv and nodes.csv hold, to be read.
func Scores(path string, s *scores.Scores, title string) error {
	return scoresDocument(s, title).Write(path)
}

func scoresDocument(s *scores.Scores, title string) *Document {
	return &Document{Title: title, Data: map[string]any{"scores": s}}
}
