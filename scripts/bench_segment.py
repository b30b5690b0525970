"""The parts of scripts/bench.py that go from a CT to a segmentation: export, predict, peak and
ensemble, beside nnU-Net's own commands.

The networks have two features and random weights, so that little but the way to and from them is
timed. Their labels cover about as much of an image as nodes do.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_processes import Command, Once, environment, peak_rss

SPACING = (1.5, 0.98, 0.98)  # of the CTs, mm
TARGET = (1.25, 0.9, 0.9)  # of the networks


# ---- nnU-Net's side: workers -------------------------------------------------------------------


def model(o):
    """Writes a model folder: a PlainConvUNet of three stages, from two features on."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    import torch

    strides, features = [[1] * 3, [2] * 3, [2] * 3], [2, 4, 8]
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": features,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3] * 3] * 3,
            "strides": strides,
            "n_conv_per_stage": [1] * 3,
            "n_conv_per_stage_decoder": [1] * 2,
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    linear = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    resample = "resample_data_or_seg_to_shape"
    plans = {
        "dataset_name": "Dataset001_Bench",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(SPACING),
        "original_median_shape_after_transp": [100, 512, 512],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": o["patch"],
                "median_image_size_in_voxels": [120.0, 557.0, 557.0],
                "spacing": list(TARGET),
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": resample,
                "resampling_fn_seg": resample,
                "resampling_fn_probabilities": resample,
                "resampling_fn_data_kwargs": {**linear, "order": 3},
                "resampling_fn_seg_kwargs": {**linear, "is_seg": True},
                "resampling_fn_probabilities_kwargs": linear,
                "architecture": architecture,
                "batch_dice": False,
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "max": 300.0,
                "mean": 90.0,
                "median": 90.0,
                "min": -200.0,
                "percentile_00_5": -100.0,
                "percentile_99_5": 250.0,
                "std": 50.0,
            }
        },
    }
    heads = o["classes"]
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{f"node_{i}": i for i in range(1, heads)}},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    torch.manual_seed(o["seed"])
    net = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        heads,
    )
    net.apply(net.initialize)
    with torch.no_grad():  # foreground where the features, whose deviation is 1, are extreme
        last = net.decoder.seg_layers[-1]
        last.weight.normal_()
        last.weight[0] = 0
        last.bias.zero_()
        last.bias[0] = 1.5 * last.weight.flatten(1).norm(dim=1).max()
    folder = Path(o["folder"])
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans, indent=4))
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=4))
    torch.save(
        {
            "network_weights": net.state_dict(),
            "optimizer_state": None,
            "grad_scaler_state": None,
            "logging": {},
            "_best_ema": None,
            "current_epoch": 1,
            "init_args": {
                "plans": plans,
                "configuration": "3d_fullres",
                "fold": 0,
                "dataset_json": dataset,
                "unpack_dataset": True,
                "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        },
        folder / "fold_0" / "checkpoint_final.pth",
    )


def logits(o):
    """Writes the logits of two classes, blobs with noise, rounded to float16 as nnU-Net's, as
    float32 without a header; and the properties of their case."""
    import numpy as np
    from batchgenerators.utilities.file_and_folder_operations import save_pickle

    whole = o["whole"]
    save_pickle(
        {
            "sitk_stuff": {
                "spacing": SPACING[::-1],
                "origin": (0.0, 0.0, 0.0),
                "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
            },
            "spacing": list(SPACING),
            "shape_before_cropping": tuple(whole),
            "bbox_used_for_cropping": [[0, n] for n in whole],
            "shape_after_cropping_and_before_resampling": tuple(whole),
        },
        o["properties"],
    )
    z, y, x = (np.arange(n, dtype=np.float32) for n in o["shape"])
    rng = np.random.RandomState(1)
    noise = rng.randn(len(y), len(x)).astype(np.float32)
    plane = np.sin(y / 23)[:, None] * np.sin(x / 29)
    with open(o["logits"], "wb") as f:
        for sign in (1, -1):
            for k in z:
                logit = 5 - 10 * np.sin(k / 17) * plane + 0.5 * np.roll(noise, int(7 * k))
                (sign * logit).astype(np.float16).astype(np.float32).tofile(f)


def export(o):
    """export_prediction_from_logits, without the time of imports and of reading the logits."""
    import numpy as np
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    import torch

    torch.set_num_threads(o["threads"])
    folder = Path(o["model"])
    manager = PlansManager(json.loads((folder / "plans.json").read_text()))
    dataset = json.loads((folder / "dataset.json").read_text())
    values = torch.empty((2, *o["shape"]), dtype=torch.half)
    with open(o["logits"], "rb") as f:
        for h in values:
            for plane in h:
                read = np.fromfile(f, np.float32, plane.numel()).reshape(plane.shape)
                plane.copy_(torch.from_numpy(read))
    properties = np.load(o["properties"], allow_pickle=True)
    configuration = manager.get_configuration("3d_fullres")
    # Both import what they find.
    _ = configuration.resampling_fn_probabilities, manager.image_reader_writer_class
    start = time.perf_counter()
    export_prediction_from_logits(
        values,
        properties,
        configuration,
        manager,
        dataset,
        o["output"],
        o["probabilities"],
    )
    return {"seconds": time.perf_counter() - start, "peak_rss_bytes": peak_rss()}


def compare(o):
    """The share of voxels whose labels differ, over all images of two folders."""
    import SimpleITK as sitk

    differ = voxels = foreground = 0
    for path in sorted(Path(o["ours"]).glob("*.nii.gz")):
        a = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        b = sitk.GetArrayFromImage(sitk.ReadImage(str(Path(o["theirs"]) / path.name)))
        if a.shape != b.shape:
            raise SystemExit(f"bench: {path.name}: shapes {a.shape} and {b.shape}")
        differ, voxels = differ + int((a != b).sum()), voxels + a.size
        foreground += int((b > 0).sum())
    return {"differ": differ / voxels, "foreground": foreground / voxels}


def command(o):
    """An entry point of nnU-Net with its arguments. Its stages append their seconds to the file
    BENCH_TIMES of the environment: the network's here, the others' in its worker processes."""
    import importlib

    module, function = o["entry"].split(":")
    entry = getattr(importlib.import_module(module), function)
    sys.argv = [function, *o["arguments"]]
    if "BENCH_TIMES" in os.environ:
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        timed(nnUNetPredictor, "predict_logits_from_preprocessed_data", "network")
    entry()


def time_stages():
    """Called in nnU-Net's worker processes, which import the main module again."""
    from nnunetv2.inference import export_prediction
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    timed(DefaultPreprocessor, "run_case", "preprocess")  # reads the image, too
    timed(export_prediction, "export_prediction_from_logits", "export")  # and writes the files


def timed(owner, name, stage):
    inner = getattr(owner, name)

    def outer(*args, **kwargs):
        start, used = time.perf_counter(), time.process_time()
        result = inner(*args, **kwargs)
        line = {
            "stage": stage,
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - used,
        }
        with open(os.environ["BENCH_TIMES"], "a") as f:
            f.write(json.dumps(line) + "\n")
        return result

    setattr(owner, name, outer)


def first_tile(o, answer):
    """nnUNetv2_predict_from_modelfolder up to the end of its first tile, mirror images included."""
    from nnunetv2.inference.predict_from_raw_data import (
        nnUNetPredictor,
        predict_entry_point_modelfolder,
    )

    whole = nnUNetPredictor._internal_maybe_mirror_and_predict

    def once(self, x):
        whole(self, x)
        print(json.dumps({"part": "tile"}), file=answer, flush=True)
        os._exit(0)

    nnUNetPredictor._internal_maybe_mirror_and_predict = once
    sys.argv = ["nnUNetv2_predict_from_modelfolder", *o["arguments"]]
    predict_entry_point_modelfolder()


WORKERS = {
    "model": model,
    "logits": logits,
    "export": export,
    "compare": compare,
    "command": command,
}


# ---- the parts ---------------------------------------------------------------------------------


def times(shape):
    return "×".join(map(str, shape))


def made(b, part, **options):
    """Runs a worker that prepares something, or answers once."""
    out = subprocess.run(
        b.theirs(part, **options), check=True, env=environment(), stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(out) if out.strip() else None


def scan(b, folder, shape, count=1):
    """A folder of equal CTs in nnU-Net's naming."""
    raw, images = folder / "raw", folder / "images"
    made(b, "phantom", raw=raw, shape=shape)
    images.mkdir()
    for i in range(count):
        shutil.copy(raw / "imagesTr/CT_0000.nii.gz", images / f"CT{i}_0000.nii.gz")
    shutil.rmtree(raw)
    return images


def prediction(b, images, model, out, *flags):
    return [
        *[b.args.lntorch, "predict", "-i", images, "-o", out, "-m", model, "--device", "cpu"],
        *["--threads", b.args.threads, "--quiet", *flags],
    ]


ENTRY = "nnunetv2.inference.predict_from_raw_data:predict_entry_point_modelfolder"


def nnunet_prediction(b, images, model, out, *flags):
    """nnU-Net's command with its own defaults, three processes on either side of the network."""
    arguments = ["-i", images, "-o", out, "-m", model, "-f", "0", "-device", "cpu", *flags]
    arguments += ["--disable_progress_bar"]
    return b.theirs("command", entry=ENTRY, arguments=[str(a) for a in arguments])


def file_bytes(folder, *endings):
    return sum(p.stat().st_size for e in endings for p in Path(folder).glob("*" + e))


def run_export(b, size):
    """Logits to label file, and with probabilities: one process on both sides."""
    whole = size["export"]
    shape = [round(n * s / t) for n, s, t in zip(whole, SPACING, TARGET)]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        common = {"logits": folder / "logits", "properties": folder / "case.pkl"}
        made(b, "model", folder=folder / "model", classes=2, patch=[32, 96, 96], seed=1)
        made(b, "logits", shape=shape, whole=whole, **common)
        for probabilities in (False, True):
            ours, theirs = folder / "ours", folder / "theirs"
            for out in (ours, theirs):
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
            flags = ["--save-probabilities"] if probabilities else []
            found = {}

            def files(out):
                return {"file_bytes": file_bytes(out, ".nii.gz", ".npz")}

            def after(_):
                found.update(made(b, "compare", ours=ours, theirs=theirs))
                return {**files(theirs), **found}

            def ours_to(out, *more):
                return Once(
                    [
                        *[b.args.lntorch, "bench", "export", "-m", folder / "model"],
                        *["--logits", common["logits"], "--image", ",".join(map(str, shape))],
                        *["--properties", common["properties"], "-o", out / "case"],
                        *["--threads", str(b.args.threads), *flags, *more],
                    ],
                    lambda _: files(out),
                )

            sides = {
                "lntorch": ours_to(ours),
                "nnU-Net": Once(
                    b.theirs(
                        "export",
                        model=folder / "model",
                        shape=shape,
                        output=theirs / "case",
                        probabilities=probabilities,
                        **common,
                    ),
                    after,
                ),
            }
            if probabilities:
                same = folder / "same"
                same.mkdir()
                sides["lntorch, numerics reference"] = ours_to(same, "--numerics", "reference")
            answers = b.group(
                f"export of {times(whole)} at 1.5, 0.98, 0.98 mm from {times(shape)} at "
                "1.25, 0.9, 0.9 mm, 2 classes" + ", probabilities written" * probabilities,
                sides,
                warmup=0,
                most=1,
                keep=b.segments,
                alike=(),
            )
            if probabilities:
                size_of = lambda who: (
                    answers[who][0]["file_bytes"] / answers["nnU-Net"][0]["file_bytes"]
                )
                b.notes.append(
                    "nnU-Net rounds logits to float16, which leaves few values, and files that "
                    "compress well. With numerics reference, whose values are nnU-Net's, lntorch's "
                    f"files are {size_of('lntorch, numerics reference'):.2f} times as large as "
                    f"nnU-Net's, with fast, where logits stay float32, {size_of('lntorch'):.2f} times."
                )


def run_predict(b, size):
    """The whole commands, and of the same runs the network and the stages around it."""
    shape, count = size["predict"], 3
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        images = scan(b, folder, shape, count)
        made(b, "model", folder=folder / "model", classes=2, patch=[32, 96, 96], seed=1)
        stages, ours, theirs = folder / "stages", folder / "ours", folder / "theirs"

        def from_record(_):
            cases = json.loads((ours / "run.json").read_text())["cases"]
            total = {k: sum(c["seconds"][k] for c in cases) for k in cases[0]["seconds"]}
            return {"stages": total, "file_bytes": file_bytes(ours, ".nii.gz")}

        def from_lines(_):
            total = {}
            for line in stages.read_text().splitlines():
                found = json.loads(line)
                for key in ("seconds", "cpu_seconds"):
                    kept = total.setdefault(key, {})
                    kept[found["stage"]] = kept.get(found["stage"], 0) + found[key]
            return {
                "stages": total["seconds"],
                "cpu_stages": total["cpu_seconds"],
                "file_bytes": file_bytes(theirs, ".nii.gz"),
                **made(b, "compare", ours=ours, theirs=theirs),
            }

        title = f"predict of {count} CTs of {times(shape)}, two features, no mirroring"
        answers = b.group(
            title,
            {
                "lntorch": Command(
                    prediction(b, images, folder / "model", ours, "--disable_tta"), from_record
                ),
                "nnU-Net": Command(
                    nnunet_prediction(b, images, folder / "model", theirs, "--disable_tta"),
                    from_lines,
                    BENCH_TIMES=stages,
                ),
            },
            warmup=0,
            most=1,
            keep=b.segments,
            alike=(),
        )
        rest = ("read", "preprocess", "export")
        for name, keys in (("the network", ("network",)), ("all but the network", rest)):
            b.record(
                f"{title}: {name}, summed over the cases",
                {
                    who: [{"seconds": sum(a["stages"].get(k, 0) for k in keys)} for a in found]
                    for who, found in answers.items()
                },
            )


def run_peak(b, size):
    """The memory of whole commands, one CT each."""
    for shape, classes, patch, longer in size["peak"]:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            images = scan(b, folder, shape)
            made(b, "model", folder=folder / "model", classes=classes, patch=patch, seed=1)
            ours, theirs = folder / "ours", folder / "theirs"
            title = f"predict of a CT of {times(shape)}, {classes} classes, no mirroring"
            flags = ["--disable_tta"]
            answers = b.group(
                title,
                {
                    "lntorch": Command(prediction(b, images, folder / "model", ours, *flags)),
                    "nnU-Net": Command(
                        nnunet_prediction(b, images, folder / "model", theirs, *flags),
                        lambda _: made(b, "compare", ours=ours, theirs=theirs),
                    ),
                },
                warmup=0,
                most=1,
                keep=b.segments,
                alike=(),
            )
            if not longer:
                continue
            shutil.rmtree(images)
            stretched = [longer, *shape[1:]]
            images = scan(b, folder, stretched)
            found = b.group(
                f"predict of a CT of {times(stretched)}, {classes} classes, no mirroring",
                {"lntorch": Command(prediction(b, images, folder / "model", ours, *flags))},
                warmup=0,
                most=1,
                alike=(),
            )
            more = found["lntorch"][0]["peak_rss_bytes"] - answers["lntorch"][0]["peak_rss_bytes"]
            voxels = (longer - shape[0]) * shape[1] * shape[2]
            b.notes.append(
                f"With {classes} classes lntorch takes {more / voxels:.0f} bytes for each voxel "
                f"of {times(stretched)} beyond {times(shape)}."
            )


def run_ensemble(b, size):
    """The mean of two models' probabilities, five classes."""
    shape = size["ensemble"]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        images = scan(b, folder, shape)
        members = []
        for seed in (1, 2):
            model = folder / f"model{seed}"
            members.append(folder / f"member{seed}")
            made(b, "model", folder=model, classes=5, patch=[32, 96, 96], seed=seed)
            flags = ["--disable_tta", "--save_probabilities"]
            words = prediction(b, images, model, members[-1], *flags)
            subprocess.run([str(w) for w in words], check=True, env=environment())
        ours, theirs = folder / "ours", folder / "theirs"
        title = f"ensemble of two folders, five classes, {times(shape)}"
        answers = b.group(
            title,
            {
                "lntorch": Command(
                    [b.args.lntorch, "ensemble", "-i", *members, "-o", ours, "--quiet"]
                ),
                "nnU-Net": Command(
                    [
                        *[Path(sys.executable).with_name("nnUNetv2_ensemble")],
                        *["-i", *members, "-o", theirs, "-np", "1"],  # there is one case
                    ],
                    lambda _: made(b, "compare", ours=ours, theirs=theirs),
                ),
            },
            warmup=0,
            most=3,
            keep=b.segments,
            alike=(),
        )
        voxels = shape[0] * shape[1] * shape[2]
        told = [
            f"{who} {max(a['peak_rss_bytes'] for a in found) / voxels:.1f}"
            for who, found in answers.items()
        ]
        b.notes.append(f"Bytes a voxel of the ensemble's peak: {', '.join(told)}.")


PARTS = {
    "export": run_export,
    "predict": run_predict,
    "peak": run_peak,
    "ensemble": run_ensemble,
}
REAL = {
    "export": [400, 512, 512],
    "predict": [100, 512, 512],
    # image, classes, patch, slices of a longer one
    "peak": [
        ([160, 512, 512], 2, [32, 96, 96], 320),
        ([64, 160, 160], 60, [32, 64, 64], 448),
    ],
    "ensemble": [100, 512, 512],
}
QUICK = {
    "export": [12, 64, 64],
    "predict": [40, 112, 112],
    "peak": [([40, 112, 112], 2, [32, 96, 96], None), ([24, 64, 64], 6, [16, 32, 32], 48)],
    "ensemble": [40, 112, 112],
}
