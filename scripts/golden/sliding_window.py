"""Sliding-window logits by nnU-Net's own nnUNetPredictor.

Golden files:  sliding_window.py --golden testdata/golden/sliding_window
Live:          sliding_window.py --out OUT.npz --input CASE.npz|X.npy
                   (--model-folder F [--fold 0] [--checkpoint-name checkpoint_final.pth]
                    | --spec SPEC.json [--weights hash|FILE.pth] --patch-size D H W
                      [--mirror-axes 0 1 2] [--folds 5])
                   [--no-mirroring] [--no-gaussian] [--step-size 0.5]
                   [--accumulate float16|float32|float64] [--crop D H W]

The input is a preprocessed array (c,z,y,x) float32: an .npy, or an .npz with the array "data" as
nnU-Net writes it; --crop takes its first voxels along each axis. A 2d network runs over every slice
of axis 0. With --folds the logits are the mean over networks whose weights are those of the spec times
1, 7/8, 6/8, …, as predict_logits_from_preprocessed_data makes it. float16 (default) is predict_sliding_window_return_logits itself. float32 and float64 are
the same tiles in the same order with the same float16 weight map, widened; logits and weight sums
accumulate in that type; the network stays float32.
OUT.npz: logits (heads,z,y,x), count (z,y,x, sum of weights; float32 and float64 only).
OUT.json: steps (tile starts per axis of the padded image), padded_shape, tiles, patch_size,
mirror_axes, sha256, meta.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import stack


def new_predictor(step_size, gaussian, mirroring):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    return nnUNetPredictor(
        tile_step_size=step_size,
        use_gaussian=gaussian,
        use_mirroring=mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )


def from_folder(predictor, folder, fold, checkpoint):
    predictor.initialize_from_trained_model_folder(str(folder), [fold], checkpoint)
    predictor.network.load_state_dict(predictor.list_of_parameters[0])


def from_spec(predictor, spec, weights, patch_size, mirror_axes, folds=1):
    network = stack.build(spec, deep_supervision=False)
    stack.load_weights(network, weights)
    predictor.network = network
    predictor.list_of_parameters = [
        {name: w * (1 - fold / 8) for name, w in network.state_dict().items()}
        for fold in range(folds)
    ]
    predictor.configuration_manager = SimpleNamespace(patch_size=list(patch_size))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=spec["num_classes"])
    predictor.allowed_mirroring_axes = tuple(mirror_axes) if mirror_axes else None


def padded(predictor, data):
    from acvl_utils.cropping_and_padding.padding import pad_nd_image

    return pad_nd_image(
        data, predictor.configuration_manager.patch_size, "constant", {"value": 0}, True, None
    )


def weight_map(predictor):
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    return compute_gaussian(
        tuple(predictor.configuration_manager.patch_size),
        sigma_scale=1.0 / 8,
        value_scaling_factor=10,
        device=torch.device("cpu"),
    )


def wide(predictor, data, dtype):
    """predict_sliding_window_return_logits with accumulators of another type; also returns the
    weight sums."""
    data, inside = padded(predictor, data)
    predictor.network.eval()
    weights = (
        weight_map(predictor).to(dtype) if predictor.use_gaussian else torch.ones((), dtype=dtype)
    )
    logits = torch.zeros(
        (predictor.label_manager.num_segmentation_heads, *data.shape[1:]), dtype=dtype
    )
    count = torch.zeros(data.shape[1:], dtype=dtype)
    with torch.no_grad():
        for tile in predictor._internal_get_sliding_window_slicers(data.shape[1:]):
            logits[tile] += (
                predictor._internal_maybe_mirror_and_predict(data[tile][None])[0].to(dtype)
                * weights
            )
            count[tile[1:]] += weights
    logits /= count
    return logits[(slice(None), *inside[1:])], count[tuple(inside[1:])]


def run(predictor, data, accumulate="float16"):
    """(arrays, description) of one case."""
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    if accumulate == "float16":
        arrays = {"logits": predictor.predict_logits_from_preprocessed_data(data).numpy()}
    else:
        logits, count = wide(predictor, data, getattr(torch, accumulate))
        arrays = {"logits": logits.numpy(), "count": count.numpy()}
    big, _ = padded(predictor, data)
    patch = list(predictor.configuration_manager.patch_size)
    steps = compute_steps_for_sliding_window(
        tuple(big.shape[1:])[-len(patch) :], patch, predictor.tile_step_size
    )
    return arrays, {
        "input_shape": list(data.shape),
        "padded_shape": list(big.shape),
        "patch_size": patch,
        "steps": [[int(s) for s in axis] for axis in steps],
        "tiles": len(predictor._internal_get_sliding_window_slicers(big.shape[1:])),
        "step_size": predictor.tile_step_size,
        "gaussian": predictor.use_gaussian,
        "mirror_axes": list(predictor.allowed_mirroring_axes or [])
        if predictor.use_mirroring
        else [],
        "accumulate": accumulate,
        "sha256": stack.sha256(arrays["logits"]),
    }


def read_input(path, crop=None):
    array = np.load(path)
    if not isinstance(array, np.ndarray):
        array = array["data"]
    if crop:
        array = array[(slice(None), *(slice(0, n) for n in crop))]
    return torch.from_numpy(np.ascontiguousarray(array))


def golden_maps(folder, args):
    """Weight maps (small tiles in full, large ones sampled) and tile positions."""
    from nnunetv2.inference.sliding_window_prediction import (
        compute_gaussian,
        compute_steps_for_sliding_window,
    )

    arrays, maps = {}, []
    for tile in [
        (16, 48, 48),
        (8, 10, 7),
        (5, 6, 4),
        (24, 16),
        (1, 32, 32),
        (128, 128, 128),
        (28, 256, 256),
        (512, 512),
    ]:
        g = compute_gaussian(
            tile, sigma_scale=1.0 / 8, value_scaling_factor=10, device=torch.device("cpu")
        ).numpy()
        row = {
            "tile": list(tile),
            "sha256": stack.sha256(g),
            "at_minimum": int((g == g.min()).sum()),
        }
        name = "x".join(map(str, tile))
        if g.size <= 2048:
            arrays["map/" + name] = g
        else:
            at = np.unique(np.linspace(0, g.size - 1, 997).astype(np.int64))
            arrays["at/" + name], arrays["values/" + name] = at.astype(np.int32), g.ravel()[at]
        maps.append(row)
    steps = []
    for image, tile, step in [
        ((110,), (64,), 0.5),
        ((40, 96, 96), (16, 48, 48), 0.5),
        ((28, 64, 64), (16, 48, 48), 0.5),
        ((33, 51, 49), (16, 48, 48), 0.5),
        ((100, 100, 100), (32, 24, 17), 0.3),
        ((64, 64), (64, 64), 0.5),
        ((65, 300), (64, 96), 0.75),
        ((200, 201, 203), (64, 64, 64), 1.0),
        ((50, 80), (20, 32), 0.1),
    ]:
        steps.append(
            {
                "image": list(image),
                "tile": list(tile),
                "step_size": step,
                "steps": [
                    [int(s) for s in a] for a in compute_steps_for_sliding_window(image, tile, step)
                ],
            }
        )
    stack.write_npz(f"{folder}/maps.npz", arrays)
    stack.write_json(
        f"{folder}/maps.json", {"maps": maps, "steps": steps, "meta": stack.meta(args)}
    )


def golden_predictions(folder, args):
    case = (
        stack.PHANTOM
        / "preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource_3d_fullres/LN_000.npz"
    )
    import networks

    flat = next(s for s in networks.cases() if s["name"] == "resenc-2d")
    hard = {"spec": flat, "weights": "hash", "patch_size": [24, 16], "mirror_axes": [0, 1]}
    out = []
    for name, crop, source, mirroring, accumulate in [
        ("foundation", None, None, False, "float16"),
        ("foundation-mirrored", [20, 60, 60], None, True, "float16"),
        ("foundation-padded", [11, 60, 47], None, True, "float16"),
        ("foundation-float32", [20, 60, 60], None, True, "float32"),
        ("2d-mirrored", [3, 40, 30], hard, True, "float16"),
        ("2d-padded", [2, 20, 30], hard, False, "float16"),
    ]:
        predictor = new_predictor(0.5, True, mirroring)
        if source is None:
            from_folder(predictor, stack.FOUNDATION, 0, "checkpoint_final.pth")
        else:
            from_spec(predictor, **source)
        data = read_input(case, crop)
        arrays, description = run(predictor, data, accumulate)
        logits = arrays["logits"]
        middle = tuple(slice(n // 2 - min(n // 2, 4), n // 2 + 4) for n in logits.shape[1:])
        corner = tuple(slice(0, min(n, 8)) for n in logits.shape[1:])
        stack.write_npz(
            f"{folder}/{name}.npz",
            {"middle": logits[(slice(None), *middle)], "corner": logits[(slice(None), *corner)]},
        )
        out.append(
            {
                "name": name,
                "crop": crop,
                "source": source or "foundation",
                **description,
                "middle": [[s.start, s.stop] for s in middle],
                "corner": [[s.start, s.stop] for s in corner],
                "mean": float(logits.astype(np.float64).mean()),
                "std": float(logits.astype(np.float64).std()),
                "labels": np.bincount(logits.argmax(0).ravel(), minlength=len(logits)).tolist(),
            }
        )
        print(name, description["padded_shape"], description["steps"], out[-1]["labels"])
    stack.write_json(
        f"{folder}/predictions.json",
        {"input": str(case.relative_to(stack.ROOT)), "cases": out, "meta": stack.meta(args)},
    )


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="DIR")
    p.add_argument("--out")
    p.add_argument("--input")
    p.add_argument("--crop", type=int, nargs="+")
    p.add_argument("--model-folder")
    p.add_argument("--fold", default="0")
    p.add_argument("--checkpoint-name", default="checkpoint_final.pth")
    p.add_argument("--spec")
    p.add_argument("--weights", default="hash")
    p.add_argument("--patch-size", type=int, nargs="+")
    p.add_argument("--mirror-axes", type=int, nargs="*")
    p.add_argument("--no-mirroring", action="store_true")
    p.add_argument("--no-gaussian", action="store_true")
    p.add_argument("--folds", type=int, default=1)
    p.add_argument("--step-size", type=float, default=0.5)
    p.add_argument("--accumulate", choices=["float16", "float32", "float64"], default="float16")
    args = p.parse_args()
    stack.start(args)
    if args.golden:
        golden_maps(Path(args.golden), args)
        golden_predictions(Path(args.golden), args)
        return
    if not (args.out and args.input and (args.model_folder or (args.spec and args.patch_size))):
        p.error("give --golden, or --out, --input and --model-folder (or --spec and --patch-size)")
    predictor = new_predictor(args.step_size, not args.no_gaussian, not args.no_mirroring)
    if args.model_folder:
        from_folder(predictor, args.model_folder, args.fold, args.checkpoint_name)
    else:
        from_spec(
            predictor,
            stack.read_spec(args.spec),
            args.weights,
            args.patch_size,
            args.mirror_axes,
            args.folds,
        )
    arrays, description = run(predictor, read_input(args.input, args.crop), args.accumulate)
    stack.write_npz(args.out, arrays)
    stack.write_json(
        args.out.removesuffix(".npz") + ".json", {**description, "meta": stack.meta(args)}
    )


if __name__ == "__main__":
    main()
