"""Writes what batchgeneratorsv2's own transforms, as nnU-Net 2.5.1 sets them up, do with parameters
that they drew.

    augment_transforms.py OUTPUT [--seed N]          cases, see below; golden: testdata/golden/augment_transforms
    augment_transforms.py --draws N OUTPUT.npz [--seed N]     N draws of each sampler, live only
    augment_transforms.py --apply DRAWN OUTPUT [--seed N]     applies parameters that lntorch drew, live only
    augment_transforms.py --sizes OUTPUT.json [--seed N]      initial patch sizes and angles, live only

DRAWN.json is a list of objects with setting (a key of SETTINGS) and transforms, DRAWN.npz has the
noise i/noise/K. The output is cases, as of the first form. OUTPUT.json has a list of cases: name, dim, whether it is a chain, the parameters of its transforms.
OUTPUT.npz has for case i i/image (c, …), i/seg (s, …), i/noise/K of transform K, and the results
i/data and i/target/0, ….
"""

import argparse
import json
import types

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.nnunet import random_binary_operator as operators
from batchgeneratorsv2.transforms.nnunet.remove_connected_components import (
    RemoveRandomConnectedComponentFromOneHotEncodingTransform as RemoveComponent,
)
from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial import spatial
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
    DownsampleSegForDSTransform,
)
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import (
    Convert2DTo3DTransform,
    Convert3DTo2DTransform,
)
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from batchgeneratorsv2.transforms.utils.seg_to_regions import (
    ConvertSegmentationToRegionsTransform,
)
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation import (
    nnUNetTrainerDAOrd0,
    nnUNetTrainerNoMirroring,
)
from scipy.ndimage import gaussian_filter

Trainer = trainer_module.nnUNetTrainer
NEAREST = nnUNetTrainerNoMirroring.nnUNetTrainer_onlyMirror01_DASegOrd0
assert nnUNetTrainerDAOrd0


def configured(patch, cls=Trainer):
    """Rotation, dummy-2D, initial patch size and mirror axes as the trainer has them."""
    t = cls.__new__(cls)
    t.configuration_manager = types.SimpleNamespace(patch_size=list(patch))
    t.print_to_log_file = lambda *_, **__: None
    return t.configure_rotation_dummyDA_mirroring_and_inital_patch_size()


SETTINGS = {
    "3d": {"patch": (8, 12, 10), "channels": 1},
    "3d two channels": {"patch": (7, 9, 11), "channels": 2, "mask": [False, True]},
    "dummy": {"patch": (4, 14, 13), "channels": 2},
    "2d": {"patch": (16, 14), "channels": 1},
    "2d ratio": {"patch": (22, 13), "channels": 2},
    "cascade": {"patch": (10, 9, 12), "channels": 1, "cascade": [1, 2]},
    "regions": {"patch": (9, 8, 10), "channels": 1, "regions": [[1, 2], 2], "ignore": 3},
    "2d cascade": {"patch": (20, 18), "channels": 1, "cascade": [1, 2, 3]},
    "nearest": {"patch": (8, 10, 9), "channels": 1, "cls": NEAREST},
}


def transforms_of(s):
    cls = s.get("cls", Trainer)
    rotation, dummy, initial, axes = configured(s["patch"], cls)
    dim = len(s["patch"])
    scales = [[1.0] * dim, [0.5] * dim, [0.5] + [0.25] * (dim - 1)]
    t = cls.get_training_transforms(
        s["patch"], rotation, scales, axes, dummy, use_mask_for_norm=s.get("mask"),
        is_cascaded="cascade" in s, foreground_labels=s.get("cascade"),
        regions=s.get("regions"), ignore_label=s.get("ignore"))  # fmt: skip
    return t.transforms, [int(i) for i in initial]


def smooth(shape, rng, sigma=1.5):
    return gaussian_filter(rng.standard_normal(shape), sigma) * sigma**2


