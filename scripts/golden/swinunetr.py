"""MONAI's SwinUNETR and SwinUNETRv2: output, gradients, ten steps, initial values, names.

Golden files:  swinunetr.py --golden testdata/golden/swinunetr
Live:          swinunetr.py --init SEED --spec SPEC.json --out OUT.npz
               the values that MONAI draws after manual_seed(SEED)
               network.py and train_steps.py also take its specs.

The smallest of these networks has millions of parameters, so a golden file holds samples: the L2
norm, largest magnitude and a few elements of every array. Weights, inputs and batches are the hash
fill (batch i: data p = -1000-i; label 1 where p = -2000-i is positive on a grid of 8 voxels).

NAME.json: spec, head, loss, gradients, initial (seed 7), state_dict, named_parameters, metadata,
and in some steps.
"""

from types import SimpleNamespace

import numpy as np
import torch

import stack
import train_steps

SEED, STEPS, COARSE = 7, 10, 8


def spec(name, network, feature_size, channels, classes, shape, steps=False):
    labels = {"background": 0, **{f"class {i}": i for i in range(1, classes)}}
    return {
        "name": name,
        "swin": {"class": network, "feature_size": feature_size},
        "input_channels": channels,
        "num_classes": classes,
        "input_shape": [shape[0], channels, *shape[1:]],
        "deep_supervision": False,
        "mode": "train",
        "labels": labels,
        "batch_dice": False,
        "steps": steps,
    }


def cases():
    return [
        # Windows that need padding and that shrink, axes with and without shift. The deepest norms
        # see at least four voxels: with two they give plus and minus one, and rounding decides
        # which.
        spec("3d", "SwinUNETR", 12, 1, 2, [1, 32, 96, 96], steps=True),
        spec("v2", "SwinUNETRv2", 12, 1, 2, [1, 96, 32, 96], steps=True),
        spec(
            "channels", "SwinUNETR", 12, 12, 3, [2, 64, 32, 64]
        ),  # equal numbers of channels and features: no projection
        spec(
            "2d", "SwinUNETR", 12, 2, 3, [2, 224, 64], steps=True
        ),  # 112, 56, 28, 14 tokens: whole windows
    ]


def sample(array, count=6):
    flat = np.asarray(array).ravel()
    at = sorted({int(i) for i in np.linspace(0, flat.size - 1, count)})
    return {
        "l2": float(np.sqrt((flat.astype(np.float64) ** 2).sum())),
        "max": float(np.abs(flat).max()),
        "at": at,
        "values": [float(flat[i]) for i in at],
    }


def initial(spec, seed):
    torch.manual_seed(seed)
    return {n: p.detach().numpy() for n, p in stack.build(spec).named_parameters()}


def metadata(network):
    return [[path, entry["version"]] for path, entry in network.state_dict()._metadata.items()]


def hash_batches(spec):
    shape = spec["input_shape"]
    batches = []
    for i in range(STEPS):
        coarse = [shape[0], 1, *[n // COARSE for n in shape[2:]]]
        target = stack.hash_tensor(-2000 - i, tuple(coarse)) > 0
        for axis in range(2, len(shape)):
            target = target.repeat_interleave(COARSE, axis)
        batches.append((stack.hash_tensor(-1000 - i, tuple(shape)), [target.to(torch.int16)]))
    return batches


def steps(spec):
    network = train_steps.network_for_training(spec, "hash")
    args = SimpleNamespace(
        lr=1e-2,
        momentum=0.99,
        weight_decay=3e-5,
        clip=12.0,
        steps=None,
        check=True,
        per_step=False,
        trained="full",
    )
    report, _ = train_steps.train(network, stack.build_loss(spec, None), hash_batches(spec), args)
    return {
        **report,
        "final": {n: sample(p.detach().numpy()) for n, p in network.named_parameters()},
    }


def golden(folder, args):
    for s in cases():
        network = stack.build(s)
        stack.load_weights(network, "hash")
        output = network(stack.hash_tensor(-1, tuple(s["input_shape"])))
        loss = (output * stack.hash_tensor(-2, tuple(output.shape))).mean()
        loss.backward()
        value = {
            "meta": stack.meta(args, monai=stack.versions("monai")["monai"]),
            "spec": s,
            "head": {"shape": list(output.shape), **sample(output.detach().numpy(), 64)},
            "loss": float(loss),
            "gradients": {n: sample(p.grad.numpy()) for n, p in network.named_parameters()},
            "initial": {n: sample(v) for n, v in initial(s, SEED).items()},
            "state_dict": stack.state_dict_rows(network),
            "named_parameters": stack.named_parameter_rows(network),
            "metadata": metadata(network),
        }
        if s["steps"]:
            value["steps"] = steps(s)
        stack.write_json(f"{folder}/{s['name']}.json", value)
        print(
            s["name"],
            value["loss"],
            sum(r[3] for r in value["named_parameters"]),
            value.get("steps", {}).get("losses"),
        )


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="DIR")
    p.add_argument("--init", type=int, metavar="SEED")
    p.add_argument("--spec")
    p.add_argument("--out")
    args = p.parse_args()
    stack.start(args)
    if args.golden:
        golden(args.golden, args)
    elif args.init is not None and args.spec and args.out:
        arrays = initial(stack.read_spec(args.spec), args.init)
        stack.write_npz(args.out, arrays)
    else:
        p.error("give --golden, or --init, --spec and --out")


if __name__ == "__main__":
    main()
