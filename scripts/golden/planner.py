"""Plans synthetic datasets with nnU-Net 2.5.1's own planner classes: hand-written fingerprints, no
images.

Usage: python scripts/golden/planner.py OUTPUT [--seed N] [--count N]

OUTPUT is a JSON list of {dataset_name, dataset, fingerprint, existing, planner, options, plans,
error}: the input, and the text of the resulting plans file or the planner's failure. `existing` is
the text of a plans file that existed before."""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import tempfile
import warnings

warnings.simplefilter("ignore")
ROOT = tempfile.mkdtemp()
for name in ("raw", "preprocessed", "results"):
    os.environ["nnUNet_" + name] = os.path.join(ROOT, name)
    os.makedirs(os.environ["nnUNet_" + name])
os.environ["nnUNet_n_proc_DA"] = "1"

import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
    nnUNetPlannerResEncXL,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

PLANNERS = [
    ExperimentPlanner,
    ResEncUNetPlanner,
    nnUNetPlannerResEncM,
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncXL,
]
DATASET = "Dataset042_MadeUp"

# Labels that are not consecutive are rejected by the integrity check, not by the planner.
LABELS = [
    ({"background": 0, "lymph_node": 1}, None),
    ({"background": 0, "a": 1, "b": 2, "ignore": 3}, None),
    ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "en": 3}, [1, 2, 3]),
    ({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2]),
]
CHANNELS = [
    ["CT"],
    ["ct", "MR"],
    ["zscore", "noNorm", "RESCALE_to_0_1", "rgb_to_0_1"],
    ["PET", "CT"],
]


def statistics(rng, channels):
    keys = ["mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5"]
    return {str(i): {k: rng.uniform(-1000, 3000) for k in keys} for i in range(channels)}


