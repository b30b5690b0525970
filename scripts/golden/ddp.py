"""Steps of data-parallel trainings with PyTorch's DistributedDataParallel over Gloo, one process
for each rank, and the averaged gradients of each step.

Live: ddp.py CASES, a JSON list of {"net": "small" or "large", "world": N,
"steps": N, "accumulate": N, "hook": null, "fp16" or "bf16", "gather": bool, "views": bool}. Prints,
for each case, {"gradients": [a CRC32 for each step], "loss": [rank 0's loss in each step]}.

small: two layers; with gather the loss is a ratio of sums over the ranks, by nnU-Net's
AllGatherGrad. large: 30 million parameters, whose gradients are plain numbers.
"""

import contextlib
import json
import os
import socket
import sys
import zlib

import numpy as np
import torch
import torch.distributed as dist
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

LARGE = [3_000_000, 1_000, 7_000_001, 100_000, 1, 12_000_000, 64, 5_000_000, 2_900_000, 333]


def numbers(seed, *shape):
    n = int(np.prod(shape))
    with np.errstate(over="ignore"):
        start = np.uint32(seed) * np.uint32(40503)
        bits = np.arange(n, dtype=np.uint32) * np.uint32(2654435761) + start
    return torch.from_numpy((bits / 2.0**32 - 0.5).astype(np.float32).reshape(shape))


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = torch.nn.Parameter(numbers(1, 33, 17))
        self.b1 = torch.nn.Parameter(numbers(2, 33))
        self.w2 = torch.nn.Parameter(numbers(3, 5, 33))
        self.b2 = torch.nn.Parameter(numbers(4, 5))

    def forward(self, x):
        h = torch.relu(torch.nn.functional.linear(x, self.w1, self.b1))
        return torch.nn.functional.linear(h, self.w2, self.b2)


class Large(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.p = torch.nn.ParameterList([numbers(i, n) for i, n in enumerate(LARGE)])

    def forward(self, factors):
        loss = torch.zeros(())
        for p, f in zip(self.p, factors):
            loss = loss + (p * f).sum()
        return loss


def run(case, rank, port):
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, case["world"], rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=case["world"])
    net = Small() if case["net"] == "small" else Large()
    ddp = torch.nn.parallel.DistributedDataParallel(
        net, gradient_as_bucket_view=case.get("views", False)
    )
    hooks = {"fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}
    if case.get("hook"):
        ddp.register_comm_hook(None, hooks[case["hook"]])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, foreach=False)
    out = {"gradients": [], "loss": []}
    micro = case.get("accumulate", 1)
    for step in range(case["steps"]):
        optimizer.zero_grad(set_to_none=True)
        for m in range(micro):
            seed = 1000 * (step + 1) + 100 * m + 10 * rank
            with ddp.no_sync() if m + 1 < micro else contextlib.nullcontext():
                if case["net"] == "large":
                    loss = ddp([numbers(seed + i, n) for i, n in enumerate(LARGE)])
                else:
                    y = ddp(numbers(seed, 8, 17)) * numbers(seed + 1, 8, 5)
                    loss = (y * y).mean()
                    if case.get("gather"):
                        weights = numbers(7, case["world"], 5)
                        top = (AllGatherGrad.apply(y.sum(0)) * weights).sum(0)
                        bottom = AllGatherGrad.apply((y * y).sum(0)).sum(0)
                        loss = loss + (top / (bottom + 1)).mean()
                (loss / micro).backward()
        crc = 0
        for p in net.parameters():
            crc = zlib.crc32(p.grad.numpy(), crc)
        out["gradients"].append(crc)
        out["loss"].append(loss.item())
        optimizer.step()
    dist.barrier()
    if rank == 0:
        print(json.dumps(out), flush=True)


for case in json.loads(sys.argv[1]):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    children = []
    for rank in range(case["world"]):
        child = os.fork()
        if child == 0:
            run(case, rank, port)
            os._exit(0)
        children.append(child)
    for child in children:
        if os.waitpid(child, 0)[1] != 0:
            sys.exit("a rank of %s failed" % case)
