"""The counts of nnUNetTrainer.validation_step for the logits and targets of the stored loss cases.

Golden file:  online_counts.py --golden testdata/golden/online_counts.json

Maps the name of each case in testdata/golden/loss to tp, fp, fn (one number per foreground class or region), their numpy
type and the validation loss.
"""

from types import SimpleNamespace

import numpy as np
import torch

import stack


def counts(path):
    spec = stack.read_spec(path.with_suffix(".json"))
    with np.load(path) as z:
        levels = len([n for n in z.files if n.startswith("logits_")])
        logits, targets = (
            [torch.from_numpy(z[f"{kind}_{k}"]) for k in range(levels)]
            for kind in ("logits", "target")
        )
    deep = spec["deep_supervision"]
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    owner = SimpleNamespace(
        device=torch.device("cpu"),
        label_manager=stack.label_manager(spec),
        enable_deep_supervision=deep,
        network=lambda data: logits if deep else logits[0],
        loss=stack.build_loss(spec, spec["strides"]),
    )
    out = nnUNetTrainer.validation_step(
        owner, {"data": torch.zeros(1), "target": targets if deep else targets[0]}
    )
    return {
        **{k: [int(v) for v in out[f"{k}_hard"]] for k in ("tp", "fp", "fn")},
        "dtype": str(out["tp_hard"].dtype),
        "loss": float(out["loss"]),
    }


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="FILE", required=True)
    args = p.parse_args()
    stack.start(args)
    cases = {f.stem: counts(f) for f in sorted((stack.GOLDEN / "loss").glob("*.npz"))}
    stack.write_json(args.golden, {**cases, "meta": stack.meta(args)})


if __name__ == "__main__":
    main()
