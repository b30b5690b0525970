"""Nodes of label volumes and how they match, by brute force: a plain definition, written apart
from the Go code. Neighbours share a corner at least.

Golden file:  nodes.py --golden testdata/golden/nodes.json
Check:        nodes.py --panoptica     compares counts with the package panoptica, if it is there

nodes.json: cases of shape (z,y,x) with reference and prediction as a digit a voxel; voxels of each
node in the order of its first voxel; overlaps as [reference, prediction, voxels]; for each
threshold the pairs [reference, prediction] that match one to one, with tp, fn and fp; and the nodes
that share a voxel with the other mask. sizes: a grid of spacing (z, y, x), origin and direction
(ITK's) and, for each node of the reference, volume in mm3, long and short axis in mm, the slice they
are measured in, and the centroid (LPS)."""

import argparse
import json
import os

import numpy as np
import scipy
from scipy import ndimage

THRESHOLDS = (0.1, 0.3, 0.5, 1.0)


def nodes(mask):
    """Components in 26-neighbourhood, numbered by their first voxel from 1."""
    found, n = ndimage.label(mask, np.ones((3,) * mask.ndim))
    first = [np.flatnonzero(found.ravel() == i + 1)[0] for i in range(n)]
    assert first == sorted(first)
    return found, n


def overlap_table(ref, pred, n, m):
    return np.array(
        [[np.sum((ref == i + 1) & (pred == j + 1)) for j in range(m)] for i in range(n)]
    )


def match(ref, pred, n, m, threshold):
    """Pairs by falling IoU, then lower numbers; each node once; IoU >= threshold."""
    pairs = []
    for i in range(n):
        for j in range(m):
            a, b = ref == i + 1, pred == j + 1
            shared = int(np.sum(a & b))
            if shared:
                pairs.append((-shared / int(np.sum(a | b)), i, j))
    matched = []
    for iou, i, j in sorted(pairs):
        if -iou >= threshold and all(i != p and j != q for p, q in matched):
            matched.append((i, j))
    return matched


def counts(reference, prediction, threshold):
    """tp, fn (reference nodes) and fp (predicted nodes) of two masks."""
    ref, n = nodes(reference)
    pred, m = nodes(prediction)
    tp = len(match(ref, pred, n, m, threshold))
    return tp, n - tp, m - tp


def describe(reference, prediction, rng):
    ref, n = nodes(reference)
    pred, m = nodes(prediction)
    table = overlap_table(ref, pred, n, m).reshape(n, m)
    case = {
        "shape": list(reference.shape),
        "reference": "".join(map(str, reference.ravel())),
        "prediction": "".join(map(str, prediction.ravel())),
        "reference_voxels": [int(np.sum(ref == i + 1)) for i in range(n)],
        "prediction_voxels": [int(np.sum(pred == j + 1)) for j in range(m)],
        "overlaps": [[i, j, int(table[i, j])] for i in range(n) for j in range(m) if table[i, j]],
        "found": [bool(table[i].any()) for i in range(n)],
        "true": [bool(table[:, j].any()) for j in range(m)],
        "matches": [],
    }
    spacing, origin, direction = grid(rng)
    case["grid"] = [list(spacing), list(origin), [float(v) for v in direction.ravel()]]
    case["sizes"] = list(sizes(reference, spacing, origin, direction))
    for t in THRESHOLDS:
        pairs = match(ref, pred, n, m, t)
        case["matches"].append(
            {
                "threshold": t,
                "pairs": [list(p) for p in pairs],
                "tp": len(pairs),
                "fn": n - len(pairs),
                "fp": m - len(pairs),
            }
        )
    return case


DIRECTIONS = [
    np.eye(3),
    np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]]),  # sagittal slices, then axial ones along x, y
    np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
]


def grid(rng):
    """A random grid: spacing of (z, y, x), origin and direction as ITK has them."""
    direction = DIRECTIONS[rng.randint(len(DIRECTIONS))].astype(float)
    a = rng.uniform(-0.5, 0.5)
    if rng.rand() < 0.5:  # oblique
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        direction = turn[:, rng.permutation(3)][rng.permutation(3)] @ direction
    spacing = rng.choice([0.5, 0.7, 1, 1.5, 3], 3)
    return spacing, rng.uniform(-200, 200, 3), direction


