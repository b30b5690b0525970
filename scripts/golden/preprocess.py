"""Writes the results of nnU-Net 2.5.1's preprocessing of small images, called function by function.
Usage: python scripts/golden/preprocess.py OUTPUT_FOLDER [SEED] (from the repository root). The test
suite runs it with other seeds and compares the results.

crop.npz   per case i: image_i (c,z,y,x), box_i (3,2), seg_i = the labels of crop_to_nonzero without
           a segmentation (0 inside, -1 outside).
cases.json per case: name, plans, configuration, dataset.json, spacing and whether there are labels.
cases.npz  per case NAME: image_NAME (c,z,y,x), label_NAME, and the result of
           DefaultPreprocessor.run_case_npy: data_NAME, seg_NAME.
NAME.pkl   its properties.
rules.json spacings and the axis that is resampled separately, shapes, nearest samples.
sums.json  per case: the statistics by sums() of images with more voxels than numpy sums at a time,
           and the sha256 of the result."""

import hashlib
import json
import os
import sys

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    determine_do_sep_z_and_axis,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import gaussian_filter, map_coordinates

OUT = sys.argv[1]
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 0


def crop():
    rng = np.random.RandomState(SEED)
    out = {}

    def add(image):
        i = len(out) // 3
        _, seg, box = crop_to_nonzero(image.astype(np.float32))
        out[f"image_{i}"], out[f"seg_{i}"], out[f"box_{i}"] = image, seg, np.array(box)

    types = [
        np.int16,
        np.uint8,
        np.float32,
        np.int8,
        np.float64,
        np.uint16,
        np.int32,
        np.uint32,
        np.int64,
        np.uint64,
    ]
    for i in range(24):
        shape = [1 + i % 3] + [int(n) for n in rng.randint(1, 10, 3)]
        image = (rng.rand(*shape) < rng.choice([0.02, 0.2, 0.5, 0.8])) * rng.randint(1, 90, shape)
        add(image.astype(types[i % len(types)]))
    for n in ((4, 5, 6), (1, 1, 1)):
        add(np.zeros((1, *n), np.int16))
        add(np.ones((1, *n), np.int16))
    ball = (np.indices((12, 13, 14)) - np.array([6, 6, 7]).reshape(3, 1, 1, 1)) ** 2
    r = ball.sum(0)
    shell = ((r > 12) & (r < 26)).astype(np.int16)  # a closed hole
    add(shell[None])
    open_ = shell.copy()
    open_[6, 6, 7:] = 0  # a tunnel into it
    add(open_[None])
    two = np.stack([shell, np.roll(open_, 1, 0)])
    add(two)
    values = np.zeros((1, 4, 5, 6), np.float32)
    values[0, 1, 2, 3], values[0, 2, 1, 1], values[0, 3, 3, 3] = np.nan, -0.0, 1e-42
    add(values)
    np.savez_compressed(os.path.join(OUT, "crop.npz"), **out)


FN = "resample_data_or_seg_to_shape"


def make_plans(spacing, schemes=("CTNormalization",), masks=None, transpose=(0, 1, 2), **kwargs):
    """Plans with one configuration; kwargs are keyword arguments of the resampling functions."""
    data = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None} | kwargs
    stats = {
        "mean": 61.25,
        "median": 60.0,
        "std": 83.7,
        "min": -900.0,
        "max": 1400.0,
        "percentile_00_5": -211.4,
        "percentile_99_5": 301.7,
    }
    return {
        "dataset_name": "Dataset001_X",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [int(i) for i in np.argsort(transpose)],
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [9, 9, 9],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): stats for i in range(len(schemes))},
        "configurations": {
            "c": {
                "data_identifier": "nnUNetPlans_c",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [8] * len(spacing),
                "spacing": list(spacing),
                "median_image_size_in_voxels": [9.0] * len(spacing),
                "normalization_schemes": list(schemes),
                "use_mask_for_norm": list(masks or [False] * len(schemes)),
                "resampling_fn_data": FN,
                "resampling_fn_data_kwargs": data,
                "resampling_fn_seg": FN,
                "resampling_fn_seg_kwargs": data
                | {"is_seg": True, "order": min(data["order"], 1), "order_z": 0},
                "resampling_fn_probabilities": FN,
                "resampling_fn_probabilities_kwargs": data | {"order": 1},
                "batch_dice": False,
                "architecture": {
                    "network_class_name": "x",
                    "arch_kwargs": {},
                    "_kw_requires_import": [],
                },
            }
        },
    }


