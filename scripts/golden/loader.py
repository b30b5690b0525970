"""Writes testdata/golden/loader/: small preprocessed data sets, and loader.json with the batches
that nnU-Net 2.5.1's own loaders draw from them and from phantom-mini after numpy.random.seed.
Usage: python scripts/golden/loader.py OUTPUT_FOLDER [SEED] (from the repository root). The test
suite runs it with other seeds and replays the results."""

import json
import os
import pickle
import sys
import zlib

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.data_loader_2d import nnUNetDataLoader2D
from nnunetv2.training.dataloading.data_loader_3d import nnUNetDataLoader3D
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager

OUT = sys.argv[1]
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 0
MINI = "testdata/phantom-mini/preprocessed"
LABELS = {
    "plain": {"labels": {"background": 0, "a": 1, "b": 2, "c": 3}},
    "ignore": {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}},
    "regions": {
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "regions_class_order": [1, 2],
    },
    "regions_ignore": {
        "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        "regions_class_order": [1, 2],
    },
    "thin": {"labels": {"background": 0, "a": 1, "b": 2}},
    "source": {"labels": {"background": 0, "lymph_node": 1}},
    "target": {"labels": {"background": 0, "lymph_node": 1}},
}
FOLDERS = {
    "source": MINI + "/Dataset101_PhantomSource/nnUNetPlans_3d_fullres",
    "target": MINI + "/Dataset102_PhantomTarget/nnUNetPlansSource_3d_fullres",
}


def manager(name):
    return LabelManager(LABELS[name]["labels"], LABELS[name].get("regions_class_order"))


def blob(rng, seg, value, n):
    for _ in range(n):
        p = [rng.randint(0, s) for s in seg.shape]
        seg[tuple(slice(max(0, i - 1), i + 2) for i in p)] = value


def write_set(name, channels):
    """Five cases: ordinary, another shape in column-major order, background only, one class, and
    (with an ignore label) nothing annotated."""
    folder = FOLDERS[name] = os.path.join(OUT, name)
    os.makedirs(folder, exist_ok=True)
    m, rng = manager(name), np.random.RandomState(len(name) + SEED)
    classes = list(m.foreground_regions if m.has_regions else m.foreground_labels)
    if m.has_ignore_label:
        classes.append(m.all_labels)
    for i, shape in enumerate([(7, 9, 11), (6, 8, 8), (5, 9, 6), (4, 12, 7), (6, 6, 6)]):
        data = rng.randint(-500, 500, (channels, *shape)).astype(np.float32) / 256
        seg = np.zeros(shape, dtype=np.int16 if i == 3 else np.int8)
        if i in (0, 1):
            for v in m.foreground_labels:
                blob(rng, seg, v, 2)
        if i == 3:
            blob(rng, seg, 2, 1)
        if i == 4:
            blob(rng, seg, 1, 1)
        seg[0, :2] = -1
        if m.has_ignore_label:
            blob(rng, seg, m.ignore_label, 2)
            if i == 4:
                seg[:] = m.ignore_label
        if i == 1:
            data = np.asfortranarray(data)
        write_case(folder, i, data, seg[None], classes)
    write_description(folder, name, channels)


def write_thin():
    """Cases of one slice, with and without foreground; of one label; of one voxel."""
    name = "thin"
    folder = FOLDERS[name] = os.path.join(OUT, name)
    os.makedirs(folder, exist_ok=True)
    m, rng = manager(name), np.random.RandomState(SEED)
    for i, shape in enumerate([(1, 9, 11), (1, 7, 6), (5, 8, 6), (1, 1, 1)]):
        data = rng.randint(-500, 500, (2, *shape)).astype(np.float32) / 256
        seg = np.zeros(shape, dtype=np.int8)
        if i == 0:
            blob(rng, seg, 1, 2)
            blob(rng, seg, 2, 1)
            seg[0, :1] = -1
        if i > 1:
            seg[:] = i - 1
        write_case(folder, i, data, seg[None], m.foreground_labels)
    write_description(folder, name, 2)


def write_case(folder, i, data, seg, classes):
    properties = {
        "spacing": [1.0, 1.0, 1.0],
        "class_locations": DefaultPreprocessor._sample_foreground_locations(
            seg, classes, verbose=False
        ),
    }
    np.savez_compressed(os.path.join(folder, f"case_{i}.npz"), data=data, seg=seg)
    with open(os.path.join(folder, f"case_{i}.pkl"), "wb") as f:
        pickle.dump(properties, f)


def write_description(folder, name, channels):
    with open(os.path.join(folder, "dataset.json"), "w") as f:
        json.dump(
            {
                "channel_names": {str(c): "x" for c in range(channels)},
                **LABELS[name],
                "numTraining": 5,
                "file_ending": ".nii.gz",
            },
            f,
            indent=4,
        )


def crc(a):
    a = np.ascontiguousarray(a)
    return zlib.crc32(a.tobytes())