def sizes(mask, spacing, origin, direction):
    """Every node's size by its definition, over all midpoints of its pixels' edges."""
    found, n = nodes(mask)
    axial = int(np.argmax(np.abs(direction[2])[::-1]))
    plane = [a for a in range(3) if a != axial]
    for i in range(n):
        at = np.argwhere(found == i + 1)
        counts = np.bincount(at[:, axial])
        best = int(np.argmax(counts))
        pixels = at[at[:, axial] == best][:, plane].astype(float)
        half = [(-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5)]
        points = np.concatenate([pixels + h for h in half]) * np.asarray(spacing)[plane]
        difference = points[:, None] - points[None]
        length = np.sqrt((difference**2).sum(-1))
        longest, short = length.max(), np.inf
        for p, q in np.argwhere(length >= longest - 1e-6):
            along = difference[p, q] / length[p, q]
            across = points @ np.array([-along[1], along[0]])
            short = min(short, across.max() - across.min())
        centre = origin + direction @ (at.mean(0) * spacing)[::-1]
        volume = len(at) * float(np.prod(spacing))
        yield [volume, float(longest), float(short), best, *map(float, centre)]


def masks(seed=3, n=60):
    rng = np.random.RandomState(seed)
    empty = np.zeros((2, 3, 4), int)
    yield empty, empty
    yield empty, empty + 1
    yield empty + 1, empty
    # Two predictions with the same IoU; a prediction that covers two nodes.
    yield np.array([[[1, 1, 1, 1]]]), np.array([[[1, 0, 1, 0]]])
    yield np.array([[[1, 1, 0, 1, 1]]]), np.array([[[1, 1, 1, 1, 1]]])
    yield np.array([[[1, 1, 1, 0, 1]]]), np.array([[[0, 1, 1, 1, 1]]])
    for _ in range(n):
        shape = tuple(rng.randint(1, 9, 3))
        a = rng.rand(*shape) < rng.choice([0.05, 0.15, 0.3])
        a = ndimage.binary_dilation(a, iterations=rng.randint(0, 2)) if a.any() else a
        b = a ^ (rng.rand(*shape) < rng.choice([0.05, 0.2]))
        if rng.rand() < 0.3:
            b = np.roll(b, 1, rng.randint(3))
        yield a.astype(int), b.astype(int)


