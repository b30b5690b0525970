"""Writes the golden files of packages eval/pynum, eval (online part) and report/nnlog.

Into testdata/golden:

eval/numbers.json   str(), np.round, np.sum, np.mean and np.nanmean of many values, floats as
                    hexadecimal strings
eval/online.json    nnUNetTrainer.on_validation_epoch_end on synthetic counts: pseudo-Dice, mean and
                    moving average of several epochs
nnlog/phantom_mini.json   the logging dictionary of phantom-mini's checkpoint_final.pth
"""

import warnings
from types import SimpleNamespace

import numpy as np
import torch

import stack  # first: it sets the variables that nnU-Net reads on import
from nnunetv2.training.logging.nnunet_logger import nnUNetLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def hexed(v):
    return [hexed(i) for i in v] if isinstance(v, (list, tuple)) or np.ndim(v) else float(v).hex()


def numbers():
    rng = np.random.default_rng(1)
    special = [
        0.0,
        -0.0,
        0.5,
        1.0,
        10.0,
        1e-4,
        9.99999e-5,
        1e-5,
        1.5e-7,
        1e15,
        1e16,
        123456789012345680.0,
        0.1,
        2 / 3,
        1e22,
        5e-324,
        -0.706,
        0.00046,
        1e8,
        16777216.0,
        1e300,
        float("nan"),
        float("inf"),
        -float("inf"),
        0.00005,
        0.12345,
        2.675,
        1.00005,
        0.99995,
    ]
    f64 = (
        special
        + list(rng.normal(size=60))
        + list(10 ** rng.uniform(-8, 20, 60))
        + list(rng.integers(0, 20000, 60) / 20000)
    )
    f32 = [np.float32(v) for v in f64 if not abs(v) > 3e38 or np.isinf(v)]
    out = dict(float64=[], float32=[], sums=[])
    for key, kind, values in (("float64", np.float64, f64), ("float32", np.float32, f32)):
        for v in map(kind, values):
            out[key].append(
                dict(
                    x=hexed(v),
                    text=str(v),
                    rounded={str(d): str(np.round(v, decimals=d)) for d in (2, 4, 5)},
                )
            )
            if kind is np.float64:
                assert str(v) == repr(float(v)), v
    for n in (1, 2, 7, 8, 9, 15, 50, 128, 129, 250, 300):
        a = rng.normal(size=n) * 10 ** rng.uniform(-3, 3, n)
        holes = np.where(rng.random(n) < 0.3, np.nan, a)
        b = a.astype(np.float32)
        out["sums"].append(
            dict(
                a=hexed(a),
                sum=hexed(np.sum(a)),
                mean=hexed(np.mean(a)),
                holes=hexed(holes),
                nanmean=hexed(np.nanmean(list(holes))),
                b=hexed(b),
                sum32=hexed(np.sum(b)),
                mean32=hexed(np.mean(np.vstack([v[None] for v in b]))),
            )
        )
    return out


def online():
    rng = np.random.default_rng(2)
    out = []
    for name, classes, dtype, low, high in (
        ("one", 1, np.float32, 0, 5000),
        ("three", 3, np.float32, 0, 5000),
        ("one_large", 1, np.float32, 8_000_000, 16_000_000),
        ("three_large", 3, np.float32, 8_000_000, 16_000_000),
        ("regions_large", 2, np.int64, 8_000_000, 16_000_000),
    ):
        stub = SimpleNamespace(is_ddp=False, logger=nnUNetLogger(), current_epoch=0)
        epochs = []
        for e in range(4):
            batches = [
                dict(
                    tp_hard=rng.integers(low, high, classes).astype(dtype),
                    fp_hard=rng.integers(low, high, classes).astype(dtype),
                    fn_hard=rng.integers(low, high, classes).astype(dtype),
                    loss=np.array(rng.normal(), dtype=np.float32),
                )
                for _ in range(50)
            ]
            if e == 2 and classes > 1:
                for b in batches:
                    b["tp_hard"][1] = b["fp_hard"][1] = b["fn_hard"][1] = 0
            stub.current_epoch = e
            nnUNetTrainer.on_validation_epoch_end(stub, batches)
            epochs.append(
                {
                    k: np.array([b[k] for b in batches]).astype(np.int64).tolist()
                    for k in ("tp_hard", "fp_hard", "fn_hard")
                }
            )
            epochs[-1]["loss"] = hexed([b["loss"] for b in batches])
        log = stub.logger.my_fantastic_logging
        out.append(
            dict(
                name=name,
                classes=classes,
                regions=dtype is np.int64,
                epochs=epochs,
                **{
                    k: hexed(log[k])
                    for k in (
                        "dice_per_class_or_region",
                        "mean_fg_dice",
                        "ema_fg_dice",
                        "val_losses",
                    )
                },
            )
        )
    return out


def phantom_mini():
    c = torch.load(
        stack.FOUNDATION / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False
    )
    return dict(
        keys=list(c["logging"]),
        best_ema=hexed(c["_best_ema"]),
        logging={k: hexed(v) for k, v in c["logging"].items()},
    )


def main():
    args = stack.parser(__doc__).parse_args()
    stack.start(args)
    warnings.simplefilter("ignore")  # means of empty slices, intended here
    np.seterr(all="ignore")
    stack.write_json(
        stack.GOLDEN / "eval" / "numbers.json", dict(meta=stack.meta(args), **numbers())
    )
    stack.write_json(
        stack.GOLDEN / "eval" / "online.json", dict(meta=stack.meta(args), runs=online())
    )
    stack.write_json(
        stack.GOLDEN / "nnlog" / "phantom_mini.json", dict(meta=stack.meta(args), **phantom_mini())
    )


if __name__ == "__main__":
    main()
