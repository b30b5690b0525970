"""nnU-Net's losses with deep supervision: values and gradients.

Golden files:  loss.py --golden testdata/golden/loss
Live:          loss.py --spec NAME.json --out OUT.npz [--spatial D H W] [--batch N] [--threads T]
               loss.py --spec NAME.json --inputs IN.npz --out OUT.npz
                   logits_K, target_K from a file

The loss is what nnUNetTrainer._build_loss builds (DC_and_CE_loss or DC_and_BCE_loss on
MemoryEfficientSoftDiceLoss, in DeepSupervisionWrapper). The spec has labels, regions_class_order,
batch_dice, deep_supervision, num_classes, strides, spatial, batch, valid (false: the ignore label
everywhere), seed.
OUT.npz: logits_K float32, target_K (labels int16 (n,1,...); regions bool (n,regions[+ignore],...)),
loss float32 0-d, loss64 float64 0-d (the same in float64), grad_K float32 and, in golden files,
grad64_K float64 (absent for a level of weight 0).
OUT.json: spec, ds_weights, loss, loss64, meta.
"""

import numpy as np
import torch

import stack


def spec(name, labels, spatial=(4, 8, 6), batch=2, **more):
    dims = len(spatial)
    strides = [[1] * dims, [1, 2, 2][-dims:], [2] * dims, [2] * dims]
    value = {
        "name": name,
        "labels": labels,
        "regions_class_order": None,
        "batch_dice": False,
        "deep_supervision": True,
        "strides": strides,
        "spatial": list(spatial),
        "batch": batch,
        "valid": True,
        "seed": len(name),
        **more,
    }
    value["num_classes"] = stack.label_manager(value).num_segmentation_heads
    return value


def cases():
    binary = {"background": 0, "node": 1}
    four = {"background": 0, "a": 1, "b": 2, "c": 3}
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "edge": [3]}
    order = {"regions_class_order": [1, 2, 3]}
    flat = (12, 10)
    return [
        spec("ce-binary", binary),
        spec("ce-binary-batchdice", binary, batch_dice=True),
        spec("ce-four", four),
        spec("ce-four-batchdice-b3", four, batch=3, batch_dice=True),
        spec("ce-binary-b1", binary, batch=1),
        spec("ce-four-2d", four, flat, batch=3),
        spec("ce-binary-2d-batchdice", binary, flat, batch_dice=True),
        spec("ce-ignore", {**four, "ignore": 4}),
        spec("ce-ignore-batchdice-2d", {**binary, "ignore": 2}, flat, batch_dice=True),
        spec("ce-ignore-none-valid", {**binary, "ignore": 2}, valid=False),
        spec("ce-single", four, deep_supervision=False),
        spec("bce-regions", regions, **order),
        spec("bce-regions-batchdice-2d", regions, flat, batch=3, batch_dice=True, **order),
        spec("bce-ignore", {**regions, "ignore": 4}, **order),
        spec("bce-ignore-batchdice", {**regions, "ignore": 4}, batch_dice=True, **order),
        spec("bce-ignore-none-valid", {**regions, "ignore": 4}, valid=False, **order),
        spec("bce-ignore-2d", {**regions, "ignore": 4}, flat, batch=1, **order),
    ]


def inputs(spec):
    """(logits, targets) per level; logits are multiples of 1/8, which compress well."""
    rng = np.random.default_rng(spec["seed"])
    targets = stack.make_targets(
        spec, spec["strides"], (spec["batch"], *spec["spatial"]), rng, spec["valid"]
    )
    logits = []
    for t in targets:
        shape = (t.shape[0], spec["num_classes"], *t.shape[2:])
        logits.append(
            torch.from_numpy((np.round(rng.standard_normal(shape) * 16) / 8).astype(np.float32))
        )
    return logits, targets


def evaluate(spec, logits, targets, dtype):
    """(loss, gradient of each level or None, wrapper's weights)."""
    loss = stack.build_loss(spec, spec["strides"])
    leaves = [x.detach().clone().to(dtype).requires_grad_() for x in logits]
    value = loss(leaves, targets) if spec["deep_supervision"] else loss(leaves[0], targets[0])
    value.backward()
    return value.detach(), [x.grad for x in leaves], getattr(loss, "weight_factors", None)


def run(spec, args, given=None, with_double=True):
    logits, targets = given or inputs(spec)
    value, grads, weights = evaluate(spec, logits, targets, torch.float32)
    value64, grads64, _ = evaluate(spec, logits, targets, torch.float64)
    arrays = {"loss": value.numpy(), "loss64": value64.numpy()}
    for k, (x, t, g, g64) in enumerate(zip(logits, targets, grads, grads64)):
        arrays[f"logits_{k}"], arrays[f"target_{k}"] = x.numpy(), t.numpy()
        if g is not None:
            arrays[f"grad_{k}"] = g.numpy()
            if with_double:
                arrays[f"grad64_{k}"] = g64.numpy()
    return arrays, {
        "spec": spec,
        "ds_weights": None if weights is None else [float(w) for w in weights],
        "loss": float(value),
        "loss64": float(value64),
        "meta": stack.meta(args),
    }


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="DIR")
    p.add_argument("--spec")
    p.add_argument("--inputs")
    p.add_argument("--out")
    p.add_argument("--spatial", type=int, nargs="+")
    p.add_argument("--batch", type=int)
    args = p.parse_args()
    stack.start(args)
    if args.golden:
        for spec in cases():
            arrays, description = run(spec, args)
            stack.write_npz(f"{args.golden}/{spec['name']}.npz", arrays)
            stack.write_json(f"{args.golden}/{spec['name']}.json", description)
            print(spec["name"], description["loss"], description["loss64"])
        return
    if not (args.spec and args.out):
        p.error("give --golden, or --spec and --out")
    spec = stack.read_spec(args.spec)
    spec["spatial"] = args.spatial or spec["spatial"]
    spec["batch"] = args.batch or spec["batch"]
    given = None
    if args.inputs:
        with np.load(args.inputs) as z:
            levels = len([n for n in z.files if n.startswith("logits_")])
            given = tuple(
                [torch.from_numpy(z[f"{kind}_{k}"]) for k in range(levels)]
                for kind in ("logits", "target")
            )
    arrays, description = run(spec, args, given, with_double=False)
    stack.write_npz(args.out, arrays)
    stack.write_json(args.out.removesuffix(".npz") + ".json", description)


if __name__ == "__main__":
    main()
