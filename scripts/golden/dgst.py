"""DGST, dynamic gradient sparsification: the oracle for its masks and its four updates.

Golden files:  dgst.py --golden testdata/golden/dgst
Live:          dgst.py --out DIR --mode gradmask|strict|paper|released
                       --select dynamic|static|random [--k 2] [--lr 1e-3]
                       [--rows axis0|output|kernel] [--warmup 1]
                       and train_steps.py's options for network, weights, batches, clip

Each step: dense forward and backward, clip by the norm of the dense gradient, selection on the
clipped gradient, update.
A row is an index of axis 0; with --rows output an output channel (axis 1 of a transposed
convolution), with --rows kernel the kernel between an input and an output channel (linear layers
keep rows of axis 0). In each row the k entries of largest |gradient| are selected, ties go to the
lowest index. Static: the first step's selection is kept; with --warmup n the selection by the sum
of the first n steps' clipped gradients, and no weight moves before the n-th. Random: see draw().
With g the clipped gradient, m the selection, w the weight:

    gradmask  g*m, then ordinary SGD (momentum and weight decay apply to every entry)
    strict    d = (g + wd*w)*m; buf = 0.99*buf + d (first step buf = d); w -= lr*(d + 0.99*buf)*m
    paper     w -= lr*g on selected entries of sparse layers, nothing else; dense layers take the
              ordinary SGD step
    released  no mask: ordinary SGD everywhere

Live output is train_steps.py's (losses.json, first_gradients.npz, final.pth) with mode, select, k
and per step the counts sparse_entries (selected now) and sparse_entries_ever; and mask.npz (bool,
True = updated; sparse layers only; NAME for static, stepNN/NAME for dynamic; not written for
released).
"""

import json
from pathlib import Path

import numpy as np
import torch

import stack
import train_steps

FROZEN, DENSE, SPARSE = "frozen", "dense", "sparse"
MODES = ("gradmask", "strict", "paper", "released")
SELECTS = ("dynamic", "static", "random")
ROWS = ("axis0", "output", "kernel")


def role(name):
    """The method's rule for a parameter, by its name; the first match decides."""
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    if any(s in name for s in ("pos_embed", "cls_token")):
        return FROZEN
    if any(s in name for s in ("norm", "bias", "head", "gamma", "seg_layers")):
        return DENSE
    if name == "out.conv.conv.weight":  # SwinUNETR's segmentation head
        return DENSE
    return SPARSE


