"""The export of logits to the image's grid by nnU-Net 2.5.1:
convert_predicted_logits_to_segmentation_with_correct_shape.
Usage: python scripts/golden/export.py OUTPUT_FOLDER [SEED] (from the repository root). The test
suite runs it with other seeds, which change shapes and spacings, and compares the results.

cases.json per case: name, plans, configuration "c", dataset.json, properties, shape (z, y, x) of
           the preprocessed case, and scale: the logits are scale · hash_tensor(number of the case,
           (heads, z, y, x)), rounded to integers if "whole" is set, and rounded to float16.
cases.npz  per case NAME: labels_NAME and probabilities_NAME of the float16 logits, as in nnU-Net;
           truth_labels_NAME and truth_NAME of the same logits as float32, which nnU-Net keeps in
           float32.
"""

import os
import sys

import numpy as np
import torch

import stack

FN = "resample_data_or_seg_to_shape"
LABELS = {"labels": {"background": 0, "a": 1, "b": 2}}
IGNORE = {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "last": 3, "ignore": 4},
    "regions_class_order": [1, 2, 3],
}
MANY = {"labels": {"background": 0} | {str(i): i for i in range(1, 300)}}
WIDE = {
    "labels": {"background": 0, "whole": [1, 300], "core": 300},
    "regions_class_order": [1, 300],
}

# name: size and spacing of the image as read, spacing of the plans, dataset, options
CASES = {
    "up": ((9, 11, 12), (2.0, 1.1, 1.3), (2.4, 1.9, 1.7), LABELS, {}),
    "down": ((9, 11, 12), (2.0, 1.1, 1.3), (1.4, 0.8, 1.0), LABELS, {}),
    "mixed": ((9, 11, 12), (1.0, 1.1, 1.3), (1.7, 0.8, 1.3), LABELS, {}),
    "double": ((8, 10, 12), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), LABELS, {}),
    "same": ((9, 10, 12), (2.0, 1.0, 1.0), (2.0, 1.0, 1.0), LABELS, {"crop": True}),
    "same_z": ((9, 11, 12), (2.0, 1.1, 1.3), (2.0, 1.9, 1.7), LABELS, {}),
    "same_x": ((9, 11, 12), (2.0, 1.1, 1.3), (2.4, 1.9, 1.3), LABELS, {}),
    "cropped": ((13, 14, 15), (2.0, 1.1, 1.3), (2.4, 1.9, 1.7), LABELS, {"crop": True}),
    "separate": ((9, 12, 14), (5.0, 0.9, 1.3), (3.1, 1.2, 0.8), LABELS, {}),
    "separate_by_plans": ((12, 11, 10), (1.2, 1.0, 1.0), (3.9, 1.1, 0.9), LABELS, {}),
    "separate_same_z": ((6, 13, 12), (4.0, 1.0, 1.0), (4.0, 1.3, 0.9), LABELS, {"crop": True}),
    "separate_only_z": ((8, 9, 9), (4.0, 1.0, 1.0), (2.3, 1.0, 1.0), LABELS, {}),
    "axis1": ((12, 6, 13), (1.0, 4.0, 1.0), (1.2, 3.1, 0.9), LABELS, {}),
    "axis2": ((12, 13, 6), (1.0, 1.0, 4.0), (1.2, 0.9, 5.1), LABELS, {"crop": True}),
    "two_coarse": ((8, 9, 14), (4.0, 4.0, 1.0), (3.0, 3.0, 1.2), LABELS, {}),
    "transposed_201": (
        (14, 13, 7),
        (0.9, 1.0, 4.0),
        (3.0, 1.2, 0.8),
        LABELS,
        {"transpose": (2, 0, 1), "crop": True},
    ),
    "transposed_102": (
        (12, 9, 11),
        (0.9, 1.5, 1.1),
        (1.2, 1.3, 0.8),
        LABELS,
        {"transpose": (1, 0, 2), "crop": True},
    ),
    "transposed_210": (
        (10, 11, 8),
        (0.9, 1.0, 1.6),
        (1.3, 1.2, 1.1),
        REGIONS,
        {"transpose": (2, 1, 0), "crop": True},
    ),
    "transposed_021": (
        (10, 11, 8),
        (1.6, 1.0, 0.9),
        (1.3, 1.2, 1.1),
        LABELS,
        {"transpose": (0, 2, 1), "crop": True},
    ),
    "transposed_120": (
        (10, 11, 8),
        (1.1, 1.3, 0.9),
        (1.3, 1.2, 1.1),
        LABELS,
        {"transpose": (1, 2, 0), "crop": True},
    ),
    "ignore": ((9, 11, 12), (2.0, 1.1, 1.3), (2.4, 1.9, 1.7), IGNORE, {}),
    "regions": ((10, 11, 12), (2.0, 1.0, 1.0), (1.5, 1.1, 0.9), REGIONS, {"crop": True}),
    "two_d": ((5, 13, 12), (3.0, 1.0, 1.0), (0.8, 1.2), LABELS, {"crop": True}),
    "two_d_separate": ((5, 13, 12), (5.0, 1.0, 1.0), (0.8, 1.2), REGIONS, {}),
    "two_d_image": ((1, 15, 12), (999.0, 1.0, 1.0), (1.3, 0.8), LABELS, {}),
    "many": ((4, 5, 5), (2.0, 1.1, 1.3), (2.4, 1.9, 1.7), MANY, {}),
    "wide": ((6, 7, 7), (2.0, 1.1, 1.3), (2.4, 1.9, 1.7), WIDE, {}),
    "forced": ((8, 11, 12), (2.0, 1.0, 1.0), (1.5, 1.1, 0.9), LABELS, {"force_separate_z": True}),
    "never": ((6, 11, 12), (6.0, 1.0, 1.0), (1.5, 1.1, 0.9), LABELS, {"force_separate_z": False}),
    "order0": ((8, 11, 12), (2.0, 1.0, 1.0), (1.5, 1.3, 0.9), LABELS, {"order": 0}),
    "order_z1": ((6, 11, 12), (6.0, 1.0, 1.0), (2.5, 1.1, 0.9), LABELS, {"order_z": 1}),
    "ties": ((10, 12, 14), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), LABELS, {"whole": True, "crop": True}),
    "ties_regions": ((10, 12, 14), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), REGIONS, {"whole": True}),
    "ties_same": ((7, 8, 9), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), LABELS, {"whole": True}),
    "close": ((9, 11, 12), (2.0, 1.1, 1.3), (2.4, 1.9, 1.7), LABELS, {"scale": 1e-6}),
    "far": ((9, 11, 12), (2.0, 1.1, 1.3), (2.4, 1.9, 1.7), LABELS, {"scale": 200.0}),
    "nearest": (
        (49, 4, 5),
        (4.0, 1.0, 1.0),
        (98.0, 1.2, 0.9),
        LABELS,
        {},
    ),  # slice 24 lies between two
    "separate_both": (
        (12, 12, 4),
        (1.0, 1.0, 4.0),
        (4.0, 1.1, 1.0),
        LABELS,
        {},
    ),  # the plans' anisotropic axis decides
    "two_d_thin_slices": (
        (5, 13, 12),
        (0.3, 1.0, 0.9),
        (0.8, 1.2),
        LABELS,
        {},
    ),  # the last axis is the anisotropic one
    "thin": ((1, 12, 3), (2.0, 1.0, 1.0), (0.4, 1.1, 0.9), LABELS, {}),
}


