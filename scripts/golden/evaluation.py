"""Writes the golden files of package eval: label maps and the results of nnU-Net's own evaluation.

Per scenario testdata/golden/eval/maps_<name>.json holds the maps (one character per voxel, base 36,
row-major z, y, x) and the targets, maps_<name>.summary.json is the output of
nnunetv2.evaluation.evaluate_predictions.compute_metrics_on_folder.
ratios.json holds voxel counts and MONAI's metrics for them.
"""

import json
import math
import os
import tempfile
import warnings

import numpy as np
import SimpleITK as sitk
import torch
from monai.metrics import compute_confusion_matrix_metric

import stack  # first: it sets the variables that nnU-Net reads on import
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def scenario(name, targets, labels, cases, shape, ignore=None, special=None, seed=0):
    """Random maps over the labels; special changes some of them by case number."""
    rng = np.random.default_rng(seed)
    maps = []
    for i in range(cases):
        ref = rng.choice(labels, size=shape)
        pred = np.where(rng.random(shape) < 0.6, ref, rng.choice(labels, size=shape))
        if special:
            ref, pred = special(i, ref, pred)
        maps.append(
            (f"case_{i:03d}" if i else "cäse_𝒳_日", ref.astype(np.uint8), pred.astype(np.uint8))
        )
    return dict(name=name, targets=targets, ignore=ignore, shape=list(shape), maps=maps)


def emptied(i, ref, pred):
    if i in (1, 3):
        ref[ref == 2] = 0
    if i in (2, 3):
        pred[pred == 2] = 0
    if i == 4:
        ref[:], pred[:] = 0, 0
    if i == 5:
        pred[:] = ref
    return ref, pred


def run(s, args):
    with tempfile.TemporaryDirectory() as tmp:
        os.chdir(tmp)
        os.mkdir("ref"), os.mkdir("pred")
        for name, ref, pred in s["maps"]:
            for folder, a in (("ref", ref), ("pred", pred)):
                sitk.WriteImage(sitk.GetImageFromArray(a), f"{folder}/{name}.nii.gz")
        compute_metrics_on_folder(
            "ref",
            "pred",
            "summary.json",
            SimpleITKIO(),
            ".nii.gz",
            s["targets"],
            s["ignore"],
            num_processes=1,
        )
        with open("summary.json") as f:
            summary = f.read()
    stem = "maps_" + s["name"]
    (stack.GOLDEN / "eval" / (stem + ".summary.json")).write_text(summary)
    text = lambda a: "".join(DIGITS[v] for v in a.ravel())
    stack.write_json(
        stack.GOLDEN / "eval" / (stem + ".json"),
        dict(
            meta=stack.meta(args),
            targets=s["targets"],
            ignore=s["ignore"],
            shape=s["shape"],
            cases=[
                dict(name=n, ref=text(r), pred=text(p))
                for n, r, p in sorted(s["maps"], key=lambda m: m[0] + ".nii.gz")
            ],
        ),
    )


def ratios():
    """Precision and recall, null where they are undefined."""
    counts = np.random.default_rng(8).integers(0, 1 << 30, (20, 4)).tolist()
    counts += [[3, 1, 5, 2], [0, 0, 5, 2], [0, 2, 5, 0], [0, 0, 9, 0], [4, 0, 0, 0]]
    matrix = torch.tensor(counts, dtype=torch.float64)  # tp, fp, tn, fn

    def metric(name):
        return [
            None if math.isnan(v) else v
            for v in compute_confusion_matrix_metric(name, matrix).tolist()
        ]

    return {"counts": counts, "Precision": metric("precision"), "Recall": metric("recall")}


def main():
    args = stack.parser(__doc__).parse_args()
    stack.start(args)
    (stack.GOLDEN / "eval").mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")  # mean of an empty slice, intended here
    for s in (
        scenario("labels", [1, 2, 10], [0, 0, 1, 2, 10], 7, (4, 5, 6), special=emptied, seed=1),
        scenario(
            "absent", [1, 2, 3], [0, 1, 2], 3, (3, 4, 5), seed=2
        ),  # label 3 is absent everywhere: foreground_mean is NaN
        scenario("background", [0, 1], [0, 0, 1], 2, (3, 4, 5), seed=3),
        scenario(
            "regions",
            [(1, 2, 3), (2, 3), 3, (1,)],
            [0, 1, 2, 3],
            5,
            (4, 5, 6),
            special=emptied,
            seed=4,
        ),
        scenario("ignore", [1, 2], [0, 1, 2, 3], 4, (4, 5, 6), ignore=3, special=emptied, seed=5),
        scenario("ignore_regions", [(1, 2), 2], [0, 1, 2, 3], 4, (4, 5, 6), ignore=3, seed=6),
        scenario("many", [1], [0, 0, 0, 1], 150, (2, 4, 5), seed=7),
    ):
        run(s, args)
    (stack.GOLDEN / "eval" / "ratios.json").write_text(json.dumps(ratios()))


if __name__ == "__main__":
    main()