def made_up(rng):
    """A fingerprint of one of the kinds that take different paths through the planner."""
    kind = rng.choice(
        ["isotropic", "anisotropic", "very", "mixed", "slices", "tiny", "square", "any", "huge"]
    )
    n = rng.randint(1, 12)
    coarse, spacing, shape = rng.randrange(3), [], []
    base = rng.uniform(0.3, 1.5)
    size = [rng.randint(40, 500) for _ in range(3)]
    factor = rng.choice([1.5, 1.9, 2, 2.5, 2.99, 3, 3.2, 5, 8, 12])
    for _ in range(n):
        sp = [base * rng.choice([1, 1, rng.uniform(0.8, 1.3)])] * 3
        sh = [max(1, int(s * rng.uniform(0.7, 1.3))) for s in size]
        if kind in ("anisotropic", "very"):
            sp[coarse] *= factor * rng.choice([1, 1, rng.uniform(0.3, 1.4)])
            if kind == "very":
                sh[coarse] = max(2, sh[coarse] // 10)
        elif kind == "mixed":
            sp = [rng.uniform(0.3, 6) for _ in range(3)]
        elif kind == "slices":
            sp, sh = [999.0, sp[1], sp[2]], [1, sh[1], sh[2]]
        elif kind == "tiny":
            sh = [rng.randint(5, 40) for _ in range(3)]
        elif kind == "square":
            sp, sh = [1.0, 1.0, 1.0], [128, 128, 128]
        elif kind == "any":
            sp, sh = (
                [rng.choice([0.5, 1.0, 2.0, 3.0, 4.0]) for _ in range(3)],
                [rng.choice([16, 33, 64, 96, 200, 512]) for _ in range(3)],
            )
        elif kind == "huge":
            sh = [s * rng.choice([2, 3]) for s in sh]
        if rng.random() < 0.5:  # rounded as NIfTI stores it
            sp = [float(torch.tensor(s, dtype=torch.float32)) for s in sp]
        spacing.append(sp)
        shape.append(sh)
    return {
        "spacings": spacing,
        "shapes_after_crop": shape,
        "median_relative_size_after_cropping": rng.choice([1.0, 0.76, 0.75, 0.7499, 0.3]),
    }


def case(rng):
    labels, order = rng.choice(LABELS)
    channels = rng.choice(CHANNELS)
    fingerprint = made_up(rng)
    fingerprint["foreground_intensity_properties_per_channel"] = statistics(rng, len(channels))
    names = {str(i): c for i, c in enumerate(channels)}
    dataset = {
        "channel_names" if rng.random() < 0.9 else "modality": names,
        "labels": labels,
        "numTraining": rng.choice([len(fingerprint["spacings"]), 3, 40, 400]),
        "file_ending": ".nii.gz",
        "dataset": {"c": {"images": ["c_0000.nii.gz"], "label": "c.nii.gz"}},
    }
    if order:
        dataset["regions_class_order"] = order
    options = {}
    if rng.random() < 0.15:
        options["gpu_memory_target_in_gb"] = rng.choice([2.0, 4.5, 11.0, 24.0, 80.0])
    if rng.random() < 0.15:
        options["overwrite_target_spacing"] = [
            rng.choice([1.0, 0.9, 3.0, rng.uniform(0.5, 4)]) for _ in range(3)
        ]
    if rng.random() < 0.15:
        options["plans_name"] = "customPlans"
    if rng.random() < 0.1:
        options["preprocessor_name"] = "AnotherPreprocessor"
    existing = None
    if rng.random() < 0.2:
        existing = {
            "plans_name": "whatever",
            "configurations": {
                "3d_small": {"inherits_from": "3d_fullres", "patch_size": [32, 32, 32]},
                "2d": {"batch_size": 1},
                "3d_lowres": {"batch_size": 7},
                "another": {
                    "inherits_from": "3d_small",
                    "batch_size": 3,
                    "spacing": [1.0, 2, 1e-7],
                },
            },
        }
    return {
        "dataset": dataset,
        "fingerprint": fingerprint,
        "options": options,
        "existing": existing,
    }


def curated():
    """The datasets of the reference's table, for every planner."""
    head = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lymph_node": 1},
        "file_ending": ".nii.gz",
        "dataset": {"c": {"images": ["c_0000.nii.gz"], "label": "c.nii.gz"}},
    }
    # Factors of exactly two, and a finest axis too short for pooling.
    for spacing, shape in [
        ([2.0, 1.0, 1.0], [64, 128, 160]),
        ([4.0, 2.0, 1.0], [40, 100, 120]),
        ([6.0, 2.5, 1.0], [60, 200, 7]),
        ([6.0, 1.0, 2.0], [60, 7, 200]),
    ]:
        yield (
            [ExperimentPlanner, ResEncUNetPlanner],
            {
                "dataset": dict(head, numTraining=9),
                "options": {},
                "existing": None,
                "fingerprint": {
                    "spacings": [spacing] * 3,
                    "shapes_after_crop": [shape] * 3,
                    "median_relative_size_after_cropping": 0.7,
                    "foreground_intensity_properties_per_channel": statistics(random.Random(2), 1),
                },
            },
        )
    z = [3, 3.5, 5, 5, 5, 5, 6, 6, 8, 10]
    for spacings, shapes in [
        ([[1.0, 1.0, 1.0]] * 20, [[36, 50, 35]] * 20),
        ([[2, 0.9765625, 0.9765625]] * 100, [[150, 512, 512]] * 100),
        ([[5, 0.7, 0.7]] * 50, [[30, 512, 512]] * 50),
        ([[0.8, 0.8, float(s)] for s in z], [[512, 512, int(200 / s)] for s in z]),
    ]:
        yield (
            PLANNERS,
            {
                "dataset": dict(head, numTraining=len(spacings)),
                "options": {},
                "existing": None,
                "fingerprint": {
                    "spacings": spacings,
                    "shapes_after_crop": shapes,
                    "median_relative_size_after_cropping": 1.0,
                    "foreground_intensity_properties_per_channel": statistics(random.Random(1), 1),
                },
            },
        )


def run(planner, c):
    raw, pre = (os.path.join(os.environ["nnUNet_" + k], DATASET) for k in ("raw", "preprocessed"))
    for folder in (raw, pre):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
    json.dump(c["dataset"], open(os.path.join(raw, "dataset.json"), "w"))
    json.dump(
        c["fingerprint"], open(os.path.join(pre, "dataset_fingerprint.json"), "w"), sort_keys=True
    )
    out = dict(c, dataset_name=DATASET, planner=planner.__name__, error=None, plans=None)
    out["dataset"] = json.load(open(os.path.join(raw, "dataset.json")))
    out["existing"] = None
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.device("meta"):
            p = planner(DATASET, **c["options"])
            p.determine_reader_writer = lambda: SimpleITKIO
            path = os.path.join(pre, p.plans_identifier + ".json")
            if c["existing"]:
                out["existing"] = json.dumps(c["existing"], indent=4)
                open(path, "w").write(out["existing"])
            p.plan_experiment()
    except Exception as e:
        out["error"] = f"{type(e).__name__}: {e}"
        return out
    out["plans"] = json.dumps(json.load(open(path)))
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=24)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    results = [run(p, c) for planners, c in curated() for p in planners]
    for _ in range(args.count):
        results.append(run(rng.choice(PLANNERS), case(rng)))
    with open(args.output, "w") as f:
        json.dump(results, f, sort_keys=True)
    shutil.rmtree(ROOT)


if __name__ == "__main__":
    main()
