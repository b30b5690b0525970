"""What scores.json must say of pairs of label maps, worked out apart from the Go code: voxels by
NumPy, surfaces by DeepMind's surface-distance, nodes by their definitions (nodes.py).

Golden file:  scores.py --golden testdata/golden/scores.json
Live:         scores.py --seed N --cases K      prints other cases in the same form

The golden file holds the pairs of nodes.py that are easily got wrong, too; theirs have a name. Each
case: shape (z, y, x), spacing (z, y, x), origin and direction as ITK has them, reference and
prediction as [label, length] runs, the ignore label or null, targets as lists of labels, and labels:
what scores.json holds for each target."""

import argparse
import itertools
import json

import numpy as np
from nodes import edges, grid, match, nodes, sizes
from scipy import ndimage
from surface import number, sd

TOLERANCES = (1, 2, 3)
RULES = {"iou:0.3": 0.3, "iou:0.5": 0.5, "any": None}
CLASSES = {"<5": (0, 5), "5-10": (5, 10), ">=10": (10, np.inf)}


def runs(labels):
    flat = labels.ravel()
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    return [[int(flat[i]), int(j - i)] for i, j in itertools.pairwise(bounds)]


def size_class(short):
    return next(k for k, (lo, hi) in CLASSES.items() if lo - 1e-6 <= short < hi - 1e-6)


def ratio(a, b):
    return a / b if b else None


def f1(recall, precision):
    if recall is None or precision is None:
        return None
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def counted(tp, fn, fp, predicted):
    recall, precision = ratio(tp, tp + fn), ratio(predicted - fp, predicted)
    return {
        "tp": tp,
        "fn": fn,
        "fp": fp,
        "predicted": predicted,
        "recall": recall,
        "precision": precision,
        "F1": f1(recall, precision),
    }


def detection(found, right, ref, pred, volumes):
    d = counted(sum(found), len(found) - sum(found), len(right) - sum(right), len(right))
    d["by_size"] = {}
    for name in CLASSES:
        f = [x for x, n in zip(found, ref) if n["size_class"] == name]
        r = [x for x, n in zip(right, pred) if n["size_class"] == name]
        d["by_size"][name] = counted(sum(f), len(f) - sum(f), len(r) - sum(r), len(r))
    if volumes:
        d["fn_mm3"] = float(sum(n["volume_mm3"] for n, x in zip(ref, found) if not x))
        d["fp_mm3"] = float(sum(n["volume_mm3"] for n, x in zip(pred, right) if not x))
    return d


def node_list(mask, geometry):
    found, n = nodes(mask)
    out = []
    for i, (volume, longest, short, piece, *centre) in enumerate(sizes(mask, *geometry)):
        out.append(
            {
                "node": i + 1,
                "voxels": int(np.sum(found == i + 1)),
                "volume_mm3": volume,
                "long_axis_mm": longest,
                "short_axis_mm": short,
                "size_class": size_class(short),
                "slice": piece,
                "centroid_lps_mm": centre,
                "matched": False,
                "match": None,
                "iou": None,
                "Dice": None,
            }
        )
    return found, n, out


def label(r, p, geometry):
    spacing = geometry[0]
    tp, nr, np_ = int(np.sum(r & p)), int(r.sum()), int(p.sum())
    d = sd.compute_surface_distances(r, p, spacing)
    some, any_ = bool(nr and np_), bool(nr or np_)
    area = [d["surfel_areas_gt"].sum(), d["surfel_areas_pred"].sum()]
    out = {"Dice": ratio(2 * tp, nr + np_), "IoU": ratio(tp, nr + np_ - tp)}
    for t in TOLERANCES:
        nsd = sd.compute_surface_dice_at_tolerance(d, t) if some else (0.0 if any_ else None)
        out[f"NSD_{t}"] = number(nsd)
    out["HD95"] = number(sd.compute_robust_hausdorff(d, 95)) if some else None
    out["HD"] = number(sd.compute_robust_hausdorff(d, 100)) if some else None
    there, back = sd.compute_average_surface_distance(d) if some else (None, None)
    out["ASSD"] = (there * area[0] + back * area[1]) / sum(area) if some else None
    out["ASD_ref_to_pred"], out["ASD_pred_to_ref"] = number(there), number(back)
    voxel = float(np.prod(spacing))
    out["volume_ref_mm3"], out["volume_pred_mm3"] = nr * voxel, np_ * voxel
    out["empty"] = (
        "none" if some else "both" if not any_ else "reference" if not nr else "prediction"
    )

    ref, n, ref_nodes = node_list(r, geometry)
    pred, m, pred_nodes = node_list(p, geometry)
    out["detection"] = {}
    for name, least in RULES.items():
        if least is None:
            found = [bool(p[ref == i + 1].any()) for i in range(n)]
            right = [bool(r[pred == j + 1].any()) for j in range(m)]
        else:
            pairs = match(ref, pred, n, m, least)
            found = [any(i == a for a, _ in pairs) for i in range(n)]
            right = [any(j == b for _, b in pairs) for j in range(m)]
            if name == next(iter(RULES)):
                for i, j in pairs:
                    a, b = ref == i + 1, pred == j + 1
                    shared = int(np.sum(a & b))
                    iou, dice = shared / int(np.sum(a | b)), 2 * shared / int(a.sum() + b.sum())
                    for node, other in ((ref_nodes[i], j), (pred_nodes[j], i)):
                        node.update(matched=True, match=other + 1, iou=iou, Dice=dice)
        out["detection"][name] = detection(found, right, ref_nodes, pred_nodes, least is None)
    out["nodes"] = {"reference": ref_nodes, "prediction": pred_nodes}
    return out


