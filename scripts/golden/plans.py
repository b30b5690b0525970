"""Writes testdata/golden/plans.json: the results of Python's json and of nnU-Net 2.5.1's plans and
label classes for small documents. Usage: python scripts/golden/plans.py OUTPUT"""

import json
import sys
import warnings

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import (
    LabelManager,
    determine_num_input_channels,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

warnings.simplefilter("ignore")
MINI = "testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource.json"


def json_cases():
    """Documents as text; each is parsed by Python and written in four formats."""
    floats = [
        0.0,
        -0.0,
        1.0,
        0.1,
        1 / 3,
        1e-4,
        9.999e-5,
        1e-05,
        123456789012345.6,
        1e15,
        9999999999999998.0,
        1e16,
        1e17,
        1.5e300,
        5e-324,
        2.2250738585072014e-308,
        1.7976931348623157e308,
        1.4700000286102295,
        100.0,
        1e22,
        1e21,
    ]
    rng = np.random.RandomState(7)
    floats += [float(f) for f in rng.randn(50) * 10.0 ** rng.randint(-20, 20, 50)]
    texts = [
        json.dumps(floats),
        "[NaN, Infinity, -Infinity, 1e999, -1e999, 1E5, 1e-7, -0, 0.0e0, 1.0]",
        "[0, 1, -1, 9223372036854775807, 9223372036854775808, -9223372036854775808, 123456789012345678901234567890]",
        '{"b": 1, "a": [], "c": {}, "ab": [[], {}, [1, [2]]], "B": null, "b": 2}',
        json.dumps(
            {"é": "Zürich", "日本": "\U0001f600", "q": '"\\/\b\f\n\r\t\x7f\x01\u2028'},
            ensure_ascii=False,
        ),
        r'"\u00e9\ud83d\ude00\/\u0041\u007F"',
        '{"\U0001f600": 1, "\uffff": 2, "z": 3, "Z": 4, "": 5}',
        " \t\r\n[ true , false , null ] \n",
        '"plain"',
        "3",
        "2.50",
    ]
    cases = []
    for t in texts:
        v = json.loads(t)
        cases.append(
            {
                "text": t,
                "plain": json.dumps(v),
                "indent4": json.dumps(v, indent=4),
                "sorted4": json.dumps(v, indent=4, sort_keys=True),
                "indent0": json.dumps(v, indent=0),
            }
        )
    return cases


def rejected():
    texts = [
        "",
        "{",
        "[1,]",
        '{"a":1,}',
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "nul",
        "'a'",
        '"a',
        '"\\x"',
        '"\\u12"',
        '"\\u+123"',
        "[1 2]",
        '{"a" 1}',
        "{1: 2}",
        "1 2",
        '"\n"',
        "-",
        "[",
        '["a"',
        "NaNs",
        "--1",
        "\x00",
    ]
    out = []
    for t in texts:
        try:
            json.loads(t)
        except ValueError:
            out.append(t)
        else:
            raise AssertionError(repr(t))
    return out


def label_cases():
    cases = [
        ({"background": 0, "lymph_node": 1}, None),
        ({"background": 0, "a": 2, "b": 1, "ignore": 3}, None),
        ({"a": 1, "background": 0, "c": [3], "b": 2}, None),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enh": 3}, [1, 2, 3]),
        ({"background": 0, "whole": [2, 1], "core": 2, "ignore": 3}, [1, 2]),
        ({"background": 0, "zero": [0], "w": [1, 2], "k": [2]}, [1, 2]),
        ({"background": 0, "n12": 12, "n9": 9}, None),
        ({"background": "0", "ln": "1"}, None),
        ({"background": 0.0, "ln": 1.0}, None),
        ({"background": 0.9, "ln": 1.9, "b": [2.5]}, None),
        ({"background": False, "ln": True}, None),
        ({"background": "-0", "a": ["1"], "b": " 2\n", "c": "+3", "d": "1_0", "e": "04"}, None),
        ({"background": 0, "a": 1, "ignore": None}, None),
        ({"background": 0.0, "whole": [1.0, 2.0], "core": 2.0}, [1, 2]),
    ]
    bad = [
        ({"a": 1}, None),
        ({"background": 1, "a": 0}, None),
        ({"background": [0], "a": 1}, None),
        ({"background": 0, "a": 1, "ignore": 3}, None),
        ({"background": 0, "a": 1, "ignore": 0}, None),
        ({"background": 0, "a": 1, "ignore": [2, 3]}, None),
        ({"background": 0, "a": [1, 2]}, None),
        ({"background": 0, "a": [1, 2], "b": 2}, [1]),
        ({"background": 0, "a": "1.0"}, None),
        ({"background": 0, "a": "one"}, None),
        ({"background": 0, "a": ""}, None),
        ({"background": 0, "a": "1__0"}, None),
        ({"background": 0, "a": "_1"}, None),
        ({"background": 0, "a": None}, None),
        ({"background": 0, "a": 1, "ignore": "2"}, None),
        ({"background": 0, "a": 1, "ignore": 2.0}, None),
        (
            {"background": "0", "a": [1, 2]},
            [1],
        ),  # a string never equals 0, so the background is a region too
    ]
    out = []
    for labels, order in cases:
        m = LabelManager(labels, order)
        out.append(
            {
                "labels": labels,
                "regions_class_order": order,
                "all_labels": [int(i) for i in m.all_labels],
                "foreground_labels": [int(i) for i in m.foreground_labels],
                "has_regions": m.has_regions,
                "regions": None
                if not m.has_regions
                else [list(r) if isinstance(r, tuple) else r for r in m.foreground_regions],
                "ignore": m.ignore_label,
                "heads": m.num_segmentation_heads,
            }
        )
    for labels, order in bad:
        try:
            LabelManager(labels, order)
        except (RuntimeError, AssertionError, ValueError, TypeError, OverflowError):
            out.append({"labels": labels, "regions_class_order": order, "rejected": True})
        else:
            raise AssertionError(labels)
    return out


def old_plans(cls, dim):
    kernel, stride = [[3] * dim] * 5, [[1] * dim] + [[2] * dim] * 4
    return {
        "configurations": {
            "old": {
                "data_identifier": "x",
                "batch_size": 2,
                "patch_size": [64] * dim,
                "spacing": [1.0] * dim,
                "UNet_class_name": cls,
                "UNet_base_num_features": 32,
                "n_conv_per_stage_encoder": [2, 2, 3, 2, 2],
                "n_conv_per_stage_decoder": [2, 2, 1, 2],
                "num_pool_per_axis": [4] * dim,
                "pool_op_kernel_sizes": stride,
                "conv_kernel_sizes": kernel,
                "unet_max_num_features": 320,
                "batch_dice": True,
            }
        }
    }


def resolved_cases():
    out = []
    with open(MINI) as f:
        documents = [
            json.load(f),
            old_plans("PlainConvUNet", 3),
            old_plans("ResidualEncoderUNet", 2),
            {
                "configurations": {
                    "a": {"x": 1, "architecture": {}, "deep": {"p": 1, "q": 2}, "z": 0},
                    "b": {"new": 1, "inherits_from": "a", "deep": {"p": 3}},
                    "c": {"inherits_from": "b", "x": None, "y": [1]},
                }
            },
        ]
    for d in documents:
        m = PlansManager(json.loads(json.dumps(d)))
        for name in d["configurations"]:
            out.append(
                {
                    "plans": d,
                    "name": name,
                    "resolved": json.dumps(m.get_configuration(name).configuration, indent=4),
                }
            )
    return out


class Trainer(nnUNetTrainer):
    """Just enough of a trainer for its deep-supervision scales and weights."""

    def __init__(self, strides):
        self.enable_deep_supervision = True
        self.configuration_manager = PlansManager(
            {
                "configurations": {
                    "c": {
                        "architecture": {"arch_kwargs": {"strides": strides}},
                        "batch_dice": False,
                    }
                }
            }
        ).get_configuration("c")
        self.label_manager = LabelManager({"background": 0, "a": 1}, None)
        self.is_ddp = False

    def _do_i_compile(self):
        return False


def supervision_cases():
    strides = [
        [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
        [[1, 1, 1]] + [[2, 2, 2]] * 5,
        [[1, 1], [2, 2], [2, 2], [2, 2]],
        [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]],
        [[1, 1, 1], [3, 2, 5], [1, 7, 2], [2, 2, 2]],
        [[2, 1, 1], [2, 2, 2], [2, 2, 2]],
    ]
    out = []
    for s in strides:
        t = Trainer(s)
        loss = t._build_loss()
        assert isinstance(loss, DeepSupervisionWrapper)
        out.append(
            {
                "strides": s,
                "scales": [[float(x) for x in r] for r in t._get_deep_supervision_scales()],
                "weights": [float(w) for w in loss.weight_factors],
            }
        )
    return out


def input_channel_cases():
    out = []
    for dataset, config in [
        (
            {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}},
            {"architecture": {}},
        ),
        (
            {
                "modality": {"1": "PET", "0": "CT"},
                "labels": {"background": 0, "a": 1, "b": 2, "ignore": 3},
            },
            {"architecture": {}, "previous_stage": "3d_lowres"},
        ),
    ]:
        m = PlansManager({"configurations": {"c": config}, "label_manager": "LabelManager"})
        out.append(
            {
                "dataset": dataset,
                "configuration": config,
                "channels": determine_num_input_channels(m, "c", dataset),
            }
        )
    return out


if __name__ == "__main__":
    with open(sys.argv[1], "w") as f:
        json.dump(
            {
                "versions": {
                    "python": sys.version.split()[0],
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                    "nnunetv2": "2.5.1",
                },
                "json": json_cases(),
                "rejected": rejected(),
                "labels": label_cases(),
                "resolved": resolved_cases(),
                "supervision": supervision_cases(),
                "input_channels": input_channel_cases(),
            },
            f,
            separators=(",", ":"),
        )
