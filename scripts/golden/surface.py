"""Distances between the surfaces of two masks, by DeepMind's surface-distance 0.1.

Golden file:  surface.py --golden testdata/golden/surface.json
Live:         surface.py --seed N --cases K     prints cases of other masks in the same form

areas: for each spacing (z, y, x) the area of each of the 256 neighbourhoods. cases: spacing, shape,
reference and prediction as runs of equal voxels, background first; areas and means of the distances
in both directions, HD95, HD and the surface Dice at 1, 2 and 3 mm, null where the package has none;
and the numbers of elements."""

import argparse
import json
import math

import numpy as np
from nodes import blobs, mask_runs, masks

if not hasattr(np, "Inf"):  # surface-distance 0.1 is older than NumPy 2
    np.Inf, np.NaN = np.inf, np.nan

import surface_distance as sd
from surface_distance import lookup_tables

SPACINGS = [(1, 1, 1), (3, 0.8, 0.8), (0.7, 1.3, 2.9), (5, 0.35, 0.4), (0.123456789, 10, 1.5)]


def number(x):
    return None if x is None or math.isnan(x) or math.isinf(x) else float(x)


def describe(reference, prediction, spacing):
    d = sd.compute_surface_distances(reference > 0, prediction > 0, spacing)
    ref, pred = d["surfel_areas_gt"], d["surfel_areas_pred"]
    some = len(ref) and len(pred)
    there, back = sd.compute_average_surface_distance(d) if some else (None, None)
    total = ref.sum() + pred.sum()
    return {
        "spacing": list(spacing),
        "shape": list(reference.shape),
        "reference": mask_runs(reference > 0),
        "prediction": mask_runs(prediction > 0),
        "elements": [len(ref), len(pred)],
        "area": [float(ref.sum()), float(pred.sum())],
        "mean": [number(there), number(back)],
        "hd95": number(sd.compute_robust_hausdorff(d, 95)) if some else None,
        "hd": number(sd.compute_robust_hausdorff(d, 100)) if some else None,
        "nsd": [
            number(sd.compute_surface_dice_at_tolerance(d, t)) if total else None for t in (1, 2, 3)
        ],
    }


def cases(seed, n):
    rng = np.random.RandomState(seed)
    for a, b in [*masks(seed, 4 * n), *blobs(seed, n)]:
        spacing = tuple(float(v) for v in rng.choice([0.5, 0.75, 1, 1.17, 2.5, 3, 5], 3))
        yield describe(a, b, spacing)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="FILE")
    p.add_argument("--seed", type=int, default=5)
    p.add_argument("--cases", type=int, default=8)
    args = p.parse_args()
    table = lookup_tables.create_table_neighbour_code_to_surface_area
    areas = [{"spacing": list(s), "area": [float(a) for a in table(s)]} for s in SPACINGS]
    text = json.dumps(
        {"areas": areas, "cases": list(cases(args.seed, args.cases))}, separators=(",", ":")
    )
    if args.golden:
        with open(args.golden, "w") as f:
            f.write(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