def blobs(seed, n):
    """Larger masks: smoothed noise, and the same with a few nodes moved, lost and invented."""
    rng = np.random.RandomState(seed)
    for _ in range(n):
        shape = tuple(int(v) for v in rng.randint(10, 40, 3))
        field = ndimage.gaussian_filter(rng.randn(*shape), rng.uniform(1, 3))
        a = field > np.quantile(field, rng.uniform(0.8, 0.99))
        b = ndimage.gaussian_filter(field + 0.02 * rng.randn(*shape), 0.7)
        b = b > np.quantile(b, rng.uniform(0.8, 0.99))
        if rng.rand() < 0.3:
            b[: shape[0] // 2] = False
        yield a, b


def mask_runs(mask):
    """Lengths of equal voxels, background first."""
    flat = mask.ravel().astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate([[0], changes, [flat.size]])
    lengths = np.diff(bounds).tolist()
    return lengths if flat[0] == 0 else [0] + lengths


def cube(shape, *boxes):
    """Boxes [z0, z1, y0, y1, x0, x1, label]."""
    v = np.zeros(shape, np.int16)
    for z0, z1, y0, y1, x0, x1, label in boxes:
        v[z0:z1, y0:y1, x0:x1] = label
    return v


def edges():
    """Name, reference, prediction and direction of pairs that are easily got wrong."""
    shape = (8, 10, 12)
    none, one = cube(shape), cube(shape, (2, 5, 2, 6, 3, 7, 1))
    two = cube(shape, (1, 4, 1, 4, 1, 4, 1), (3, 7, 5, 9, 6, 11, 1))
    faces = [(0, 2, 4, 6, 4, 6, 1), (6, 8, 4, 6, 4, 6, 1), (3, 5, 0, 2, 4, 6, 1)]
    faces += [(3, 5, 8, 10, 4, 6, 1), (3, 5, 4, 6, 0, 2, 1), (3, 5, 4, 6, 10, 12, 1)]
    inner = [(1, 3, 4, 6, 4, 6, 1), (5, 7, 4, 6, 4, 6, 1), (3, 5, 1, 3, 4, 6, 1)]
    identity, sagittal = DIRECTIONS[0], DIRECTIONS[1]
    a, b = 0.4, 0.3
    oblique = np.array(
        [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    ) @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    many = [(z, z + 2, y, y + 3, x, x + 3) for z in (0, 4) for y in (0, 5) for x in (0, 4, 8)][:10]
    ten = cube(shape, *[(*box, k + 1) for k, box in enumerate(many)])
    yield "both empty", none, none, identity
    yield "reference empty", none, one, identity
    yield "prediction empty", one, none, identity
    yield "equal", two, two, identity
    yield (
        "apart",
        cube(shape, (0, 2, 0, 2, 0, 2, 1)),
        cube(shape, (6, 8, 8, 10, 9, 12, 1)),
        identity,
    )
    yield (
        "single voxel",
        cube(shape, (3, 4, 4, 5, 5, 6, 1)),
        cube(shape, (3, 4, 4, 5, 5, 6, 1)),
        identity,
    )
    yield (
        "single voxels side by side",
        cube(shape, (3, 4, 4, 5, 5, 6, 1)),
        cube(shape, (3, 4, 4, 5, 6, 7, 1)),
        identity,
    )
    yield (
        "corner voxels",
        cube(shape, (0, 1, 0, 1, 0, 1, 1)),
        cube(shape, (7, 8, 9, 10, 11, 12, 1)),
        identity,
    )
    yield "at every border", cube(shape, *faces), cube(shape, *faces[3:], *inner), identity
    yield "the whole volume", none + 1, none + 1, identity
    yield (
        "touching by a corner",
        cube(shape, (1, 3, 1, 4, 1, 4, 1), (3, 5, 4, 7, 4, 7, 1)),
        cube(shape, (1, 3, 1, 4, 1, 4, 1), (3, 5, 5, 8, 5, 8, 1)),
        identity,
    )
    yield (
        "touching by an edge",
        cube(shape, (1, 3, 1, 4, 1, 7, 1), (3, 5, 4, 7, 1, 7, 1)),
        cube(shape, (1, 3, 1, 4, 1, 7, 1)),
        identity,
    )
    yield (
        "a gap of one voxel",
        cube(shape, (1, 3, 1, 4, 1, 4, 1), (1, 3, 1, 4, 5, 8, 1)),
        one,
        identity,
    )
    yield "one blob over two nodes", two, cube(shape, (1, 7, 1, 9, 1, 11, 1)), identity
    yield "two nodes in one blob", cube(shape, (1, 7, 1, 9, 1, 11, 1)), two, identity
    yield "sagittal", two, np.roll(two, 1, 2), sagittal
    yield "oblique", two, np.roll(two, 1, 1), oblique
    yield "one slice", two[3:4], np.roll(two, 1, 2)[3:4], identity
    yield "one row", two[3:4, 5:6], np.roll(two, 1, 2)[3:4, 5:6], identity
    second = cube(shape, (1, 4, 1, 4, 1, 4, 1), (1, 4, 4, 8, 1, 4, 2))
    yield "two labels that touch", second, np.roll(second, 1, 1), identity
    yield "two labels changed", second, second * 2 % 3, identity
    yield "ten labels", ten, np.roll(ten, 1, 2), identity


def panoptica(seed=11):
    from panoptica_counts import by_panoptica

    compared = 0
    for a, b in masks(seed, 150):
        for t in THRESHOLDS:
            theirs, ours = by_panoptica(a, b, t), list(counts(a, b, t))
            assert theirs == ours, (a, b, t, theirs, ours)
            compared += 1
    print("panoptica agrees on", compared, "comparisons")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="FILE")
    p.add_argument("--panoptica", action="store_true")
    args = p.parse_args()
    if args.panoptica:
        panoptica()
    if args.golden:
        rng = np.random.RandomState(8)
        cases = [describe(a, b, rng) for a, b in masks()]
        os.makedirs(os.path.dirname(args.golden), exist_ok=True)
        with open(args.golden, "w") as f:
            meta = {"script": "nodes.py", "numpy": np.__version__, "scipy": scipy.__version__}
            json.dump({"cases": cases, "meta": meta}, f, separators=(",", ":"))
            f.write("\n")


if __name__ == "__main__":
    main()