def select(gradient, k):
    """Bool mask of the k largest |entries| of each row (axis 0) of a numpy array."""
    rows = np.abs(gradient).reshape(gradient.shape[0], -1)
    if np.isnan(rows).any():
        raise ValueError("NaN in the gradient")
    order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    mask = np.zeros(rows.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask.reshape(gradient.shape)


def as_rows(a, name, rows):
    """A numpy array as (rows, width), and the function that maps an array of that shape back."""
    if rows == "kernel" and a.ndim > 2:
        return a.reshape(a.shape[0] * a.shape[1], -1), lambda m: m.reshape(a.shape)
    if rows == "output" and ("transpconvs." in name or "transp_conv." in name):
        t = np.swapaxes(a, 0, 1)
        return t.reshape(t.shape[0], -1), lambda m: np.swapaxes(m.reshape(t.shape), 0, 1)
    return a.reshape(a.shape[0], -1), lambda m: m.reshape(a.shape)


def select_rows(gradient, name, k, rows):
    m, back = as_rows(gradient, name, rows)
    return np.ascontiguousarray(back(select(m, k)))


MASK64 = (1 << 64) - 1


def splitmix(seed, index):
    """Number index of the SplitMix64 sequence that begins at seed."""
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def fnv1a(text):
    h = 0xCBF29CE484222325
    for b in text.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK64
    return h


def draw(array, name, k, rows, seed, step):
    """Bool mask of k distinct entries of each row, drawn by Robert Floyd's algorithm from one
    sequence per row."""
    m, back = as_rows(array, name, rows)
    mask = np.zeros(m.shape, bool)
    width = m.shape[1]
    k = min(k, width)
    start = splitmix(splitmix(seed, step), fnv1a(name))
    for r in range(m.shape[0]):
        state, taken = splitmix(start, r), set()
        for i in range(k):
            j = width - k + i
            t = (splitmix(state, i) * (j + 1)) >> 64
            taken.add(j if t in taken else t)
        mask[r, sorted(taken)] = True
    return np.ascontiguousarray(back(mask))


class Update:
    """The optimizer step of one mode over named parameters."""

    def __init__(self, mode, named, momentum=0.99, weight_decay=3e-5):
        self.mode, self.momentum, self.weight_decay = mode, momentum, weight_decay
        self.named = [(n, p, role(n)) for n, p in named]
        self.buffers = {}
        own = mode in (
            "strict",
            "paper",
        )  # these two update sparse layers by hand and do not touch frozen ones
        ordinary = [p for _, p, r in self.named if r == DENSE or not own]
        self.sgd = torch.optim.SGD(
            ordinary, 1.0, momentum=momentum, weight_decay=weight_decay, nesterov=True
        )

    def step(self, lr, masks):
        """masks: name -> bool array of the sparse layers; ignored by released."""
        for group in self.sgd.param_groups:
            group["lr"] = lr
        with torch.no_grad():
            for name, p, kind in self.named:
                if p.grad is None or kind == DENSE or self.mode == "released":
                    continue
                if kind == FROZEN:
                    m = torch.zeros_like(p)
                else:
                    m = torch.from_numpy(masks[name]).to(p.dtype)
                if self.mode == "gradmask":
                    p.grad.mul_(m)
                elif kind == SPARSE and self.mode == "strict":
                    d = p.grad.add(p, alpha=self.weight_decay).mul_(m)
                    if name in self.buffers:
                        buf = self.buffers[name].mul_(self.momentum).add_(d)
                    else:
                        buf = self.buffers[name] = d.clone()
                    p.add_(d.add(buf, alpha=self.momentum).mul_(m), alpha=-lr)
                elif kind == SPARSE and self.mode == "paper":
                    p.add_(p.grad * m, alpha=-lr)
        self.sgd.step()


def train(network, loss, batches, steps, args, mode, selection, k, lr0, rows="axis0", warmup=1):
    """Runs the steps; returns (report, masks by npz key, first gradients)."""
    update = Update(mode, network.named_parameters(), args.momentum, args.weight_decay)
    report = {
        "losses": [],
        "grad_norms_before_clip": [],
        "lrs": [],
        "sparse_entries": [],
        "sparse_entries_ever": [],
    }
    stored, masks, ever, first, sums = {}, {}, {}, {}, {}
    for i, (data, targets) in enumerate(batches[:steps]):
        lr = train_steps.poly_lr(lr0, i, len(batches))
        network.zero_grad(set_to_none=True)
        value = train_steps.loss_of(loss, network, data, targets)
        value.backward()
        if i == 0:
            first = {n: g.numpy() for n, g in train_steps.gradients(network).items()}
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), args.clip)
        sparse = {
            n: p.grad.numpy()
            for n, p in network.named_parameters()
            if p.grad is not None and role(n) == SPARSE
        }
        if mode == "released":
            pass
        elif selection == "dynamic":
            masks = {n: select_rows(g, n, k, rows) for n, g in sparse.items()}
        elif selection == "random":
            masks = {n: draw(g, n, k, rows, args.seed, i) for n, g in sparse.items()}
        elif i < warmup:
            sums = {n: sums[n] + g if n in sums else g.copy() for n, g in sparse.items()}
            if i == warmup - 1:
                masks = {n: select_rows(g, n, k, rows) for n, g in sums.items()}
                stored = masks
        if selection != "static":
            stored |= {f"step{i:02d}/{n}": m for n, m in masks.items()}
        for n, m in masks.items():
            ever[n] = ever.get(n, False) | m
        if mode == "released" or masks:
            update.step(lr, masks)
        report["losses"].append(value.item())
        report["grad_norms_before_clip"].append(norm.item())
        report["lrs"].append(lr)
        report["sparse_entries"].append(int(sum(m.sum() for m in masks.values())))
        report["sparse_entries_ever"].append(int(sum(m.sum() for m in ever.values())))
    report |= {
        "mode": mode,
        "select": selection,
        "k": k,
        "lr": lr0,
        "clip": args.clip,
        "rows": rows,
        "warmup": warmup,
    }
    return report, stored, first


def golden_trajectory(folder, args):
    """Four steps of phantom-mini's trajectory from its foundation checkpoint, every mode, dynamic
    and static."""
    spec = stack.plans_spec(
        stack.FOUNDATION / "plans.json", stack.FOUNDATION / "dataset.json", "3d_phantom"
    )
    batches = train_steps.read_batches(stack.PHANTOM / "trajectory")
    loss = stack.build_loss(spec, train_steps.strides_of(spec))
    for mode in MODES:
        for selection in ("dynamic", "static") if mode != "released" else ("dynamic",):
            network = train_steps.network_for_training(
                spec, stack.FOUNDATION / "fold_0" / "checkpoint_final.pth"
            )
            report, masks, _ = train(network, loss, batches, None, args, mode, selection, 2, 1e-3)
            name = mode if mode == "released" else f"{mode}-{selection}"
            if masks:
                stack.write_npz(
                    folder / f"{name}.npz",
                    {n: np.flatnonzero(m).astype(np.int32) for n, m in masks.items()},
                )
            stack.write_json(
                folder / f"{name}.json",
                {
                    **report,
                    "final": train_steps.samples(network),
                    "final_sha256": {
                        n: stack.sha256(p.detach().numpy()) for n, p in network.named_parameters()
                    },
                    "meta": stack.meta(args),
                },
            )
            print(name, report["losses"], report["sparse_entries"], report["sparse_entries_ever"])


