"""LoRA by PEFT on nnU-Net's networks: heads, gradients, ten training steps, adapter folder.

Golden files:  lora.py --golden testdata/golden/lora
Live:
    lora.py --spec SPEC.json --out DIR [--rank 4] [--alpha 2] [--dropout 0.1] [--steps 10]
    lora.py --spec SPEC.json --out DIR --weights FILE --load FOLDER
        heads of a network with an adapter folder, in evaluation mode
    lora.py --linear --out DIR
        the same for linear layers
    lora.py --spec SPEC.json --released DIR
        a checkpoint as the released trainer writes it

PEFT replaces the attribute "conv" of each block, whose forward runs "all_modules": as published the
adapters never run. Here all_modules is rebuilt, so that they do. A and B are hash-filled, B not
zero. Step i: torch.manual_seed(i), input hash_tensor(-100-i), loss = sum over heads k of
mean((head_k - hash_tensor(-2-k))^2), clip 12, SGD Nesterov, lr 1e-2*(1-i/N)^0.9.

DIR/lora.npz: head_K of step 0, grad/NAME of step 0, losses, norms, final/NAME, eval_K after the
last step; names are those of the plain network, lora_A.default.weight and lora_B.default.weight at
their ends. DIR/base.pth: state dict before; DIR/adapter: save_pretrained.
"""

import json
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import stack

PREFIX = "base_model.model."


def targets(network):
    """The released trainer's rule: the path up to the first component "conv"."""
    found = []
    for name, _ in network.named_parameters():
        parts = name.split(".")
        if "conv" in parts:
            path = ".".join(parts[: parts.index("conv") + 1])
            if path not in found:
                found.append(path)
    return found


def executed(network):
    """Makes blocks run the module that is now under "conv"."""
    for module in network.modules():
        if hasattr(module, "all_modules") and hasattr(module, "conv"):
            module.all_modules[0] = module.conv
    return network


def wrap(network, args):
    heads = [f"decoder.seg_layers.{i}" for i in range(len(network.decoder.seg_layers))]
    config = LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        bias="all",
        target_modules=targets(network),
        modules_to_save=heads,
    )
    return get_peft_model(network, config)


def plain(name):
    return (
        name.removeprefix(PREFIX)
        .replace(".base_layer.", ".")
        .replace(".modules_to_save.default.", ".")
    )


def fill_adapters(model):
    i = 0
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(stack.hash_tensor(1000 + i, tuple(p.shape)) * 0.3)
                i += 1


def trainable(model):
    return [(plain(n), p) for n, p in model.named_parameters() if p.requires_grad]


def heads_of(model, x):
    out = model(x)
    return out if isinstance(out, (list, tuple)) else [out]


def steps(model, shape, args):
    """Trains; returns the arrays of lora.npz."""
    model.train()
    parameters = [p for _, p in trainable(model)]
    sgd = torch.optim.SGD(parameters, 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    arrays, losses, norms = {}, [], []
    for i in range(args.steps):
        torch.manual_seed(i)
        for g in sgd.param_groups:
            g["lr"] = 1e-2 * (1 - i / args.steps) ** 0.9
        sgd.zero_grad(set_to_none=True)
        heads = heads_of(model, stack.hash_tensor(-100 - i, shape))
        loss = sum(
            ((h - stack.hash_tensor(-2 - k, tuple(h.shape))) ** 2).mean()
            for k, h in enumerate(heads)
        )
        loss.backward()
        if i == 0:
            arrays |= {f"head_{k}": h.detach().numpy().copy() for k, h in enumerate(heads)}
            arrays |= {
                "grad/" + n: p.grad.numpy().copy()
                for n, p in trainable(model)
                if p.grad is not None
            }
            assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 12.0).item())
        sgd.step()
        losses.append(loss.item())
    arrays |= {"losses": np.float32(losses), "norms": np.float32(norms)}
    arrays |= {"final/" + n: p.detach().numpy() for n, p in trainable(model)}
    model.eval()
    with torch.no_grad():
        arrays |= {
            f"eval_{k}": h.numpy()
            for k, h in enumerate(heads_of(model, stack.hash_tensor(-1, shape)))
        }
    return arrays


def run(spec, args, out=None):
    network = stack.build(spec, deep_supervision=True)
    stack.fill(network)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), out / "base.pth")
    model = wrap(network, args)
    executed(model)
    fill_adapters(model)
    # The oracle must not be vacuous: with B = 0 the heads differ.
    with torch.no_grad():
        x = stack.hash_tensor(-1, tuple(spec["input_shape"]))
        model.eval()
        with model.disable_adapter():
            off = heads_of(model, x)[0].clone()
        assert (heads_of(model, x)[0] - off).abs().max() > 1e-2
    arrays = steps(model, tuple(spec["input_shape"]), args)
    if out:
        model.save_pretrained(out / "adapter")
    return arrays