def run(name, keys, size, final, batch, oversample, seed, scales):
    m, dim = manager(name), len(size)
    data = nnUNetDataset(FOLDERS[name], list(keys) if keys else None)
    transforms = None
    if size == final:
        transforms = nnUNetTrainer.get_validation_transforms(
            scales,
            regions=m.foreground_regions if m.has_regions else None,
            ignore_label=m.ignore_label,
        )
    loader = (nnUNetDataLoader3D if dim == 3 else nnUNetDataLoader2D)(
        data, batch, size, final, m, oversample_foreground_percent=oversample, transforms=transforms
    )
    starts, original = [], loader.get_bbox

    def get_bbox(*args, **kwargs):
        lower, upper = original(*args, **kwargs)
        starts.append([int(i) for i in lower])
        return lower, upper

    loader.get_bbox = get_bbox
    np.random.seed(seed)
    out = {
        "set": name,
        "keys": list(data.keys()),
        "size": size,
        "final": final,
        "batch": batch,
        "oversample": oversample,
        "seed": seed,
        "scales": scales,
        "batches": [],
    }
    for _ in range(3):
        starts.clear()
        b = loader.generate_train_batch()
        target = b["target"] if isinstance(b["target"], list) else [b["target"]]
        out["batches"].append(
            {
                "keys": [str(k) for k in b["keys"]],
                "starts": list(starts),
                "data": crc(b["data"]),
                "data_shape": list(b["data"].shape),
                "targets": [crc(t) for t in target],
                "target_shapes": [list(t.shape) for t in target],
                "target_type": str(target[0].dtype).replace("torch.", ""),
            }
        )
    out["after"] = int(np.random.randint(0, 2**32, dtype=np.uint64))
    return out


if __name__ == "__main__":
    for n, c in (("plain", 3), ("ignore", 1), ("regions", 1), ("regions_ignore", 2)):
        write_set(n, c)
    scales3 = [[1.0, 1.0, 1.0], [1.0, 0.5, 0.5], [0.5, 0.25, 0.25]]
    scales2 = [[1.0, 1.0], [0.5, 0.5]]
    cases, seed = [], SEED
    for n in ("plain", "ignore", "regions", "regions_ignore"):
        annotated = [
            f"case_{i}" for i in range(4)
        ]  # the 2d loader of the reference fails on case_4 with an ignore label
        for size, final in (
            ([4, 4, 4], [4, 4, 4]),
            ([5, 7, 6], [5, 7, 6]),
            ([12, 14, 16], [12, 14, 16]),
            ([8, 10, 9], [5, 5, 4]),
            ([9, 16, 13], [8, 8, 8]),
        ):
            for batch, oversample in ((1, 0.33), (2, 0.33), (5, 0.33), (4, 1.0), (3, 0.0)):
                seed += 1
                cases.append(
                    run(
                        n, None, size, final, batch, oversample, seed, scales3 if seed % 4 else None
                    )
                )
        for size, final in (
            ([4, 4], [4, 4]),
            ([5, 7], [5, 7]),
            ([16, 14], [16, 14]),
            ([10, 9], [5, 4]),
        ):
            for batch, oversample in ((2, 0.33), (5, 0.33), (4, 1.0)):
                seed += 1
                cases.append(
                    run(
                        n,
                        annotated,
                        size,
                        final,
                        batch,
                        oversample,
                        seed,
                        scales2 if seed % 4 else None,
                    )
                )
        if n in ("ignore", "regions_ignore"):
            cases.append(run(n, ["case_4"], [4, 4, 4], [4, 4, 4], 3, 0.33, SEED + 9000, scales3))
        else:
            cases.append(run(n, ["case_2"], [4, 4], [4, 4], 3, 1.0, SEED + 9000, scales2))
    for n in ("source", "target"):
        for i, (size, final) in enumerate(
            (
                ([16, 48, 48], [16, 48, 48]),
                ([40, 80, 56], [40, 80, 56]),
                ([22, 61, 61], [16, 48, 48]),
                ([32, 32], [32, 32]),
                ([96, 50], [64, 50]),
            )
        ):
            scales = None if len(size) == 2 else scales3
            for batch in (2, 3):
                cases.append(
                    run(n, None, size, final, batch, 0.33, SEED + 500 + 10 * i + batch, scales)
                )
    write_thin()
    for i, (size, final) in enumerate(
        (
            ([1, 4, 4], [1, 4, 4]),
            ([4, 8, 8], [4, 8, 8]),
            ([9, 14, 12], [5, 9, 8]),
            ([6, 5], [6, 5]),
            ([12, 13], [8, 9]),
        )
    ):
        for batch, oversample in ((5, 0.33), (4, 1.0)):
            cases.append(run("thin", None, size, final, batch, oversample, SEED + 800 + i, None))
        for k in range(4):
            cases.append(run("thin", [f"case_{k}"], size, final, 3, 0.5, SEED + 900 + i, None))
    with open(os.path.join(OUT, "loader.json"), "w") as f:
        json.dump(
            {
                "versions": {
                    "numpy": np.__version__,
                    "torch": torch.__version__,
                    "nnunetv2": "2.5.1",
                },
                "cases": cases,
            },
            f,
            separators=(",", ":"),
        )
