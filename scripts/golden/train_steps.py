"""Complete training steps as in nnUNetTrainer.train_step, on the CPU in fp32.

Golden files:  train_steps.py --golden testdata/golden/train
Live:
    train_steps.py --out DIR (--spec SPEC.json | --plans P --dataset-json D --configuration C)
                   [--weights hash|FILE.pth] [--batches DIR | --make-batches N [--batches-out DIR]]
                   [--lr 0.01] [--clip 12] [--trained full|bias|norm|head] [--double] [--per-step]
                   [--accumulate N] [--check]

Step i of N: lr * (1 - i/N)^0.9, zero_grad, forward (train mode, deep supervision), nnUNetTrainer's
own loss, backward, torch.nn.utils.clip_grad_norm_(all parameters, clip), torch.optim.SGD(momentum
0.99, nesterov, weight decay 3e-5).
Batches: batch_NN_data.npy float32 and batch_NN_target_K.npy (labels int16 (n,1,...), regions bool
(n,regions[+ignore],...)).

DIR gets losses.json (losses, grad_norms_before_clip, lrs, ds_weights, spec, meta),
first_gradients.npz (NAME, step 0, before clipping), final.pth (state dict), and with --per-step
step_NN.npz (param/NAME, grad/NAME after clipping, buf/NAME) after each step.
--accumulate N: a step takes N batches; its gradient is the mean of theirs.
--check repeats every step with nnUNetTrainer.train_step itself and fails on any bit that differs
(clip 12 only).
"""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import networks
import stack

TRAINED = {  # trained parameters; all others have requires_grad False
    "full": lambda name: True,
    "bias": lambda name: "bias" in name or "seg_layers" in name,
    "norm": lambda name: "norm" in name or "seg_layers" in name,
    "head": lambda name: "seg_layers" in name,
}


def add_network_options(p):
    """The options that specify a network and its batches; also used by dgst.py."""
    p.add_argument("--out", help="folder to write")
    p.add_argument("--golden", metavar="DIR", help="write the golden files to DIR instead")
    p.add_argument("--spec", help="network spec, see stack.py")
    p.add_argument("--plans", help="plans.json instead of --spec")
    p.add_argument("--dataset-json")
    p.add_argument("--configuration", default="3d_phantom")
    p.add_argument("--weights", default="hash", help="'hash', a checkpoint or a state dict")
    p.add_argument("--batches", help="folder of batch_NN_*.npy")
    p.add_argument(
        "--make-batches", type=int, metavar="N", help="random batches instead of --batches"
    )
    p.add_argument("--batches-out", help="folder to which --make-batches writes them")
    p.add_argument("--momentum", type=float, default=0.99)
    p.add_argument("--weight-decay", type=float, default=3e-5)
    p.add_argument("--clip", type=float, default=12.0)
    p.add_argument(
        "--steps",
        type=int,
        help="stop after this many batches; the schedule still counts all of them",
    )


def load_spec(args):
    if args.spec:
        return stack.read_spec(args.spec)
    return stack.plans_spec(args.plans, args.dataset_json, args.configuration)


def strides_of(spec):
    """Strides of the encoder's stages; None for a network without deep supervision of its own."""
    return None if "swin" in spec else spec["architecture"]["arch_kwargs"]["strides"]


def random_batches(spec, count, seed):
    rng = np.random.default_rng(seed)
    shape = spec["input_shape"]
    batches = []
    for _ in range(count):
        targets = stack.make_targets(spec, strides_of(spec), (shape[0], *shape[2:]), rng)
        signal = targets[0].float().amax(1, keepdim=True).numpy()
        data = (np.round((rng.standard_normal(shape) + signal) * 8) / 8).astype(
            np.float32
        )  # multiples of 1/8, which compress well
        batches.append((torch.from_numpy(data), targets))
    return batches


