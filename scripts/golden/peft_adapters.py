"""Adapters saved, loaded and merged by PEFT, for the settings that affect their meaning.

    peft_adapters.py --golden DIR     the folders of FOLDERS, and patterns.json
    peft_adapters.py --out DIR        the same, for tests that compare with the installed PEFT
    peft_adapters.py --only-patterns --golden DIR

DIR/base.pth is the network before. Each case CASE has adapter/ (CASE/NAME/ for a named adapter),
written by save_pretrained after the adapters were moved, and merged.safetensors: the weights that
loading the folder into the base and merge_and_unload change.
wrapped.pth is the state dict of a wrapped network whose adapter is called "hospital", of alpha 4;
wrapped.safetensors the merged weights.
patterns.json: for pairs of rank_pattern and alpha_pattern, rank and scaling of each layer; for
target_modules, exclude_modules, layers_to_transform and layers_pattern the layers that get an
adapter. "meta" has the versions.

Runs with any PEFT since 0.13. For another than 0.14.0:
    python -m pip install --no-deps --target X peft==V; PYTHONPATH=X python scripts/golden/peft_adapters.py …
"""

import argparse
import json
import warnings
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

warnings.simplefilter("ignore")
torch.set_num_threads(1)

ATTENTION = ["qkv", "proj", "narrow"]
FOLDERS = {
    "plain": dict(
        target_modules=["conv", "qkv"], bias="all", modules_to_save=["decoder.seg_layers.0"]
    ),
    "rslora": dict(target_modules=["proj", "stages.1.conv"], use_rslora=True),
    "gaussian": dict(target_modules=ATTENTION, init_lora_weights="gaussian"),
    "pissa": dict(target_modules=ATTENTION, init_lora_weights="pissa"),
    "olora": dict(target_modules=ATTENTION, init_lora_weights="olora"),
    "pissa-rslora": dict(
        target_modules=ATTENTION,
        init_lora_weights="pissa",
        use_rslora=True,
        rank_pattern={"proj": 4},
    ),
    "olora-alpha": dict(
        target_modules=ATTENTION, init_lora_weights="olora", alpha_pattern={"proj": 5}
    ),
    "pissa-whole": dict(target_modules=["proj"], init_lora_weights="pissa", r=6),
    "olora-whole": dict(target_modules=["proj"], init_lora_weights="olora", r=6),
    "patterns": dict(
        target_modules=["conv", "qkv"],
        rank_pattern={"encoder.stages.0.conv": 4},
        alpha_pattern={"conv": 7, "encoder.*": 9},
    ),
    "expression": dict(target_modules=r"encoder\.stages\.\d\.conv|.*\.qkv"),
    "bin": dict(target_modules=["conv"]),
    "bfloat16": dict(target_modules=["conv"], bias="all"),
    "float16": dict(target_modules=["conv"]),
    "hospital": dict(target_modules=["conv"], modules_to_save=["decoder.seg_layers.0"]),
}
# The subset kept in the golden files, for their size; the rest is compared with the installed PEFT.
KEPT = ["plain", "olora", "pissa-rslora", "patterns", "hospital"]

KEYS = [
    "conv",
    "stages.0.conv",
    "encoder.stages.0.conv",
    "encoder.*",
    "qkv|proj",
    "^encoder.stages.1.conv",
    r"s.\d.conv",
    "blocks",
    ".*",
    "(conv)",
    "attn.(qkv|proj)",
    r"stages\.[01]\.conv",
    "c.nv",
    "conv|encoder.stages.1.conv",
    "layers.0.blocks.1.conv$",
    "ayers.0.blocks.1.conv",
    r"\w+",
    "onv",
    "qkv$|conv",
    "[a-z]{3,4}",
]
PATTERNS = (
    [({}, {k: 5}) for k in KEYS]
    + [({k: 2}, {}) for k in KEYS]
    + [
        ({}, {"conv": 5, "encoder.stages.0.conv": 7}),
        ({}, {"encoder.stages.0.conv": 7, "conv": 5}),
        ({}, {"encoder.*": 3, "stages.0.conv": 5, "conv": 9}),
        ({"conv": 2}, {"stages.0.conv": 7}),
        ({"stages.0.conv": 2}, {"stages.0.conv": 6, "conv": 7}),
        ({"encoder.stages.1.conv": 6}, {"conv": 7}),
        ({"conv": 2}, {"conv": 7, ".*": 5}),
        ({"encoder.stages.1.conv": 6}, {"encoder.*": 7, "conv": 11}),
    ]
)
TARGETS = (
    [
        dict(target_modules=t)
        for t in (
            ["conv"],
            ["encoder.stages.0.conv"],
            ["stages.0.conv", "qkv"],
            "conv",
            r".*\.conv",
            r"encoder\..*conv|.*qkv",
            r"(.*\.)?(qkv|conv)",
            "attn.qkv|attn.proj",
        )
    ]
    + [
        dict(target_modules=["conv", "qkv"], exclude_modules=e)
        for e in (["conv"], ["stages.0.conv"], r".*\.conv", r"conv|encoder\.stages\.1\.conv")
    ]
    + [
        dict(
            target_modules=["conv", "encoder.stages.0.conv"],
            layers_to_transform=i,
            layers_pattern=p,
        )
        for i in (0, 1, [0, 1], [])
        for p in (None, "layers", ["stages", "blocks"], "blocks", "layers|stages")
        if i or not p
    ]
)


