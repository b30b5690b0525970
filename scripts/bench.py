#!/usr/bin/env python3
"""lntorch beside the Python stack, one repeat of each in turn: the same libtorch, threads and machine. `make bench` runs it.

Writes docs/benchmarks.md. Python is the interpreter that runs this file: the one of `make test-nnunet`, with nnU-Net 2.5.1.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LNTORCH = ROOT / "bin" / "lntorch"
KERNELS = {"mid": [[1, 3, 3]] + [[3] * 3] * 4, "full": [[1, 3, 3]] + [[3] * 3] * 5}
FEATURES = {"mid": [16, 32, 64, 128, 160], "full": [32, 64, 128, 256, 320, 320]}
STRIDES = {"mid": [[1] * 3, [1, 2, 2]] + [[2] * 3] * 3, "full": [[1] * 3, [1, 2, 2]] + [[2] * 3] * 3 + [[1, 2, 2]]}


class Ours:
    """bin/lntorch bench, kept running: a line in, a repeat done."""

    def __init__(self, *args, threads):
        self.process = subprocess.Popen([LNTORCH, "bench", *args, "--threads", str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"bench: {self.process.args} ended with {self.process.wait()}")
        return json.loads(answer)["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Timed:
    """A Python function, timed."""

    def __init__(self, function):
        self.function = function

    def __call__(self):
        start = time.perf_counter()
        self.function()
        return time.perf_counter() - start

    def close(self):
        pass


def network(name):
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from torch import nn
    net = PlainConvUNet(1, len(FEATURES[name]), FEATURES[name], nn.Conv3d, KERNELS[name], STRIDES[name], 2, 2, 2, True, nn.InstanceNorm3d,
                        {"eps": 1e-5, "affine": True}, None, None, nn.LeakyReLU, {"inplace": True}, deep_supervision=True)
    torch.manual_seed(1)
    net.apply(net.initialize)
    return net


def python_step(channels_last=False):
    import numpy as np
    import torch
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    net = network("mid")
    x = torch.randn(2, 1, 32, 96, 96)
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last_3d), x.contiguous(memory_format=torch.channels_last_3d)
    weights = np.array([1 / 2 ** i for i in range(4)])
    weights[-1] = 0
    loss = DeepSupervisionWrapper(DC_and_CE_loss({"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, weight_ce=1, weight_dice=1,
                                                 ignore_label=None, dice_class=MemoryEfficientSoftDiceLoss), weights / weights.sum())
    target = [(torch.rand(2, 1, 32 // z, 96 // y, 96 // y) > 0.9).to(torch.int16) for z, y in ((1, 1), (1, 2), (2, 4), (4, 8))]
    optimizer = torch.optim.SGD(net.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = loss(net(x), target)
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 12)
        optimizer.step()
        value.item()
    return Timed(step)


def checkpoint(path):
    """A checkpoint of the full network with momentum, 238 MiB, as nnU-Net saves it."""
    import torch
    net = network("full")
    optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.99, nesterov=True)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.save({"network_weights": net.state_dict(), "optimizer_state": optimizer.state_dict(), "grad_scaler_state": None, "logging": {}, "_best_ema": None,
                "current_epoch": 1, "init_args": {}, "trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": (0, 1, 2)}, path)


def python_open(path, mmap):
    import torch
    net = network("full")
    return Timed(lambda: net.load_state_dict(torch.load(path, weights_only=True, mmap=mmap)["network_weights"]))


def python_masks():
    """A torch.topk loop over the sparse weights."""
    import torch
    net = network("full")
    torch.manual_seed(2)
    words = ("norm", "bias", "head", "gamma", "seg_layers")
    gradients = [torch.randn_like(p) for n, p in net.named_parameters() if not any(w in n for w in words)]

    def topk():
        for g in gradients:
            torch.topk(g.flatten(1).abs(), 2, dim=1)

    return Timed(topk)


def command(*args):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LNTORCH_CONFIG")}
    environment.update(nnUNet_raw="/tmp", nnUNet_preprocessed="/tmp", nnUNet_results="/tmp")
    return Timed(lambda: subprocess.run(args, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment))


def interleaved(runs, repeats, warmup):
    """Seconds by name, one repeat of each in turn."""
    times = {name: [] for name in runs}
    for i in range(warmup + repeats):
        for name, run in runs.items():
            seconds = run()
            if i >= warmup:
                times[name].append(seconds)
    for run in runs.values():
        run.close()
    return times


def text(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--parts", nargs="*", default=["startup", "masks", "open", "step"])
    parser.add_argument("--out", default=str(ROOT / "docs" / "benchmarks.md"))
    args = parser.parse_args()
    import torch
    torch.set_num_threads(args.threads)
    t = args.threads
    rows = []

    def part(title, runs, warmup=1, note=""):
        if not runs:
            return
        times = interleaved({k: v() for k, v in runs.items()}, args.repeats, warmup)
        ours = statistics.median(times["lntorch"])
        for name, values in times.items():
            median = statistics.median(values)
            ratio = "" if name == "lntorch" else f"{ours / median:.2f}"
            rows.append((title, name, text(median), f"{text(min(values))} – {text(max(values))}", ratio))
            print(" | ".join(rows[-1]), flush=True)

    if "startup" in args.parts:
        train = Path(sys.executable).with_name("nnUNetv2_train")
        part("start-up: `--help`", {"lntorch": lambda: command(LNTORCH, "--help"), "nnUNetv2_train -h": lambda: command(train, "-h")})
    if "masks" in args.parts:
        part("DGST selection, 31 M parameters, k 2", {"lntorch": lambda: Ours("masks", "--network", "full", threads=t), "torch.topk loop": lambda: python_masks()})
    if "open" in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "full.pth")
            checkpoint(path)
            part("checkpoint of 238 MiB into the network, same process", {
                "lntorch": lambda: Ours("open", "--network", "full", "--checkpoint", path, threads=t),
                "torch.load + load_state_dict": lambda: python_open(path, False),
                "the same with mmap=True": lambda: python_open(path, True)})
    if "step" in args.parts:
        part("training step, mid-size network, fp32", {"lntorch": lambda: Ours("step", "--network", "mid", threads=t), "PyTorch eager": python_step,
                                                       "PyTorch eager, channels-last": lambda: python_step(True)}, warmup=2)
        part("DGST training step (gradmask), the same", {"lntorch": lambda: Ours("step", "--network", "mid", "--method", "dgst", threads=t),
                                                         "PyTorch eager, full": python_step}, warmup=2)
    lines = ["# Benchmarks", "", "`make bench` writes this page: lntorch and the Python stack in one run, one repeat of each in turn, the first ones left out. The ratio is",
             "lntorch's median by theirs: below 1 lntorch is faster.", "",
             f"{time.strftime('%Y-%m-%d')}: {platform.processor() or platform.machine()}, {cpu()}, {args.threads} threads, PyTorch {torch.__version__} on both sides, "
             f"kernels {torch.backends.cpu.get_cpu_capability()}, {args.repeats} repeats.", "",
             "| what | who | median | range | ratio |", "| --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(r) + " |" for r in rows]
    lines += ["", "The mid-size network is a PlainConvUNet, patch 32×96×96, batch 2, features 16, 32, 64, 128, 160. It has not been run on a GPU."]
    Path(args.out).write_text("\n".join(lines) + "\n")
    print("written to", args.out)


def cpu():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


if __name__ == "__main__":
    main()
