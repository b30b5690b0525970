"""A network of any size: its checkpoint and digests of its outputs.

Live: full_size.py --spec SPEC.json --out DIR [--seed N]

DIR gets checkpoint.pth (nnU-Net's dictionary, with the network's initial weights after
torch.manual_seed) and full_size.json: parameters, and the sha256 of the bytes of every array that
network.py would write.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

import network
import stack


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument("--spec", required=True)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    stack.start(args)
    spec, out = stack.read_spec(args.spec), Path(args.out)
    net = stack.build(spec)
    torch.save(
        {"network_weights": net.state_dict(), "trainer_name": "nnUNetTrainer", "current_epoch": 0},
        out / "checkpoint.pth",
    )
    parameters = sum(q.numel() for q in net.parameters())
    del net
    arrays, _ = network.run(spec, args, weights=out / "checkpoint.pth")
    digests = {
        n: hashlib.sha256(np.ascontiguousarray(a, "<f4").tobytes()).hexdigest()
        for n, a in arrays.items()
    }
    stack.write_json(
        out / "full_size.json",
        {"meta": stack.meta(args), "parameters": parameters, "sha256": digests},
    )


if __name__ == "__main__":
    main()
