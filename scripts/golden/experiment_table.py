"""table.json of random scores by pandas, NumPy and SciPy: cells, pairs, gains and next of `lntorch
experiment table --scores`, by the definitions of docs/experiments.md and the statistics of
experiment_stats.py.

Golden files:  experiment_table.py --golden testdata/golden/experiment_table
Live:          experiment_table.py --seed N --out FOLDER

Each NAME.csv has its NAME.json: settings, and what is expected; null is undefined."""

import argparse
import itertools
import json
import math
import pathlib

import numpy as np
import pandas as pd
from experiment_stats import bootstrap, crossed, holm, wilcoxon
from scipy import stats

KEYS = ["dataset", "network", "method", "shots", "draw", "seed", "case", "patient", "label"]
LOWER = ["HD95", "HD", "ASSD"]
ALPHA, RESAMPLES, SEED = 0.05, 500, 7


def finite(v):
    return None if v is None or not math.isfinite(v) else float(v)


class Grid:
    """Scores of a dataset, label and metric, as an array of patients for each run."""

    def __init__(self, frame, metric):
        cases = frame[["patient", "case"]].drop_duplicates()
        self.patients = sorted(cases.patient.unique())
        self.runs, self.seeds, self.draws = {}, {}, {}
        for key, rows in frame.groupby(["network", "method", "shots", "draw", "seed"], sort=False):
            merged = cases.merge(rows[["case", metric]], how="left", on="case")
            means = merged.groupby("patient")[metric].apply(lambda v: v.mean(skipna=False))
            self.runs[key] = means.reindex(self.patients).to_numpy(float)
            self.draws.setdefault(key[:3], set()).add(key[3])
            self.seeds.setdefault(key[:3], set()).add(key[4])

    def join(self, *cells):
        """Arrays patients × draws × seeds of the cells, and the patients left out."""
        seeds = sorted(set().union(*(self.seeds[c] for c in cells)))
        draws = [
            d
            for d in sorted(set.intersection(*(self.draws[c] for c in cells)))
            if all((*c, d, s) in self.runs for c in cells for s in seeds)
        ]
        if not draws:
            return None, []
        y = np.array([[[self.runs[(*c, d, s)] for s in seeds] for d in draws] for c in cells])
        y = np.moveaxis(y, 3, 1)  # cell, patient, draw, seed
        whole = np.isfinite(y).all((0, 2, 3))
        self.kept = whole
        return y[:, whole], [p for p, w in zip(self.patients, whole) if not w]

    def untrained(self, network, method=None):
        """The cell at 0 shots, of that method or the only one there, if there is one, of one run."""
        cells = [
            c for c in self.draws if c[0] == network and c[2] == "0" and method in (None, c[1])
        ]
        if len(cells) == 1 and sum(k[:3] == cells[0] for k in self.runs) == 1:
            return cells[0]
        return None

    def beside(self, cell, untrained):
        """Like join: a cell, and the only run of another in the place of each of its runs."""
        y, _ = self.join(cell)
        if y is None:
            return None, []
        only = next(v for k, v in self.runs.items() if k[:3] == untrained)
        whole = np.isfinite(only[self.kept])
        left = [p for p, k, o in zip(self.patients, self.kept, only) if not (k and np.isfinite(o))]
        y = y[0][whole]
        return np.stack([y, np.broadcast_to(only[self.kept][whole][:, None, None], y.shape)]), left


def estimate(y, scale=1):
    """The crossed analysis of patients × draws × seeds, of scores as large as scale."""
    none = dict(mean=None, ci=None, t=None, df=None, p=None, factor=None, patients=[])
    if y is None or y.shape[0] == 0:
        return none
    n, d, s = y.shape
    x = y.mean(2) if d > 1 else y[:, 0, :]
    factor = "draw" if d > 1 else "seed" if s > 1 else None
    patients = x.mean(1)
    mean = float(patients.mean())
    if n < 2 or x.shape[1] < 2:
        return {**none, "mean": mean, "factor": factor, "patients": patients}
    return {**crossed(x, ALPHA, max(scale, 1)), "factor": factor, "patients": patients}


def largest(y):
    return 1 if y is None or y.size == 0 else float(np.abs(y).max())


