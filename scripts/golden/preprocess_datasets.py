"""Plans and preprocesses small raw datasets with nnU-Net 2.5.1, from files to files. Live only.
Usage: python scripts/golden/preprocess_datasets.py OUTPUT_FOLDER [SEED] (from the repository root)

OUTPUT_FOLDER/raw, OUTPUT_FOLDER/preprocessed: nnU-Net's folders. Standard output: JSON, a list of
the preprocessed datasets, plans and configurations."""

import json
import os
import sys
from pathlib import Path

OUT = Path(sys.argv[1]).absolute()
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 0
for name in ("raw", "preprocessed", "results"):
    os.environ["nnUNet_" + name] = str(OUT / name)
    (OUT / name).mkdir(parents=True, exist_ok=True)

import numpy as np

# name: file ending, shape (z, y, x), spacing (z, y, x), channels, labels, planner
PLAIN = {"labels": {"background": 0, "a": 1, "b": 2}}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
    "regions_class_order": [1, 2],
}
DATASETS = {
    "Dataset001_CT": (".nii.gz", (24, 50, 46), (3.0, 0.9, 0.9), ["CT"], PLAIN, "ExperimentPlanner"),
    "Dataset002_Sagittal": (
        ".nii.gz",
        (48, 50, 12),
        (0.9, 0.8, 4.0),
        ["T1", "CT"],
        REGIONS,
        "ExperimentPlanner",
    ),
    "Dataset003_Nibabel": (
        ".nii",
        (30, 44, 40),
        (1.5, 1.2, 1.0),
        ["T1", "T2"],
        PLAIN,
        "nnUNetPlannerResEncM",
    ),
    "Dataset004_NRRD": (".nrrd", (20, 34, 30), (3.0, 1.0, 1.1), ["CT"], PLAIN, "ExperimentPlanner"),
    "Dataset005_MHA": (
        ".mha",
        (18, 30, 34),
        (2.5, 1.1, 1.0),
        ["CT", "T2"],
        PLAIN,
        "ExperimentPlanner",
    ),
}


def write(path, array, spacing):
    if path.name.endswith(".nii"):
        import nibabel

        image = nibabel.Nifti1Image(
            array.transpose(2, 1, 0), np.diag([-spacing[2], spacing[1], spacing[0], 1])
        )
        nibabel.save(image, path)
        return
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin((-31.5, 17.25, 3.0))
    sitk.WriteImage(image, str(path), True)


def make(rng, name):
    from scipy.ndimage import gaussian_filter

    ending, shape, spacing, channels, labels, _ = DATASETS[name]
    folder = OUT / "raw" / name
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for case in range(3):
        n = [int(v + rng.randint(-4, 5)) for v in shape]
        s = [float(v * rng.choice([0.8, 1, 1.1])) for v in spacing]
        grid = np.indices(n).astype(float)
        body = sum(((g - (m - 1) / 2) / (0.42 * m)) ** 2 for g, m in zip(grid, n)) < 1
        for i, c in enumerate(channels):
            v = np.where(
                body,
                80 + gaussian_filter(rng.randn(*n), 0.8) * 200,
                -1000 if c == "CT" and len(channels) == 1 else 0,
            )
            write(
                folder / "imagesTr" / f"case_{case}_{i:04d}{ending}",
                v.astype(np.int16 if c == "CT" else np.float32),
                s,
            )
        label = np.zeros(n, np.uint8)
        values = [1, 2, 3] if "ignore" in labels["labels"] else [1, 2]
        for _ in range(12):
            p, r = [rng.randint(0, m) for m in n], rng.uniform(2, 6)
            label[sum((g - q) ** 2 for g, q in zip(grid, p)) < r * r] = rng.choice(values)
        write(folder / "labelsTr" / f"case_{case}{ending}", label, s)
    (folder / "dataset.json").write_text(
        json.dumps(
            labels
            | {
                "channel_names": {str(i): c for i, c in enumerate(channels)},
                "numTraining": 3,
                "file_ending": ending,
            }
        )
    )


def main():
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    stdout = os.dup(1)
    os.dup2(2, 1)
    rng = np.random.RandomState(SEED)
    done = []
    for name, (*_, planner) in DATASETS.items():
        make(rng, name)
        number = int(name[7:10])
        extract_fingerprints([number], num_processes=1, verbose=False)
        plans = plan_experiments([number], planner)
        configurations = [
            c
            for c in ("2d", "3d_fullres", "3d_lowres")
            if c
            in json.loads((OUT / "preprocessed" / name / (plans + ".json")).read_text())[
                "configurations"
            ]
        ]
        preprocess([number], plans, configurations, [1] * len(configurations), False)
        done += [{"dataset": name, "plans": plans, "configuration": c} for c in configurations]
    os.write(stdout, json.dumps(done).encode())


if __name__ == "__main__":
    main()
