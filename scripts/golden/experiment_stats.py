"""The statistics of experiment/stats by SciPy 1.17.1, NumPy 1.26.4 and statsmodels 0.14.6 (patsy
1.0.3), which is installed next to the stack (pip install --no-deps --target).

Golden file:  experiment_stats.py --golden testdata/golden/experiment_stats.json
Live:         experiment_stats.py --seed N --out FILE     other numbers; needs no statsmodels

crossed: x, rows of patients and columns of draws; scale, the largest score; mean, ci, t, df, p. The
mean squares are those of linear models fitted by least squares, checked against statsmodels'
anova_lm; where every variance component is positive the standard error is also that of MixedLM
(REML). For a difference of two methods, t squared is the F of Dorfman, Berbaum and Metz' analysis
with methods × draws × patients (Hillis 2007), which is checked. null: not finite.
wilcoxon: differences, statistic and p of scipy.stats.wilcoxon(zero_method="zsplit"): exact without
ties, by all permutations with ties up to 13, by counting in whole numbers with ties up to 200,
asymptotic above.
bootstrap: x, seed, resamples, alpha, and the percentile interval of the mean.
holm: p values and what statsmodels.stats.multitest.multipletests makes of them.
slope, describe: numpy.polyfit; mean, sd, median and scipy.stats.iqr."""

import argparse
import itertools
import json
import math
import warnings

import numpy as np
import scipy
from scipy import stats

try:
    import pandas
    import statsmodels
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm
    from statsmodels.stats.multitest import multipletests
except ImportError:
    statsmodels = None


def sum_of_squares(y, *factors):
    """Residual sum of squares of a linear model of y by indicator columns."""
    columns = [np.ones(len(y))]
    for f in factors:
        columns += [(f == v).astype(float) for v in np.unique(f)]
    design = np.stack(columns, 1)
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(((y - fitted) ** 2).sum())


def mean_squares(x):
    n, d = x.shape
    p, k = np.divmod(np.arange(x.size), d)
    y = x.ravel()
    both = sum_of_squares(y, p, k)
    ms_d = (sum_of_squares(y, p) - both) / (d - 1)
    ms_p = (sum_of_squares(y, k) - both) / (n - 1)
    return ms_d, ms_p, both / ((n - 1) * (d - 1))


def crossed(x, alpha=0.05, scale=1):
    """scale is the largest of the scores that x are differences of: what rounding leaves grows with it."""
    n, d = x.shape
    ms_d, ms_p, ms_e = mean_squares(x)
    e = max(ms_p - ms_e, 0)
    if e < 1e-12 * ms_p:  # equal but for rounding
        e = 0
    if ms_d < max(
        1e-25 * scale**2, 1e-13 * (ms_d + ms_p + ms_e)
    ):  # sums of squares were subtracted
        ms_d = 0
    v = (ms_d + e) / (n * d)
    if v < 1e-28 * scale**2:
        m = float(x.mean())
        m = 0.0 if abs(m) < 1e-14 * scale else m
        return dict(mean=m, ci=[m, m], t=None, df=None, p=float(m == 0))
    below = ms_d**2 / (d - 1)
    if e > 0:
        below += ms_p**2 / (n - 1) + ms_e**2 / ((n - 1) * (d - 1))
    df = (ms_d + e) ** 2 / below
    t = x.mean() / math.sqrt(v)
    half = stats.t.ppf(1 - alpha / 2, df) * math.sqrt(v)
    return dict(
        mean=float(x.mean()),
        ci=[float(x.mean() - half), float(x.mean() + half)] if half <= 1e6 * scale else None,
        t=float(t),
        df=float(df),
        p=float(2 * stats.t.sf(abs(t), df)),
    )