def golden_selection(folder, args):
    """Small gradients with ties: NN/gradient and NN/mask; k is in the JSON."""
    rng = np.random.default_rng(args.seed)
    arrays, rows = {}, []
    for shape in [
        (3, 7),
        (4, 2, 3, 3),
        (3, 2, 1, 3, 3),
        (2, 3, 2, 2, 2),
        (1, 1),
        (5, 1, 1, 1, 1),
        (2, 300),
    ]:
        for k in (1, 2, 5):
            for kind in ("normal", "ties", "equal"):
                if kind == "normal":
                    g = rng.standard_normal(shape)
                elif kind == "ties":  # few magnitudes, both signs, zeros of both signs
                    g = rng.integers(0, 4, shape) * rng.choice([-0.25, 0.25], shape)
                else:
                    g = np.full(shape, 0.5) * rng.choice([-1, 1], shape)
                g = g.astype(np.float32)
                key = f"{len(rows):02d}"
                arrays[key + "/gradient"], arrays[key + "/mask"] = g, select(g, k)
                rows.append(
                    {
                        "key": key,
                        "shape": list(shape),
                        "k": k,
                        "kind": kind,
                        "selected": int(arrays[key + "/mask"].sum()),
                    }
                )
    stack.write_npz(folder / "selection.npz", arrays)
    stack.write_json(folder / "selection.json", {"cases": rows, "meta": stack.meta(args)})


def golden_rows(folder, args):
    """Selections for every kind of row and at random: NN/gradient and NN/mask; name, rows, k,
    select, seed and step are in the JSON.

    The seed is a string, as it has 64 bits.
    """
    rng = np.random.default_rng(args.seed + 1)
    arrays, table = {}, []
    for name, shape in [
        ("a.conv.weight", (4, 3, 2, 3, 3)),
        ("a.conv.weight", (3, 4, 3, 3)),
        ("decoder.transpconvs.0.weight", (5, 3, 1, 2, 2)),
        ("decoder.transpconvs.1.weight", (4, 2, 2, 2)),
        ("decoder1.transp_conv.conv.weight", (3, 2, 2, 2, 2)),
        ("swinViT.patch_embed.proj.weight", (6, 1, 2, 2, 2)),
        ("swinViT.layers1.0.blocks.0.mlp.linear1.weight", (6, 5)),
        ("skip.1.conv.weight", (3, 4, 1, 1, 1)),
    ]:
        for rows in ROWS:
            for k in (1, 2, 5):
                for selection in ("dynamic", "random"):
                    g = (rng.integers(-9, 10, shape) * 0.25).astype(np.float32)
                    seed, step = int(rng.integers(0, 1 << 63)) * 2 + 1, int(rng.integers(0, 100000))
                    mask = (
                        select_rows(g, name, k, rows)
                        if selection == "dynamic"
                        else draw(g, name, k, rows, seed, step)
                    )
                    m, _ = as_rows(mask, name, rows)
                    assert (m.sum(1) == min(k, m.shape[1])).all()
                    key = f"{len(table):03d}"
                    arrays[key + "/gradient"], arrays[key + "/mask"] = g, mask
                    table.append(
                        {
                            "key": key,
                            "name": name,
                            "rows": rows,
                            "k": k,
                            "select": selection,
                            "seed": str(seed),
                            "step": step,
                            "selected": int(mask.sum()),
                        }
                    )
    stack.write_npz(folder / "rows.npz", arrays)
    stack.write_json(folder / "rows.json", {"cases": table, "meta": stack.meta(args)})


