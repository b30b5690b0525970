#!/usr/bin/env python3
"""Compares lntorch with the Python stack. `make bench` runs it, with the Python of `make
test-nnunet` (nnU-Net 2.5.1).

Each row of the table is a separate process (a worker) that prepares its work, then repeats it on
request. One worker runs at a time, lntorch and Python alternating, and only after all are prepared.
Both sides must have the same libtorch, kernels, threads and network, or the run stops. If a single
process needs gigabytes, workers are not kept waiting in memory: each repeat starts one.

Writes docs/benchmarks.md and build/bench.json, where parts that do not run keep what they hold; with --parts methods (`make bench-methods`)
docs/benchmarks-methods.md and build/bench-methods.json.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_augment
import bench_evaluate
import bench_experiment
import bench_images
import bench_ranks
import bench_segment
from bench_processes import Command, Once, Start, Worker, environment, peak_rss

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "testdata" / "phantom-demo"

# The networks of cmd/lntorch/bench.go.
NETWORKS = {  # features, kernel of the first stage, strides
    "mid": ([16, 32, 64, 128, 160], (1, 3, 3), [1, (1, 2, 2), 2, 2, 2]),
    "phantom": ([8, 16, 32, 64], (1, 3, 3), [1, (1, 2, 2), 2, 2]),
    "full": ([32, 64, 128, 256, 320, 320], 3, [1, 2, 2, 2, 2, 2]),
    "resencl": ([32, 64, 128, 256, 320, 320], 3, [1, 2, 2, 2, 2, 2]),
    "swinunetr": None,
    "swinunetrv2": None,
}
FROM_MONAI = ("swinunetr", "swinunetrv2")


# ---- the Python side: workers ----------------------------------------------------------------------------------------


def network(name):
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

    import torch
    from torch import nn

    if name in FROM_MONAI:
        from monai.networks.nets import SwinUNETR

        return SwinUNETR(
            img_size=(64, 64, 64),
            in_channels=1,
            out_channels=2,
            feature_size=48,
            use_v2=name.endswith("v2"),
        ), [[1] * 3, [2] * 3]
    features, first, strides = NETWORKS[name]
    cube = lambda k: [k] * 3 if isinstance(k, int) else list(k)
    strides = [cube(s) for s in strides]
    kernels = [cube(first)] + [[3] * 3] * (len(features) - 1)
    more = (
        nn.InstanceNorm3d,
        {"eps": 1e-5, "affine": True},
        None,
        None,
        nn.LeakyReLU,
        {"inplace": True},
    )
    if name == "resencl":
        net = ResidualEncoderUNet(
            1,
            len(features),
            features,
            nn.Conv3d,
            kernels,
            strides,
            [1, 3, 4, 6, 6, 6],
            2,
            [1] * 5,
            True,
            *more,
            deep_supervision=True,
        )
    else:
        net = PlainConvUNet(
            1,
            len(features),
            features,
            nn.Conv3d,
            kernels,
            strides,
            2,
            2,
            2,
            True,
            *more,
            deep_supervision=True,
        )
    torch.manual_seed(1)
    net.apply(net.initialize)
    return net, strides


def optimizer_of(net):
    import torch

    return torch.optim.SGD(net.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)


def random_gradients(net):
    import torch

    for p in net.parameters():
        p.grad = 1e-3 * torch.randn_like(p)


def step(net, strides, o):
    """nnUNetTrainer.train_step on the CPU; with amp, the network and loss run under bfloat16
    autocast."""
    import contextlib

    import numpy as np
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    import torch

    net.train()
    x = torch.randn(2, 1, *o["patch"])
    if o.get("channels_last"):
        net, x = (
            net.to(memory_format=torch.channels_last_3d),
            x.contiguous(memory_format=torch.channels_last_3d),
        )
    scales = (1 / np.cumprod(np.vstack(strides), axis=0))[:-1]
    weights = 0.5 ** np.arange(len(scales))
    weights[-1] = o.get("lowest", 0) if len(scales) > 1 else 1
    one = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        weight_ce=1,
        weight_dice=1,
        ignore_label=None,
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    several = DeepSupervisionWrapper(one, weights / weights.sum()) if len(scales) > 1 else None
    targets = [
        (torch.randn(2, 1, *(round(n * f) for n, f in zip(o["patch"], scale))) > 1.28).to(
            torch.int16
        )
        for scale in scales
    ]
    optimizer = optimizer_of(net)
    mixed = (
        (lambda: torch.autocast("cpu", dtype=torch.bfloat16))
        if o.get("amp")
        else contextlib.nullcontext
    )

    def run():
        optimizer.zero_grad(set_to_none=True)
        with mixed():
            value = several(net(x), targets) if several else one(net(x), targets[0])
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 12)
        optimizer.step()
        return {"loss": float(value.detach().cpu().numpy())}

    return run


def update(net, _, o):
    """The dense optimizer only."""
    random_gradients(net)
    return optimizer_of(net).step


def sparse_gradients(net):
    """The weights whose rows DGST sparsifies, by name."""
    random_gradients(net)
    return [
        (n, p.grad)
        for n, p in net.named_parameters()
        if not any(w in n for w in ("norm", "bias", "head", "gamma", "seg_layers"))
    ]


def topk(net, _, o):
    """torch.topk for each weight: indices only."""
    import torch

    gradients = sparse_gradients(net)

    def run():
        return {
            "entries": sum(
                torch.topk(g.flatten(1).abs(), 2, dim=1).indices.numel() for _, g in gradients
            )
        }

    return run


def released(net, _, o):
    """The released selection: for each rank a sort of all rows, and one-hot rows taken from an
    identity matrix as wide as a row."""
    import torch

    gradients = sparse_gradients(net)

    def run():
        entries = 0
        for _name, g in gradients:
            rows = g.reshape(g.shape[0], -1).abs()
            mask = torch.ones_like(rows)
            for rank in range(min(2, rows.shape[1])):
                largest = torch.argsort(rows, dim=1)[:, -1 - rank]
                mask = mask * (1 - torch.eye(rows.shape[1])[largest])
            entries += mask.numel() - int(mask.sum(dtype=torch.float64))
        return {"entries": entries}

    return run


def opening(net, _, o):
    """torch.load as nnU-Net calls it, and load_state_dict."""
    import torch

    def run():
        saved = torch.load(
            o["path"], map_location=torch.device("cpu"), mmap=o["mmap"], weights_only=False
        )
        net.load_state_dict(saved["network_weights"])

    return run


def window(net, _, o):
    """nnUNetPredictor's sliding window."""
    from types import SimpleNamespace

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    import torch

    net.decoder.deep_supervision = False
    p = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=bool(o["mirror"]),
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    p.network, p.configuration_manager = net, SimpleNamespace(patch_size=o["patch"])
    p.label_manager = SimpleNamespace(num_segmentation_heads=2)
    p.allowed_mirroring_axes = o["mirror"] or None
    image = torch.randn(1, *o["image"])
    tiles = len(p._internal_get_sliding_window_slicers(image.shape[1:]))

    def run():
        p.predict_sliding_window_return_logits(image)
        return {"tiles": tiles}

    return run


