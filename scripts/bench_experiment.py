"""The part experiment of scripts/bench.py: the table of a grid of few-shot trainings, beside the same
statistics in NumPy and SciPy.

The other side reads the scores with pandas and averages seeds in one array; then, for each comparison,
the crossed analysis in closed form with SciPy's Student's t, the bootstrap of patients by NumPy, and
SciPy's exact signed-rank test; Holm by sorting. It writes no table. Each interval is drawn anew from its
seed, as it is defined; once more with the draws made once, which are the same for all. This file is also
that side, for one task given as JSON. All sides must find the same numbers.
"""

import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench_processes import Command

METRICS = ["Dice", "NSD_2", "HD95", "recall", "F1"]
AXES = ["network", "method", "shots", "draw", "seed"]
ALPHA, SEED = 0.05, 0


# ---- the other side ----------------------------------------------------------------------------


def write(o):
    """scores.csv of a whole grid: every run has a score of every case in every metric."""
    import numpy as np

    rng = np.random.RandomState(1)
    cases = [f"c{i:03d}" for i in range(o["cases"])]
    hard = rng.normal(0, 0.08, len(cases))
    with open(o["scores"], "w") as f:
        f.write(",".join([*AXES, "case", *METRICS]) + "\n")
        for at in itertools.product(*(range(n) for n in o["grid"])):
            names = [f"n{at[0]}", f"m{at[1]}", str([1, 5, 10, 20][at[2]]), str(at[3]), str(at[4])]
            base = 0.5 + 0.01 * at[1] + 0.04 * at[2] + rng.normal(0, 0.02)
            for case, h in zip(cases, hard):
                values = base + h + rng.normal(0, 0.03, len(METRICS))
                f.write(",".join([*names, case, *map(repr, map(float, values))]) + "\n")


def crossed(x):
    """Interval and p of the mean of patients × draws, for new patients and new draws."""
    import numpy as np
    from scipy import stats

    n, d = x.shape
    rows, columns, mean = x.mean(1), x.mean(0), x.mean()
    ms_d = n * ((columns - mean) ** 2).sum() / (d - 1)
    ms_p = d * ((rows - mean) ** 2).sum() / (n - 1)
    rest = x - rows[:, None] - columns + mean
    ms_e = (rest**2).sum() / ((n - 1) * (d - 1))
    e = max(ms_p - ms_e, 0)
    below = ms_d**2 / (d - 1)
    if e > 0:
        below += ms_p**2 / (n - 1) + ms_e**2 / ((n - 1) * (d - 1))
    df, se = (ms_d + e) ** 2 / below, np.sqrt((ms_d + e) / (n * d))
    half = stats.t.ppf(1 - ALPHA / 2, df) * se
    return mean, mean - half, mean + half, 2 * stats.t.sf(abs(mean) / se, df)


def holm(p):
    import numpy as np

    p = np.asarray(p)
    order = np.argsort(p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return out


def analyse(o):
    import numpy as np
    import pandas as pd
    from scipy import stats

    start, used = time.perf_counter(), time.process_time()
    frame = pd.read_csv(o["scores"])
    y = frame[METRICS].to_numpy().reshape(*o["grid"], o["cases"], len(METRICS))
    x = np.moveaxis(y.mean(4), 3, 4)  # network, method, shots, case, draw, metric
    n = o["cases"]
    draw = lambda: np.random.RandomState(SEED).randint(0, n, (o["resamples"], n))
    kept = draw() if o["once"] else None

    def of(z):
        mean, low, high, p = crossed(z)
        patients = z.mean(1)
        means = patients[kept if o["once"] else draw()].mean(1)
        return mean, low, high, p, *np.percentile(means, [100 * ALPHA / 2, 100 - 100 * ALPHA / 2])

    def compared(z):
        d = np.round(z.mean(1), 10)
        exact = n <= 50 and len(np.unique(abs(d))) == n
        w = stats.wilcoxon(
            d, zero_method="zsplit", correction=False, method="exact" if exact else "approx"
        )
        return *of(z), w.pvalue

    networks, methods, shots = o["grid"][:3]
    cells = [
        of(x[i, j, k, ..., m])
        for i, j, k, m in itertools.product(*map(range, x.shape[:3]), range(len(METRICS)))
    ]
    pairs = []
    for k, m in itertools.product(range(shots), range(len(METRICS))):
        z = x[:, :, k, ..., m]
        families = [
            [z[i, a] - z[i, b] for a, b in itertools.combinations(range(methods), 2)]
            for i in range(networks)
        ]
        families += [
            [z[a, j] - z[b, j] for a, b in itertools.combinations(range(networks), 2)]
            for j in range(methods)
        ]
        for family in families:
            found = [compared(d) for d in family]
            if not found:
                continue
            for row, p, w in zip(found, holm([f[3] for f in found]), holm([f[6] for f in found])):
                pairs.append((*row, p, w))
    total = lambda rows, i: float(sum(r[i] for r in rows))
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - used,
                "cells": len(cells),
                "pairs": len(pairs),
                "ci": total(cells, 1) + total(pairs, 2),
                "p": total(pairs, 3),
                "p_holm": total(pairs, 7),
                "ci_patients": total(cells, 4) + total(pairs, 5),
                "wilcoxon_p_holm": total(pairs, 8),
            }
        )
    )


