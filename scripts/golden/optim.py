"""torch.optim, gradient clipping, poly LR and GradScaler on small tensors.

Golden files:  optim.py --golden testdata/golden/optim
Live:          optim.py --out DIR [--size N]      the same files with parameters of N elements and more

NAME.npz: start/PARAM, stepNN/grad/PARAM (before clipping; absent = no gradient), stepNN/param/PARAM, and the state after the
step: stepNN/buf/PARAM (SGD), stepNN/exp_avg/PARAM, stepNN/exp_avg_sq/PARAM (AdamW), stepNN/norm (0-d, total norm before clip).
index.json: cases (name, kind, options, lrs, clip, params, foreach), poly (epoch tables), scaler (states), meta.
"""

import numpy as np
import torch

import stack


def shapes(size):
    return {"a": (3, 4, size), "b": (size + 2,), "c": (2, 1, 3, 3, 1), "never": (4,)}


def cases():
    sgd = {"lr": 0.01, "momentum": 0.99, "weight_decay": 3e-5, "nesterov": True, "dampening": 0.0}
    adam = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 1e-2, "amsgrad": False}
    return [
        {"name": "sgd-nnunet", "kind": "SGD", "options": sgd, "clip": 12.0, "scale": 1.0},
        {"name": "sgd-clipped", "kind": "SGD", "options": sgd, "clip": 12.0, "scale": 30.0},
        {"name": "sgd-zero-gradient", "kind": "SGD", "options": sgd, "clip": 12.0, "scale": 0.0},
        {
            "name": "sgd-plain",
            "kind": "SGD",
            "options": {**sgd, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
            "clip": None,
            "scale": 1.0,
        },
        {
            "name": "sgd-heavy-ball",
            "kind": "SGD",
            "options": {**sgd, "momentum": 0.9, "nesterov": False},
            "clip": None,
            "scale": 1.0,
        },
        {"name": "adamw", "kind": "AdamW", "options": adam, "clip": 12.0, "scale": 1.0},
        {
            "name": "adamw-no-decay-clipped",
            "kind": "AdamW",
            "options": {**adam, "weight_decay": 0.0},
            "clip": 1.0,
            "scale": 5.0,
        },
    ]


def run(case, size, seed, steps=5):
    """PARAM 'never' has no gradient at all, 'b' has none in step 2."""
    rng = np.random.default_rng(seed)
    named = {
        n: torch.nn.Parameter(torch.from_numpy(rng.standard_normal(s).astype(np.float32)))
        for n, s in shapes(size).items()
    }
    options = dict(case["options"])
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    optimizer = getattr(torch.optim, case["kind"])(named.values(), **options)
    arrays = {"start/" + n: p.detach().numpy().copy() for n, p in named.items()}
    lrs = []
    for i in range(steps):
        key = f"step{i:02d}/"
        lr = case["options"]["lr"] * (1 - i / steps) ** 0.9
        for group in optimizer.param_groups:
            group["lr"] = lr
        lrs.append(lr)
        for n, p in named.items():
            g = (rng.standard_normal(tuple(p.shape)) * case["scale"]).astype(np.float32)
            p.grad = None if n == "never" or (n == "b" and i == 2) else torch.from_numpy(g.copy())
            if p.grad is not None:
                arrays[f"{key}grad/{n}"] = g
        if case["clip"] is not None:
            arrays[key + "norm"] = torch.nn.utils.clip_grad_norm_(
                named.values(), case["clip"]
            ).numpy()
        optimizer.step()
        for n, p in named.items():
            arrays[f"{key}param/{n}"] = p.detach().numpy().copy()
            for kind, v in optimizer.state.get(p, {}).items():
                if torch.is_tensor(v) and v.shape == p.shape:
                    arrays[f"{key}{kind.replace('momentum_buffer', 'buf')}/{n}"] = v.numpy().copy()
    return arrays, {
        **case,
        "lrs": lrs,
        "steps": steps,
        "params": {n: list(s) for n, s in shapes(size).items()},
    }


def poly():
    """nnU-Net's PolyLRScheduler, stepped by epoch."""
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    tables = []
    for lr, epochs in [(1e-2, 1000), (1e-3, 50), (1e-2, 200), (5e-4, 7)]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)
        scheduler = PolyLRScheduler(optimizer, lr, epochs)
        at = sorted({0, 1, 2, epochs // 3, epochs // 2, epochs - 2, epochs - 1})
        values = []
        for e in at:
            scheduler.step(e)
            values.append(optimizer.param_groups[0]["lr"])
        tables.append({"initial_lr": lr, "epochs": epochs, "at": at, "lrs": values})
    return tables


def scaler():
    """GradScaler on the CPU through scale, unscale_, step, update; a step with inf or NaN is skipped.

    Each step: the unscaled gradient is 1, 2, 3 (or has the named bad value), SGD lr 0.1 without momentum.
    """
    runs = []
    for options, bad in [
        ({"init_scale": 65536.0}, {1: "inf", 3: "nan"}),
        (
            {"init_scale": 8.0, "growth_interval": 2, "growth_factor": 4.0, "backoff_factor": 0.25},
            {4: "inf", 5: "-inf"},
        ),
    ]:
        p = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))
        optimizer = torch.optim.SGD([p], 0.1)
        s = torch.amp.GradScaler("cpu", **options)
        steps = []
        for i in range(8):
            optimizer.zero_grad(set_to_none=True)
            weight = torch.tensor([1.0, 2.0, 3.0])
            if i in bad:
                weight[1] = float(bad[i])
            s.scale((p * weight).sum()).backward()
            scaled = p.grad.tolist()
            s.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_([p], 12.0)
            s.step(optimizer)
            s.update()
            steps.append(
                {
                    "bad": bad.get(i),
                    "scaled_grad": [str(v) for v in scaled],
                    "norm": str(norm.item()),
                    "param": p.tolist(),
                    "state": s.state_dict(),
                }
            )
        runs.append({"options": options, "start": [1.0, -1.0, 0.5], "steps": steps})
    return runs


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="DIR")
    p.add_argument("--out", metavar="DIR")
    p.add_argument("--size", type=int, default=5)
    args = p.parse_args()
    stack.start(args)
    folder = args.golden or args.out
    if not folder:
        p.error("give --golden or --out")
    rows = []
    for case in cases():
        arrays, row = run(case, args.size, args.seed)
        stack.write_npz(f"{folder}/{case['name']}.npz", arrays)
        rows.append(row)
        print(case["name"], [round(float(arrays[k]), 3) for k in arrays if k.endswith("/norm")])
    stack.write_json(
        f"{folder}/index.json",
        {"cases": rows, "poly": poly(), "scaler": scaler(), "meta": stack.meta(args)},
    )


if __name__ == "__main__":
    main()
