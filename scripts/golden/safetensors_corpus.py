#!/usr/bin/env python3
"""Files written by Python's safetensors, and the content of files read by it.

safetensors_corpus.py OUT                writes the corpus: OUT/*.safetensors, and their content in OUT/corpus.json
safetensors_corpus.py --describe FILE…   prints a line of JSON for each file: metadata and tensors with their bytes
safetensors_corpus.py --rewrite IN OUT   reads a file and writes it again
safetensors_corpus.py --same PTH FILE    fails unless FILE, with the aliases in its metadata, is the state dict of a checkpoint
"""

import json
import os
import sys

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def describe(path):
    with safe_open(path, "pt") as f:
        metadata = f.metadata()
    tensors = {}
    for name, t in sorted(load_file(path).items()):
        flat = t.contiguous().reshape(-1)
        raw = flat.view(torch.uint8).numpy().tobytes() if t.numel() else b""
        tensors[name] = {
            "dtype": str(t.dtype).removeprefix("torch."),
            "shape": list(t.shape),
            "hex": raw.hex(),
        }
    return {"metadata": metadata, "tensors": tensors}


def corpus(out):
    rng = np.random.default_rng(5)

    def some(dtype, *shape):
        x = torch.from_numpy(rng.integers(0, 255, size=shape).astype("int32"))
        return (x % 2 == 0) if dtype == torch.bool else (x - 100).to(dtype)

    every = [
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.float16,
        torch.bfloat16,
        torch.int32,
        torch.float32,
        torch.float64,
        torch.int64,
    ]
    files = {
        "dtypes": ({str(d).removeprefix("torch."): some(d, 3, 2) for d in every}, {"format": "pt"}),
        "weights": (
            {
                "encoder.stages.0.conv.weight": some(torch.float32, 4, 1, 3, 3, 3) / 7,
                "encoder.stages.0.conv.bias": some(torch.float32, 4) / 3,
                "decoder.seg_layers.0.weight": some(torch.float32, 2, 4, 1, 1, 1) / 9,
            },
            {"format": "pt"},
        ),
        "shapes": (
            {
                "scalar": torch.tensor(1.5),
                "empty": torch.zeros(0, 3),
                "one": torch.ones(1, 1, 1),
                "none": torch.zeros(0),
            },
            None,
        ),
        "text": (
            {
                'quote"back\\slash': some(torch.uint8, 3),
                "läsion/<a&b>": some(torch.uint8, 5),
                "tab\tnew\nline": some(torch.uint8, 1),
            },
            {"κ": "ü\u2028<&>\u0001"},
        ),
        "nothing": ({}, None),
    }
    os.makedirs(out, exist_ok=True)
    lines = {}
    for name, (tensors, metadata) in files.items():
        path = os.path.join(out, name + ".safetensors")
        save_file(tensors, path, metadata)
        lines[name] = describe(path)
    with open(os.path.join(out, "corpus.json"), "w") as f:
        json.dump(lines, f, indent=1, sort_keys=True)
        f.write("\n")


def main():
    if sys.argv[1] == "--describe":
        for path in sys.argv[2:]:
            print(json.dumps(describe(path)))
    elif sys.argv[1] == "--rewrite":
        with safe_open(sys.argv[2], "pt") as f:
            metadata = f.metadata()
        save_file(load_file(sys.argv[2]), sys.argv[3], metadata)
    elif sys.argv[1] == "--same":
        weights = torch.load(sys.argv[2], map_location="cpu", weights_only=False)["network_weights"]
        tensors = load_file(sys.argv[3])
        with safe_open(sys.argv[3], "pt") as f:
            for name, kept in (f.metadata() or {}).items():
                if kept in tensors and name not in tensors:
                    tensors[name] = tensors[kept]
        assert tensors.keys() == weights.keys()
        assert all(
            t.dtype == weights[n].dtype and torch.equal(t, weights[n]) for n, t in tensors.items()
        )
        print(len(tensors))
    else:
        corpus(sys.argv[1])


if __name__ == "__main__":
    main()