TASKS = {"write": write, "analyse": analyse}


# ---- the part ----------------------------------------------------------------------------------


def sums(table):
    """What analyse prints, from table.json."""
    cells, pairs = table["cells"], table["pairs"]
    return {
        "cells": len(cells),
        "pairs": len(pairs),
        "ci": math.fsum(c["ci"][0] for c in cells) + math.fsum(p["ci"][1] for p in pairs),
        "p": math.fsum(p["p"] for p in pairs),
        "p_holm": math.fsum(p["p_holm"] for p in pairs),
        "ci_patients": math.fsum(c["ci_patients"][0] for c in cells)
        + math.fsum(p["ci_patients"][1] for p in pairs),
        "wilcoxon_p_holm": math.fsum(p["wilcoxon"]["p_holm"] for p in pairs),
    }


def run_experiment(b, size):
    o = size["experiment"]
    with tempfile.TemporaryDirectory() as folder:
        options = {**o, "scores": str(Path(folder) / "scores.csv")}
        write(options)
        table = Path(folder) / "tables"
        last = lambda log: json.loads(log.strip().splitlines()[-1])
        words = lambda once: [
            sys.executable,
            __file__,
            json.dumps({"task": "analyse", **options, "once": once}),
        ]
        theirs = {
            "pandas, NumPy, SciPy": Command(words(False), last),
            "the same, draws made once": Command(words(True), last),
        }
        answers = b.group(
            f"table of {math.prod(o['grid']):,} runs, {o['cases']} cases, {len(METRICS)} metrics, "
            f"{o['resamples']:,} resamples",
            {
                "lntorch": Command(
                    [b.args.lntorch, "experiment", "table", "--scores", options["scores"]]
                    + ["-o", table, "--resamples", o["resamples"], "--seed", SEED, "--quiet"],
                    GOMAXPROCS=b.threads,
                ),
                **theirs,
            },
            warmup=0,
            most=3,
            alike=(),
        )
        for row, limit in zip(b.rows[-3:], (10, 0.05, None)):
            cpu = statistics.median(a["cpu_seconds"] for a in answers[row["who"]])
            row.update(cpu_seconds=cpu, limit=limit)
        ours = sums(json.loads((table / "table.json").read_text()))
        for who in theirs:
            for name, value in ours.items():
                if not math.isclose(answers[who][0][name], value, rel_tol=1e-8):
                    raise SystemExit(
                        f"bench: experiment: {name} is {value} and {answers[who][0][name]}"
                    )
        b.about = "pandas, NumPy and SciPy of nnU-Net's environment (one thread)"
        b.notes.append(
            f"{ours['pairs']:,} comparisons and {ours['cells']:,} means; all found the same numbers. "
            "lntorch reads, analyses and writes Markdown, CSV, LaTeX and JSON. The other side reads and analyses; "
            "it computes neither gains nor slopes over shots."
        )


PARTS = {"experiment": run_experiment}
REAL = {"experiment": {"grid": [5, 10, 4, 5, 5], "cases": 40, "resamples": 10000}}
QUICK = {"experiment": {"grid": [2, 3, 2, 3, 2], "cases": 8, "resamples": 300}}

if __name__ == "__main__":
    sys.path.pop(0)  # scripts/openjpeg.py would be taken for the package of that name
    options = json.loads(sys.argv[1])
    TASKS[options["task"]](options)