def golden_update(folder, args):
    """Six steps of every mode on three small tensors with given gradients and masks.

    update.npz: start/NAME, stepNN/grad/NAME, stepNN/mask/NAME (sparse), MODE/stepNN/param/NAME.
    """
    rng = np.random.default_rng(args.seed)
    shapes = {"a.conv.weight": (3, 2, 1, 2, 2), "a.norm.weight": (5,), "pos_embed": (1, 4)}
    start = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    grads = [
        {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(6)
    ]
    masks = [{"a.conv.weight": select(g["a.conv.weight"], 2)} for g in grads]
    arrays = {"start/" + n: v for n, v in start.items()}
    for i, (g, m) in enumerate(zip(grads, masks)):
        arrays |= {f"step{i:02d}/grad/{n}": v for n, v in g.items()}
        arrays |= {f"step{i:02d}/mask/{n}": v for n, v in m.items()}
    lrs = [train_steps.poly_lr(0.1, i, 6) for i in range(6)]
    for mode in MODES:
        named = {n: torch.nn.Parameter(torch.from_numpy(v.copy())) for n, v in start.items()}
        update = Update(mode, named.items(), weight_decay=0.01)
        for i, (g, m) in enumerate(zip(grads, masks)):
            for n, p in named.items():
                p.grad = torch.from_numpy(g[n].copy())
            update.step(lrs[i], m)
            arrays |= {
                f"{mode}/step{i:02d}/param/{n}": p.detach().numpy().copy() for n, p in named.items()
            }
        check_by_formula(
            mode,
            start["a.conv.weight"],
            [g["a.conv.weight"] for g in grads],
            [m["a.conv.weight"] for m in masks],
            lrs,
            named["a.conv.weight"].detach().numpy(),
        )
    stack.write_npz(folder / "update.npz", arrays)
    stack.write_json(
        folder / "update.json",
        {
            "lrs": lrs,
            "momentum": 0.99,
            "weight_decay": 0.01,
            "steps": 6,
            "modes": MODES,
            "roles": {n: role(n) for n in shapes},
            "meta": stack.meta(args),
        },
    )


def check_by_formula(mode, w, grads, masks, lrs, got):
    """The same in numpy and float64, from the formulas at the top of this file."""
    w = w.astype(np.float64)
    buf = None
    for g, m, lr in zip(grads, masks, lrs):
        if mode == "paper":
            w = np.where(m, w - lr * g, w)
            continue
        if mode == "strict":
            d = (g + 0.01 * w) * m
        else:
            d = (g * m if mode == "gradmask" else g) + 0.01 * w
        buf = d if buf is None else 0.99 * buf + d
        w = w - lr * (d + 0.99 * buf) * (m if mode == "strict" else 1)
    worst = np.abs(w - got).max()
    if worst > 1e-5:
        raise SystemExit(f"{mode}: formula and torch differ by {worst}")


def golden_names(folder, args):
    """The role of every parameter name of the networks in testdata/state-dicts."""
    table = {}
    for path in sorted((stack.ROOT / "testdata" / "state-dicts").glob("*.json")):
        rows = json.loads(path.read_text())["named_parameters"]
        table[path.stem] = {n: role(n) for _, n, _, _ in rows}
    invented = [
        "head.weight",
        "blocks.0.gamma",
        "pos_embed",
        "cls_token",
        "module.encoder.stages.0.0.convs.0.conv.weight",
        "pos_embed.norm.weight",
        "stem.proj.weight",
        "downsample.proj.weight",
        "_orig_mod.out.conv.conv.weight",
        "layout.conv.conv.weight",
    ]
    table["invented"] = {n: role(n) for n in invented}
    stack.write_json(folder / "roles.json", {"roles": table, "meta": stack.meta(args)})


def main():
    p = stack.parser(__doc__.splitlines()[0])
    train_steps.add_network_options(p)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--mode", choices=MODES, default="gradmask")
    p.add_argument("--select", choices=SELECTS, default="dynamic")
    p.add_argument("--k", type=int, default=2)
    p.add_argument("--rows", choices=ROWS, default="axis0")
    p.add_argument("--warmup", type=int, default=1)
    args = p.parse_args()
    stack.start(args)
    if args.golden:
        folder = Path(args.golden)
        golden_selection(folder, args)
        golden_rows(folder, args)
        golden_update(folder, args)
        golden_names(folder, args)
        golden_trajectory(folder, args)
        return
    if not args.out:
        p.error("give --golden or --out")
    spec = train_steps.load_spec(args)
    batches = train_steps.load_batches(args, spec)
    network = train_steps.network_for_training(spec, args.weights)
    loss = stack.build_loss(spec, train_steps.strides_of(spec))
    report, masks, first = train(
        network,
        loss,
        batches,
        args.steps,
        args,
        args.mode,
        args.select,
        args.k,
        args.lr,
        args.rows,
        args.warmup,
    )
    out = Path(args.out)
    stack.write_npz(out / "first_gradients.npz", first)
    if args.mode != "released":
        stack.write_npz(out / "mask.npz", masks)
    torch.save(network.state_dict(), out / "final.pth")
    stack.write_json(out / "losses.json", {**report, "spec": spec, "meta": stack.meta(args)})
    print(json.dumps({k: report[k] for k in ("losses", "sparse_entries", "sparse_entries_ever")}))


if __name__ == "__main__":
    main()
