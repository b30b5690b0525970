"""nnU-Net's network and loss in PyTorch's DistributedDataParallel, over Gloo, on the CPU.

    ddp_training.py CASES.json --out DIR --world 2 [--threads 1]

CASES.json is a list of {"name", "spec", "rows", "steps", "method", "lr", "rank", "alpha"}: a network
spec (stack.py), the rows of each rank, and what train_steps.py and dgst.py call full, bias, norm or
strict (DGST with that mode, dynamic), or lora (PEFT's, with its adapters at work).

Parameters are frozen and adapters attached before the network is wrapped: the released trainers do
so afterwards, which fails. DIR/NAME gets the batches (batch_NN_data.npy and so on, all ranks'
rows), start.pth, losses.json (losses: a list per rank), first_gradients.npz (averaged), final.npz
(what trained) and mask.npz (DGST).
"""

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

import dgst
import lora
import stack
import train_steps


class Wrapped(DistributedDataParallel):
    """Lists the parameters under the names of the network inside."""

    def named_parameters(self, *args, **kwargs):
        return self.module.named_parameters(*args, **kwargs)


def build_loss(spec):
    """The loss of nnUNetTrainer in distributed training."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    strides = train_steps.strides_of(spec)
    owner = SimpleNamespace(
        label_manager=stack.label_manager(spec),
        configuration_manager=SimpleNamespace(batch_dice=spec.get("batch_dice", False)),
        is_ddp=True,
        _do_i_compile=lambda: False,
        enable_deep_supervision=spec.get("deep_supervision", True),
        _get_deep_supervision_scales=lambda: stack.ds_scales(strides),
    )
    return nnUNetTrainer._build_loss(owner)


def network_of(case, start):
    network = train_steps.network_for_training(case["spec"], "hash")
    if start:
        torch.save(network.state_dict(), start)
    method = case["method"]
    if method in train_steps.TRAINED:
        for name, p in network.named_parameters():
            p.requires_grad_(train_steps.TRAINED[method](name))
    if method == "lora":
        args = SimpleNamespace(rank=case["rank"], alpha=case["alpha"], dropout=0.0)
        network = lora.executed(lora.wrap(network, args))
        lora.fill_adapters(network)
    return Wrapped(network)


def run(case, rank, world, out):
    steps = case["steps"]
    spec = case["spec"]
    spec["input_shape"][0] = case["rows"] * world
    batches = train_steps.random_batches(spec, steps, 11)
    if rank == 0:
        train_steps.write_batches(out, batches)
    mine = slice(rank * case["rows"], (rank + 1) * case["rows"])
    batches = [(data[mine], [t[mine] for t in targets]) for data, targets in batches]
    network = network_of(case, out / "start.pth" if rank == 0 else None)
    loss = build_loss(spec)
    args = SimpleNamespace(
        lr=case["lr"],
        weight_decay=3e-5,
        momentum=0.99,
        clip=12.0,
        check=False,
        per_step=False,
        steps=None,
        trained=case["method"],
        seed=0,
    )
    masks = {}
    if case["method"] == "strict":
        report, masks, first = dgst.train(
            network, loss, batches, None, args, "strict", "dynamic", 2, args.lr
        )
    else:
        report, first = train_steps.train(network, loss, batches, args)
    each = [None] * world
    torch.distributed.all_gather_object(each, report["losses"])
    if rank == 0:
        stack.write_json(
            out / "losses.json", {"losses": each, "norms": report["grad_norms_before_clip"]}
        )
        stack.write_npz(out / "first_gradients.npz", {lora.plain(n): g for n, g in first.items()})
        final = {n: p.detach().numpy() for n, p in network.named_parameters() if p.requires_grad}
        stack.write_npz(out / "final.npz", {lora.plain(n): v for n, v in final.items()})
        if masks:
            stack.write_npz(out / "mask.npz", masks)


def ranked(rank, world, port, cases, args):
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    for case in cases:
        stack.start(args)
        run(case, rank, world, Path(args.out) / case["name"])
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main():
    p = stack.parser(__doc__.splitlines()[0], threads=1)
    p.add_argument("cases")
    p.add_argument("--out", required=True)
    p.add_argument("--world", type=int, default=2)
    args = p.parse_args()
    cases = json.loads(Path(args.cases).read_text())
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.set_num_threads(1)  # before the processes part: no thread of this one is left behind
    torch.multiprocessing.start_processes(
        ranked, (args.world, port, cases, args), args.world, start_method="fork"
    )


if __name__ == "__main__":
    main()