def inputs(shape, s, rng):
    """An image with structure at all scales, and blobs of labels, -1 in a corner."""
    image = np.stack([smooth(shape, rng) + 0.3 * rng.standard_normal(shape)
                      for _ in range(s["channels"])])  # fmt: skip
    image = (np.round(image * 64) / 64).astype(np.float32)  # compresses well
    segs = []
    for _ in range(2 if "cascade" in s else 1):
        f, g = smooth(shape, rng), smooth(shape, rng)
        seg = np.where(f > 0.3, 1, 0) + np.where((g > 0.2) & (f > 0), 1, 0)
        seg[smooth(shape, rng) > 0.9] = 3
        seg[tuple(slice(0, max(1, n // 3)) for n in shape)] = -1
        segs.append(seg)
    return torch.from_numpy(image), torch.from_numpy(np.stack(segs).astype(np.int16))


def plain(v):
    if isinstance(v, torch.Tensor | np.ndarray):
        return v.tolist()
    if isinstance(v, np.generic):
        return v.item()
    if isinstance(v, list | tuple):
        return [plain(i) for i in v]
    if callable(v):
        return v.__name__
    return v


def described(t, params):
    """Parameters as JSON: what get_parameters returned, and what apply reads of the object."""
    out = {"transform": type(t).__name__} | {k: plain(v) for k, v in params.items()}
    keep = {
        "SpatialTransform": ["patch_size", "mode_seg", "bg_style_seg_sampling"],
        "ContrastTransform": ["preserve_range"],
        "MaskImageTransform": ["apply_to_channels", "channel_idx_in_seg", "set_outside_to"],
        "RemoveLabelTansform": ["label_value", "set_to"],
        "MoveSegAsOneHotToDataTransform": ["source_channel_idx", "all_labels"],
        "ApplyRandomBinaryOperatorTransform": ["channel_idx"],
        "RemoveRandomConnectedComponentFromOneHotEncodingTransform": [
            "channel_idx", "dont_do_if_covers_more_than_x_percent"],
        "ConvertSegmentationToRegionsTransform": ["regions", "channel_in_seg"],
        "DownsampleSegForDSTransform": ["ds_scales"],
    }  # fmt: skip
    for key in keep.get(type(t).__name__, []):
        out[key] = plain(getattr(t, key))
    if "regions" in out:
        out["regions"] = [[int(i) for i in r] for r in out["regions"]]
    for k in ("nchannels_img", "nchannels_seg"):
        out.pop(k, None)
    return out


def parameters(t, data):
    """One draw. An affine is asked for where angles or scales were drawn."""
    drawn = {}
    if isinstance(t, spatial.SpatialTransform):
        for name in ("create_affine_matrix_3d", "create_affine_matrix_2d"):
            make = getattr(spatial, "_own_" + name, None) or getattr(spatial, name)
            setattr(spatial, "_own_" + name, make)

            def capture(angles, scales, make=make):
                drawn.update(angles=np.atleast_1d(angles).tolist(), scales=list(scales))
                return make(angles, scales)

            setattr(spatial, name, capture)
    return t.get_parameters(**data), drawn


def apply(t, data, rng):
    """Draws and applies one transform; returns its parameters as JSON, and the noise."""
    params, drawn = parameters(t, data)
    out = described(t, params) | drawn
    if isinstance(t, GaussianNoiseTransform):
        state, shape = torch.get_rng_state(), (1, *data["image"].shape[1:])
        n = len(params["sigmas"]) if isinstance(params["sigmas"], list) else 1
        noise = torch.cat([torch.normal(0, 1.0, size=shape) for _ in range(max(n, 1))])
        torch.set_rng_state(state)
        return t.apply(data, **params), out, noise.numpy()
    if isinstance(t, RemoveComponent):
        out["random_component"] = []
        own = np.random.choice
        for a in params["apply_to_channels"]:
            u = float(rng.random())
            out["random_component"].append(u)
            np.random.choice = lambda ids, u=u: ids[int(u * len(ids))]
            try:
                data = t.apply(data, apply_to_channels=[a])
            finally:
                np.random.choice = own
        return data, out, None
    return t.apply(data, **params), out, None


class Cases:
    def __init__(self, seed):
        self.rng, self.cases, self.arrays = np.random.default_rng(seed), [], {}
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)

    def add(self, name, transforms, image, seg, chain=False):
        n = str(len(self.cases))
        self.arrays[n + "/image"] = image.numpy().copy()
        self.arrays[n + "/seg"] = seg.numpy().copy()
        data = {"image": image.clone(), "segmentation": seg.clone()}
        specs = []
        for k, t in enumerate(transforms):
            t = t.transform if isinstance(t, RandomTransform) else t
            data, spec, noise = apply(t, data, self.rng)
            specs.append(spec)
            if noise is not None:
                self.arrays[f"{n}/noise/{k}"] = noise
        self.arrays[n + "/data"] = data["image"].numpy()
        targets = data["segmentation"]
        for k, s in enumerate(targets if isinstance(targets, list) else [targets]):
            self.arrays[f"{n}/target/{k}"] = s.numpy()
        self.cases.append({"name": name, "dim": image.ndim - 1, "chain": chain,
                           "transforms": specs})  # fmt: skip

    def all(self, repeats):
        for name, s in SETTINGS.items():
            transforms, initial = transforms_of(s)
            for t in transforms:
                if isinstance(t, spatial.SpatialTransform):
                    t.p_rotation = t.p_scaling = 1
            dummy = type(transforms[0]).__name__ == "Convert3DTo2DTransform"
            for _ in range(repeats):
                self.alone(name, s, transforms, initial, dummy)
                image, seg = inputs(initial, s, self.rng)
                self.add(name + ", chain", transforms, image, seg, chain=True)
            for t in transforms:
                if isinstance(t, spatial.SpatialTransform):
                    t.p_rotation = t.p_scaling = 0
            image, seg = inputs(initial, s, self.rng)
            self.add(name + ", cut out, chain", transforms, image, seg, chain=True)
        self.special()

    def alone(self, name, s, transforms, initial, dummy):
        group, onehot = [], False
        for t in transforms:
            kind = type(t.transform if isinstance(t, RandomTransform) else t).__name__
            if dummy and kind in ("Convert3DTo2DTransform", "SpatialTransform"):
                group.append(t)
                continue
            shape = (
                initial if kind in ("SpatialTransform", "Convert2DTo3DTransform") else s["patch"]
            )
            image, seg = inputs(shape, s, self.rng)
            if kind == "MoveSegAsOneHotToDataTransform":
                onehot = t
            elif onehot and kind.startswith(("Apply", "RemoveRandom")):
                group = [onehot]
            self.add(f"{name}, {kind}", [*group, t], image, seg)
            group = []

    def special(self):
        """Cases that nnU-Net's list does not reach."""
        s = SETTINGS["3d two channels"]
        four = s | {"channels": 4}
        for synchronize in (False, True):
            image, seg = inputs((5, 6, 7), four, self.rng)
            t = GaussianNoiseTransform(
                (0, 0.5), p_per_channel=0.6, synchronize_channels=synchronize
            )
            self.add("noise of some channels", [t], image, seg)
        for ignore in ((0,), (1, 2), ()):
            image, seg = inputs((6, 11, 9), four, self.rng)
            t = SimulateLowResolutionTransform((0.3, 1), False, not ignore, ignore, None, 0.8)
            self.add(f"low resolution, ignoring {ignore}", [t], image, seg)
        for what in ("constant", "one of four is constant", "huge"):
            image, seg = inputs((5, 6, 7), four, self.rng)
            image[0 if what == "constant" else 2] = 1.5
            if what == "constant":
                image[:] = -0.25
            if what == "huge":
                image = image * 500 - 400
            for t in (
                ContrastTransform((0.5, 1.5), True, False, 1),
                ContrastTransform((0.5, 1.5), False, True, 0.7),
                GammaTransform((0.2, 4), 0.5, False, 1, 0.5),
                GammaTransform((0.6, 1.9), 0.5, True, 0.8, 1),
            ):
                self.add(f"{type(t).__name__}, {what}", [t], image, seg)
        for patch, shape in (((8, 9, 10), (5, 12, 9)), ((6, 5, 4), (7, 8, 1)), ((9, 8), (6, 13))):
            for p in (0, 1):
                for mode in ("bilinear", "nearest"):
                    image, seg = inputs(shape, s, self.rng)
                    t = spatial.SpatialTransform(
                        patch, 0, False, p_rotation=p, rotation=(-3, 3), p_scaling=p,
                        scaling=(0.4, 2.5), p_synchronize_scaling_across_axes=0 if len(patch) == 3
                        else 1, bg_style_seg_sampling=False, mode_seg=mode)  # fmt: skip
                    self.add(f"patch {patch} of a crop of {shape}, {mode}", [t], image, seg)
        for delta in (3e-5, -3e-5, 2e-4, -2e-4):
            # halfway between voxels but for delta: the rounding to float16 decides
            image, seg = inputs((9, 9, 9), s, self.rng)
            seg[0], seg[0, :, :, ::3], seg[0, 4] = 0, 1, 2
            t = spatial.SpatialTransform((8, 9, 8), 0, False, bg_style_seg_sampling=False)
            t.get_parameters = lambda delta=delta, **_: {
                "affine": np.eye(3), "elastic_offsets": None,
                "center_location_in_pixels": [4.5, 4.5, 4.5 + delta]}  # fmt: skip
            self.add(f"labels {delta} from a tie", [t], image, seg)
        for shape in ((13, 12, 14), (17, 16), (6, 9, 70)):
            for o in (operators.binary_dilation_torch, operators.binary_erosion_torch,
                      operators.binary_closing_torch, operators.binary_opening_torch):  # fmt: skip
                image, seg = inputs(shape, {"channels": 1}, self.rng)
                image = torch.stack([(seg[0] == i).float() for i in (0, 1, 2)])
                t = operators.ApplyRandomBinaryOperatorTransform([-1, -2], (o,), (0.6, 5), 1)
                self.add(f"{o.__name__} of {shape}", [t], image, seg)

    def save(self, output):
        versions = {"torch": torch.__version__, "batchgeneratorsv2": "0.2.1", "nnunetv2": "2.5.1"}
        with open(output + ".json", "w") as f:
            json.dump({"versions": versions, "cases": self.cases}, f, separators=(",", ":"))
            f.write("\n")
        np.savez_compressed(output + ".npz", **self.arrays)


def apply_drawn(data, spec, noise):
    """Applies the parameters of one transform with batchgeneratorsv2's class."""
    s = types.SimpleNamespace(**spec)
    if spec.get("apply_transform") is False:
        return data
    match s.transform:
        case "Convert3DTo2DTransform":
            return Convert3DTo2DTransform()(**data)
        case "Convert2DTo3DTransform":
            return Convert2DTo3DTransform()(**data)
        case "SpatialTransform":
            t = spatial.SpatialTransform(s.patch_size, 0, False, bg_style_seg_sampling=False,
                                         mode_seg=s.mode_seg)  # fmt: skip
            affine = None if s.affine is None else np.array(s.affine)
            return t.apply(data, affine=affine, elastic_offsets=None,
                           center_location_in_pixels=s.center_location_in_pixels)  # fmt: skip
        case "GaussianNoiseTransform":
            t = GaussianNoiseTransform(synchronize_channels=True)
            t._sample_gaussian_noise = lambda *_, **__: torch.from_numpy(noise) * s.sigmas
            return t.apply(data, apply_to_channel=torch.tensor(s.apply_to_channel), sigmas=s.sigmas)
        case "GaussianBlurTransform":
            t = GaussianBlurTransform()
            return t.apply(data, apply_to_channel=s.apply_to_channel, sigmas=s.sigmas)
        case "MultiplicativeBrightnessTransform":
            t = MultiplicativeBrightnessTransform(1, False)
            return t.apply(data, apply_to_channel=s.apply_to_channel,
                           multipliers=torch.tensor(s.multipliers))  # fmt: skip
        case "ContrastTransform":
            t = ContrastTransform(1, s.preserve_range, False)
            return t.apply(data, apply_to_channel=s.apply_to_channel,
                           multipliers=torch.tensor(s.multipliers))  # fmt: skip
        case "SimulateLowResolutionTransform":
            t = SimulateLowResolutionTransform(1, False, True, None)
            return t.apply(data, apply_to_channel=s.apply_to_channel, scales=torch.tensor(s.scales))
        case "GammaTransform":
            t = GammaTransform(1, 0, False, 1, 1)
            return t.apply(data, apply_to_channel=s.apply_to_channel, retain_stats=s.retain_stats,
                           invert_image=s.invert_image, gamma=torch.tensor(s.gamma))  # fmt: skip
        case "MirrorTransform":
            return MirrorTransform((0, 1, 2)).apply(data, axes=s.axes)
        case "MaskImageTransform":
            return MaskImageTransform(s.apply_to_channels, s.channel_idx_in_seg,
                                      s.set_outside_to)(**data)  # fmt: skip
        case "RemoveLabelTansform":
            return RemoveLabelTansform(s.label_value, s.set_to)(**data)
        case "MoveSegAsOneHotToDataTransform":
            return MoveSegAsOneHotToDataTransform(s.source_channel_idx, s.all_labels)(**data)
        case "ApplyRandomBinaryOperatorTransform":
            t = operators.ApplyRandomBinaryOperatorTransform(s.channel_idx)
            return t.apply(data, apply_to_channels=s.apply_to_channels, strel_size=s.strel_size,
                           operators=[getattr(operators, o) for o in s.operators])  # fmt: skip
        case "RemoveRandomConnectedComponentFromOneHotEncodingTransform":
            t = RemoveComponent(s.channel_idx, 0, s.dont_do_if_covers_more_than_x_percent)
            own = np.random.choice
            for a, u in zip(s.apply_to_channels, s.random_component, strict=True):
                np.random.choice = lambda ids, u=u: ids[int(u * len(ids))]
                data = t.apply(data, apply_to_channels=[a])
            np.random.choice = own
            return data
        case "ConvertSegmentationToRegionsTransform":
            return ConvertSegmentationToRegionsTransform(s.regions, s.channel_in_seg)(**data)
        case "DownsampleSegForDSTransform":
            return DownsampleSegForDSTransform(s.ds_scales)(**data)
    raise ValueError(s.transform)


def apply_all(cases, drawn):
    """Adds the cases that lntorch drew."""
    noise = np.load(drawn + ".npz")
    with open(drawn + ".json") as f:
        for i, case in enumerate(json.load(f)):
            s = SETTINGS[case["setting"]]
            image, seg = inputs(case["initial_patch_size"], s, cases.rng)
            n = str(i)
            cases.arrays[n + "/image"] = image.numpy().copy()
            cases.arrays[n + "/seg"] = seg.numpy().copy()
            data = {"image": image, "segmentation": seg}
            for k, spec in enumerate(case["transforms"]):
                key = f"{i}/noise/{k}"
                data = apply_drawn(data, spec, noise[key] if key in noise else None)
            cases.arrays[n + "/data"] = data["image"].numpy()
            for k, t in enumerate(data["segmentation"]):
                cases.arrays[f"{n}/target/{k}"] = t.numpy()
            cases.cases.append({"name": f"{case['setting']}, drawn by lntorch", "chain": True,
                                "dim": len(s["patch"]), "transforms": case["transforms"]})  # fmt: skip


def numbers(series, key, value):
    """Appends the numbers in a value to series named by their place."""
    if value is None:
        series.setdefault(key + "#", []).append(0.0)
    elif isinstance(value, list):
        series.setdefault(key + "#", []).append(float(len(value)))
        for i, v in enumerate(value):
            numbers(series, f"{key}[{i}]", v)
    elif isinstance(value, str):
        names = [o + "_torch" for o in ("binary_dilation", "binary_erosion", "binary_closing",
                                        "binary_opening")]  # fmt: skip
        series.setdefault(key, []).append(float(names.index(value)))
    else:
        series.setdefault(key, []).append(float(value))


def draws(output, n):
    series = {}
    only = {  # the others are drawn as in 3d
        "3d two channels": None,
        "dummy": ("Spatial", "Simulate"),
        "2d ratio": ("Spatial", "GaussianBlur"),
        "cascade": ("Apply", "RemoveRandom"),
    }
    for name in only:
        s = SETTINGS[name]
        transforms, _ = transforms_of(s)
        seen = {}
        channels = s["channels"]
        for t in transforms:
            gated = isinstance(t, RandomTransform)
            own = t.transform if gated else t
            kind = type(own).__name__
            k = seen[kind] = seen.get(kind, -1) + 1
            key = f"{name}/{kind}/{k}/"
            dim = len(s["patch"])
            image = torch.empty((channels, *[1] * dim))
            if kind == "SpatialTransform" and name == "dummy":
                image = torch.empty((channels, 1, 1))
            if kind == "MoveSegAsOneHotToDataTransform":
                channels += len(s["cascade"])
            if kind.startswith(("Convert", "Mask", "RemoveLabel", "Move", "Downsample")):
                continue
            if only[name] and not kind.startswith(only[name]):
                continue
            for _ in range(n):
                if gated:
                    numbers(series, key + "apply_transform", t.get_parameters()["apply_transform"])
                params, drawn = parameters(own, {"image": image})
                out = {k: plain(v) for k, v in params.items()} | drawn
                for drop in ("center_location_in_pixels", "elastic_offsets", "angles"):
                    out.pop(drop, None)
                if kind == "SpatialTransform":
                    for i, v in enumerate(drawn.get("angles", [])):
                        numbers(series, f"{key}angles[{i}]", v)
                for param, v in out.items():
                    numbers(series, key + param, v)
    np.savez(output, **{k.replace("/", "|"): np.array(v) for k, v in series.items()})


def sizes(output, seed):
    rng, out = np.random.default_rng(seed), []
    for i in range(3000):
        dim = 2 + i % 2
        patch = [int(v) for v in rng.integers(4, 400, dim)]
        if i % 3 == 0:
            patch = [int(v) * 8 for v in rng.integers(1, 64, dim)]
        rotation, dummy, initial, axes = configured(patch)
        out.append({"patch": patch, "rotation": list(rotation), "dummy": bool(dummy),
                    "initial": [int(v) for v in initial], "axes": list(axes)})  # fmt: skip
    with open(output, "w") as f:
        json.dump(out, f)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("output")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--repeats", type=int, default=1)
    p.add_argument("--draws", type=int)
    p.add_argument("--sizes", action="store_true")
    p.add_argument("--apply")
    a = p.parse_args()
    torch.set_num_threads(1)
    cases = Cases(a.seed)
    if a.draws:
        draws(a.output, a.draws)
    elif a.sizes:
        sizes(a.output, a.seed)
    elif a.apply:
        apply_all(cases, a.apply)
        cases.save(a.output)
    else:
        cases.all(a.repeats)
        cases.save(a.output)


if __name__ == "__main__":
    main()