def save(o):
    """Writes a checkpoint with momentum buffers and the keys of nnU-Net's."""
    import torch

    net, _ = network(o["network"])
    optimizer = optimizer_of(net)
    random_gradients(net)
    optimizer.step()
    plans = json.loads(
        (DEMO / "preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource.json").read_text()
    )
    dataset = json.loads((DEMO / "preprocessed/Dataset102_PhantomTarget/dataset.json").read_text())
    with open(o["path"], "wb") as f:
        torch.save(
            {
                "network_weights": net.state_dict(),
                "optimizer_state": optimizer.state_dict(),
                "grad_scaler_state": None,
                "logging": {},
                "_best_ema": None,
                "current_epoch": 1,
                "init_args": {
                    "plans": plans,
                    "configuration": "3d_phantom",
                    "fold": 0,
                    "dataset_json": dataset,
                    "unpack_dataset": True,
                    "device": torch.device("cpu"),
                },
                "trainer_name": "nnUNetTrainer",
                "inference_allowed_mirroring_axes": (0, 1, 2),
            },
            f,
        )
        os.fsync(f.fileno())


def first(o, answer):
    """nnUNetv2_train up to the end of its first iteration."""
    from nnunetv2.run.run_training import run_training_entry
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    train_step = nnUNetTrainer.train_step

    def once(self, batch):
        loss = train_step(self, batch)["loss"]
        print(json.dumps({"part": "first", "note": f"loss {loss:.4f}"}), file=answer, flush=True)
        os._exit(0)

    nnUNetTrainer.train_step = once
    sys.argv = [
        "nnUNetv2_train",
        "102",
        "3d_phantom",
        "0",
        "-p",
        "nnUNetPlansSource",
        "-device",
        "cpu",
        "-pretrained_weights",
        o["pretrained"],
        "--use_compressed",
        "--disable_checkpointing",
    ]
    run_training_entry()


def preprocess(o, answer):
    """DefaultPreprocessor on the only case of a dataset, without the time of imports."""
    import numpy as np
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    raw, folder = Path(o["raw"]), Path(o["folder"])
    manager = PlansManager(json.loads((folder / "nnUNetPlans.json").read_text()))
    dataset = json.loads((folder / "dataset.json").read_text())
    start = time.perf_counter()
    DefaultPreprocessor(verbose=False).run_case_save(
        str(folder / "theirs"),
        [str(raw / "imagesTr/CT_0000.nii.gz")],
        str(raw / "labelsTr/CT.nii.gz"),
        manager,
        manager.get_configuration("3d_fullres"),
        dataset,
    )
    seconds, peak = time.perf_counter() - start, peak_rss()
    ours, theirs = (
        np.load(folder / "nnUNetPlans_3d_fullres" / "CT.npz"),
        np.load(folder / "theirs.npz"),
    )
    a, b = ours["data"], theirs["data"]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_rss_bytes": peak,
                "difference": max(float(np.abs(x - y).max()) for x, y in zip(a[0], b[0])),
                "labels": int((ours["seg"] != theirs["seg"]).sum()),
                "shape": list(b.shape),
            }
        ),
        file=answer,
        flush=True,
    )


