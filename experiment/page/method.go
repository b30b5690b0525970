package page

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/experiment/figures"
	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/report/page"
)

// references are those of the method's text, in its order.
var references = []string{
	"Dorfman DD, Berbaum KS, Metz CE. Receiver operating characteristic rating analysis: generalization to the " +
		"population of readers and patients with the jackknife method. Investigative Radiology 27:723–731, 1992.",
	"Obuchowski NA, Rockette HE. Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests: " +
		"an ANOVA approach with dependent observations. Communications in Statistics – Simulation and Computation " +
		"24:285–308, 1995.",
	"Hillis SL. A comparison of denominator degrees of freedom methods for multiple observer ROC analysis. " +
		"Statistics in Medicine 26:596–619, 2007.",
	"Satterthwaite FE. An approximate distribution of estimates of variance components. Biometrics Bulletin " +
		"2:110–114, 1946.",
	"Bouthillier X, Delaunay P, Bronzi M, et al. Accounting for variance in machine learning benchmarks. " +
		"Proceedings of Machine Learning and Systems 3, 2021.",
	"Holm S. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6:65–70, " +
		"1979.",
	"Benavoli A, Corani G, Mangili F. Should we really use post-hoc tests based on mean-ranks? Journal of Machine " +
		"Learning Research 17(5):1–10, 2016.",
	"Wilcoxon F. Individual comparisons by ranking methods. Biometrics Bulletin 1:80–83, 1945.",
	"Wiesenfarth M, Reinke A, Landman BA, et al. Methods and open-source toolkit for analyzing and visualizing " +
		"challenge results. Scientific Reports 11:2369, 2021.",
	"Maier-Hein L, Eisenmann M, Reinke A, et al. Why rankings of biomedical image analysis competitions should be " +
		"interpreted with care. Nature Communications 9:5217, 2018.",
	"Christodoulou E, Reinke A, Houhou R, et al. Confidence intervals uncovered: are we ready for real-world medical " +
		"imaging AI? Medical Image Computing and Computer Assisted Intervention, 124–132, 2024.",
	"El Jurdi R, Varoquaux G, Colliot O. Confidence intervals for performance estimates in 3D medical image " +
		"segmentation. arXiv:2307.10926, 2023.",
	"André P, Heitz C, Christodoulou E, et al. Some hidden traps of confidence intervals in medical image segmentation: " +
		"coverage issues. MICCAI workshop Bridging Regulatory Science and Medical Imaging Evaluation, 2025.",
	"André P, Heitz C, Christodoulou E, et al. Performance uncertainty in medical image analysis: a large-scale " +
		"investigation of confidence intervals. arXiv:2601.17103, 2026.",
	"Maier-Hein L, Reinke A, Godau P, et al. Metrics reloaded: recommendations for image analysis validation. " +
		"Nature Methods 21:195–212, 2024.",
}

// method is the section of that name: a text for a paper, with the numbers of this experiment.
func (e *Experiment) method() []page.Block {
	numbered := make([]string, len(references))
	for i, r := range references {
		numbered[i] = fmt.Sprintf("[%d] %s", i+1, r)
	}
	paragraphs := Method(e.Table, e.Version)
	for i := range paragraphs {
		paragraphs[i] = whole(paragraphs[i])
	}
	return []page.Block{
		&page.Prose{Head: "Text for a paper", Paragraphs: paragraphs},
		&page.Prose{Head: "References", Paragraphs: numbered},
	}
}

