"""The part ranks of scripts/bench.py: two ranks of one thread, beside two processes that know nothing of
each other, and PyTorch's DistributedDataParallel around nnU-Net's network over Gloo; gradients over a
cable of 1 Gb/s, by a part of scripts/ranks_test.sh.

It runs this file, too, as a rank of PyTorch, with options given as JSON.
"""

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_processes import Once, environment

SMALL = [32, 32, 64]  # voxels: little to compute for many gradients
TINY = [16, 32, 32]  # next to nothing to compute


# ---- PyTorch's side: a rank ----------------------------------------------------------------------


def rank(o):
    """Prints a line of JSON per repeat of a step: its seconds. With "reduce" the step is an
    all-reduce of that many float32."""
    import os

    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import bench
    import torch.distributed

    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{o['port']}", rank=o["rank"], world_size=2
    )
    if "reduce" in o:
        whole = torch.zeros(o["reduce"])
        run = lambda: torch.distributed.all_reduce(whole)
    else:
        net, strides = bench.network(o["network"])
        net = torch.nn.parallel.DistributedDataParallel(net)
        # nnU-Net's weight of the lowest head under DDP, which fails on parameters without gradient.
        run = bench.step(net, strides, {"patch": o["patch"], "lowest": 1e-6})
    for i in range(o["warmup"] + o["repeats"]):
        torch.distributed.barrier()
        start = time.perf_counter()
        run()
        if i >= o["warmup"]:
            found = {"seconds": time.perf_counter() - start, "peak_rss_bytes": bench.peak_rss()}
            print(json.dumps(found), file=answer, flush=True)
    torch.distributed.destroy_process_group()


# ---- the part ----------------------------------------------------------------------------------


def touch_memory():
    """A virtual machine may return free memory to its host, and whoever touches it next waits for it:
    that shall be none of the sides."""
    populate = "-1, 3 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE"
    subprocess.run([sys.executable, "-c", f"import mmap; mmap.mmap({populate})"], check=True)