def write_batches(folder, batches):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i, (data, targets) in enumerate(batches):
        np.save(folder / f"batch_{i:02d}_data.npy", data.numpy())
        for k, t in enumerate(targets):
            np.save(folder / f"batch_{i:02d}_target_{k}.npy", t.numpy())


def read_batches(folder):
    folder = Path(folder)
    batches = []
    while (folder / f"batch_{len(batches):02d}_data.npy").is_file():
        stem = f"batch_{len(batches):02d}"
        levels = len(list(folder.glob(f"{stem}_target_*.npy")))
        targets = [
            torch.from_numpy(np.load(folder / f"{stem}_target_{k}.npy")) for k in range(levels)
        ]
        batches.append((torch.from_numpy(np.load(folder / f"{stem}_data.npy")), targets))
    if not batches:
        raise SystemExit(f"{folder}: no batch_00_data.npy")
    return batches


def load_batches(args, spec):
    if args.batches:
        return read_batches(args.batches)
    if not args.make_batches:
        raise SystemExit("give --batches or --make-batches")
    batches = random_batches(spec, args.make_batches, args.seed)
    if args.batches_out:
        write_batches(args.batches_out, batches)
    return batches


def network_for_training(spec, weights):
    network = stack.build(spec)
    stack.load_weights(network, weights)
    network.train()
    return network


def loss_of(loss, network, data, targets):
    """A single tensor goes to the loss without a list, as in trainers without deep supervision."""
    output = network(data)
    return loss(output, targets if isinstance(output, (list, tuple)) else targets[0])


def poly_lr(lr, step, steps):
    return lr * (1 - step / steps) ** 0.9


def gradients(network):
    return {n: p.grad.detach().clone() for n, p in network.named_parameters() if p.grad is not None}