def check_with_statsmodels(x):
    """The same mean squares by anova_lm, and the same standard error by REML."""
    n, d = x.shape
    p, k = np.divmod(np.arange(x.size), d)
    frame = pandas.DataFrame(dict(y=x.ravel(), p=p, k=k, one=1))
    table = anova_lm(smf.ols("y ~ C(p) + C(k)", frame).fit())
    ms_d, ms_p, ms_e = mean_squares(x)
    np.testing.assert_allclose(
        table.loc[["C(k)", "C(p)", "Residual"], "mean_sq"], [ms_d, ms_p, ms_e], 1e-8
    )
    if n < 20 or d < 3 or min(ms_d, ms_p) < 2 * ms_e:
        return False
    model = smf.mixedlm("y ~ 1", frame, groups="one", vc_formula=dict(p="0 + C(p)", k="0 + C(k)"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one optimizer may fail where another does not
        fits = [model.fit(reml=True, method=[m], maxiter=5000) for m in ("lbfgs", "powell", "nm")]
    fitted = max(fits, key=lambda f: f.llf)
    se = math.sqrt((ms_d + ms_p - ms_e) / (n * d))
    np.testing.assert_allclose(fitted.bse_fe.iloc[0], se, 1e-3)
    return True


def check_with_dbm(a, b):
    """t² of the difference is F of the analysis of methods × draws × patients."""
    n, d = a.shape
    y = np.stack([a, b])
    m, p, k = (i.ravel() for i in np.indices(y.shape))
    frame = pandas.DataFrame(dict(y=y.ravel(), m=m, p=p, k=k))
    formula = "y ~ C(m) + C(p) + C(k) + C(m):C(p) + C(m):C(k) + C(p):C(k) + C(m):C(p):C(k)"
    table = anova_lm(smf.ols(formula, frame).fit())["sum_sq"]
    ms = dict(
        m=table["C(m)"],
        mk=table["C(m):C(k)"] / (d - 1),
        mp=table["C(m):C(p)"] / (n - 1),
        mpk=table["C(m):C(p):C(k)"] / ((n - 1) * (d - 1)),
    )
    f = ms["m"] / (ms["mk"] + max(ms["mp"] - ms["mpk"], 0))
    np.testing.assert_allclose(crossed(a - b)["t"] ** 2, f, 1e-6)


def wilcoxon(given):
    d = np.round(given, 10)
    n = len(d)
    ranks = stats.rankdata(abs(d))
    ties = len(np.unique(abs(d))) < n or (d == 0).any()

    def ask(**how):
        return stats.wilcoxon(d, zero_method="zsplit", correction=False, **how)

    if n > 200:
        r = ask(method="asymptotic")
    elif not ties:
        r = ask(method="exact")
    elif 2 <= n <= 13:
        r = ask(method=stats.PermutationMethod(n_resamples=np.inf))
    else:
        r = ask(method="asymptotic")
        counts = {0: 1}  # of twice the rank sums over all signs
        for rank in (2 * ranks[d != 0]).astype(int):
            more = dict(counts)
            for s, c in counts.items():
                more[s + rank] = more.get(s + rank, 0) + c
            counts = more
        total = sum(counts.values())
        plus = int(2 * ranks[d > 0].sum())
        low = sum(c for s, c in counts.items() if s <= plus)
        high = sum(c for s, c in counts.items() if s >= plus)
        p = min(1.0, 2 * min(low, high) / total)
        return dict(d=given.tolist(), statistic=float(r.statistic), p=p)
    return dict(d=given.tolist(), statistic=float(r.statistic), p=float(r.pvalue))


def bootstrap(x, seed, resamples, alpha):
    draws = np.random.RandomState(seed).randint(0, len(x), (resamples, len(x)))
    means = np.asarray(x)[draws].mean(1)
    ci = np.percentile(means, [100 * alpha / 2, 100 * (1 - alpha / 2)])
    return dict(x=list(x), seed=seed, resamples=resamples, alpha=alpha, ci=ci.tolist())


def holm(p):
    if statsmodels:
        return dict(p=p, holm=multipletests(p, method="holm")[1].tolist())
    order = np.argsort(p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(np.array(p)[order] * np.arange(len(p), 0, -1)), 1)
    return dict(p=p, holm=out.tolist())


def scores(rng, n, d, patient, draw, rest):
    x = 0.7 + patient * rng.standard_normal((n, 1)) + draw * rng.standard_normal((1, d))
    return x + rest * rng.standard_normal((n, d))


def make(seed):
    rng = np.random.default_rng(seed)
    g = dict(crossed=[], wilcoxon=[], bootstrap=[], holm=[], slope=[], describe=[])
    mixed = 0
    for n, d in itertools.product((2, 3, 20), (2, 3, 5)):
        for spread in ((0.1, 0.02, 0.03), (0.05, 0, 0.05), (0, 0.05, 0.05), (0.2, 0.1, 0.01)):
            a, b = scores(rng, n, d, *spread), scores(rng, n, d, *spread)
            for x in (a, a - b):
                for alpha in (0.05, 0.1)[: 1 + (n < 20)]:
                    g["crossed"].append(
                        dict(x=x.tolist(), scale=1.0, alpha=alpha, **crossed(x, alpha))
                    )
                if statsmodels:
                    mixed += check_with_statsmodels(x)
            if statsmodels:
                check_with_dbm(a, b)
    assert not statsmodels or mixed >= 5, mixed
    few = rng.standard_normal((6, 1))
    for x in (
        np.zeros((5, 3)),
        np.full((5, 3), 0.3) - 0.1,  # constant but for rounding
        np.tile([[0.1, 0.2, 0.4]], (7, 1)),  # draws alone
        np.tile(few, (1, 3)),  # patients alone
        few + np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 0], [1, 0, -1], [-1, 0, 1], [0, 0, 0]]),
        rng.integers(0, 3, (8, 4)) / 4,  # ties
        1.001 * np.array([[0.5], [-0.5], [1], [-1]])  # hardly a degree of freedom
        + np.array([[1, -1], [-1, 1], [0.5, -0.5], [-0.5, 0.5]]),
    ):
        g["crossed"].append(dict(x=x.tolist(), scale=1.0, alpha=0.05, **crossed(x)))

    for n in (1, 2, 3, 5, 8, 13, 14, 51, 200, 201, 300):
        for shift in (0, 0.3):
            d = rng.standard_normal(n) + shift
            g["wilcoxon"].append(wilcoxon(d))
            g["wilcoxon"].append(wilcoxon(np.round(d)))  # ties and zeros
            g["wilcoxon"].append(wilcoxon(np.where(rng.random(n) < 0.3, 0, np.round(d, 1))))
    g["wilcoxon"].append(wilcoxon(np.zeros(6)))
    g["wilcoxon"].append(wilcoxon(np.array([1e-11, -2e-12, 0.1, 0.1 + 3e-12, -0.1])))
    g["wilcoxon"].append(wilcoxon(np.full(9, 0.2)))

    for n in (2, 3, 8, 20, 33, 200):
        for resamples, alpha in ((10000, 0.05), (999, 0.1), (1, 0.05), (2, 0.5)):
            x = rng.random(n).tolist() if n != 8 else rng.integers(0, 2, n).astype(float).tolist()
            g["bootstrap"].append(bootstrap(x, int(rng.integers(2**32)), resamples, alpha))
    for n in (1, 2, 5, 36):
        p = rng.random(n) ** 3
        g["holm"].append(holm(p.tolist()))
        g["holm"].append(holm(np.round(p, 1).tolist()))
    for x in ([0.0, 1.0], [0.0, 2.321928094887362, 3.321928094887362], [1.0, 2.0, 3.0, 5.0]):
        y = rng.random(len(x)).tolist()
        g["slope"].append(dict(x=x, y=y, slope=float(np.polyfit(x, y, 1)[0])))
    for n in (2, 3, 10, 41):
        x = rng.random(n)
        g["describe"].append(
            dict(
                x=x.tolist(), mean=x.mean(), sd=x.std(ddof=1), median=np.median(x), iqr=stats.iqr(x)
            )
        )
    return g


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--golden", metavar="FILE")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", metavar="FILE")
    args = parser.parse_args()
    if args.golden and not statsmodels:
        parser.error("--golden needs statsmodels")
    g = make(args.seed)
    g["versions"] = dict(numpy=np.__version__, scipy=scipy.__version__)
    if statsmodels:
        g["versions"]["statsmodels"] = statsmodels.__version__
    with open(args.golden or args.out, "w") as f:
        json.dump(g, f, separators=(",", ":"), allow_nan=False)
        f.write("\n")


if __name__ == "__main__":
    main()
