"""The part of scripts/bench.py that prepares training patches: the whole way from the preprocessed
case to the batch, and each transform, beside nnU-Net's own loader with batchgeneratorsv2.

Both sides are one thread and are measured in processor time per patch. nnU-Net's side is its
loader and its trainer's transforms in one process, on unpacked cases, as in training.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_processes import Once, Worker, environment

WHOLE = 10  # reach: lntorch takes a tenth of nnU-Net's time at most; see also transforms
STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
AFFINE = 1 - 0.8 * 0.8  # the part of patches that are rotated or scaled: two coins of 0.2
WARMUP = 6  # batches: every case was read


# ---- nnU-Net's side: workers -------------------------------------------------------------------


def dataset(o):
    """Writes a preprocessed dataset, unpacked: noise over a slope, and balls of labels."""
    import numpy as np
    from batchgenerators.utilities.file_and_folder_operations import save_pickle
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    folder, names = Path(o["folder"]), ["case_0", "case_1"]
    data = folder / "nnUNetPlans_3d_fullres"
    data.mkdir(parents=True)
    labels = {"background": 0, **{f"node_{i}": i for i in range(1, o["labels"])}}
    n = len(STRIDES)
    plans = {
        "dataset_name": "Dataset001_Bench",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": o["shape"],
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": o["shape"],
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["CTNormalization"] * o["channels"],
                "use_mask_for_norm": [False] * o["channels"],
                "batch_dice": False,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": {
                        "n_stages": n,
                        "features_per_stage": [4] * n,
                        "conv_op": "torch.nn.modules.conv.Conv3d",
                        "kernel_sizes": [[3] * 3] * n,
                        "strides": STRIDES,
                        "n_conv_per_stage": [1] * n,
                        "n_conv_per_stage_decoder": [1] * (n - 1),
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }
    about = {
        "channel_names": {str(i): "CT" for i in range(o["channels"])},
        "labels": labels,
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    for name, value in (
        ("nnUNetPlans", plans),
        ("dataset", about),
        ("splits_final", [{"train": names, "val": names}]),
    ):
        (folder / f"{name}.json").write_text(json.dumps(value))
    shape = o["shape"]
    rng = np.random.default_rng(1)
    at = np.ogrid[tuple(slice(n) for n in shape)]
    for name in names:
        image = rng.standard_normal((o["channels"], *shape), dtype=np.float32)
        image += ((at[0] + 2 * at[1] - at[2]) / 100).astype(np.float32)
        seg = np.zeros((1, *shape), np.int8)
        for i in range(60):
            r = rng.uniform(4, max(5, min(shape) / 10))
            c = [rng.integers(0, n) for n in shape]
            box = tuple(slice(max(0, int(m - r)), int(m + r) + 1) for m in c)
            near = sum((a[tuple(b if a.shape[k] > 1 else slice(None) for k, b in enumerate(box))]
                        - m) ** 2 for a, m in zip(at, c)) < r * r  # fmt: skip
            seg[0][box][near] = 1 + i % (o["labels"] - 1)
        np.savez(data / f"{name}.npz", data=image, seg=seg)
        np.save(data / f"{name}.npy", image)
        np.save(data / f"{name}_seg.npy", seg)
        found = DefaultPreprocessor._sample_foreground_locations(seg, list(range(1, o["labels"])))
        save_pickle({"class_locations": found, "spacing": [1.0] * 3}, str(data / f"{name}.pkl"))


class Stack:
    """nnU-Net's loader and transforms of a patch size."""

    def __init__(self, o):
        from types import SimpleNamespace

        from nnunetv2.training.dataloading.data_loader_3d import nnUNetDataLoader3D
        from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDataset
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        folder, self.patch = Path(o["folder"]), o["patch"]
        manager = PlansManager(json.loads((folder / "nnUNetPlans.json").read_text()))
        labels = manager.get_label_manager(json.loads((folder / "dataset.json").read_text()))
        t = nnUNetTrainer.__new__(nnUNetTrainer)
        t.configuration_manager = SimpleNamespace(
            patch_size=self.patch, pool_op_kernel_sizes=STRIDES
        )
        t.print_to_log_file, t.enable_deep_supervision = lambda *_, **__: None, True
        rotation, dummy, initial, axes = (
            t.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        self.initial = [int(n) for n in initial]
        self.whole = nnUNetTrainer.get_training_transforms(
            self.patch,
            rotation,
            t._get_deep_supervision_scales(),
            axes,
            dummy,
            use_mask_for_norm=[False] * o["channels"],
            is_cascaded=False,
            foreground_labels=labels.foreground_labels,
            regions=None,
            ignore_label=None,
        )
        self.by_class = {}
        for one in self.whole.transforms:
            one = getattr(one, "transform", one)
            self.by_class.setdefault(type(one).__name__, one)
        self.affines = 0
        self.count_affines(self.by_class["SpatialTransform"])

        def loader(batch, transforms):
            cases = nnUNetDataset(str(folder / "nnUNetPlans_3d_fullres"))
            return nnUNetDataLoader3D(
                cases,
                batch,
                self.initial,
                self.patch,
                labels,
                oversample_foreground_percent=0.33,
                sampling_probabilities=None,
                pad_sides=None,
                transforms=transforms,
            )

        self.batches, self.crops = loader(2, self.whole), loader(1, None)

    def count_affines(self, spatial):
        draw = spatial.get_parameters

        def counted(**data):
            params = draw(**data)
            self.affines += params["affine"] is not None
            return params

        spatial.get_parameters = counted

    def time_batches(self, n):
        """Processor seconds of a patch. Batches are few and differ by their number of affines, so
        a line is laid through their times and read at the number to be expected."""
        import numpy as np

        times, affines = [], []
        for _ in range(n):
            self.affines, start = 0, time.process_time()
            next(self.batches)
            times.append(time.process_time() - start)
            affines.append(self.affines)
        patches = 2 * n
        if len(set(affines)) == 1:
            return {"seconds": sum(times) / patches, "affines": sum(affines) / patches}
        slope, base = np.polyfit(affines, times, 1)
        return {"seconds": (base + slope * 2 * AFFINE) / 2, "affines": sum(affines) / patches}

    def arrays(self, folder):
        """Writes the crop of a case and its middle, the patch; makes them the input of transforms."""
        import numpy as np

        crop = next(self.crops)
        image, seg = crop["data"][0], crop["target"][0]
        middle = tuple(
            slice((a - b) // 2, (a - b) // 2 + b) for a, b in zip(self.initial, self.patch)
        )
        self.inputs = {
            "crop": (image, seg),
            "patch": (image[(slice(None), *middle)].copy(), seg[(slice(None), *middle)].copy()),
        }
        for name, (x, y) in self.inputs.items():
            np.save(Path(folder) / f"{name}.npy", x)
            np.save(Path(folder) / f"{name}_seg.npy", y.astype(np.int16))

    def time_transforms(self, specs, source, n):
        """Processor seconds of the transforms with given parameters."""
        import torch

        used = 0.0
        for _ in range(n):
            start = time.process_time()
            if source == "case":
                crop = next(self.crops)
                x, y = (torch.from_numpy(crop[k][0]) for k in ("data", "target"))
            else:
                x, y = (torch.from_numpy(a.copy()) for a in self.inputs[source])
                start = time.process_time()
            data = {"image": x, "segmentation": y}
            for spec in specs:
                data = self.apply(data, spec)
            if source == "case":  # a view of the crop, which the loader copies into the batch
                data = {k: v.clone() for k, v in data.items()}
            used += time.process_time() - start
        return {"seconds": used / n}

    def apply(self, data, spec):
        import numpy as np

        import torch

        t = self.by_class[spec["transform"]]
        if spec["transform"] in ("RemoveLabelTansform", "DownsampleSegForDSTransform"):
            return t(**data)
        drop = ("transform", "patch_size", "noise_seed")
        params = {k: v for k, v in spec.items() if k not in drop}
        for k in ("multipliers", "gamma", "scales"):
            if k in params:
                params[k] = torch.tensor(params[k])
        if spec["transform"] == "GaussianNoiseTransform":
            params["apply_to_channel"] = torch.tensor(params["apply_to_channel"])
        if spec["transform"] == "SpatialTransform":
            params["affine"] = None if spec["affine"] is None else np.array(spec["affine"])
            params["elastic_offsets"] = None
        return t.apply(data, **params)

    def choose_convolutions(self):
        """The blur finds out once for each size and kernel whether FFT is faster; a training has
        done that after its first minutes."""
        import torch

        blur = self.by_class["GaussianBlurTransform"]
        for sigma in (0.5, 0.7, 1.0):
            blur.apply(
                {"image": torch.zeros(1, *self.patch)},
                apply_to_channel=[True],
                sigmas=[[sigma] * 3],
            )


def serve(o, answer):
    """Answers what each line of standard input asks for."""
    import numpy as np

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(o["seed"])
    np.random.seed(o["seed"])
    say = lambda value: print(json.dumps(value), file=answer, flush=True)
    with torch.no_grad():
        stack = Stack(o)
        stack.choose_convolutions()
        say({"ready": True})
        for line in sys.stdin:
            ask = json.loads(line)
            if ask["do"] == "batches":
                say(stack.time_batches(ask["n"]))
            elif ask["do"] == "arrays":
                stack.arrays(ask["folder"])
                say({"initial": stack.initial})
            else:
                say(stack.time_transforms(ask["specs"], ask["source"], ask["n"]))


WORKERS = {"augment": serve, "augment_data": lambda o, _: dataset(o)}


# ---- the part ----------------------------------------------------------------------------------


def transforms(channels, patch, initial, shape):
    """What is measured: its name, the reach (nnU-Net's time by lntorch's, at least), what it is
    applied to, the parameters."""
    scales, scale = [], [1.0] * 3
    for s in STRIDES[:-1]:
        scale = [a / b for a, b in zip(scale, s)]
        scales.append(scale)
    each, all_ = list(range(channels)), [True] * channels
    spatial = {"transform": "SpatialTransform", "patch_size": patch, "affine": None}
    center = {"center_location_in_pixels": [n / 2 for n in initial]}
    affine = {"affine": [[0.9, 0.21, -0.15], [-0.18, 0.93, 0.2], [0.17, -0.14, 0.95]]}
    low = {"transform": "SimulateLowResolutionTransform", "apply_to_channel": each}
    gamma = {"transform": "GammaTransform", "apply_to_channel": each, "gamma": [1.2] * channels}
    gamma["retain_stats"] = all_
    found = [
        ("spatial, affine", 10, "crop", [{**spatial, **center, **affine}]),
        ("spatial, cut out of the case", 1, "case", [{**spatial, **center}]),
        ("noise", 1, "patch", [{"transform": "GaussianNoiseTransform", "apply_to_channel": all_,
                                "sigmas": 0.05, "noise_seed": "17"}]),
        ("blur", 4, "patch", [{"transform": "GaussianBlurTransform", "apply_to_channel": all_,
                               "sigmas": [[0.5, 0.7, 0.95]] * channels}]),
        ("brightness", 1, "patch", [{"transform": "MultiplicativeBrightnessTransform",
                                     "apply_to_channel": each, "multipliers": [1.1] * channels}]),
        ("contrast", 4, "patch", [{"transform": "ContrastTransform", "apply_to_channel": each,
                                   "multipliers": [1.1] * channels}]),
        ("low resolution, scale 0.7", 4, "patch", [{**low, "scales": [[0.7] * 3] * channels}]),
        ("low resolution, scale 1", 4, "patch", [{**low, "scales": [[1.0] * 3] * channels}]),
        ("gamma, inverted", 2, "patch", [{**gamma, "invert_image": all_}]),
        ("gamma", 2, "patch", [{**gamma, "invert_image": [False] * channels}]),
        ("mirror", 1, "patch", [{"transform": "MirrorTransform", "axes": [0, 1, 2]}]),
        ("targets", 4, "patch", [
            {"transform": "RemoveLabelTansform", "label_value": -1, "set_to": 0},
            {"transform": "DownsampleSegForDSTransform", "ds_scales": scales}]),
    ]  # fmt: skip
    return found


class Asked(Worker):
    """A Worker that is asked for different things."""

    def ask(self, **what):
        self.process.stdin.write(json.dumps(what, default=str) + "\n")
        self.process.stdin.flush()
        return self.read()


def bench_loader(b, folder, patch, *flags, **env):
    return Once(
        [
            *[b.args.lntorch, "bench", "loader", "--preprocessed", str(folder), "--json"],
            *["--patch-size", ",".join(map(str, patch)), "--warmup", str(WARMUP)],
            *map(str, flags),
        ],
        lambda a: {"seconds": a["cpu_ms_per_patch"] / 1000},
        **env,
    )


def seed_of(b, patch, iterations):
    """The first seed whose patches, as few as they are, are rotated or scaled as often as is to be
    expected, as near as their number allows."""
    best = None
    for seed in range(50):
        out = subprocess.run(
            [
                *[b.args.lntorch, "augment", "sample", "--patch-size", ",".join(map(str, patch))],
                *["-n", str(2 * iterations), "--batch-size", "2", "--start", str(2 * WARMUP)],
                *["--seed", str(seed)],
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        ).stdout
        drawn = [json.loads(line)["transforms"] for line in out.splitlines()]
        affines = sum(t["affine"] is not None for d in drawn for t in d
                      if t["transform"] == "SpatialTransform")  # fmt: skip
        off = abs(affines / len(drawn) - AFFINE)
        if best is None or off < best[0]:
            best = off, seed
        if off <= 0.5 / len(drawn):
            break
    return best[1]


def times(shape):
    return "×".join(map(str, shape))


def run(b, size):
    b.threads = 1
    o = size["augment"]
    repeats = min(b.args.repeats, 3)
    for channels in (1, 4):
        for labels in (2, 5):
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder) / "preprocessed"
                about = {"folder": data, "channels": channels, "labels": labels}
                subprocess.run(
                    b.theirs("augment_data", shape=o["shape"], **about),
                    check=True,
                    env=environment(OMP_NUM_THREADS=1),
                )
                for patch in o["patches"]:
                    setting = {"patch": times(patch), "channels": channels, "labels": labels}
                    theirs = Asked(b.theirs("augment", seed=1, patch=patch, **about))
                    try:
                        whole(b, o, setting, data, patch, theirs, repeats)
                        if (channels, labels) in ((1, 2), (4, 5)):
                            each(b, o, setting, data, patch, theirs, repeats, folder)
                    finally:
                        theirs.close()
                if (channels, labels) == (1, 2):
                    starvation(b, o, data)


def whole(b, o, setting, data, patch, theirs, repeats):
    """From the case to the batch."""
    n = o["batches"]
    flags = ["--workers", 1, "--threads", 1, "--iterations", o["iterations"]]
    flags += ["--seed", seed_of(b, patch, o["iterations"])]
    ours = bench_loader(b, data, patch, *flags)
    theirs.ask(do="batches", n=max(1, n // 4))
    found = [], []
    for _ in range(repeats):
        found[0].append(ours.repeat())
        found[1].append(theirs.ask(do="batches", n=n))
    compared(b, "whole path", WHOLE, setting, found)


def each(b, o, setting, data, patch, theirs, repeats, folder):
    """Single transforms."""
    initial = theirs.ask(do="arrays", folder=folder)["initial"]
    case = data / "nnUNetPlans_3d_fullres" / "case_0"
    for name, reach, source, specs in transforms(setting["channels"], patch, initial, o["shape"]):
        spec = Path(folder) / "spec.json"
        given = json.loads(json.dumps(specs))
        if source == "case":
            given[0]["center_location_in_pixels"] = [n / 2 for n in o["shape"]]
        spec.write_text(json.dumps({"transforms": given}))
        stem = case if source == "case" else Path(folder) / source
        ours = Worker(
            [
                *[b.args.lntorch, "bench", "transforms", str(spec), "--serve", "--each", "5"],
                *["--data", f"{stem}.npy", "--seg", f"{stem}_seg.npy"],
            ]
        )
        try:
            ask = {"do": "transforms", "specs": specs, "source": source}
            ours.repeat()
            theirs.ask(n=1, **ask)
            found = [], []
            for _ in range(repeats):
                found[0].append(ours.repeat())
                found[1].append(theirs.ask(n=o["each"], **ask))
        finally:
            ours.close()
        compared(b, name, reach, setting, found)


def compared(b, name, reach, setting, found):
    """Two rows, of which the second has the ratio."""
    title = "{}, {}, channels {}, labels {}".format(name, *setting.values())
    print(title, flush=True)
    answers = dict(zip(("lntorch", "nnU-Net"), found))
    b.record(title, answers)
    for row in b.rows[-2:]:
        row.update(name=name, reach=1 / reach, **setting)


def starvation(b, o, data):
    """A consumer that computes so long between batches."""
    patch = o["patches"][0]
    for workers in (2, 4):
        flags = ["--workers", workers, "--iterations", o["steps"], "--step-ms", o["step"]]
        a = bench_loader(b, data, patch, *flags).repeat()
        b.notes.append(
            f"A step of {o['step']} ms, batches of 2 patches of {times(patch)}, {workers} workers on "
            f"{os.cpu_count()} cores: a batch costs {a['batch_ms']:.1f} ms of the workers' time by the "
            f"clock, {a['cpu_ms_per_patch'] * 2 / workers:.1f} ms of the processor's; waited for data "
            f"{a['wait_share']:.1%} of the time, workers {a['busy_share']:.0%} busy, batches ready "
            f"{a['queue_depth']['median']} (median), {a['queue_depth']['min']} (least).\n"
        )
        print("  " + b.notes[-1].strip(), flush=True)


def tables(rows):
    """The comparison, a line for each thing measured and setting."""
    pairs = [r for r in rows if "reach" in r]
    if not pairs:
        return []
    lines = [
        "Processor time per patch, one thread. Whole path: choice of the case and place, reading, "
        "transforms, targets, with parameters as they are drawn. The others: given parameters; "
        "cut out of the case has the crop of nnU-Net's loader in it, which lntorch does not make.",
        "",
        "| what | patch | channels, labels | lntorch | nnU-Net | ratio | reach | |",
        "| --- | --- | --- | --: | --: | --: | --: | --- |",
    ]
    ms = lambda r: f"{1000 * r['median']:.2f} ms"
    names = list(dict.fromkeys(r["name"] for r in pairs))
    both = sorted(zip(pairs[::2], pairs[1::2]), key=lambda p: names.index(p[0]["name"]))
    for ours, theirs in both:
        ratio = theirs["ratio"]
        lines.append(
            f"| {ours['name']} | {ours['patch']} | {ours['channels']}, {ours['labels']} | {ms(ours)} | "
            f"{ms(theirs)} | 1 / {1 / ratio:.1f} | 1 / {1 / ours['reach']:.0f} | "
            f"{'' if ratio <= ours['reach'] else 'missed'} |"
        )
    return lines


PARTS = {"augment": run}
REAL = {
    "augment": {
        "shape": [160, 300, 300],
        "patches": [[64, 128, 128], [128, 128, 128]],
        "batches": 6,
        "iterations": 30,
        "each": 3,
        "steps": 40,
        "step": 100,
    }
}
QUICK = {
    "augment": {
        "shape": [40, 70, 70],
        "patches": [[16, 32, 32], [32, 32, 32]],
        "batches": 6,
        "iterations": 10,
        "each": 2,
        "steps": 10,
        "step": 20,
    }
}