class Side(Once):
    """Commands that run side by side; each prints a line of JSON per repeat. first: the answer is the
    time from the start to the first line of all of them."""

    def __init__(self, commands, first=False):
        self.commands, self.first = commands, first

    def repeat(self):
        commands = self.commands() if callable(self.commands) else self.commands
        touch_memory()
        start = time.perf_counter()
        logs = [tempfile.TemporaryFile("w+") for _ in commands]
        processes = [
            subprocess.Popen(
                [str(word) for word in c],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(OMP_WAIT_POLICY="passive"),
            )
            for c, log in zip(commands, logs)
        ]
        lines, begun = [], 0
        for p in processes:
            lines.append(p.stdout.readline())
            begun = max(begun, time.perf_counter() - start)
        for i, p in enumerate(processes):
            rest, _ = p.communicate()
            if p.returncode:
                logs[i].seek(0)
                raise SystemExit(
                    f"bench: exit code {p.returncode}: {commands[i]}\n{logs[i].read()}"
                )
            lines[i] += rest
        answers = [json.loads(s) for text in lines for s in text.splitlines() if s.startswith("{")]
        median = lambda key: statistics.median(a.get(key, 0) for a in answers)
        return {
            **{
                k: answers[0][k]
                for k in ("parameters", "torch", "cpu_capability")
                if k in answers[0]
            },
            "seconds": begun if self.first else median("seconds"),
            "comm_seconds": median("comm_seconds"),
            "peak_rss_bytes": max(a["peak_rss_bytes"] for a in answers),
        }


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_ranks(b, size):
    o = size["ranks"]

    def ours(network, patch, *flags, repeats=o["repeats"], warmup=2):
        words = [b.args.lntorch, "bench", "step", "--network", network, "-device", "cpu", "--json"]
        words += ["--threads", 1, "--repeats", repeats, "--warmup", warmup, *flags]
        return words + (["--patch-size", ",".join(map(str, patch))] if patch else [])

    def theirs(repeats=o["repeats"], warmup=2, **options):
        def commands():
            more = {"port": free_port(), "repeats": repeats, "warmup": warmup, **options}
            return [[sys.executable, __file__, json.dumps({"rank": r, **more})] for r in range(2)]

        return commands

    def reach(what, value, limit, form="{:.2f}"):
        missed = "" if value <= limit else ", missed"
        b.notes.append(f"- {what}: {form.format(value)}, reach ≤ {form.format(limit)}{missed}.")

    def memory(found):
        ranks, one, *_ = (max(a["peak_rss_bytes"] for a in all_) for all_ in found.values())
        reach(
            "MiB of a rank at most, by 1.05 of one process and 25 MiB more",
            ranks / 2**20,
            1.05 * one / 2**20 + 25,
            "{:.0f}",
        )

    two, pytorch = ("-num_gpus", 2), "PyTorch's DistributedDataParallel, two ranks"
    mid = dict(network="mid", patch=o["mid"])
    title = "a step of two ranks, mid-size U-Net, 4.1 M parameters"
    found = b.group(
        title,
        {
            "lntorch, two ranks": Side([ours(**mid) + list(two)]),
            "lntorch, two unconnected processes": Side([ours(**mid)] * 2),
            pytorch: Side(theirs(**mid)),
        },
        warmup=0,
        alike=("parameters",),
    )
    step = {who: statistics.median(a["seconds"] for a in all_) for who, all_ in found.items()}
    ranks, apart, ddp = step.values()
    reach("a step of two ranks by one of two unconnected processes", ranks / apart, 1.05)
    reach("by one of DistributedDataParallel", ranks / ddp, 0.6)
    memory(found)

    full = dict(network="full", patch=o["full"])
    numbers = o["numbers"]
    found = b.group(
        f"a step of two ranks, PlainConvUNet, 31 M parameters, patches of {'×'.join(map(str, o['full']))}",
        {
            "lntorch, two ranks": Side([ours(**full) + list(two)]),
            "lntorch, two unconnected processes": Side([ours(**full)] * 2),
            pytorch: Side(theirs(**full)),
            f"PyTorch, the reduction of {numbers * 4 / 1e6:.0f} MB alone": Side(
                theirs(reduce=numbers)
            ),
        },
        warmup=0,
        alike=(),
    )
    memory(found)
    answers = list(found.values())
    waited = statistics.median(a["comm_seconds"] for a in answers[0])
    alone = statistics.median(a["seconds"] for a in answers[3])
    b.notes.append(
        f"- Of a step of the latter {1000 * waited:.0f} ms are waited after the backward pass, by the rank that waits least."
    )
    reach("that wait by the reduction alone", waited / alone, 0.25)

    start = dict(network="mid", patch=TINY, repeats=1, warmup=0)
    found = b.group(
        "from the start to the end of a small first step, mid-size U-Net",
        {
            "lntorch, two ranks": Side([ours(**start) + list(two)], first=True),
            "lntorch, one process": Side([ours(**start)], first=True),
            pytorch: Side(theirs(**start), first=True),
        },
        warmup=0,
        alike=(),
    )
    ranks, one, _ = (statistics.median(a["seconds"] for a in all_) for all_ in found.values())
    reach("seconds that two ranks need longer until the first step is over", ranks - one, 1.0)

    found = over_cable(b.args.lntorch, o["cable"])
    if isinstance(found, str):
        b.notes.append(f"- gradients over a cable of 1 Gb/s were not measured: {found}.")
        return
    b.record(
        f"an iteration's wait for gradients of {found['gradient_bytes'] / 1e6:.3g} MB over a cable of {found['rate']}",
        {
            f"lntorch, two ranks, --compress {c}": [{"seconds": found["wait_ms"][c] / 1000}]
            for c in ("bf16", "off")
        },
    )
    wait, size = found["wait_ms"], found["bytes"]
    reach("wait over a cable with --compress bf16 by that without", wait["bf16"] / wait["off"], 0.6)
    reach("bytes that it sends by those without", size["bf16"] / size["off"], 0.52)


def over_cable(lntorch, part):
    """What a part of scripts/ranks_test.sh has measured between two network namespaces; text: what
    the machine lacks for that."""
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder) / "measured.json"
        run = subprocess.run(
            ["bash", Path(__file__).with_name("ranks_test.sh"), part],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(
                OMP_WAIT_POLICY="passive", LNTORCH=str(lntorch), MEASURED=str(measured)
            ),
        )
        if run.returncode == 77:
            return run.stdout.strip().splitlines()[-1].removeprefix("ranks-test: ")
        if not measured.exists():  # status 1 with a measurement: less than the test asks for
            raise SystemExit(f"bench: exit code {run.returncode}: {part}\n{run.stdout}")
        return json.loads(measured.read_text())


PARTS = {"ranks": run_ranks}
REAL = {
    "ranks": {
        "mid": [32, 96, 96],
        "full": SMALL,
        "numbers": 31_195_594,
        "repeats": 5,
        "cable": "gigabit",
    },
}
QUICK = {
    "ranks": {"mid": TINY, "full": SMALL, "numbers": 1_000_000, "repeats": 2, "cable": "bandwidth"},
}

if __name__ == "__main__":
    sys.path.pop(0)  # scripts/openjpeg.py would be taken for the package of that name
    sys.path.append(__file__.rsplit("/", 1)[0])
    rank(json.loads(sys.argv[1]))
