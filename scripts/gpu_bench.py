#!/usr/bin/env python3
"""Compares a training step of lntorch on a GPU with plain PyTorch.

PyTorch runs eager, with torch.compile, and eager in channels-last order.

Needs only Python with torch; the networks below are the two that nnU-Net plans, with its loss and
its step. Each row of the table is a separate process, one after the other, so that each has the GPU
to itself: it prepares its work, then repeats it on request. Both sides must have as many
parameters, or the run stops. A row that does not fit into --budget is skipped and marked on the
page.

scripts/gpu-check.sh runs it. Writes a page for docs/benchmarks.md and the figures as JSON, and
rewrites both after each row.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The networks of cmd/lntorch/bench.go: features, first kernel, strides, patch, residual blocks of
# each stage (None: plain), blocks of a decoder stage.
NETWORKS = {
    "full": ([32, 64, 128, 256, 320, 320], (3, 3, 3), [1, 2, 2, 2, 2, 2], (64, 128, 128), None, 2),
    "resenc": (
        [32, 64, 128, 256, 320, 320],
        (3, 3, 3),
        [1, 2, 2, 2, 2, (1, 1, 2)],
        (80, 112, 224),
        [1, 3, 4, 6, 6, 6],
        1,
    ),
    "phantom": ([8, 16, 32, 64], (1, 3, 3), [1, (1, 2, 2), 2, 2], (16, 48, 48), None, 2),
}
NAMES = {"full": "nnU-Net", "resenc": "ResEnc L", "phantom": "the test data's network"}
VARIANTS = {
    "eager": "PyTorch eager",
    "compile": "torch.compile",
    "last": "PyTorch eager, channels-last",
}


# ---- the Python side -------------------------------------------------------------------------------------------------


def triple(n):
    return (n,) * 3 if isinstance(n, int) else tuple(n)


def build(name):
    """The network, in PyTorch's modules: a U-Net whose encoder strides instead of pooling, and a
    head for each decoder stage."""
    import torch
    from torch import nn

    features, first, strides, _, residual, decoder_blocks = NETWORKS[name]
    strides = [triple(s) for s in strides]
    kernels = [first] + [(3, 3, 3)] * (len(features) - 1)

    def norm(n):
        return nn.InstanceNorm3d(n, eps=1e-5, affine=True)

    def conv(a, b, kernel, stride=1, bias=True):
        return nn.Conv3d(a, b, kernel, stride, [k // 2 for k in kernel], bias=bias)

    def block(a, b, kernel, stride=1):
        return nn.Sequential(conv(a, b, kernel, stride), norm(b), nn.LeakyReLU(0.01, inplace=True))

    class Residual(nn.Module):
        def __init__(self, a, b, kernel, stride):
            super().__init__()
            self.one, self.two = (
                block(a, b, kernel, stride),
                nn.Sequential(conv(b, b, kernel), norm(b)),
            )
            short = []
            if any(s != 1 for s in triple(stride)):
                short.append(nn.AvgPool3d(stride, stride))
            if a != b:
                short += [conv(a, b, (1, 1, 1), bias=False), norm(b)]
            self.short, self.last = nn.Sequential(*short), nn.LeakyReLU(0.01, inplace=True)

        def forward(self, x):
            return self.last(self.two(self.one(x)) + self.short(x))

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = block(1, features[0], kernels[0]) if residual else nn.Identity()
            self.down, self.up, self.join, self.head = (
                nn.ModuleList(),
                nn.ModuleList(),
                nn.ModuleList(),
                nn.ModuleList(),
            )
            before = features[0] if residual else 1
            for i, f in enumerate(features):
                blocks = []
                for k in range(residual[i] if residual else 2):
                    make = Residual if residual else block
                    blocks.append(make(before, f, kernels[i], strides[i] if k == 0 else 1))
                    before = f
                self.down.append(nn.Sequential(*blocks))
            for i in reversed(range(len(features) - 1)):
                f, s = features[i], strides[i + 1]
                self.up.append(nn.ConvTranspose3d(features[i + 1], f, s, s))
                self.join.append(
                    nn.Sequential(
                        *(
                            block(2 * f if k == 0 else f, f, kernels[i])
                            for k in range(decoder_blocks)
                        )
                    )
                )
                self.head.append(nn.Conv3d(f, 2, 1))

        def forward(self, x):
            x = self.stem(x)
            skips = []
            for stage in self.down:
                x = stage(x)
                skips.append(x)
            heads = []
            for up, join, head, skip in zip(self.up, self.join, self.head, skips[-2::-1]):
                x = join(torch.cat((up(x), skip), 1))
                heads.append(head(x))
            return heads[::-1]

    torch.manual_seed(1)
    net = UNet()
    for m in net.modules():
        if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(m.weight, a=0.01)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return net, strides


def dice_ce(x, y):
    """Cross-entropy and soft Dice of one head: x (n, 2, …) logits, y (n, 1, …) labels."""
    import torch
    from torch.nn import functional

    labels = y.long()
    axes = tuple(range(2, x.dim()))
    with torch.no_grad():
        onehot = torch.zeros(x.shape, device=x.device, dtype=torch.bool)
        onehot.scatter_(1, labels, 1)
        onehot = onehot[:, 1:]
        truth = onehot.sum(axes)
    p = functional.softmax(x, 1)[:, 1:]
    dice = (2 * (p * onehot).sum(axes) + 1e-5) / torch.clip(truth + p.sum(axes) + 1e-5, 1e-8)
    return functional.cross_entropy(x, labels[:, 0]) - dice.mean()


def worker(o):
    """Prepares a training step and repeats it for each line of standard input. o: network, patch,
    amp, variant, device, steps, threads."""
    import torch

    if o["threads"]:
        torch.set_num_threads(o["threads"])
    device = torch.device(o["device"])
    cuda = device.type == "cuda"
    torch.backends.cudnn.benchmark = True
    net, strides = build(o["network"])
    net = net.to(device)
    count = sum(p.numel() for p in net.parameters())
    x = torch.randn(2, 1, *o["patch"], device=device)
    if o["variant"] == "last":
        net, x = (
            net.to(memory_format=torch.channels_last_3d),
            x.contiguous(memory_format=torch.channels_last_3d),
        )
    targets, size = [], list(o["patch"])
    for stride in strides[:-1]:
        size = [n // s for n, s in zip(size, stride)]
        targets.append((torch.randn(2, 1, *size, device=device) > 1.28).to(torch.int16))
    weights = [0.5**i for i in range(len(targets) - 1)]  # the lowest resolution has weight 0
    weights = [w / sum(weights) for w in weights]
    params = list(net.parameters())
    optimizer = torch.optim.SGD(params, 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
    run_net = torch.compile(net) if o["variant"] == "compile" else net
    mixed = contextlib.nullcontext
    if o["amp"] != "off":
        mixed = lambda: torch.autocast(
            device.type, dtype={"fp16": torch.float16, "bf16": torch.bfloat16}[o["amp"]]
        )
    scaler = torch.amp.GradScaler(device.type) if o["amp"] == "fp16" else None

    def step():
        optimizer.zero_grad(set_to_none=True)
        with mixed():
            heads = run_net(x)
            value = sum(w * dice_ce(h, y) for w, h, y in zip(weights, heads, targets))
        if scaler:
            scaler.scale(value).backward()
            scaler.unscale_(optimizer)
        else:
            value.backward()
        torch.nn.utils.clip_grad_norm_(params, 12)
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        return float(value.detach())

    say = lambda **what: print(json.dumps(what), flush=True)
    say(
        ready=True,
        parameters=count,
        torch=torch.__version__,
        card=torch.cuda.get_device_name(device) if cuda else "none",
        cudnn=torch.backends.cudnn.version() if cuda else None,
    )
    for _ in sys.stdin:
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for _ in range(o["steps"]):
            loss = step()
        if cuda:
            torch.cuda.synchronize()
        say(
            seconds=(time.perf_counter() - start) / o["steps"],
            loss=loss,
            parameters=count,
            device_peak_bytes=torch.cuda.max_memory_allocated() if cuda else 0,
        )


# ---- the comparison --------------------------------------------------------------------------------------------------


class Failed(Exception):
    pass


def measure(command, o, env):
    """Runs a worker through its warm-up and repeats; returns its description of itself and its
    repeats."""
    log = open(o.out.with_suffix(".log"), "a")
    print("$ " + " ".join(map(str, command)), file=log, flush=True)
    p = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=env,
        cwd=ROOT,
    )
    try:
        about = json.loads(p.stdout.readline() or "null")
        lines = []
        for i in range(o.warmup + o.repeats):
            if about is None:
                break
            p.stdin.write("\n")
            p.stdin.flush()
            line = p.stdout.readline()
            if not line:
                break
            if i >= o.warmup:
                lines.append(json.loads(line))
        p.stdin.close()
    except (BrokenPipeError, ValueError):
        lines = []
    if p.wait() != 0 or len(lines) != o.repeats:
        raise Failed(f"exit status {p.returncode}; see {log.name}")
    for line in lines:
        if not abs(line["loss"]) < 100:
            raise Failed(f"loss is {line['loss']}")
    return about, lines


def text(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def page(rows, about, o):
    lines = [
        f"- {about.get('date')}, `scripts/gpu_bench.py`, {o.repeats} repeats of {o.steps} steps after {o.warmup} left out, each row a process of its own",
        f"- {about.get('card', 'no card')}; torch {about.get('torch', '?')}, cuDNN {about.get('cudnn')}; driver {about.get('driver')}; {about.get('kernels')}",
        "",
        "| what | who | median | least | most | ratio | peak memory | ratio |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['what']} | {row['who']} | {row['failed']} | | | | | |")
            continue
        ours = next(
            (
                r
                for r in rows
                if r["what"] == row["what"] and r["who"] == "lntorch" and "median" in r
            ),
            None,
        )
        ratio = memory = ""
        if ours and ours is not row:
            ratio = f"{ours['median'] / row['median']:.2f}"
            memory = f"{ours['peak'] / row['peak']:.2f}" if row["peak"] and ours["peak"] else ""
        peak = f"{row['peak'] / 2**20:.0f} MiB" if row["peak"] else ""
        lines.append(
            f"| {row['what']} | {row['who']} | {text(row['median'])} | {text(row['least'])} | {text(row['most'])} | {ratio} | "
            f"{peak} | {memory} |"
        )
    lines += [
        "",
        "A ratio is lntorch's figure by this row's: below 1 lntorch is faster, or smaller. Peak memory is that of tensors on the card.",
    ]
    return "\n".join(lines) + "\n"


def driver():
    try:
        run = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
        )
        return run.stdout.strip() or "?"
    except OSError:
        return "none"


def compare(o):
    o.out = o.out.resolve()
    o.out.parent.mkdir(parents=True, exist_ok=True)
    o.out.with_suffix(".log").write_text("")
    kernels = (ROOT / "build/lib/liblntorch_cuda.so").exists()
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "driver": driver(),
        "kernels": "lntorch's CUDA kernels" if kernels else "without lntorch's CUDA kernels",
    }
    rows, started, failures = [], time.monotonic(), 0
    env = dict(
        os.environ, LNTORCH_LIB=os.environ.get("LNTORCH_LIB", str(ROOT / "build/lib/liblntorch.so"))
    )
    for network in o.networks:
        patch = o.patch or NETWORKS[network][3]
        for amp in o.amp:
            what = f"training step, {NAMES[network]}, {'×'.join(map(str, patch))}, batch 2, {'fp32' if amp == 'off' else amp}"
            counts = {}
            for who in ["lntorch"] + o.variants:
                name = VARIANTS.get(who, who)
                if who == "lntorch":
                    command = [
                        o.lntorch,
                        "bench",
                        "step",
                        "--network",
                        network,
                        "--patch-size",
                        ",".join(map(str, patch)),
                        "--amp",
                        amp,
                        "--device",
                        o.device,
                        "--steps",
                        str(o.steps),
                        "--serve",
                    ] + (["--threads", str(o.threads)] if o.threads else [])
                else:
                    command = [
                        sys.executable,
                        __file__,
                        "--worker",
                        json.dumps(
                            {
                                "network": network,
                                "patch": patch,
                                "amp": amp,
                                "variant": who,
                                "device": o.device,
                                "steps": o.steps,
                                "threads": o.threads,
                            }
                        ),
                    ]
                row = {"what": what, "who": name}
                rows.append(row)
                if time.monotonic() - started > o.budget:
                    row["failed"] = "not run: no time was left"
                    continue
                try:
                    said, repeats = measure(command, o, env)
                    seconds = [r["seconds"] for r in repeats]
                    row |= {
                        "median": statistics.median(seconds),
                        "least": min(seconds),
                        "most": max(seconds),
                        "seconds": seconds,
                        "peak": max(r["device_peak_bytes"] for r in repeats),
                    }
                    counts[name] = repeats[0]["parameters"]
                    about |= {
                        k: said[k]
                        for k in ("card", "cudnn", "torch")
                        if said.get(k) and who != "lntorch"
                    }
                except Failed as err:
                    row["failed"], failures = f"failed: {err}", failures + 1
                print(
                    f"{what}: {name}: {row.get('failed') or text(row['median'])}",
                    file=sys.stderr,
                    flush=True,
                )
                o.out.with_suffix(".json").write_text(
                    json.dumps({"about": about, "rows": rows}, indent=1)
                )
                o.out.write_text(page(rows, about, o))
            if len(set(counts.values())) > 1:
                sys.exit(f"gpu_bench: the networks differ in their number of parameters: {counts}")
    o.out.write_text(page(rows, about, o))
    print(o.out.read_text())
    return 1 if failures else 0


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--device", default="cuda")
    p.add_argument("--networks", nargs="+", choices=NETWORKS, default=["full", "resenc"])
    p.add_argument(
        "--patch",
        type=lambda s: [int(n) for n in s.split(",")],
        help="z,y,x for all networks, instead of their own",
    )
    p.add_argument("--amp", nargs="+", choices=["off", "fp16", "bf16"], default=["fp16", "bf16"])
    p.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--steps", type=int, default=10, help="steps per repeat")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument(
        "--budget",
        type=float,
        default=float("inf"),
        help="seconds after which no further row is started",
    )
    p.add_argument("--lntorch", default=str(ROOT / "bin/lntorch"))
    p.add_argument("--out", type=Path, default=ROOT / "build/gpu_bench.md")
    p.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    o = p.parse_args()
    if o.worker:
        return worker(o.worker)
    return compare(o)


if __name__ == "__main__":
    sys.exit(main())