def resampled(patients):
    if len(patients) < 2:
        return None
    return bootstrap(patients, SEED, RESAMPLES, ALPHA)["ci"]


def deviation(v):
    return finite(np.std(v, ddof=1)) if len(v) > 1 else None


def describe(y):
    if y is None or len(y) == 0:
        return dict(sd_patients=None, sd_draws=None, sd_seeds=None, median=None, iqr=None)
    runs = y.mean(0)
    patients = y.mean((1, 2))
    return dict(
        sd_patients=deviation(patients),
        sd_draws=deviation(runs.mean(1)),
        sd_seeds=math.sqrt(runs.var(1, ddof=1).mean()) if runs.shape[1] > 1 else None,
        median=float(np.median(patients)),
        iqr=float(stats.iqr(patients)),
    )


def family(p):
    made = [v for v in p if v is not None]
    adjusted = iter(holm(made)["holm"] if made else [])
    return [None if v is None else next(adjusted) for v in p]


def order_of(shots):
    return math.inf if shots == "all" else int(shots)


def compared(members, name, named, reference, untrained):
    """All pairs of a family, or each of its members with the reference, which may be missing in it, or be the
    network as it is."""
    if reference not in named:
        return itertools.combinations(members, 2)
    if untrained and untrained not in members:
        return [(a, untrained) for a in members]
    return [(a, b) for b in members if name(b) == reference for a in members if a != b]


def table(frame, primary, ties, reference):
    for key in KEYS:
        if key not in frame:
            frame[key] = frame["case"] if key == "patient" else ""
    frame = frame.copy()
    metrics = [c for c in frame.columns if c not in KEYS]
    frame["shots"] = frame["shots"].astype(str)
    out = dict(cells=[], pairs=[], gains=[], next=[])
    for (dataset, label), part in frame.groupby(["dataset", "label"], sort=False):
        for metric in metrics:
            g = Grid(part, metric)
            about = dict(dataset=dataset, label=label, metric=metric)
            cells = list(g.draws)
            for c in cells:
                y, left = g.join(c)
                e = estimate(None if y is None else y[0], largest(y))
                siblings = [o for o in cells if (o[0], o[2]) == (c[0], c[2])]
                draws = set().union(*(g.draws[o] for o in siblings))
                shape = (0, 0, 0) if y is None else y.shape[1:]
                out["cells"].append(
                    dict(
                        **about,
                        network=c[0],
                        method=c[1],
                        shots=c[2],
                        n_patients=shape[0],
                        n_draws=shape[1],
                        n_seeds=shape[2],
                        mean=e["mean"],
                        ci=e["ci"],
                        df=e["df"],
                        ci_patients=resampled(e["patients"]),
                        left_out=left,
                        incomplete=shape[1] < len(draws),
                        **describe(None if y is None else y[0]),
                    )
                )
            for by in ("method", "network"):
                shared = (0, 2) if by == "method" else (1, 2)
                families = {}
                for c in cells:
                    families.setdefault((c[shared[0]], c[2]), []).append(c)
                for (within, shots), members in families.items():
                    draws = set().union(*(g.draws[o] for o in members))
                    rows = []
                    name = lambda c: c[by == "method"]
                    as_it_is = g.untrained(within, reference) if by == "method" else None
                    for a, b in compared(members, name, set(frame[by]), reference, as_it_is):
                        y, left = g.join(a, b) if b in members else g.beside(a, b)
                        e = estimate(None if y is None else y[0] - y[1], largest(y))
                        shape = (0, 0, 0) if y is None else y.shape[1:]
                        d = np.round(np.asarray(e["patients"], float), 10)
                        if metric in LOWER:
                            d = -d
                        tie = ties.get(metric, 0)
                        w = wilcoxon(np.asarray(e["patients"])) if len(d) > 1 else {}
                        rows.append(
                            dict(
                                **about,
                                by=by,
                                within=within,
                                shots=shots,
                                a=name(a),
                                b=name(b),
                                n=shape[0],
                                n_draws=shape[1],
                                n_seeds=shape[2],
                                difference=e["mean"],
                                ci=e["ci"],
                                t=e["t"],
                                df=e["df"],
                                p=e["p"],
                                factor=e["factor"],
                                wilcoxon=dict(statistic=w.get("statistic"), p=w.get("p")),
                                ci_patients=resampled(e["patients"]),
                                win=int((d > tie).sum()),
                                tie=int((abs(d) <= tie).sum()),
                                loss=int((d < -tie).sum()),
                                left_out=left,
                                incomplete=shape[1] < len(draws),
                                exploratory=metric != primary,
                            )
                        )
                    for r, p, w in zip(
                        rows,
                        family([r["p"] for r in rows]),
                        family([r["wilcoxon"]["p"] for r in rows]),
                    ):
                        r["p_holm"], r["wilcoxon"]["p_holm"] = p, w
                    out["pairs"] += rows
            for network, method in dict.fromkeys(c[:2] for c in cells):
                shots = sorted((c[2] for c in cells if c[:2] == (network, method)), key=order_of)
                about = dict(
                    dataset=dataset, label=label, metric=metric, network=network, method=method
                )
                steps = list(itertools.pairwise(shots))
                untrained = g.untrained(network)
                if untrained not in (None, (network, method, "0")):
                    steps = [("0", k) for k in shots] + steps
                for a, b in steps:
                    if a == "0":
                        y, _ = g.beside((network, method, b), untrained)
                    else:
                        y, _ = g.join((network, method, b), (network, method, a))
                    e = estimate(None if y is None else y[0] - y[1], largest(y))
                    out["gains"].append(
                        {
                            **about,
                            "from": a,
                            "to": b,
                            "difference": e["mean"],
                            "ci": e["ci"],
                            "df": e["df"],
                            "p": e["p"],
                            "n": len(e["patients"]),
                            "factor": e["factor"],
                        }
                    )
                numbers = [k for k in shots if k not in ("all", "0")]
                if len(numbers) < 2:
                    continue
                y, _ = g.join(*((network, method, k) for k in numbers))
                e = more = estimate(None)
                k = int(numbers[-1])
                ahead = math.log2((k + 5) / k)
                if y is not None:
                    flat = y.reshape(len(numbers), -1)
                    slope = np.polyfit(np.log2([int(v) for v in numbers]), flat, 1)[0]
                    e = estimate(slope.reshape(y.shape[1:]), largest(y))
                    more = estimate(ahead * slope.reshape(y.shape[1:]), largest(y))
                out["next"].append(
                    {
                        **about,
                        "slope": e["mean"],
                        "ci": e["ci"],
                        "df": e["df"],
                        "from": numbers[-1],
                        "more": 5,
                        "difference": more["mean"],
                        "ci_difference": more["ci"],
                        "n": len(e["patients"]),
                        "factor": e["factor"],
                    }
                )
    return out


