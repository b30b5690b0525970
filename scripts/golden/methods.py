"""Ten training steps of every fine-tuning method, and the parameters that each method trains.

    methods.py --golden testdata/golden/methods

trainable.json: for each network of testdata/state-dicts and each method that trains a subset of
parameters, the number of tensors and elements, by the name rules of LN-Seg-FM's trainers (bias:
"bias" or "seg_layers" in the name; norm: "norm" or "seg_layers"), and for head the layers that
compute the logits.
NETWORK.npz: ten batches (batch_NN/data, batch_NN/target_K). NETWORK-METHOD.json: losses, gradient
norms, learning rates, final weights (samples and sha256) and, for DGST, how many entries were
selected. The released bias and norm trainers set requires_grad by these rules before every step,
with an optimizer over all parameters; setting it once before the first is the same.
"""

import json
from pathlib import Path

import dgst
import networks
import stack
import train_steps

HEADS = lambda name: ".seg_layers." in name or name.startswith("out.conv.conv.")
TRAINABLE = {
    "head": HEADS,
    "bias": train_steps.TRAINED["bias"],
    "norm": train_steps.TRAINED["norm"],
}
ORDINARY = {
    "full": 1e-2,
    "head": 1e-2,
    "bias": 1e-2,
    "norm": 1e-3,
}  # learning rates; head uses full's
SPARSE = {  # mode, selection, k, rows, warm-up
    "dgst-gradmask-dynamic": ("gradmask", "dynamic", 2, "axis0", 1),
    "dgst-strict-dynamic-output": ("strict", "dynamic", 2, "output", 1),
    "dgst-paper-dynamic-kernel": ("paper", "dynamic", 1, "kernel", 1),
    "dgst-strict-static": ("strict", "static", 2, "axis0", 1),
    "dgst-gradmask-static-warmup": ("gradmask", "static", 3, "output", 4),
    "dgst-strict-random": ("strict", "random", 2, "axis0", 1),
    "dgst-gradmask-random-kernel": ("gradmask", "random", 1, "kernel", 1),
    "dgst-released": ("released", "dynamic", 2, "axis0", 1),
}
NETWORKS = (
    "binary",
    "resenc-2d",
)  # of train_steps.py's cases: PlainConvUNet in 3d, ResidualEncoderUNet in 2d with three classes


def trainable():
    table = {}
    for path in sorted((stack.ROOT / "testdata" / "state-dicts").glob("*.json")):
        rows = json.loads(path.read_text())["named_parameters"]
        table[path.stem] = {
            m: {
                "tensors": sum(rule(n) for _, n, _, _ in rows),
                "numbers": sum(c for _, n, _, c in rows if rule(n)),
            }
            for m, rule in TRAINABLE.items()
        }
    return table


def run(spec, batches, method, args):
    network = train_steps.network_for_training(spec, "hash")
    loss = stack.build_loss(spec, train_steps.strides_of(spec))
    if method in SPARSE:
        mode, selection, k, rows, warmup = SPARSE[method]
        report, _, _ = dgst.train(
            network, loss, batches, None, args, mode, selection, k, 1e-3, rows, warmup
        )
    else:
        args.lr, args.trained, args.check, args.per_step = ORDINARY[method], method, False, False
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(train_steps.TRAINED[method](name))
        report, _ = train_steps.train(network, loss, batches, args)
    return {
        **report,
        "final": train_steps.samples(network),
        "final_sha256": {
            n: stack.sha256(p.detach().numpy()) for n, p in network.named_parameters()
        },
    }


def main():
    p = stack.parser(__doc__.splitlines()[0])
    train_steps.add_network_options(p)
    args = p.parse_args()
    stack.start(args)
    folder = Path(args.golden)
    stack.write_json(
        folder / "trainable.json", {"trainable": trainable(), "meta": stack.meta(args)}
    )
    specs = {s["name"]: s for s in networks.training()}
    for name in NETWORKS:
        batches = train_steps.random_batches(specs[name], 10, args.seed)
        arrays = {}
        for i, (data, targets) in enumerate(batches):
            arrays[f"batch_{i:02d}/data"] = data.numpy()
            arrays |= {f"batch_{i:02d}/target_{k}": t.numpy() for k, t in enumerate(targets)}
        stack.write_npz(folder / f"{name}.npz", arrays)
        for method in (*ORDINARY, *SPARSE):
            report = run(specs[name], batches, method, args)
            stack.write_json(
                folder / f"{name}-{method}.json",
                {"spec": specs[name], **report, "meta": stack.meta(args)},
            )
            print(name, method, report["losses"][-1])


if __name__ == "__main__":
    main()