def make_plans(spacing, transpose, **kwargs):
    kwargs = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None} | kwargs
    stats = {
        "mean": 0.0,
        "median": 0.0,
        "std": 1.0,
        "min": 0.0,
        "max": 1.0,
        "percentile_00_5": 0.0,
        "percentile_99_5": 1.0,
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
        "foreground_intensity_properties_per_channel": {"0": stats},
        "configurations": {
            "c": {
                "data_identifier": "nnUNetPlans_c",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [8] * len(spacing),
                "spacing": list(spacing),
                "median_image_size_in_voxels": [9.0] * len(spacing),
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": FN,
                "resampling_fn_data_kwargs": kwargs | {"order": 3},
                "resampling_fn_seg": FN,
                "resampling_fn_seg_kwargs": kwargs | {"is_seg": True, "order_z": 0},
                "resampling_fn_probabilities": FN,
                "resampling_fn_probabilities_kwargs": kwargs,
                "batch_dice": False,
                "architecture": {
                    "network_class_name": "x",
                    "arch_kwargs": {},
                    "_kw_requires_import": [],
                },
            }
        },
    }


def main(folder, seed):
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as convert,
    )
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    rng = np.random.RandomState(seed)
    arrays, index = {}, []
    for number, (name, (size, spacing, target, dataset, options)) in enumerate(CASES.items()):
        options = dict(options)
        transpose, crop = options.pop("transpose", (0, 1, 2)), options.pop("crop", False)
        whole, scale = options.pop("whole", False), options.pop("scale", 4.0)
        if seed:
            size = [
                max(n, 1 if n == 1 else 4)
                for n in np.array(size) + (rng.randint(-2, 5, 3) if max(size) > 5 else 0)
            ]
            if not name.startswith(("ties", "same")):
                spacing = [v * rng.choice([0.75, 0.8, 1, 1.25, 1.5]) for v in spacing]
        size, spacing = [int(n) for n in size], [float(v) for v in spacing]
        dataset = dataset | {
            "channel_names": {"0": "CT"},
            "file_ending": ".nii.gz",
            "numTraining": 1,
        }
        plans = make_plans(target, transpose, **options)
        manager = PlansManager(plans)
        configuration, labels = manager.get_configuration("c"), manager.get_label_manager(dataset)
        before = [size[i] for i in transpose]
        box = [[0, n] for n in before]
        if crop:
            box = [[min(1, n - 1), max(min(1, n - 1) + 1, n - 2)] for n in before]
            box[2] = [0, before[2] - 1]
        cropped = [b - a for a, b in box]
        old = [spacing[i] for i in transpose]
        new = [old[0], *target] if len(target) == 2 else list(target)
        shape = [max(1, int(n)) for n in compute_new_shape(cropped, old, new)]
        logits = stack.hash_tensor(number, (labels.num_segmentation_heads, *shape)) * scale
        if whole:
            logits = logits.round()
        logits = logits.half()
        properties = {
            "spacing": spacing,
            "shape_before_cropping": before,
            "bbox_used_for_cropping": box,
            "shape_after_cropping_and_before_resampling": cropped,
        }
        seg, probabilities = convert(logits, manager, configuration, labels, properties, True, 1)
        truth_seg, truth = convert(
            logits.float(), manager, configuration, labels, properties, True, 1
        )
        arrays |= {
            "labels_" + name: np.ascontiguousarray(seg),
            "probabilities_" + name: np.ascontiguousarray(probabilities),
            "truth_labels_" + name: np.ascontiguousarray(truth_seg),
            "truth_" + name: np.ascontiguousarray(truth),
        }
        index.append(
            {
                "name": name,
                "number": number,
                "plans": plans,
                "dataset": dataset,
                "properties": properties,
                "shape": shape,
                "scale": scale,
                "whole": whole,
            }
        )
    os.makedirs(folder, exist_ok=True)
    stack.write_npz(os.path.join(folder, "cases.npz"), arrays)
    stack.write_json(os.path.join(folder, "cases.json"), {"cases": index})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
