package page

import (
	"fmt"
	"math"
)

// research is what every page says of itself.
const research = "Research software, not a medical device: neither the model nor these numbers may " +
	"guide the care of a patient."

// conclusions says what n held-out cases allow to conclude.
func (s sides) conclusions() []string {
	if len(s) == 0 || len(s.main().Cases) == 0 {
		return []string{"No case was held out: nothing here shows that the adapted model is better than " +
			"the one before, or that it is good. The curves show only that training ran. Score it on " +
			"annotated cases that it was not trained on (lntorch evaluate), or adapt with four cases or " +
			"more, of which some are then held out."}
	}
	n := len(s.main().Cases)
	var list []string
	switch {
	case n == 1:
		list = append(list, "One held-out case shows whether the model can work on such an image, not "+
			"how often it does.")
	case n < 6:
		list = append(list, fmt.Sprintf("%d held-out cases: read each case, not the mean. They can show "+
			"that a model fails; they cannot show that it is safe to rely on.", n))
	default:
		list = append(list, fmt.Sprintf("%d held-out cases speak for cases like them. Other scanners, "+
			"protocols and diseases need cases of their own.", n))
	}
	for _, key := range s.main().Keys() {
		if len(s) == 2 {
			if text := s.signTest(key); text != "" {
				list = append(list, text)
			}
		}
		d := s.detected(len(s)-1, key, s.main().Settings.Match[0], "")
		if all := d.TP + d.FN; all > 0 {
			low, high := wilson(d.TP, all)
			list = append(list, fmt.Sprintf("%s: if nodes were independent, %d found of %d would "+
				"put the recall between %.2f and %.2f (95 %% interval, Wilson). Nodes of one patient are "+
				"alike, so the truth is less certain than that.", s.titled("Recall", key), d.TP, all, low,
				high))
		}
	}
	return list
}

// signTest says how surprising the number of better cases is.
func (s sides) signTest(key string) string {
	n, better, worse, _ := s.compare(key, metricsOf(s.main().Settings)[0])
	if n < 2 {
		return ""
	}
	head := fmt.Sprintf("%s is better after adaptation in %d of %d cases and worse in %d.",
		s.titled("Dice", key), better, n, worse)
	if n < 6 && better < n && worse < n {
		return head + " The cases do not agree: no effect is shown."
	}
	if n < 6 {
		return head + fmt.Sprintf(" Had adaptation no effect, all %d would still agree by chance in one "+
			"of %d such studies: with fewer than 6 cases no two-sided sign test reaches p < 0.05.", n,
			1<<(n-1))
	}
	return head + fmt.Sprintf(" Two-sided sign test: p = %.2g.", signP(better, worse))
}

// signP is the p value of the two-sided sign test; ties are left out.
func signP(better, worse int) float64 {
	n, k := better+worse, min(better, worse)
	tail := 0.0
	for i := range k + 1 {
		tail += math.Exp(logChoose(n, i) - float64(n)*math.Ln2)
	}
	return min(2*tail, 1)
}

func logChoose(n, k int) float64 {
	lg := func(x int) float64 { v, _ := math.Lgamma(float64(x)); return v }
	return lg(n+1) - lg(k+1) - lg(n-k+1)
}

// wilson is the 95 % score interval of a share (Wilson 1927).
func wilson(k, n int) (low, high float64) {
	const z = 1.959964
	p, m := float64(k)/float64(n), float64(n)
	centre := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return max(centre-half, 0), min(centre+half, 1)
}