class Linears(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = torch.nn.Linear(5, 12), torch.nn.Linear(12, 3, bias=False)

    def forward(self, x):
        return self.proj(self.qkv(x))


def linear(args, path, folder=None):
    network = Linears()
    stack.fill(network)
    model = get_peft_model(
        network,
        LoraConfig(
            r=args.rank,
            lora_alpha=args.alpha,
            lora_dropout=args.dropout,
            bias="all",
            target_modules=["qkv", "proj"],
        ),
    )
    fill_adapters(model)
    stack.write_npz(path, steps(model, (2, 4, 5), args))
    if folder:
        model.save_pretrained(folder)


def load(spec, args, out):
    """Heads with an adapter folder written by lntorch, and whether PEFT used every tensor in it."""
    from peft import PeftConfig
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    network = stack.build(spec, deep_supervision=True)
    stack.load_weights(network, args.weights)
    model = PeftModel.from_pretrained(network, args.load)
    result = set_peft_model_state_dict(model, load_peft_weights(args.load, device="cpu"))
    executed(model).eval()
    with torch.no_grad():
        arrays = {
            f"eval_{k}": h.numpy()
            for k, h in enumerate(
                heads_of(model, stack.hash_tensor(-1, tuple(spec["input_shape"])))
            )
        }
    stack.write_npz(out / "loaded.npz", arrays)
    config = PeftConfig.from_pretrained(args.load).to_dict()
    print(
        json.dumps(
            {
                "unexpected": result.unexpected_keys,
                "missing": [k for k in result.missing_keys if "lora_" in k],
                "adapted": sum(1 for n, _ in model.named_modules() if n.endswith(".lora_A")),
                "config": {k: (sorted(v) if isinstance(v, set) else v) for k, v in config.items()},
            }
        )
    )


def released(spec, args, folder):
    """A checkpoint with PeftModel.state_dict() as network_weights; B.pth has nonzero B, merged.npz
    the merged weights if its adapters run."""
    folder.mkdir(parents=True, exist_ok=True)
    network = stack.build(spec, deep_supervision=True)
    stack.fill(network)
    model = get_peft_model(
        network,
        LoraConfig(
            r=args.rank,
            lora_alpha=args.alpha,
            lora_dropout=args.dropout,
            bias="none",
            target_modules=targets(network),
        ),
    )
    rest = {
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": 3,
        "init_args": {},
        "trainer_name": "nnUNetTrainer_lora",
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save({"network_weights": model.state_dict(), **rest}, folder / "zero.pth")
    torch.save(
        {
            "network_weights": {
                k.replace("base_model.model.", "base_model.model._orig_mod."): v
                for k, v in model.state_dict().items()
            },
            **rest,
        },
        folder / "compiled.pth",
    )
    fill_adapters(model)
    torch.save({"network_weights": model.state_dict(), **rest}, folder / "B.pth")
    executed(model).eval()
    with torch.no_grad():
        heads = heads_of(model, stack.hash_tensor(-1, tuple(spec["input_shape"])))
    stack.write_npz(folder / "merged.npz", {f"eval_{k}": h.numpy() for k, h in enumerate(heads)})


def golden(args, folder):
    import networks

    nets = {s["name"]: s for s in networks.cases()}
    args.dropout = 0.0  # dropout masks depend on the random generator: live tests only
    for name in ("plain-aniso", "resenc-2d", "resenc-basic"):
        spec = {**nets[name], "mode": "train"}
        arrays = run(spec, args)
        stack.write_npz(folder / f"{name}.npz", arrays)
        stack.write_json(
            folder / f"{name}.json",
            {
                "spec": spec,
                "rank": args.rank,
                "alpha": args.alpha,
                "steps": args.steps,
                "meta": stack.meta(args, **stack.versions("peft")),
            },
        )
        print(name, arrays["losses"])
    linear(args, folder / "linear.npz")


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="DIR")
    p.add_argument("--spec")
    p.add_argument("--out")
    p.add_argument("--rank", type=int, default=2)
    p.add_argument("--alpha", type=float, default=3)
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--weights")
    p.add_argument("--load", metavar="FOLDER")
    p.add_argument("--linear", action="store_true")
    p.add_argument("--released", metavar="DIR")
    args = p.parse_args()
    stack.start(args)
    if args.golden:
        golden(args, Path(args.golden))
    elif args.released:
        released(stack.read_spec(args.spec), args, Path(args.released))
    elif args.linear:
        linear(args, Path(args.out) / "lora.npz", Path(args.out) / "adapter")
    elif args.load:
        load(stack.read_spec(args.spec), args, Path(args.out))
    else:
        stack.write_npz(
            Path(args.out) / "lora.npz", run(stack.read_spec(args.spec), args, Path(args.out))
        )


if __name__ == "__main__":
    main()