class Box(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def net(conv=lambda i, o: nn.Conv3d(i, o, 3, padding=1)):
    """Names as in nnU-Net: the encoder is listed again in the decoder. Only layers: it is never
    run."""
    torch.manual_seed(0)
    encoder = Box(stages=nn.ModuleList([Box(conv=conv(2, 6)), Box(conv=conv(6, 5))]))
    return Box(
        conv=conv(1, 2),
        encoder=encoder,
        attn=Box(qkv=nn.Linear(6, 18), proj=nn.Linear(6, 6), narrow=nn.Linear(10, 4, bias=False)),
        layers=nn.ModuleList(
            [
                Box(blocks=nn.ModuleList([Box(conv=conv(2, 2)), Box(conv=conv(2, 3))])),
                Box(conv=conv(2, 2)),
            ]
        ),
        decoder=Box(encoder=encoder, seg_layers=nn.ModuleList([nn.Conv3d(4, 2, 1)])),
    )


def moved(model):
    """Training's stand-in."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += torch.randn_like(p) * 0.1
    return model


def changed(state):
    base = net().state_dict()
    assert base.keys() == state.keys()
    return {k: v.clone().contiguous() for k, v in state.items() if not torch.equal(v, base[k])}


def folder(case, out):
    settings = dict(r=3, lora_alpha=4) | FOLDERS[case]
    name = case if case == "hospital" else "default"
    model = moved(get_peft_model(net(), LoraConfig(**settings), adapter_name=name))
    path = out / case / "adapter"
    model.save_pretrained(path, safe_serialization=case != "bin")
    (path / "README.md").unlink(missing_ok=True)
    path = path / name if name != "default" else path
    config = json.loads((path / "adapter_config.json").read_text())
    if isinstance(config["target_modules"], list):  # a set's order changes from run to run
        config["target_modules"].sort()
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2))
    if "float16" in case:
        file = path / "adapter_model.safetensors"
        save_file({k: v.to(getattr(torch, case)) for k, v in load_file(file).items()}, file)
    merged = changed(
        PeftModel.from_pretrained(net(), path, adapter_name=name).merge_and_unload().state_dict()
    )
    assert merged
    save_file(merged, out / case / "merged.safetensors")


def wrapped(out):
    model = moved(
        get_peft_model(
            net(),
            LoraConfig(
                r=3, lora_alpha=4, target_modules=["conv"], modules_to_save=["decoder.seg_layers.0"]
            ),
            adapter_name="hospital",
        )
    )
    torch.save(model.state_dict(), out / "wrapped.pth")
    save_file(changed(model.merge_and_unload().state_dict()), out / "wrapped.safetensors")


def layers_of(settings, **more):
    """Rank and scaling of each adapted layer; a string if PEFT raises."""
    try:
        config = LoraConfig(r=3, lora_alpha=4, **settings, **more)
        model = get_peft_model(net(nn.Linear), config)  # PEFT before 0.14 adapts no Conv3d
    except Exception as e:
        return type(e).__name__
    return {
        n.removeprefix("base_model.model."): [m.r["default"], m.scaling["default"]]
        for n, m in model.named_modules()
        if hasattr(m, "lora_A") and "default" in m.lora_A
    }


def patterns(out):
    """patterns.json, with adapter_config.json as PEFT would save it."""
    everything = dict(target_modules=["conv", "qkv", "proj"])
    cases = []
    known = set(LoraConfig.__dataclass_fields__)
    for settings in [
        everything | {"rank_pattern": r, "alpha_pattern": a} for r, a in PATTERNS
    ] + TARGETS:
        if not settings.keys() <= known:
            continue
        config = {"peft_type": "LORA", "r": 3, "lora_alpha": 4, **settings}
        cases.append({"config": config, "layers": layers_of(settings)})
    keys = sorted(LoraConfig(target_modules=["conv"]).to_dict())
    version = {"peft_version": peft.__version__} if "peft_version" in keys else {}
    text = {
        "meta": {"peft": peft.__version__, "torch": torch.__version__},
        "keys": keys,
        **version,
        "cases": cases,
    }
    (out / "patterns.json").write_text(
        json.dumps(text, indent=None).replace('{"config"', '\n{"config"') + "\n"
    )


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="DIR")
    p.add_argument("--out", metavar="DIR")
    p.add_argument("--only-patterns", action="store_true")
    args = p.parse_args()
    out = Path(args.golden or args.out)
    out.mkdir(parents=True, exist_ok=True)
    patterns(out)
    if not args.only_patterns:
        torch.save(net().state_dict(), out / "base.pth")
        for case in KEPT if args.golden else FOLDERS:
            folder(case, out)
        if not args.golden:
            wrapped(out)


if __name__ == "__main__":
    main()