def phantom(o):
    """A raw dataset with one CT: an ellipse with spine and airway, reconstruction-like noise, balls
    as nodes."""
    import numpy as np
    import SimpleITK as sitk

    rng = np.random.RandomState(len(o["shape"]))
    nz, ny, nx = o["shape"]
    y, x = np.mgrid[:ny, :nx].astype(np.float32) - np.array([ny / 2, nx / 2]).reshape(2, 1, 1)
    y, x = y / ny * 512, x / nx * 512
    image, label = np.empty(o["shape"], np.int16), np.zeros(o["shape"], np.uint8)
    for z in range(nz):
        w = 1 + 0.1 * np.sin(z / nz * 6)
        inside = (y / (170 * w)) ** 2 + (x / (130 * w)) ** 2 < 1
        v = np.where(inside, 50, -1000).astype(np.float32)
        v[((y - 74) / 30) ** 2 + (x / 40) ** 2 < 1] = 700
        v[((y + 56) / 18) ** 2 + (x / 22) ** 2 < 1] = -950
        n = rng.randn(ny, nx).astype(np.float32)
        n = (n + np.roll(n, 1, 0) + np.roll(n, 1, 1) + np.roll(n, 1, (0, 1))) / 2
        image[z] = np.clip(v + n * np.where(inside, 25, 8), -1024, 3000)
    for _ in range(20):
        c, r = [rng.randint(0, nz), rng.uniform(-76, 76), rng.uniform(-76, 76)], rng.uniform(4, 12)
        for z in range(max(0, c[0] - 12), min(nz, c[0] + 12)):
            label[z][((z - c[0]) * 1.5) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 < r * r] = 1
    image[label > 0] += 40
    root = Path(o["raw"])
    for name, values in (("imagesTr/CT_0000", image), ("labelsTr/CT", label)):
        (root / name).parent.mkdir(parents=True)
        im = sitk.GetImageFromArray(values)
        im.SetSpacing((0.98, 0.98, 1.5))
        sitk.WriteImage(im, str(root / (name + ".nii.gz")), True)
    (root / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "CT"},
                "labels": {"background": 0, "lymph_node": 1},
                "numTraining": 1,
                "file_ending": ".nii.gz",
            }
        )
    )


def worker(o):
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nnU-Net's output is not part of the answer
    if o["part"] in bench_segment.WORKERS:
        found = bench_segment.WORKERS[o["part"]](o)
        if found is not None:
            print(json.dumps(found), file=answer, flush=True)
        return
    if o["part"] in bench_augment.WORKERS:
        bench_augment.WORKERS[o["part"]](o, answer)
        return
    if o["part"] == "tile":
        bench_segment.first_tile(o, answer)
        return
    if o["part"] == "first":
        first(o, answer)
        return
    if o["part"] == "preprocess":
        preprocess(o, answer)
        return
    if o["part"] in ("save", "phantom"):
        {"save": save, "phantom": phantom}[o["part"]](o)
        return
    import torch

    torch.set_num_threads(o["threads"])
    net, strides = network(o["network"])
    run = {
        "step": step,
        "update": update,
        "topk": topk,
        "released": released,
        "open": opening,
        "window": window,
    }[o["part"]](net, strides, o)
    about = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "torch": torch.__version__.split("+")[0],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({**about, "ready": True}), file=answer, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        more = run() or {}
        seconds = time.perf_counter() - start
        print(
            json.dumps({**about, **more, "seconds": seconds, "peak_rss_bytes": peak_rss()}),
            file=answer,
            flush=True,
        )


