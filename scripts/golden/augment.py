"""Writes testdata/golden/augment.json: deep-supervision sampling, regions and mirroring as
nnU-Net 2.5.1 and batchgeneratorsv2 compute them. Usage: python scripts/golden/augment.py OUTPUT"""

import itertools
import json
import sys

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
    DownsampleSegForDSTransform,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager


def sampling():
    """The voxels of a line that a scale keeps."""
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


def mirroring():
    """The axes along which patches are mirrored, and the result for an image of consecutive
    values."""
    out = []
    for p in ([64, 128, 128], [28, 256, 256], [512, 512], [512, 256]):
        allowed = Trainer(p).configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3]
        t, shape = MirrorTransform(allowed), [2, 2, 3, 4][: 1 + len(p)]
        image, seg = (
            torch.arange(np.prod(shape)).float().reshape(shape),
            torch.arange(np.prod(shape[1:])).short().reshape(1, *shape[1:]),
        )
        applied = []
        for n in range(len(allowed) + 1):
            for axes in itertools.combinations(allowed, n):
                data = t.apply({"image": image.clone(), "segmentation": seg.clone()}, axes=axes)
                applied.append(
                    {
                        "parameters": {"axes": list(axes)},
                        "image": data["image"].flatten().tolist(),
                        "seg": data["segmentation"].flatten().tolist(),
                    }
                )
        out.append({"patch": p, "allowed_axes": list(allowed), "shape": shape, "applied": applied})
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
                "mirroring": mirroring(),
                "regions": regions(),
            },
            f,
            separators=(",", ":"),
        )
