"""Writes raw datasets of noise and blobs, and fingerprints and plans them and moves plans between
them with nnU-Net 2.5.1.

Usage: python scripts/golden/raw_datasets.py FOLDER

FOLDER/raw holds the datasets, FOLDER/preprocessed nnU-Net's fingerprints and plans of every
planner."""

import contextlib
import io
import json
import os
import sys
import warnings

warnings.simplefilter("ignore")


def main(root):
    for name in ("raw", "preprocessed", "results"):
        os.environ["nnUNet_" + name] = os.path.join(root, name)
        os.makedirs(os.environ["nnUNet_" + name], exist_ok=True)
    os.environ["nnUNet_n_proc_DA"] = "1"
    import nibabel
    import numpy as np
    import SimpleITK as sitk
    import torch
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
        residual_encoder_unet_planners as res,
    )
    from nnunetv2.experiment_planning.plans_for_pretraining.move_plans_between_datasets import (
        move_plans_between_datasets,
    )
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    rng = np.random.RandomState(3)

    def direction(kind):
        return {
            "identity": np.eye(3),
            "flipped": np.diag([-1.0, -1, 1]),
            "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
        }[kind]

    def write(path, array, spacing_zyx, kind="identity"):
        if path.endswith(".nii"):
            affine = np.diag(list(spacing_zyx[::-1]) + [1.0])
            affine[:3, 3] = [-5, 7, 1]
            return nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)
        im = sitk.GetImageFromArray(array)
        im.SetSpacing([float(s) for s in spacing_zyx[::-1]])
        im.SetOrigin((-120.5, 3.25, 77))
        im.SetDirection(direction(kind).ravel())
        sitk.WriteImage(im, path, True)

    def blobs(shape, values):
        seg = np.zeros(shape, np.uint8)
        for v in values:
            lo = [rng.randint(s // 5, max(s // 5 + 1, s // 2)) for s in shape]
            seg[tuple(slice(a, a + max(1, s // 4)) for a, s in zip(lo, shape))] = v
        return seg

    def ct(seg):
        return np.clip(
            rng.normal(-300, 400, seg.shape) * (seg == 0)
            + rng.normal(60, 45, seg.shape) * (seg > 0),
            -1024,
            3071,
        ).astype(np.int16)

    def dataset(
        number,
        name,
        cases,
        labels=None,
        channels=("CT",),
        ending=".nii.gz",
        values=(1,),
        image=None,
        listed=False,
        **more,
    ):
        folder = os.path.join(root, "raw", f"Dataset{number}_{name}")
        images, segs = ("imagesTr", "labelsTr") if not listed else ("scans", "truth")
        os.makedirs(os.path.join(folder, images)), os.makedirs(os.path.join(folder, segs))
        doc = {
            "channel_names": {str(i): c for i, c in enumerate(channels)},
            "labels": labels or {"background": 0, "lymph_node": 1},
            "numTraining": len(cases),
            "file_ending": ending,
            **more,
        }
        entries = {}
        for i, (shape, spacing) in enumerate(cases):
            kind = ("identity", "flipped", "sagittal")[i % 3]
            seg = blobs(shape, values if not (number == 906 and i == 1) else ())
            case = f"{'zyx'[i % 3]}_case{i}"
            files = []
            for c in range(len(channels)):
                files.append(f"{images}/{case}_{c:04d}{ending}")
                write(
                    os.path.join(folder, files[-1]),
                    (image or (lambda s, _: ct(s)))(seg, c),
                    spacing,
                    kind,
                )
            write(os.path.join(folder, segs, case + ending), seg, spacing, kind)
            entries[case] = {"images": files, "label": f"{segs}/{case}{ending}"}
        if listed:
            doc["dataset"] = entries
        json.dump(doc, open(os.path.join(folder, "dataset.json"), "w"), indent=2)
        return folder

    def bordered(seg, channel):
        """Non-zero only in the middle half of each axis."""
        im = rng.gamma(2, 30, seg.shape).astype(np.float32) - (40 if channel == 0 else 0)
        keep = np.zeros(seg.shape, bool)
        keep[tuple(slice(s // 6, s - s // 6) for s in seg.shape)] = True
        return np.where(keep, im, np.float32(0))

    def big(seg, _):
        return np.where(seg > 0, np.int16(50), np.int16(-1000)) + (
            np.indices(seg.shape).sum(0) % 7
        ).astype(np.int16)

    dataset(
        901,
        "Isotropic",
        [
            ((36, 50, 35), (1.0, 1, 1)),
            ((40, 44, 38), (1.1, 0.9, 1)),
            ((33, 52, 40), (0.95, 1, 1.05)),
        ],
    )
    dataset(902, "Below", [((30, 70, 64), (2.5, 1.0, 1.0)), ((28, 66, 60), (2.9, 0.98, 0.98))])
    dataset(903, "Above", [((14, 96, 90), (z, 0.7, 0.7)) for z in (5.0, 5, 3, 6, 4, 2.5, 5)])
    dataset(904, "Sagittal", [((90, 80, 16), (0.8, 0.8, z)) for z in (4.0, 5, 3.5)], ending=".nrrd")
    dataset(
        905,
        "Coronal",
        [((60, 20, 72), (1.0, 3.5, 0.9)), ((64, 24, 70), (1, 3, 1.2))],
        ending=".mha",
    )
    dataset(
        906,
        "Channels",
        [((24, 60, 40), (2.0, 1, 1)), ((26, 50, 44), (2, 1.0, 1)), ((25, 55, 42), (2.2, 1.0, 1))],
        channels=("CT", "zscore", "noNorm"),
        image=bordered,
        overwrite_image_reader_writer="None",
    )
    folder = dataset(
        907,
        "Regions",
        [((30, 40, 36), (1.5, 0.9, 0.9))] * 6,
        ending=".nii",
        values=(1, 2, 3),
        listed=True,
        labels={"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        regions_class_order=[1, 2],
    )
    names = sorted(f"{'zyx'[i % 3]}_case{i}" for i in range(6))
    json.dump(
        [{"train": names[1:], "val": names[:1]}, {"train": names[:-1], "val": names[-1:]}],
        open(os.path.join(folder, "splits_final.json"), "w"),
    )
    dataset(
        908,
        "Large",
        [((150, 256, 256), (1.0, 0.8, 0.8))],
        image=big,
        overwrite_image_reader_writer="NibabelIO",
    )

    quiet = io.StringIO()
    for name in sorted(os.listdir(os.path.join(root, "raw"))):
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            verify_dataset_integrity(os.path.join(root, "raw", name), 2)
            DatasetFingerprintExtractor(name, 2).run(overwrite_existing=True)
            for planner in (
                ExperimentPlanner,
                res.ResEncUNetPlanner,
                res.nnUNetPlannerResEncM,
                res.nnUNetPlannerResEncL,
                res.nnUNetPlannerResEncXL,
            ):
                with torch.device("meta"):
                    planner(name).plan_experiment()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        move_plans_between_datasets(908, "Dataset907_Regions", "nnUNetPlans", "movedPlans")
        move_plans_between_datasets(907, 905, "nnUNetResEncUNetMPlans", "movedM")
        target = os.path.join(root, "preprocessed", "Dataset904_Sagittal", "nnUNetPlans.json")
        own = open(target).read()
        move_plans_between_datasets("Dataset903_Above", 904, "nnUNetPlans")
        os.replace(target, os.path.join(os.path.dirname(target), "moved_nnUNetPlans.json"))
        open(target, "w").write(own)


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