# ---- the driver ------------------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, args):
        self.args, self.libtorch, self.sections = args, {}, {}
        self.begin(None)

    def begin(self, part):
        """Starts a part: what it measures gets a section of its own."""
        self.part, self.threads = part, self.args.threads
        self.about = None  # who it is compared with, if not with PyTorch
        self.rows, self.memory, self.preprocessed, self.segments, self.notes = [], [], [], [], []

    def ours(self, part, *flags):
        return [
            self.args.lntorch,
            "bench",
            part,
            "--serve",
            "--threads",
            str(self.args.threads),
            *map(str, flags),
        ]

    def theirs(self, part, **options):
        return [
            sys.executable,
            __file__,
            "--worker",
            json.dumps({"part": part, "threads": self.args.threads, **options}, default=str),
        ]

    ALIKE = ("torch", "cpu_capability", "threads", "parameters")

    def group(
        self,
        title,
        sides,
        warmup=1,
        alone=False,
        most=None,
        each=1,
        keep=None,
        alike=(*ALIKE, "entries", "tiles"),
    ):
        """Rows of one title, whose answers it returns. sides maps who to the command of a worker, or
        to a Start, Once or Command. alone: one worker per repeat and none in parallel, timed `each`
        times. The fields in alike must be equal on all sides that report them.
        """
        print(title, flush=True)
        repeats = min(self.args.repeats, most or self.args.repeats)
        answers = {who: [] for who in sides}
        if alone:
            for _ in range(repeats):
                for who, side in sides.items():
                    self.rounds({who: side}, answers, warmup, each)
        else:
            self.rounds(sides, answers, warmup, repeats)
        self.same(title, answers, alike)
        last = next(iter(answers.values()))[-1]
        if "kept_bytes" in last:
            self.memory.append((title, last))
        if keep is not None:
            keep.append((title, {who: found[-1] for who, found in answers.items()}))
        self.record(title, answers)
        return answers

    def record(self, title, answers):
        """Rows of one title from the answers of all sides."""
        ours = None
        for who, found in answers.items():
            seconds = [a["seconds"] for a in found]
            row = {
                "part": self.part,
                "what": title,
                "who": who,
                "seconds": seconds,
                "median": statistics.median(seconds),
                "min": min(seconds),
                "max": max(seconds),
                "ratio": None,
                "peak_rss_bytes": max(a.get("peak_rss_bytes", 0) for a in found),
                "tensors_peak_bytes": max(a.get("tensors_peak_bytes", 0) for a in found),
            }
            if ours is None:
                ours = row["median"]
            else:
                row["ratio"] = ours / row["median"]
            self.rows.append(row)
            print("  " + " | ".join(cells(row)[1:]), flush=True)

    def rounds(self, sides, answers, warmup, repeats):
        workers = {}
        try:
            for who, side in sides.items():
                workers[who] = side if isinstance(side, (Start, Once, Command)) else Worker(side)
            for i in range(warmup + repeats):
                for who, w in workers.items():
                    answer = w.repeat()
                    if i >= warmup:
                        answers[who].append(answer)
        finally:
            for w in workers.values():
                w.close()

    def same(self, title, answers, alike):
        """All sides must have done the same work: same libtorch, kernels, threads, network,
        entries, patches."""
        for name in alike:
            found = {who: a[name] for who, all_ in answers.items() for a in all_ if name in a}
            if len(set(found.values())) > 1:
                raise SystemExit(
                    f"bench: {title}: {name} differs, so this is no comparison: {found}"
                )
            if name in ("torch", "cpu_capability") and found:
                self.libtorch[name] = next(iter(found.values()))


