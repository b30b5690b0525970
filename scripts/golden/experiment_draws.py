"""Draws of shots of an experiment by NumPy's RandomState, and contents of cases as SimpleITK reads
them: the rules of docs/experiments.md, written from their description. Golden file:

    experiment_draws.py --golden testdata/golden/experiment_draws.json"""

import argparse
import hashlib
import json
import pathlib

import numpy as np
import SimpleITK

PHANTOM = pathlib.Path(__file__).resolve().parents[2] / "testdata" / "phantom-demo" / "raw"


def draws(rule, seed, number, pool):
    """pool: {case: patient}. Returns the order of cases of each draw."""
    patients = sorted(set(pool.values()))
    p = len(patients)
    m = min(number, p)
    orders = []
    for d in range(number):
        if rule == "random":
            order = np.random.RandomState(seed + d).permutation(p)
        else:
            block, at = divmod(d, m)
            order = np.roll(np.random.RandomState(seed + block).permutation(p), -at * (p // m))
        theirs = [sorted(c for c in pool if pool[c] == patients[i]) for i in order]
        rounds = max(map(len, theirs))
        orders.append([cases[k] for k in range(rounds) for cases in theirs if k < len(cases)])
    return orders


def test_cases(seed, number, pool):
    """The drawn test cases: patients whole, in the order of the permutation."""
    patients = sorted(set(pool.values()))
    chosen = []
    for i in np.random.RandomState(seed).permutation(len(patients)):
        if len(chosen) >= number:
            break
        chosen += [c for c in pool if pool[c] == patients[i]]
    return sorted(chosen)


def pools():
    yield {f"LN_{i:03d}": f"LN_{i:03d}" for i in range(8)}
    yield {"one": "one"}
    yield {f"LN_{i:03d}": f"LN_{i:03d}" for i in range(97)}
    several = {}
    for i, n in enumerate([1, 3, 2, 1, 4]):
        for k in range(n):
            several[f"P{i}_{'cab'[k % 3]}{k}"] = f"P{i}"
    yield several
    yield {"b2": "Z", "B10": "a", "\u00e91": "\u00e9", "Z_9": "Z", "\U0001d538": "\uff21", "a": "a"}


def content(folder, side, case):
    """sha256 of the lines with the sums of the image and the label."""
    lines = ""
    for name in [f"images{side}/{case}_0000", f"labels{side}/{case}"]:
        image = SimpleITK.ReadImage(folder / f"{name}.nii.gz")
        voxels = SimpleITK.GetArrayFromImage(image).astype("<f4")
        text = "[1 {} {} {}]\n".format(*voxels.shape).encode()
        lines += hashlib.sha256(text + voxels.tobytes()).hexdigest() + "\n"
    return hashlib.sha256(lines.encode()).hexdigest()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--golden", required=True, type=pathlib.Path)
    out = []
    for pool in pools():
        for rule in ["balanced", "random"]:
            for seed, number in [(0, 3), (7, 1), (4294967290, 5), (123, 12)]:
                if seed + number > 2**32:
                    seed = 2**32 - number
                case = {"pool": pool, "rule": rule, "seed": seed, "draws": number}
                case["orders"] = draws(rule, seed, number, pool)
                case["test"] = {
                    str(n): test_cases(seed, n, pool) for n in [1, 2, 4] if n < len(pool) // 2
                }
                out.append(case)
    folder = PHANTOM / "Dataset102_PhantomTarget"
    contents = {
        f"LN_{i:03d}": content(folder, "Tr" if i < 8 else "Ts", f"LN_{i:03d}") for i in range(12)
    }
    versions = {"numpy": np.__version__, "SimpleITK": SimpleITK.Version.VersionString()}
    text = json.dumps(
        {"versions": versions, "cases": out, "contents": contents}, separators=(",", ":")
    )
    p.parse_args().golden.write_text(text + "\n")


if __name__ == "__main__":
    main()
