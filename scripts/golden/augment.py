"""Writes testdata/golden/augment.json: deep-supervision sampling, regions and initial patch sizes as
nnU-Net 2.5.1 and batchgeneratorsv2 compute them. Usage: python scripts/golden/augment.py OUTPUT"""

import json
import sys

import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
    DownsampleSegForDSTransform,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager


def sampling():
    """Which voxels of a line are kept for a scale."""
    out = []
    for n in (1, 2, 3, 5, 7, 8, 12, 16, 24, 30, 48, 80, 112, 127, 224, 320):
        for scale in (1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 8, 1 / 16, 1 / 32):
            if round(n * scale) < 1 or (n > 50 and scale in (1.0, 1 / 6)):
                continue
            seg = torch.arange(n, dtype=torch.int16)[None, None]
            kept = DownsampleSegForDSTransform([[1.0, scale]])(segmentation=seg)["segmentation"][0]
            out.append({"n": n, "scale": scale, "kept": kept.flatten().tolist()})
    return out


class Trainer(nnUNetTrainer):
    def __init__(self, patch):
        class Configuration:
            patch_size = patch

        self.configuration_manager = Configuration
        self.print_to_log_file = lambda *_, **__: None


def patches():
    sizes = [
        [80, 112, 224],
        [64, 128, 192],
        [128, 128, 128],
        [96, 160, 160],
        [80, 192, 160],
        [112, 128, 160],
        [28, 256, 256],
        [40, 224, 192],
        [20, 320, 256],
        [512, 512],
        [512, 256],
        [8, 16, 16],
        [16, 48, 48],
        [28, 64, 64],
        [64, 128, 128],
        [15, 45, 45],
        [15, 46, 45],
        [60, 90],
        [60, 91],
    ]
    rng = np.random.RandomState(3)
    sizes += [rng.randint(4, 300, rng.randint(2, 4)).tolist() for _ in range(120)]
    out = []
    for p in sizes:
        rotation, dummy, initial, axes = Trainer(
            p
        ).configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if dummy:
            assert initial[0] == p[0]
        out.append(
            {
                "patch": p,
                "initial": [int(i) for i in initial],
                "dummy": bool(dummy),
                "angle": float(max(rotation)),
                "axes": list(axes),
            }
        )
    return out


def regions():
    rng, out = np.random.RandomState(5), []
    for labels, order in [
        ({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2]),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "one": 3, "ignore": 4}, [1, 2, 3]),
    ]:
        m = LabelManager(labels, order)
        seg = rng.randint(-1, max(m.all_labels) + 1 + m.has_ignore_label, (1, 4, 6, 5)).astype(
            np.int16
        )
        scales = [[1.0, 1.0, 1.0], [1.0, 0.5, 0.5], [0.5, 1 / 3, 0.4]]
        t = nnUNetTrainer.get_validation_transforms(
            scales, regions=m.foreground_regions, ignore_label=m.ignore_label
        )
        target = t(image=torch.zeros(1, 4, 6, 5), segmentation=torch.from_numpy(seg.copy()))[
            "segmentation"
        ]
        out.append(
            {
                "labels": labels,
                "regions_class_order": order,
                "scales": scales,
                "seg": seg.flatten().tolist(),
                "shapes": [list(x.shape) for x in target],
                "masks": [x.int().flatten().tolist() for x in target],
            }
        )
    return out


if __name__ == "__main__":
    with open(sys.argv[1], "w") as f:
        json.dump(
            {
                "versions": {"torch": torch.__version__, "nnunetv2": "2.5.1"},
                "sampling": sampling(),
                "patches": patches(),
                "regions": regions(),
            },
            f,
            separators=(",", ":"),
        )