def run_startup(b, size):
    train = Path(sys.executable).with_name("nnUNetv2_train")
    b.group(
        "start-up: help",
        {
            "lntorch --help": Start([b.args.lntorch, "--help"], line=False),
            "nnUNetv2_train -h": Start([str(train), "-h"], line=False),
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(
            DEMO / "preprocessed", Path(folder) / "preprocessed"
        )  # nnU-Net may write there
        weights = (
            DEMO / "foundation/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth"
        )
        data = Path(folder) / "preprocessed/Dataset102_PhantomTarget"
        b.group(
            "start-up: command to the end of the first iteration, test data's network, all cores",
            {
                "lntorch": Start(
                    [
                        b.args.lntorch,
                        "bench",
                        "first",
                        "--preprocessed",
                        str(data),
                        "--plans",
                        "nnUNetPlansSource",
                        "--configuration",
                        "3d_phantom",
                        "--checkpoint",
                        str(weights),
                    ]
                ),
                # nnU-Net's fastest mode: like lntorch it reads the compressed cases, and it starts
                # no worker processes.
                "nnU-Net, without processes of its own": Start(
                    b.theirs("first", pretrained=weights),
                    nnUNet_preprocessed=data.parent,
                    nnUNet_results=f"{folder}/results",
                    nnUNet_n_proc_DA=0,
                    nnUNet_def_n_proc=1,
                ),
            },
        )
        images = DEMO / "raw/Dataset102_PhantomTarget/imagesTs"
        arguments = ["-i", images, "-o", f"{folder}/out", "-m", weights.parent.parent, "-f", "0"]
        b.group(
            "start-up: command to the end of the first tile, eight mirror images, test data's model",
            {
                "lntorch predict": Start(
                    [
                        *[b.args.lntorch, "bench", "tile", "-m", str(weights.parent.parent)],
                        *["-i", str(images), "--device", "cpu"],
                    ]
                ),
                "nnUNetv2_predict_from_modelfolder": Start(
                    b.theirs("tile", arguments=[*map(str, arguments), "-device", "cpu"])
                ),
            },
        )


def run_masks(b, size):
    b.group(
        f"DGST selection, {size['big']} network, top 2 of each row",
        {
            "lntorch": b.ours("masks", "--network", size["big"]),
            "torch.topk loop": b.theirs("topk", network=size["big"]),
        },
    )
    b.group(
        f"DGST selection, {size['big']} network, against the released loop",
        {
            "lntorch": b.ours("masks", "--network", size["big"]),
            "released loop": b.theirs("released", network=size["big"]),
        },
        most=3,
    )


def run_update(b, size):
    dgst = {
        f"lntorch, DGST {mode}": b.ours(
            "update", "--network", size["big"], "--method", "dgst", "--dgst-mode", mode
        )
        for mode in ("gradmask", "strict", "paper")
    }
    b.group(
        f"end of a step, {size['big']} network: choice and optimizer",
        {
            **dgst,
            "lntorch, full fine-tuning": b.ours("update", "--network", size["big"]),
            "PyTorch SGD": b.theirs("update", network=size["big"]),
        },
    )


def run_open(b, size):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pth"
        subprocess.run(
            b.theirs("save", network=size["big"], path=path), check=True, env=environment()
        )
        mib = path.stat().st_size / 2**20
        commands = {"lntorch": b.ours("open", "--network", size["big"], "--checkpoint", path)}
        for mmap in (False, True):
            commands["torch.load" + ", mmap=True" * mmap] = b.theirs(
                "open", network=size["big"], path=path, mmap=mmap
            )
        b.group(
            f"checkpoint of {mib:.0f} MiB, weights into the network: first time in a process",
            commands,
            warmup=0,
            alone=True,
        )
        b.group(f"checkpoint of {mib:.0f} MiB, weights into the network: again", commands)


def run_step(b, size, amp=None):
    mixed = ["--amp", "bf16"] if amp else []
    flags = ["--network", size["mid"], "--patch-size", ",".join(map(str, size["patch"])), *mixed]
    them = {"network": size["mid"], "patch": size["patch"], "amp": amp}
    where = (
        f"{size['mid']} network, {'×'.join(map(str, size['patch']))}, {'bf16' if amp else 'fp32'}"
    )
    b.group(
        f"training step, {where}",
        {
            "lntorch": b.ours("step", *flags),
            "PyTorch eager": b.theirs("step", **them),
            "PyTorch eager, channels-last": b.theirs("step", channels_last=True, **them),
        },
        warmup=2,
    )
    if not amp:
        b.group(
            f"DGST training step, {where}",
            {
                "lntorch, DGST": b.ours("step", *flags, "--method", "dgst"),
                "lntorch, full fine-tuning": b.ours("step", *flags),
            },
            warmup=2,
        )


def run_bf16(b, size):
    flags = Path("/proc/cpuinfo").read_text().split("\nflags", 1)[-1].split("\n", 1)[0].split()
    if not {"avx512_bf16", "amx_bf16"} & set(flags):
        print("training step, bf16: left out, this CPU has neither AVX512_BF16 nor AMX")
        return
    run_step(b, size, amp="bf16")


def run_window(b, size):
    patch = size["tile"]
    for image, mirror in ((size["image"], []), (size["mirrored"], [0, 1, 2])):
        b.group(
            f"sliding window, {'×'.join(map(str, image))}, patch {'×'.join(map(str, patch))}, "
            f"phantom network, {'eight mirror images' if mirror else 'no mirroring'}",
            {
                "lntorch": b.ours(
                    "window",
                    "--network",
                    "phantom",
                    "--patch-size",
                    ",".join(map(str, patch)),
                    "--image",
                    ",".join(map(str, image)),
                    *(["--mirror", ",".join(map(str, mirror))] if mirror else []),
                ),
                "nnUNetPredictor": b.theirs(
                    "window", network="phantom", patch=patch, image=image, mirror=mirror
                ),
            },
            most=5,
        )


def run_networks(b, size):
    for name in size["networks"]:
        b.group(
            f"training step, {name} network, {'×'.join(map(str, size['cube']))}, fp32",
            {
                "lntorch": b.ours(
                    "step", "--network", name, "--patch-size", ",".join(map(str, size["cube"]))
                ),
                "PyTorch eager": b.theirs("step", network=name, patch=size["cube"]),
            },
            alone=True,
            most=1,
        )


def run_full(b, size):
    patch = size["full"]
    for amp in (None, "bf16"):
        flags = [
            "--network",
            size["big"],
            "--patch-size",
            ",".join(map(str, patch)),
            *(["--amp", amp] if amp else []),
        ]
        b.group(
            f"training step, {size['big']} network, {'×'.join(map(str, patch))}, {amp or 'fp32'}",
            {
                "lntorch": b.ours("step", *flags),
                "PyTorch eager": b.theirs("step", network=size["big"], patch=patch, amp=amp),
            },
            alone=True,
            most=3,
        )


def run_preprocess(b, size):
    """One CT each, from .nii.gz to .npz and .pkl: one process, one thread on both sides."""
    for nz in size["slices"]:
        shape = [nz, *size["slice"]]
        with tempfile.TemporaryDirectory() as folder:
            raw, preprocessed = (
                Path(folder) / "raw" / "Dataset001_Bench",
                Path(folder) / "preprocessed" / "Dataset001_Bench",
            )
            subprocess.run(b.theirs("phantom", raw=raw, shape=shape), check=True, env=environment())
            where = [
                "--raw",
                str(raw.parent),
                "--preprocessed",
                str(preprocessed.parent),
                "--quiet",
                "-d",
                "1",
            ]
            subprocess.run(
                [
                    b.args.lntorch,
                    "plan-and-preprocess",
                    *where,
                    "--no_pp",
                    "-overwrite_target_spacing",
                    "1.25",
                    "0.9",
                    "0.9",
                ],
                check=True,
                env=environment(),
                stdout=subprocess.DEVNULL,
            )
            written = lambda stem: {
                "file_bytes": sum(stem.with_suffix(e).stat().st_size for e in (".npz", ".pkl"))
            }
            b.group(
                f"preprocessing, {'×'.join(map(str, shape))} at 1.5, 0.98, 0.98 mm to 1.25, 0.9, 0.9 mm, one process, one thread",
                {
                    "lntorch": Once(
                        [
                            b.args.lntorch,
                            "preprocess",
                            *where,
                            "-c",
                            "3d_fullres",
                            "-np",
                            "1",
                            "--threads",
                            "1",
                            "--json",
                            "--clean",
                        ],
                        lambda _: written(preprocessed / "nnUNetPlans_3d_fullres" / "CT"),
                        GOMAXPROCS=1,
                    ),
                    "nnU-Net": Once(
                        b.theirs("preprocess", raw=raw, folder=preprocessed),
                        lambda _: written(preprocessed / "theirs"),
                        OMP_NUM_THREADS=1,
                    ),
                },
                warmup=0,
                most=1,
                keep=b.preprocessed,
                alike=(),
            )


# The limits for a step of each method, relative to full fine-tuning's time and memory; None: no
# limit. A flag follows the method's name.
METHODS = {
    "full": (None, None),
    "head": (0.5, 0.5),
    "bias": (0.8, None),
    "norm": (0.8, None),
    "lora --lora-dropout 0": (1.15, None),
    "lora": (1.6, None),
    "dgst": (1.03, None),
    "dgst --dgst-mode strict": (1.03, None),
    "dgst --dgst-mode paper": (1.03, None),
    "dgst --dgst-select static": (1.03, None),
    "dgst --dgst-select random": (1.03, None),
    "dgst --dgst-rows output": (None, None),
    "dgst --dgst-rows kernel": (None, None),
}


def run_methods(b, size):
    flags = ["--network", size["mid"], "--patch-size", ",".join(map(str, size["patch"]))]
    b.group(
        f"training step of each method, {size['mid']} network, {'×'.join(map(str, size['patch']))}",
        {m: b.ours("step", *flags, "--method", *m.split()) for m in METHODS},
        warmup=2,
        alone=True,
        each=3,
        alike=("torch", "cpu_capability", "threads"),
    )  # methods move different entries, and some add parameters


def methods_page(b, about):
    """Each method compared with full fine-tuning."""
    full = b.rows[0]
    lines = [
        "# Methods against full fine-tuning",
        "",
        f"`make bench-methods` writes this page: {b.rows[0]['what']}, batch 2. Each repeat is a process of its own, method by method in turn, that times three",
        "steps; times are medians. Memory is the most that the tensors' large blocks held, weights and momentum included. What a method should keep to stands in brackets.",
        "",
        f"- {about['date']}, `{about['command']}`, {about['repeats']} repeats",
        f"- {about['cpu']}, {about['cores']} cores, {about['threads']} threads; libtorch {about['torch']}, its {about['cpu_capability']} kernels; {about['lntorch']}",
        "",
        "| method | time | least | most | of full | memory | of full | peak of the process |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in b.rows:
        ratio = [
            row["median"] / full["median"],
            row["tensors_peak_bytes"] / full["tensors_peak_bytes"],
        ]
        told = [
            f"{r:.2f}" + (f" (≤ {reach})" + (" missed" if r > reach else "") if reach else "")
            for r, reach in zip(ratio, METHODS[row["who"]])
        ]
        lines.append(
            f"| {row['who']} | {text(row['median'])} | {text(row['min'])} | {text(row['max'])} | {told[0]} | {row['tensors_peak_bytes'] / 2**20:.0f} MiB | "
            f"{told[1]} | {row['peak_rss_bytes'] / 2**20:.0f} MiB |"
        )
    return "\n".join(lines) + "\n"


PARTS = {
    "startup": run_startup,
    "masks": run_masks,
    "update": run_update,
    "open": run_open,
    "step": run_step,
    "bf16": run_bf16,
    "window": run_window,
    "preprocess": run_preprocess,
    **bench_segment.PARTS,
    **bench_augment.PARTS,
    **bench_images.PARTS,
    **bench_evaluate.PARTS,
    **bench_experiment.PARTS,
    **bench_ranks.PARTS,
    "full": run_full,
    "networks": run_networks,
    "methods": run_methods,
}
REAL = {
    "mid": "mid",
    "patch": [32, 96, 96],
    "big": "full",
    "full": [64, 128, 128],
    "image": [60, 192, 192],
    "mirrored": [36, 128, 128],
    "tile": [24, 64, 64],
    "networks": ["full", "resencl", "swinunetr", "swinunetrv2"],
    "cube": [64, 64, 64],
    "slices": [100, 400],
    "slice": [512, 512],
    **bench_segment.REAL,
    **bench_augment.REAL,
    **bench_images.REAL,
    **bench_evaluate.REAL,
    **bench_experiment.REAL,
    **bench_ranks.REAL,
}
# Not smaller: libtorch 2.4.1's bf16 weight gradients of 3×3×3 convolutions over two slices read
# uninitialised memory.
QUICK = {
    "mid": "phantom",
    "patch": [16, 16, 16],
    "big": "phantom",
    "full": [16, 16, 16],
    "image": [24, 24, 24],
    "mirrored": [16, 24, 24],
    "tile": [16, 16, 16],
    "networks": ["phantom"],
    "cube": [16, 16, 16],
    "slices": [12],
    "slice": [64, 64],
    **bench_segment.QUICK,
    **bench_augment.QUICK,
    **bench_images.QUICK,
    **bench_evaluate.QUICK,
    **bench_experiment.QUICK,
    **bench_ranks.QUICK,
}


def plural(n, what):
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def text(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def cells(row):
    return [
        row["what"],
        row["who"],
        text(row["median"]),
        text(row["min"]),
        text(row["max"]),
        f"{row['ratio']:.2f}" if row["ratio"] else "",
        f"{row['peak_rss_bytes'] / 2**20:.0f} MiB" if row["peak_rss_bytes"] else "",
    ]


def cpu():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


def page(sections):
    """The whole page from the sections of its parts."""
    lines = [
        "# Benchmarks",
        "",
        "`make bench` writes this page: lntorch and the Python stack in one run, one repeat of each in turn, the first ones left out. The ratio is the",
        'median of the first row of a group by this row\'s: below 1 the first row is faster. `make bench BENCHFLAGS="--parts PART …"` replaces the',
        "sections of those parts alone.",
        "",
        "Networks have one channel and two classes; batch 2. mid: a PlainConvUNet with features 16 to 160 in five stages. full: nnU-Net's standard one, 31 million",
        "parameters. resencl: ResEncM and L, 102 million. swinunetr, swinunetrv2: MONAI's, 62 and 73 million. phantom: the one of the test data. Steps are",
        "forward, loss with deep supervision, backward, clip, SGD. Peak memory is the process's, libraries included; where a command starts processes of its",
        "own, it is the largest sum over them (PSS, where a page that n processes share counts 1/n).",
    ]
    for part in PARTS:
        if part in sections:
            lines += ["", f"## {part}", "", sections[part].strip()]
    lines += ["", "## GPU", "", gpu()]
    return "\n".join(lines) + "\n"


def sections_of(text):
    """The sections of a page, by part."""
    found = {}
    for section in text.split("\n## ")[1:]:
        name, _, body = section.partition("\n")
        if name in PARTS:
            found[name] = body
    return found


def section(b, about):
    """What a part measured."""
    kernels = about["cpu_capability"]
    kernels = f", its {kernels} kernels" if kernels else ""
    stack = f"libtorch {about['torch']} on both sides{kernels}"
    lines = [
        f"- {about['date']}, `{about['command']}`, {about['repeats']} repeats (fewer where one takes long)",
        f"- {about['cpu']}, {about['cores']} cores, {plural(about['threads'], 'thread')} on both sides",
        f"- {b.about or stack}; {about['lntorch']}; {about['python']}",
        "",
        *bench_augment.tables(b.rows),
        *bench_images.table(b.rows),
    ]
    rows = [r for r in b.rows if not {"reach", "limit"} & set(r)]
    if rows:
        lines += [
            "| what | who | median | least | most | ratio | peak memory |",
            "| --- | --- | --: | --: | --: | --: | --: |",
            *("| " + " | ".join(cells(r)) + " |" for r in rows),
        ]
    if b.memory:
        lines += [
            "",
            "What a step of lntorch holds: tensors of 256 KiB and more, in MiB. Of a block of convolution, norm and rectifier the output alone is kept.",
            "",
            "| step | weights, momentum, batch | kept for the backward pass | gradients | most at a time |",
            "| --- | --: | --: | --: | --: |",
        ]
        lines += [
            "| "
            + " | ".join(
                [
                    title,
                    *(
                        f"{a[k] / 2**20:.0f}"
                        for k in (
                            "held_bytes",
                            "kept_bytes",
                            "gradients_bytes",
                            "tensors_peak_bytes",
                        )
                    ),
                ]
            )
            + " |"
            for title, a in b.memory
        ]
    lines += preprocessing(b) + segmenting(b)
    if b.notes:
        lines += ["", *b.notes]
    return "\n".join(lines)


def segmenting(b):
    """How the two sides of the parts in bench_segment compare, other than in time."""
    if not b.segments:
        return []
    lines = [
        "",
        "| | time of nnU-Net's | peak memory | files | voxels whose labels differ | foreground |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for title, answers in b.segments:
        ours, theirs = answers["lntorch"], answers["nnU-Net"]
        part = lambda key: f"{ours[key] / theirs[key]:.3f}" if key in ours else ""
        lines.append(
            f"| {title} | {part('seconds')} | {part('peak_rss_bytes')} | {part('file_bytes')} | "
            f"{theirs['differ']:.1e} | {theirs['foreground']:.2%} |"
        )
    return lines


def preprocessing(b):
    """The results of the part preprocess other than time and memory."""
    if not b.preprocessed:
        return []
    lines = [
        "",
        "From `.nii.gz` to `.npz` and `.pkl`, reading and writing included; the start of the program is lntorch's, not nnU-Net's.",
        "",
        "| | time of nnU-Net's | peak memory | files | largest difference of the data | labels that differ | lntorch's seconds: reading, crop, labels, image, writing |",
        "| --- | --: | --: | --: | --: | --: | --- |",
    ]
    for title, answers in b.preprocessed:
        ours, theirs = answers["lntorch"], answers["nnU-Net"]
        part = lambda key: ours[key] / theirs[key]
        lines.append(
            f"| {title} | 1 / {1 / part('seconds'):.1f} | {part('peak_rss_bytes'):.2f} | {part('file_bytes'):.3f} | {theirs['difference']:.1e} | {theirs['labels']} | "
            + ", ".join(
                f"{ours['steps'][k]:.2f}" for k in ("read", "crop", "labels", "image", "write")
            )
            + " |"
        )
    return lines


def gpu():
    """The page of scripts/gpu_bench.py, if it exists."""
    page = ROOT / "docs" / "benchmarks-gpu.md"
    if page.exists():
        return page.read_text().rstrip()
    return (
        "The GPU part, `scripts/gpu-check.sh bench`, has not run: no figure for a GPU exists yet. Its page goes to docs/benchmarks-gpu.md, which is\n"
        "taken in here."
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        metavar="PART",
        default=[p for p in PARTS if p not in ("full", "networks", "methods")],
        help="of "
        + ", ".join(PARTS)
        + " (default: all but full and networks, which take long and 10 GB, and methods, which runs separately and has its own page)",
    )
    parser.add_argument("--repeats", type=int, help="default: 7; quick: 2")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes, to check that everything runs; writes build/bench-quick.{md,json}",
    )
    parser.add_argument("--lntorch", default=str(ROOT / "bin" / "lntorch"))
    parser.add_argument(
        "--out",
        type=Path,
        help="the page (default: docs/benchmarks.md); the figures go to a .json of its name in build/",
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(json.loads(args.worker))
        return
    args.repeats = args.repeats or (2 if args.quick else 7)
    methods = args.parts == ["methods"]
    if "methods" in args.parts and not methods:
        parser.error("methods cannot be combined with other parts")
    b = Bench(args)
    done = []
    try:
        for part in args.parts:
            b.begin(part)
            PARTS[part](b, QUICK if args.quick else REAL)
            done.append(part)
            if not methods and b.rows:
                write(b, args)
    finally:  # what was measured before a failure or Ctrl-C is kept
        if b.rows and (methods or done != args.parts):
            write(
                b, args, "" if done == args.parts else f", which ended in {args.parts[len(done)]}"
            )


def write(b, args, ended=""):
    """Writes a part's section of the page, or the page of the methods, and the figures. Other
    sections and their figures stay, except after --quick."""
    from importlib.metadata import version

    methods = b.part == "methods"
    ours = subprocess.run(
        [args.lntorch, "--version"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["scripts/bench.py", *sys.argv[1:]]) + ended,
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": b.threads,
        "repeats": args.repeats,
        "torch": b.libtorch.get("torch", "unknown"),
        "cpu_capability": b.libtorch.get("cpu_capability"),
        "lntorch": ours,
    }
    if not methods:  # without a Python side, any Python will do
        about["torch"] = version("torch").split("+")[0]
        about["python"] = (
            f"Python {sys.version.split()[0]}, torch {version('torch')}, nnunetv2 {version('nnunetv2')}"
        )
    (ROOT / "build").mkdir(exist_ok=True)
    name = "bench-methods" if methods else "bench"
    out = args.out or (
        ROOT / f"build/{name}-quick.md"
        if args.quick
        else ROOT / ("docs/benchmarks-methods.md" if methods else "docs/benchmarks.md")
    )
    figures = out.with_suffix(".json") if args.out or args.quick else ROOT / f"build/{name}.json"
    if methods:
        written = methods_page(b, about)
        out.write_text(written)
        print(written)
        figures.write_text(json.dumps({**about, "rows": b.rows}, indent=1) + "\n")
    else:
        fresh = args.quick and not b.sections  # nothing of an earlier trial stays
        sections = sections_of(out.read_text()) if out.exists() and not fresh else {}
        rows = json.loads(figures.read_text())["rows"] if figures.exists() and not fresh else []
        sections[b.part] = b.sections[b.part] = section(b, about)
        out.write_text(page(sections))
        rows = [r for r in rows if r.get("part") != b.part] + [{**r, **about} for r in b.rows]
        figures.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    print(f"written: {out}, {figures}")


# nnU-Net's worker processes import this file again, under this name.
if __name__ == "__mp_main__" and "BENCH_TIMES" in os.environ:
    bench_segment.time_stages()

if __name__ == "__main__":
    main()
