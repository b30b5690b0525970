"""Steps of torch.optim's SGD, clipping, gradient scaler and nnU-Net's learning rates ->
testdata/golden/optim_steps.json.

Run with the pinned torch: python scripts/golden/optim_steps.py
Numbers are written so that parsing them as float32 (learning rates: float64) restores the same
bits.
"""

import json
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).resolve().parents[2] / "testdata" / "golden" / "optim_steps.json"
SHAPES = [[3, 4], [5], [2, 3, 2], [4]]
STEPS = 5
# The last parameter never has a gradient; the third has its first one at step 2.
FIRST_GRADIENT = [0, 0, 2, None]


def numbers(t):
    return [float(str(np.float32(v))) for v in t.detach().flatten().tolist()]


def start(seed):
    g = torch.Generator().manual_seed(seed)
    params = [torch.randn(s, generator=g).requires_grad_() for s in SHAPES]
    grads = [
        [
            torch.randn(s, generator=g) * 3 if f is not None and step >= f else None
            for s, f in zip(SHAPES, FIRST_GRADIENT)
        ]
        for step in range(STEPS)
    ]
    return params, grads


def steps(make, seed):
    params, grads = start(seed)
    case = {
        "params": [numbers(p) for p in params],
        "grads": [[None if g is None else numbers(g) for g in row] for row in grads],
        "after": [],
        "lrs": [],
    }
    opt = make(params)
    for step, row in enumerate(grads):
        lr = opt.param_groups[0]["lr"] * (1 if step == 0 else 0.7)
        opt.param_groups[0]["lr"] = lr
        case["lrs"].append(lr)
        for p, g in zip(params, row):
            p.grad = None if g is None else g.clone()
        opt.step()
        case["after"].append([numbers(p) for p in params])
    state = opt.state_dict()["state"]
    case["state"] = {
        str(i): {k: (numbers(v) if v.ndim else float(v)) for k, v in st.items() if v is not None}
        for i, st in state.items()
    }
    return case


def sgd():
    cases = []
    for name, o in {
        "nnunet": dict(lr=1e-2, momentum=0.99, weight_decay=3e-5, nesterov=True),
        "plain": dict(lr=1e-2),
        "momentum": dict(lr=1e-2, momentum=0.9),
        "dampened": dict(lr=1e-2, momentum=0.9, dampening=0.3, weight_decay=0.1),
        "decay": dict(lr=1e-2, weight_decay=0.1),
    }.items():
        c = steps(lambda p: torch.optim.SGD(p, foreach=False, fused=False, **o), 1)
        cases.append({"name": name, "options": o, **c})
    return cases


def clip():
    cases = []
    for max_norm in (12.0, 1.0, 1e-3):
        params, grads = start(3)
        for p, g in zip(params, grads[2]):
            p.grad = None if g is None else g.clone()
        total = torch.nn.utils.clip_grad_norm_(params, max_norm)
        cases.append(
            {
                "max": max_norm,
                "grads": [None if g is None else numbers(g) for g in grads[2]],
                "total": numbers(total)[0],
                "clipped": [None if p.grad is None else numbers(p.grad) for p in params],
            }
        )
    return cases


def scaler():
    """Ten iterations of a scaler with a short growth interval; the gradient of steps 2, 6 and 7
    overflows."""
    s = torch.amp.GradScaler(
        "cpu", init_scale=1024.0, growth_factor=2.0, backoff_factor=0.25, growth_interval=3
    )
    p = torch.tensor([1.0, -2.0, 0.5]).requires_grad_()
    opt = torch.optim.SGD([p], lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2)
    x = torch.tensor([0.3, 0.7, -1.1])
    case = {
        "init": s.state_dict() or {"scale": 1024.0},
        "param": numbers(p),
        "x": numbers(x),
        "rows": [],
    }
    for step in range(10):
        opt.zero_grad(set_to_none=True)
        loss = (p * p * x).sum()
        if step in (2, 6, 7):
            loss = loss * float("inf")
        s.scale(loss).backward()
        s.unscale_(opt)
        torch.nn.utils.clip_grad_norm_([p], 12)
        before = p.detach().clone()
        s.step(opt)
        s.update()
        st = s.state_dict()
        case["rows"].append(
            {
                "stepped": not torch.equal(before, p),
                "param": numbers(p),
                "scale": st["scale"],
                "tracker": st["_growth_tracker"],
            }
        )
    return case


def poly():
    return [
        {"initial": i, "max": m, "lrs": [i * (1 - e / m) ** 0.9 for e in range(m)]}
        for i, m in ((1e-2, 1000), (1e-3, 50), (0.3, 7))
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = {
        "torch": torch.__version__,
        "shapes": SHAPES,
        "sgd": sgd(),
        "clip": clip(),
        "scaler": scaler(),
        "poly": poly(),
    }
    OUT.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(OUT, OUT.stat().st_size)