def reference_step(network, optimizer, loss, data, targets):
    """The step by nnUNetTrainer.train_step; returns its loss."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    owner = SimpleNamespace(
        device=torch.device("cpu"),
        optimizer=optimizer,
        network=network,
        loss=loss,
        grad_scaler=None,
    )
    decoder = getattr(network, "decoder", None)  # SwinUNETR has none, and one output
    target = targets if decoder is not None and decoder.deep_supervision else targets[0]
    return float(nnUNetTrainer.train_step(owner, {"data": data, "target": target})["loss"])


def samples(network):
    """A few values of every parameter: the L2 norm and 4 elements."""
    out = {}
    for n, p in network.named_parameters():
        flat = p.detach().numpy().ravel()
        at = sorted({int(i) for i in np.linspace(0, flat.size - 1, 4)})
        out[n] = {
            "l2": float(np.sqrt((flat.astype(np.float64) ** 2).sum())),
            "at": at,
            "values": [float(flat[i]) for i in at],
        }
    return out


def sgd(network, args):
    return torch.optim.SGD(
        network.parameters(),
        args.lr,
        weight_decay=args.weight_decay,
        momentum=args.momentum,
        nesterov=True,
    )


def train(network, loss, batches, args, out=None):
    """Runs the steps on the network; returns (report, first gradients). Files of --per-step go to
    out."""
    optimizer = sgd(network, args)
    if args.check:
        twin = copy.deepcopy(network)
        twin_optimizer = sgd(twin, args)
    losses, norms, lrs, first = [], [], [], {}
    each = getattr(args, "accumulate", 1)
    for i in range(len(batches[: args.steps]) // each):
        lr = poly_lr(args.lr, i, len(batches) // each)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        value = 0.0
        for data, targets in batches[i * each : (i + 1) * each]:
            part = loss_of(loss, network, data, targets) / each
            part.backward()
            value = value + part.detach()
        if i == 0:
            first = {n: g.numpy() for n, g in gradients(network).items()}
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), args.clip)
        optimizer.step()
        losses.append(value.item())
        norms.append(norm.item())
        lrs.append(lr)
        if args.per_step:
            arrays = {"param/" + n: q.detach().numpy() for n, q in network.named_parameters()}
            arrays |= {"grad/" + n: g.numpy() for n, g in gradients(network).items()}
            arrays |= {
                "buf/" + n: optimizer.state[q]["momentum_buffer"].numpy()
                for n, q in network.named_parameters()
                if q in optimizer.state
            }
            stack.write_npz(out / f"step_{i:02d}.npz", arrays)
        if args.check:
            for group in twin_optimizer.param_groups:
                group["lr"] = lr
            other = reference_step(twin, twin_optimizer, loss, data, targets)
            if other != losses[-1]:
                raise SystemExit(
                    f"step {i}: loss {losses[-1]!r}, nnUNetTrainer.train_step {other!r}"
                )
            for (n, a), b in zip(network.named_parameters(), twin.parameters()):
                if not torch.equal(a, b):
                    raise SystemExit(f"step {i}: {n} differs from nnUNetTrainer.train_step")
    weights = getattr(loss, "weight_factors", None)
    return {
        "losses": losses,
        "grad_norms_before_clip": norms,
        "lrs": lrs,
        "ds_weights": None if weights is None else [float(w) for w in weights],
        "trained": args.trained,
        "lr": args.lr,
        "clip": args.clip,
    }, first


def golden(folder, args):
    """Steps of every case of networks/, with clip 12 and with a clip that takes effect.

    Four steps, or the number in the case's "steps"; hash-filled weights, batches stored.

    NAME.npz: batch_NN/data, batch_NN/target_K. NAME.json: spec, runs (one per clip), meta.
    """
    for spec in networks.training():
        batches = random_batches(spec, spec.get("steps", 4), args.seed)
        arrays = {}
        for i, (data, targets) in enumerate(batches):
            arrays[f"batch_{i:02d}/data"] = data.numpy()
            arrays |= {f"batch_{i:02d}/target_{k}": t.numpy() for k, t in enumerate(targets)}
        runs = []
        for args.clip in (12.0, 0.25):
            args.check = args.clip == 12.0
            net = network_for_training(spec, "hash")
            report, first = train(net, stack.build_loss(spec, strides_of(spec)), batches, args)
            first_l2 = {n: float(np.linalg.norm(g.astype(np.float64))) for n, g in first.items()}
            runs.append({**report, "first_gradient_l2": first_l2, "final": samples(net)})
        stack.write_npz(f"{folder}/{spec['name']}.npz", arrays)
        stack.write_json(
            f"{folder}/{spec['name']}.json", {"spec": spec, "runs": runs, "meta": stack.meta(args)}
        )
        print(spec["name"], runs[0]["losses"], runs[0]["grad_norms_before_clip"])


def main():
    p = stack.parser(__doc__.splitlines()[0])
    add_network_options(p)
    p.add_argument("--lr", type=float, default=1e-2)
    p.add_argument("--trained", choices=sorted(TRAINED), default="full")
    p.add_argument("--double", action="store_true", help="float64, to judge rounding")
    p.add_argument("--per-step", action="store_true")
    p.add_argument("--accumulate", type=int, default=1, metavar="N", help="batches of a step")
    p.add_argument("--check", action="store_true")
    args = p.parse_args()
    stack.start(args)
    if args.golden:
        golden(args.golden, args)
        return
    if not args.out:
        p.error("give --golden or --out")
    spec = load_spec(args)
    batches = load_batches(args, spec)
    network = network_for_training(spec, args.weights)
    if args.double:
        network.double()
        batches = [(d.double(), t) for d, t in batches]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(TRAINED[args.trained](name))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    report, first = train(network, stack.build_loss(spec, strides_of(spec)), batches, args, out)
    stack.write_npz(out / "first_gradients.npz", first)
    torch.save(network.state_dict(), out / "final.pth")
    stack.write_json(out / "losses.json", {**report, "spec": spec, "meta": stack.meta(args)})
    print(json.dumps({k: report[k] for k in ("losses", "grad_norms_before_clip")}))


if __name__ == "__main__":
    main()