// Method describes the analysis of a table, in paragraphs that a paper can use. Numbers in brackets are
// those of the page's references.
func Method(t *table.Table, version string) []string {
	var drawn, trained []*table.Row // on a number of cases; on any
	once, shots := false, []string{}
	for _, g := range t.Groups(true) {
		for _, r := range g.Rows {
			if r.Shots == "0" {
				continue
			}
			trained = append(trained, r)
			once = once || r.Draws == 1 && r.Seeds > 1
			if r.Shots == "all" {
				continue
			}
			drawn = append(drawn, r)
			if !slices.Contains(shots, r.Shots) {
				shots = append(shots, r.Shots)
			}
		}
	}
	slices.SortStableFunc(shots, figures.CompareShots)
	var list []string
	if len(trained) > 0 {
		var on []string
		if len(drawn) > 0 {
			on = append(on, fmt.Sprintf("%s training cases (%s of these)", listedOr(shots), table.CountDraws(drawn)))
		}
		if len(drawn) < len(trained) {
			on = append(on, "all training cases")
		}
		list = append(list, fmt.Sprintf("Each method was trained on %s, each time with %s, and every model was scored "+
			"on the same test patients (%s). A patient's score is the mean over the patient's cases. %s",
			listedOr(on), table.CountSeeds(trained), table.CountPatients(trained), metricsText(t)))
	}
	crossed := "Means, and differences paired by patient, draw and seed, were analysed with test patients and draws of " +
		"training cases as crossed random effects: the score of patient p by the model of draw d, averaged over " +
		"seeds, is μ + a_p + b_d + e_pd. The variance of the mean was estimated from the mean squares of patients, " +
		"draws and the rest; " + t.Percent() + " % confidence intervals and two-sided p values are those of Student's t " +
		"with Satterthwaite's degrees of freedom. This is the analysis of multi-reader multi-case studies [1–4] with " +
		"trainings in the place of readers, so that intervals and p values hold for new patients and newly drawn " +
		"training cases alike [5]."
	if once {
		crossed += " Where there was one draw only, its seeds took the place of draws: results then hold for new " +
			"patients and new seeds, not for other training cases."
	}
	list = append(list, crossed)
	methods, networks := "all pairs of methods", "networks likewise within a method"
	if t.HasReference("method") {
		methods, networks = "the comparisons with "+t.Reference, "over all pairs of networks within a method"
	}
	if t.HasReference("network") {
		networks = "over the comparisons of networks with " + t.Reference + " within a method"
	}
	adjusted := fmt.Sprintf("P values were adjusted by Holm's method [6] over %s [7] of one dataset, network, number of training "+
		"cases and label, and %s; not across these families. %s made of %s. Differences are called significant below %g.", methods,
		networks, tests(t.Tests[t.Primary]), t.Primary, t.Alpha)
	for _, g := range t.Groups(true) {
		if text := g.OneRun(); text != "" {
			adjusted += text
			break
		}
	}
	list = append(list, adjusted)
	second := fmt.Sprintf("Wilcoxon's signed-rank test over the patients' mean differences (exact, zeros ranked and "+
		"split between the signs) [8] and percentile bootstrap intervals over patients (%d resamples, seed %d) answer "+
		"a narrower question, that of challenge rankings: new patients, but these very models [9, 10]. They are "+
		"reported beside the analysis above, not instead of it.", t.Resamples, t.Seed)
	if ties := tieText(t); ties != "" {
		second += " A patient counts as a tie where the difference is at most " + ties + "."
	}
	list = append(list, second)
	list = append(list, "Every mean has an interval: in segmentation papers the median 95 % interval was three times as wide as the "+
		"gap between the first and the second method [11], and how wide it is follows from the number of test cases and the "+
		"spread of their scores [12]. Intervals are of means, not of medians: common intervals of means hold their level from "+
		"about 50 test cases on, with metrics for which many more are needed, while common bootstrap intervals of medians fail "+
		"[13, 14]. Results of fewer than 20 patients or 3 draws are marked as optimistic.")
	if len(t.Gains) > 0 {
		s := "The gain with more training cases is the difference between neighbouring numbers of cases within a draw, " +
			"analysed likewise; its p values are not adjusted."
		if slices.ContainsFunc(t.Gains, func(g table.Gain) bool { return g.From == "0" }) {
			s += " The gain over the network as it is takes its one run for each draw and seed."
		}
		if len(t.Next) > 0 {
			s += fmt.Sprintf(" What %d more cases would bring is extrapolated from the least-squares slope over the "+
				"logarithm of the number of cases; it is no measurement.", t.Next[0].More)
		}
		list = append(list, s)
	}
	list = append(list, "Patients without a score in some run of a comparison were left out of that comparison, and draws "+
		"with a missing run likewise. Metrics follow the recommendations of Metrics Reloaded [15] where they are "+
		"defined there. Computed with "+strings.TrimSpace("lntorch "+version)+".")
	return list
}

func listedOr(list []string) string {
	if n := len(list); n > 1 {
		return strings.Join(list[:n-1], ", ") + " and " + list[n-1]
	}
	return strings.Join(list, "")
}

func metricsText(t *table.Table) string {
	others := slices.DeleteFunc(slices.Clone(t.Metrics), func(m string) bool { return m == t.Primary })
	if len(others) == 0 {
		return t.Primary + " is the only metric."
	}
	if len(others) == 1 {
		return fmt.Sprintf("%s is the primary metric; %s was analysed in the same way and is exploratory.", t.Primary,
			others[0])
	}
	return fmt.Sprintf("%s is the primary metric; %s were analysed in the same way and are exploratory.", t.Primary,
		listedOr(others))
}

func tests(n int) string {
	if n == 1 {
		return "One test was"
	}
	return fmt.Sprintf("%d tests were", n)
}

// tieText says what differences are ties, by metric.
func tieText(t *table.Table) string {
	var list []string
	for _, m := range slices.Sorted(maps.Keys(t.Tie)) {
		if slices.Contains(t.Metrics, m) {
			list = append(list, fmt.Sprintf("%g in %s", t.Tie[m], m))
		}
	}
	return listedOr(list)
}
