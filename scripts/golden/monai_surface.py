"""MONAI's scores of surfaces for pairs of masks, for live tests.

    monai_surface.py --seed N --cases K

prints cases of spacing (z, y, x), shape, reference and prediction as runs of equal voxels,
background first; nsd: compute_surface_dice with subvoxels at 1, 2 and 3 mm, plain_nsd without
them, hd95 and assd: compute_hausdorff_distance (95) and compute_average_surface_distance, symmetric.
null where MONAI has none. The pairs of nodes.py that are easily got wrong come first."""

import argparse
import json
import math
import warnings

import monai.metrics as mm
import numpy as np
import torch
from nodes import blobs, edges, mask_runs

warnings.simplefilter("ignore")


def number(x):
    return None if math.isnan(x) or math.isinf(x) else x


def describe(reference, prediction, spacing):
    one_hot = lambda m: torch.from_numpy(np.stack([~m, m])[None].astype(np.uint8))
    r, p = one_hot(reference), one_hot(prediction)
    nsd = lambda t, subvoxels: number(
        mm.compute_surface_dice(p, r, [t], spacing=spacing, use_subvoxels=subvoxels).item()
    )
    some = reference.any() and prediction.any()
    hd95 = lambda: mm.compute_hausdorff_distance(p, r, percentile=95, spacing=spacing).item()
    assd = lambda: mm.compute_average_surface_distance(p, r, symmetric=True, spacing=spacing).item()
    return {
        "spacing": list(spacing),
        "shape": list(reference.shape),
        "reference": mask_runs(reference),
        "prediction": mask_runs(prediction),
        "nsd": [nsd(t, True) for t in (1, 2, 3)],
        "plain_nsd": [nsd(t, False) for t in (1, 2, 3)] if some else [None] * 3,
        "hd95": number(hd95()) if some else None,
        "assd": number(assd()) if some else None,
    }


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seed", type=int, default=5)
    p.add_argument("--cases", type=int, default=20)
    args = p.parse_args()
    torch.set_num_threads(1)  # the masks are small
    rng = np.random.RandomState(args.seed)
    pairs = [(r > 0, p > 0) for _, r, p, _ in edges()] + list(blobs(args.seed, args.cases))
    spacing = lambda: tuple(float(v) for v in rng.choice([0.5, 0.75, 1, 1.17, 2.5, 3, 5], 3))
    print(json.dumps({"cases": [describe(r, p, spacing()) for r, p in pairs]}))


if __name__ == "__main__":
    main()