LABELS = {"labels": {"background": 0, "a": 1, "b": 2, "c": 3}}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2], "last": 3, "ignore": 4},
    "regions_class_order": [1, 2, 3],
}
IGNORE = {"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4}}
MANY = {"labels": {"background": 0} | {str(i): i for i in range(1, 201)}}
CT, Z = "CTNormalization", "ZScoreNormalization"
# name: shape, spacing, dataset, plans; "zeros" in a name adds a border of zeros, "none" leaves out
# labels, "ties" gives each voxel a random label
CASES = {
    "cubic": ((21, 26, 24), (2.0, 1.1, 1.3), LABELS, make_plans((1.4, 1.3, 1.0))),
    "cubic_down": ((21, 26, 24), (1.0, 1.1, 1.0), LABELS, make_plans((1.7, 1.3, 1.5))),
    "double": ((10, 12, 14), (2.0, 2.0, 2.0), LABELS, make_plans((1.0, 1.0, 1.0))),
    "separate": ((11, 26, 24), (5.0, 0.9, 1.3), LABELS, make_plans((3.1, 1.2, 0.8))),
    "separate_by_new": ((19, 22, 20), (1.2, 1.0, 1.0), LABELS, make_plans((3.9, 1.1, 0.9))),
    "separate_same_z": ((9, 22, 20), (4.0, 1.0, 1.0), LABELS, make_plans((4.0, 1.3, 0.9))),
    "separate_only_z": ((9, 14, 13), (4.0, 1.0, 1.0), LABELS, make_plans((2.3, 1.0, 1.0))),
    "two_coarse": ((12, 13, 21), (4.0, 4.0, 1.0), LABELS, make_plans((3.0, 3.0, 1.2))),
    "axis1": ((20, 9, 22), (1.0, 4.0, 1.0), LABELS, make_plans((1.2, 3.1, 0.9))),
    "axis2": ((20, 22, 9), (1.0, 1.0, 4.0), LABELS, make_plans((1.2, 0.9, 5.1))),
    "transposed": (
        (22, 20, 9),
        (0.9, 1.0, 4.0),
        LABELS,
        make_plans((3.0, 1.2, 0.8), transpose=(2, 0, 1)),
    ),
    "transposed_zeros": (
        (22, 20, 19),
        (0.9, 1.0, 1.1),
        LABELS,
        make_plans((1.0, 1.2, 0.8), (Z,), transpose=(1, 0, 2)),
    ),
    "same": ((12, 20, 19), (2.0, 1.0, 1.0), LABELS, make_plans((2.0, 1.0, 1.0))),
    "same_transposed_zeros": (
        (12, 20, 19),
        (2.0, 1.0, 1.0),
        LABELS,
        make_plans((1.0, 2.0, 1.0), (Z, "NoNormalization"), transpose=(2, 0, 1)),
    ),
    "masked_zeros": (
        (18, 22, 20),
        (1.5, 1.0, 1.0),
        LABELS,
        make_plans((1.0, 1.0, 1.3), (Z, Z, "RescaleTo01Normalization"), (True, False, True)),
    ),
    "raw_zeros": (
        (18, 22, 20),
        (1.5, 1.0, 1.0),
        LABELS,
        make_plans((1.0, 1.0, 1.3), ("NoNormalization",)),
    ),
    "rgb": (
        (1, 30, 26),
        (999.0, 1.0, 1.0),
        MANY,
        make_plans((999.0, 0.8, 1.2), ("RGBTo01Normalization",) * 3),
    ),
    "regions": ((16, 20, 18), (2.0, 1.0, 1.0), REGIONS, make_plans((1.5, 1.1, 0.9))),
    "ignore_zeros": ((16, 20, 18), (2.0, 1.0, 1.0), IGNORE, make_plans((1.5, 1.1, 0.9))),
    "two_d": ((9, 24, 22), (3.0, 1.0, 1.0), LABELS, make_plans((0.8, 1.2))),
    "two_d_near": ((9, 24, 22), (2.0, 1.0, 1.0), LABELS, make_plans((0.8, 1.2))),
    "none_zeros": ((13, 20, 18), (2.0, 1.0, 1.0), LABELS, make_plans((1.5, 1.1, 0.9))),
    "forced": (
        (13, 20, 18),
        (2.0, 1.0, 1.0),
        LABELS,
        make_plans((1.5, 1.1, 0.9), force_separate_z=True),
    ),
    "never": (
        (9, 20, 18),
        (6.0, 1.0, 1.0),
        LABELS,
        make_plans((1.5, 1.1, 0.9), force_separate_z=False),
    ),
    "linear": ((13, 20, 18), (2.0, 1.0, 1.0), LABELS, make_plans((1.5, 1.1, 0.9), order=1)),
    "nearest": ((13, 20, 18), (2.0, 1.0, 1.0), LABELS, make_plans((1.5, 1.1, 0.9), order=0)),
    "order_z1": ((9, 20, 18), (6.0, 1.0, 1.0), LABELS, make_plans((2.5, 1.1, 0.9), order_z=1)),
    "order_z3": ((9, 20, 18), (6.0, 1.0, 1.0), LABELS, make_plans((2.5, 1.1, 0.9), order_z=3)),
    "ties": ((18, 20, 22), (2.4, 0.9, 1.5), LABELS, make_plans((1.0, 1.0, 1.0))),
    "ties_too": ((18, 20, 22), (1.2, 0.75, 0.6), LABELS, make_plans((1.0, 1.0, 1.0))),
    "vanishing": ((12, 13, 14), (1.0, 1.0, 1.0), MANY, make_plans((1.9, 1.8, 1.7))),
    "thin": ((1, 20, 3), (2.0, 1.0, 1.0), LABELS, make_plans((0.4, 1.1, 0.9))),
}


def make_case(rng, name, shape, schemes, labels):
    """A noisy ellipsoid and balls of labels, many of them touching."""
    rgb = schemes[0].startswith("RGB")
    grid = np.indices(shape).astype(float)
    body = sum(((g - (n - 1) / 2) / (0.45 * n + 0.3)) ** 2 for g, n in zip(grid, shape)) < 1
    image = []
    for _ in schemes:
        noise = gaussian_filter(rng.randn(*shape), 0.8) * 300
        v = np.where(body, 50 + noise, -1000 + noise / 20)
        if rgb:
            v = np.clip(v, 0, 255)
        if "zeros" in name:
            v = np.where(body, v + 400, 0)
        image.append(v)
    image = np.array(image).astype(
        np.uint8 if rgb else rng.choice([np.int16, np.float32, np.int32])
    )
    label = np.zeros(shape, np.uint8)
    for _ in range(14):
        c = [rng.randint(0, n) for n in shape]
        r = rng.uniform(1, 4)
        label[sum((g - i) ** 2 for g, i in zip(grid, c)) < r * r] = rng.choice(labels)
    if name.startswith("ties"):
        label = (
            np.random.RandomState(28 + SEED)
            .choice([0, 1, 2, 3], shape, p=[0.45, 0.45, 0.05, 0.05])
            .astype(np.uint8)
        )
    if name == "vanishing":  # the only label above 127 is too small to survive resampling
        label[label > 0] = 5
        label[6, 6, 6] = 200
    return image, label[None]


def cases():
    rng = np.random.RandomState(SEED)
    arrays, index = {}, []
    for name, (shape, spacing, dataset, plans) in CASES.items():
        values = [
            v
            for v in np.unique(
                np.concatenate([np.atleast_1d(v) for v in dataset["labels"].values()])
            )
            if v
        ]
        schemes = plans["configurations"]["c"]["normalization_schemes"]
        dataset = dataset | {
            "channel_names": {str(i): "x" for i in range(len(schemes))},
            "file_ending": ".nii.gz",
            "numTraining": 1,
        }
        if SEED:  # other sizes, and ratios with boundaries between voxels
            shape = [max(1, n + rng.randint(-4, 5)) for n in shape]
            spacing = [v * rng.choice([0.75, 0.8, 1, 1, 1.25, 1.5, 2]) for v in spacing]
        if name in ("separate", "double"):
            spacing = [np.float64(np.float32(v)) for v in spacing]
        image, label = make_case(rng, name, shape, schemes, values)
        manager = PlansManager(plans)
        properties = {"spacing": [float(v) for v in spacing]}
        has_label = not name.startswith("none")
        data, seg = DefaultPreprocessor(verbose=False).run_case_npy(
            image.astype(np.float32),
            label.astype(np.float32) if has_label else None,
            properties,
            manager,
            manager.get_configuration("c"),
            dataset,
        )
        arrays |= {
            "image_" + name: image,
            "label_" + name: label,
            "data_" + name: np.ascontiguousarray(data),
            "seg_" + name: np.ascontiguousarray(seg),
        }
        write_pickle(properties, os.path.join(OUT, name + ".pkl"))
        index.append(
            {
                "name": name,
                "plans": plans,
                "dataset": dataset,
                "spacing": [float(v) for v in spacing],
                "label": has_label,
            }
        )
    np.savez_compressed(os.path.join(OUT, "cases.npz"), **arrays)
    with open(os.path.join(OUT, "cases.json"), "w") as f:
        json.dump(index, f, indent=1)


def rules():
    """The choice of a separate axis, new shapes, and the nearest samples along such an axis."""
    rng = np.random.RandomState(SEED)
    separate, shapes, nearest = [], [], []
    values = [0.5, 0.9765625, 1.0, 1.0, 1.5, 3.0, 3.0001, 4.0, 5.0]
    for i in range(300):
        current, new = [[float(v) for v in rng.choice(values, 3)] for _ in range(2)]
        force = [None, None, None, True, False][i % 5]
        do, axis = determine_do_sep_z_and_axis(force, current, new)
        separate.append(
            {"current": current, "new": new, "force": force, "axis": int(axis) if do else -1}
        )
        shape = [int(n) for n in rng.randint(1, 600, 3)]
        shapes.append(
            {
                "shape": shape,
                "current": current,
                "new": new,
                "result": [int(n) for n in compute_new_shape(shape, current, new)],
            }
        )
    for _ in range(400):
        n, m = (int(v) for v in rng.randint(1, 90, 2))
        scale = float(n) / m
        index = map_coordinates(
            np.arange(n, dtype=float), [scale * (np.arange(m) + 0.5) - 0.5], order=0, mode="nearest"
        )
        nearest.append({"n": n, "m": m, "index": [int(i) for i in index]})
    with open(os.path.join(OUT, "rules.json"), "w") as f:
        json.dump({"separate": separate, "shapes": shapes, "nearest": nearest}, f)


def sums():
    """ZScoreNormalization of images generated by an integer hash, so that they need not be stored.
    Their arrays have the axes of (z, y, x) in the order memory, slowest first, as
    NibabelIOWithReorient may make them; border voxels on each side are 0, and so is a corner up to
    x + y + z < border + 9."""
    rng = np.random.RandomState(SEED)
    out = []
    orders = [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2)]
    for i in range(14):
        shape = [int(n) for n in rng.randint(9, 70, 3)]
        if i == 13:  # more voxels than float32 can count
            shape = [257, 257, 259 + 2 * SEED]
        memory = orders[rng.randint(6)] if i % 2 else (0, 1, 2)
        transpose = orders[rng.randint(6)] if i % 3 else (0, 1, 2)
        border, channels, mask, real = (
            int(rng.randint(3)) * (i != 13),
            1 + (i % 5 == 1),
            bool(i % 4 == 2),
            bool(i % 3 == 1),
        )
        n = channels * int(np.prod(shape))
        h = (
            np.arange(n, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(40503 * i)
        ) & np.uint64(0xFFFFFFFF)
        h ^= h >> np.uint64(15)
        h = (h * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
        v = (h >> np.uint64(20)).astype(np.int16) + np.int16(1)
        if real:
            v = v.astype(np.float32)
            v = v * v / np.float32(7)
        a = v.reshape([channels] + [shape[k] for k in memory]).transpose(
            [0] + [1 + int(k) for k in np.argsort(memory)]
        )
        where = np.indices(shape)
        inside = np.logical_and.reduce(
            [(w >= border) & (w < m - border) for w, m in zip(where, shape)]
        ) & (where.sum(0) >= border + 9)
        a *= inside
        manager = PlansManager(
            make_plans(
                [(1.0, 1.0, 1.0)[k] for k in transpose],
                (Z,) * channels,
                (mask,) * channels,
                transpose,
            )
        )
        dataset = LABELS | {
            "channel_names": {str(c): "x" for c in range(channels)},
            "file_ending": ".nii.gz",
            "numTraining": 1,
        }
        data, _ = DefaultPreprocessor(verbose=False).run_case_npy(
            a, None, {"spacing": [1.0, 1.0, 1.0]}, manager, manager.get_configuration("c"), dataset
        )
        out.append(
            {
                "shape": shape,
                "memory": memory,
                "transpose": transpose,
                "border": border,
                "channels": channels,
                "mask": mask,
                "real": real,
                "seed": i,
                "result": list(data.shape),
                "sha256": hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest(),
            }
        )
    with open(os.path.join(OUT, "sums.json"), "w") as f:
        json.dump(out, f, indent=1)


os.makedirs(OUT, exist_ok=True)
sums()
crop()
rules()
cases()