def describe(reference, prediction, geometry, targets, ignore):
    keep = reference != ignore if ignore is not None else np.ones(reference.shape, bool)
    spacing, origin, direction = geometry
    return {
        "shape": list(reference.shape),
        "spacing": [float(v) for v in spacing],
        "origin": [float(v) for v in origin],
        "direction": [float(v) for v in np.ravel(direction)],
        "reference": runs(reference),
        "prediction": runs(prediction),
        "ignore": ignore,
        "targets": targets,
        "labels": [
            label(np.isin(reference, t) & keep, np.isin(prediction, t) & keep, geometry)
            for t in targets
        ],
    }


def drawn(rng):
    """A neck of a few nodes on a random grid, and a segmentation of it with the usual faults."""
    shape = tuple(int(v) for v in rng.randint(3, 24, 3))
    if rng.rand() < 0.2:
        shape = (1,) + shape[1:]  # one slice
    geometry = grid(rng)
    index = np.indices(shape).astype(float)
    reference = np.zeros(shape, np.int16)
    prediction = np.zeros(shape, np.int16)
    classes = rng.choice([1, 2, 10])
    for _ in range(rng.randint(0, 12)):
        centre = rng.uniform(-1, 1 + np.array(shape))
        radius = rng.uniform(0.4, 5) / geometry[0]
        value = 1 + rng.randint(classes)
        shift = rng.uniform(-1.5, 1.5, 3)
        a = sum(((index[k] - centre[k]) / radius[k]) ** 2 for k in range(3)) < 1
        b = sum(((index[k] - centre[k] - shift[k]) / radius[k]) ** 2 for k in range(3)) < 1
        if rng.rand() < 0.85:
            reference[a] = value
        if rng.rand() < 0.85:
            prediction[b] = value
    if rng.rand() < 0.3:
        noise = rng.rand(*shape) < 0.01
        prediction[noise] = 1 + rng.randint(classes)
    if rng.rand() < 0.2:  # one blob over all
        prediction = (ndimage.binary_dilation(prediction > 0, iterations=2)).astype(np.int16)
    ignore = None
    if rng.rand() < 0.3:
        ignore = 11
        reference[rng.rand(*shape) < 0.05] = ignore
    targets = [[i + 1] for i in range(classes)]
    if classes > 1 and rng.rand() < 0.5:
        targets = [list(range(1, classes + 1)), [2]]
    return describe(reference, prediction, geometry, targets, ignore)


def named():
    for name, reference, prediction, direction in edges():
        geometry = np.array([2.5, 0.8, 0.7]), np.array([-20, 35, 410]), direction
        found = sorted({1, *np.unique(reference), *np.unique(prediction)} - {0})
        targets = [[int(v)] for v in found]
        yield {"name": name, **describe(reference, prediction, geometry, targets, None)}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="FILE")
    p.add_argument("--seed", type=int, default=2)
    p.add_argument("--cases", type=int, default=12)
    args = p.parse_args()
    rng = np.random.RandomState(args.seed)
    cases = [drawn(rng) for _ in range(args.cases)]
    if args.golden:
        cases += list(named())
    text = json.dumps(cases, separators=(",", ":"))
    if args.golden:
        with open(args.golden, "w") as f:
            f.write(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
