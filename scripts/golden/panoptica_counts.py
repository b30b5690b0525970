"""Nodes found, missed and invented, as panoptica counts them (scripts/requirements-panoptica.txt).

Golden file:  panoptica_counts.py --golden testdata/golden/panoptica.json

cases: shape (z, y, x), reference and prediction as a digit a voxel, and for each threshold of IoU
panoptica's [tp, fn, fp]; the pairs of nodes.py that are easily got wrong, with their names, and
random ones."""

import argparse
import json
import warnings

import numpy as np
import panoptica
from nodes import edges, masks

THRESHOLDS = (0.1, 0.3, 0.5)


def by_panoptica(reference, prediction, threshold):
    evaluator = panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.SEMANTIC,
        instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(),
        instance_matcher=panoptica.NaiveThresholdMatching(matching_threshold=threshold),
        verbose=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scores that it computes beside, 0/0
        r = evaluator.evaluate(prediction.astype(np.uint8), reference.astype(np.uint8))["ungrouped"]
    return [int(r.tp), int(r.fn), int(r.fp)]


def describe(name, reference, prediction):
    return {
        "name": name,
        "shape": list(reference.shape),
        "reference": "".join(map(str, reference.ravel())),
        "prediction": "".join(map(str, prediction.ravel())),
        "counts": {str(t): by_panoptica(reference, prediction, t) for t in THRESHOLDS},
    }


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="FILE", required=True)
    p.add_argument("--seed", type=int, default=17)
    args = p.parse_args()
    cases = [describe(name, (r > 0) + 0, (p > 0) + 0) for name, r, p, _ in edges()]
    cases += [describe("", r, p) for r, p in masks(args.seed, 120)]
    with open(args.golden, "w") as f:
        meta = {"script": "panoptica_counts.py", "panoptica": "2.1.7", "numpy": np.__version__}
        json.dump({"cases": cases, "meta": meta}, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
