"""What nnU-Net's ranks compute, under torch.distributed with Gloo: their losses and the gradients
of their logits, before DistributedDataParallel averages them; and how a batch is split.

Golden files and live:  ranks.py --golden DIR [--threads T]

DIR/NAME-nN-wW.npz: logits_K float32 and target_K of the global batch of N rows; losses float32 (W),
grad_K float32 (N, ...), each rank's own in its rows.
DIR/NAME-nN-wW.json: spec, world, rows of each rank, ds_weights, meta.
DIR/weights.json: for 1 to 7 heads the weights of deep supervision.
DIR/split.json: for "N/W" the rows of each rank, 1 where foreground is forced, as nnU-Net's trainer
and loader decide.
"""

import contextlib
import io
import os
import tempfile
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch.distributed as dist
import torch.multiprocessing as mp

import loss
import stack

# (spec of loss.py, rows of the global batch, ranks)
CASES = [
    ("ce-binary-batchdice", 2, 2),
    ("ce-four-batchdice-b3", 4, 2),
    ("ce-four-batchdice-b3", 3, 3),
    ("ce-four", 2, 2),
    ("ce-four", 3, 2),  # uneven: nnU-Net weighs ranks alike
    ("ce-single", 2, 2),
    ("ce-ignore", 2, 2),
    ("ce-ignore-none-valid", 2, 2),
    ("ce-ignore-batchdice-2d", 3, 3),
    ("bce-regions", 3, 3),
    ("bce-regions-batchdice-2d", 3, 3),
    ("bce-ignore", 2, 2),
    ("bce-ignore-batchdice", 4, 2),
]


def trainer(n, world, rank):
    """What nnUNetTrainer._set_batch_size_and_oversample leaves for a rank."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    owner = SimpleNamespace(
        is_ddp=True,
        configuration_manager=SimpleNamespace(batch_size=n),
        oversample_foreground_percent=0.33,
    )
    with (
        mock.patch.object(dist, "get_world_size", lambda: world),
        mock.patch.object(dist, "get_rank", lambda: rank),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        nnUNetTrainer._set_batch_size_and_oversample(owner)
    return owner


def split():
    from nnunetv2.training.dataloading.base_data_loader import nnUNetDataLoaderBase

    out = {}
    for world in range(1, 17):
        for n in range(world, 65):
            ranks = []
            for rank in range(world):
                t = trainer(n, world, rank)
                forced = [
                    nnUNetDataLoaderBase._oversample_last_XX_percent(t, i)
                    for i in range(t.batch_size)
                ]
                ranks.append("".join("1" if f else "0" for f in forced))
            out[f"{n}/{world}"] = " ".join(ranks)
    return out


def weights():
    labels = {"labels": {"background": 0, "node": 1}, "regions_class_order": None}
    out = {}
    for heads in range(1, 8):
        build = stack.build_loss(labels, [[1, 1, 1]] + [[2, 2, 2]] * heads, ddp=True)
        out[str(heads)] = [float(w) for w in build.weight_factors]
    return out


def rank_main(rank, world, store, cases, args):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    stack.start(args)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for spec, n in cases:
        spec = {**spec, "batch": n}
        logits, targets = loss.inputs(spec)
        sizes = [trainer(n, world, r).batch_size for r in range(world)]
        lo = sum(sizes[:rank])
        mine = slice(lo, lo + sizes[rank])
        build = stack.build_loss(spec, spec["strides"], ddp=True)
        leaves = [x[mine].clone().requires_grad_() for x in logits]
        truth = [t[mine] for t in targets]
        deep = spec["deep_supervision"]
        value = build(leaves, truth) if deep else build(leaves[0], truth[0])
        value.backward()
        all_ranks = [None] * world
        grads = [x.grad.numpy() for x in leaves if x.grad is not None]
        dist.all_gather_object(all_ranks, (value.item(), grads))
        if rank != 0:
            continue
        arrays = {"losses": np.array([v for v, _ in all_ranks], np.float32)}
        for k, (x, t) in enumerate(zip(logits, targets)):
            arrays[f"logits_{k}"], arrays[f"target_{k}"] = x.numpy(), t.numpy()
        for k in range(len(all_ranks[0][1])):
            arrays[f"grad_{k}"] = np.concatenate([g[k] for _, g in all_ranks])
        weights = getattr(build, "weight_factors", None)
        name = f"{args.golden}/{spec['name']}-n{n}-w{world}"
        stack.write_npz(name + ".npz", arrays)
        description = {
            "spec": spec,
            "world": world,
            "rows": sizes,
            "ds_weights": None if weights is None else [float(w) for w in weights],
            "meta": stack.meta(args),
        }
        stack.write_json(name + ".json", description)
    dist.barrier()
    os._exit(0)  # threads of autograd and Gloo can hang the end of a forked process


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="DIR", required=True)
    args = p.parse_args()
    stack.start(args)
    specs = {s["name"]: s for s in loss.cases()}
    stack.write_json(f"{args.golden}/split.json", split())
    stack.write_json(f"{args.golden}/weights.json", weights())
    for world in (2, 3):
        cases = [(specs[name], n) for name, n, w in CASES if w == world]
        with tempfile.TemporaryDirectory() as folder:
            mp.start_processes(
                rank_main,
                (world, f"{folder}/store", cases, args),
                nprocs=world,
                start_method="fork",  # nnU-Net is imported once
            )


if __name__ == "__main__":
    main()