def rows_of(rng, networks, methods, shots, draws, seeds, patients, cases):
    """A row for each run and case, with effects of everything."""
    offset = {m: 0.02 * rng.standard_normal() for m in methods}
    patient = 0.1 * rng.standard_normal(patients)
    for network, method, k in itertools.product(networks, methods, shots):
        gain = 0.03 * math.log2(20 if k == "all" else max(int(k), 0.5))
        for d in range(1 if k == "all" else draws):
            of = 0.01 * rng.standard_normal()
            for s in range(seeds):
                for p, c in itertools.product(range(patients), range(cases)):
                    dice = (
                        0.6 + offset[method] + gain + patient[p] + of + 0.03 * rng.standard_normal()
                    )
                    yield dict(
                        dataset="hospital",
                        network=network,
                        method=method,
                        shots=k,
                        draw=d,
                        seed=s,
                        case=f"LN_{p:03}_{c}",
                        patient=f"LN_{p:03}",
                        label="node",
                        Dice=round(min(dice, 1), 3),
                        HD95=round(30 * (1 - dice) + rng.random(), 1),
                    )


def make(seed, folder):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    grids = {}

    def frame(*args):
        return pd.DataFrame(rows_of(rng, *args))

    f = frame(["unet", "swin"], ["full", "dgst", "bias"], ["1", "5", "all"], 3, 2, 6, 2)
    f.loc[rng.random(len(f)) < 0.002, "HD95"] = np.nan
    f.loc[(f["case"] == "LN_002_1") & (f["method"] == "bias"), "Dice"] = np.nan
    gone = (
        (f.method == "dgst")
        & (f.network == "unet")
        & (f.shots == "5")
        & (f.draw == 1)
        & (f.seed == 0)
    )
    f = f[~gone]
    grids["grid"] = f
    # two labels and datasets, a row of a case missing
    f = frame([""], ["full", "dgst"], ["1", "10"], 3, 1, 5, 1).assign(label="a")
    g = frame([""], ["full", "dgst"], ["1", "10"], 3, 1, 5, 1).assign(label="b", dataset="other")
    f = pd.concat([f, g], ignore_index=True).drop(columns="network")
    grids["two"] = f.drop(index=7)
    f = frame(["n"], ["a", "b"], ["3"], 1, 3, 21, 1)
    grids["one_draw"] = f
    grids["one_run"] = frame(["n"], ["a", "b", "c"], ["3"], 1, 1, 14, 1)[
        ["method", "shots", "draw", "seed", "case", "Dice"]
    ]
    grids["one_patient"] = frame(["n"], ["a", "b"], ["3"], 3, 3, 1, 1)
    f = frame(["n"], ["a", "b"], ["3"], 2, 2, 8, 1)
    f.loc[f.method == "b", ["Dice", "HD95"]] = f.loc[f.method == "a", ["Dice", "HD95"]].to_numpy()
    g = f[f.method == "a"].assign(method="c")  # a constant difference
    g["Dice"] = (g["Dice"] + 0.1).round(3)
    grids["equal"] = pd.concat([f, g])
    f = frame(["n"], ["a", "b"], ["3"], 2, 1, 200, 1).drop(columns="HD95")
    f["Dice"] = f["Dice"].round(1)
    grids["many"] = f
    f = frame(["n"], ["a", "b"], ["3", "5"], 3, 2, 5, 1)
    grids["other_seeds"] = f[(f.method == "a") | (f.seed == 0)]
    parts = [
        frame(["n", "m"], ["none"], ["0"], 1, 1, 6, 2),
        frame(["n", "m"], ["a", "b"], ["1", "3", "all"], 3, 2, 6, 2),
    ]
    f = pd.concat(parts, ignore_index=True)
    f.loc[(f["case"] == "LN_004_0") & (f.method == "none") & (f.network == "m"), "Dice"] = np.nan
    grids["untrained"] = f
    # each method, or network, with one of them, which is missing at some shots
    f = frame(["n", "m"], ["a", "b", "c", "d"], ["1", "5"], 3, 1, 5, 1)
    grids["reference"] = f[(f.method != "c") | (f.network == "n") | (f.shots == "1")]
    f = frame(["n", "m", "o"], ["a", "b"], ["3", "all"], 2, 2, 5, 1)
    grids["reference_network"] = f[(f.network != "m") | (f.method == "a") | (f.shots == "3")]
    # the network as it is, which is at 0 shots
    parts = [
        frame(["n", "m"], ["none"], ["0"], 1, 1, 7, 1),
        frame(["n", "m"], ["a", "b"], ["1", "5"], 3, 2, 7, 1),
    ]
    f = pd.concat(parts, ignore_index=True)
    f.loc[(f["case"] == "LN_005_0") & (f.method == "none") & (f.network == "n"), "HD95"] = np.nan
    f.loc[(f["case"] == "LN_002_0") & (f.method == "b") & (f.network == "n"), "HD95"] = np.nan
    grids["reference_untrained"] = f
    references = dict(reference="c", reference_network="m", reference_untrained="none")
    ties = dict(Dice=0.005, HD95=0.1)
    for name, f in grids.items():
        f.to_csv(folder / f"{name}.csv", index=False)
        f = pd.read_csv(folder / f"{name}.csv", dtype=dict(shots=str), keep_default_na=True)
        reference = references.get(name, "")
        expected = table(f, "Dice", ties, reference)
        text = json.dumps(expected, allow_nan=False, separators=(",", ":"))
        settings = dict(alpha=ALPHA, resamples=RESAMPLES, seed=SEED, ties=ties, reference=reference)
        (folder / f"{name}.json").write_text(
            '{"settings":%s,"table":%s}\n' % (json.dumps(settings), text)
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--golden", metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", metavar="FOLDER")
    args = parser.parse_args()
    make(args.seed, pathlib.Path(args.golden or args.out))


if __name__ == "__main__":
    main()
