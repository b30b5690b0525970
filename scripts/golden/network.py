"""PlainConvUNet and ResidualEncoderUNet: every head's output, every gradient, every state-dict key.

Golden files:   network.py --out testdata/golden/network
Live:           network.py --spec SPEC.json --out OUT.npz [--weights-fill hash | --weights FILE.pth]
                           [--input X.npy] [--input-shape N C ...] [--threads N]

Input: the hash fill with p = -1. Loss: sum over heads, in order, of mean(head_i * w_i), w_i the
hash fill with p = -2-i.
OUT.npz: head_0 (full resolution) ..., loss (0-d), grad/NAME for each named parameter with a
gradient. Next to it OUT.json: meta, spec, loss, heads (shapes), state_dict rows, named_parameters
rows.
"""

import numpy as np
import torch

import stack

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESENC = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
BOTTLENECK = "dynamic_network_architectures.building_blocks.residual.BottleneckD"


def arch(
    network_class,
    dims,
    features,
    kernels,
    strides,
    imports=("conv_op", "norm_op", "dropout_op", "nonlin"),
    **kw,
):
    d = f"{dims}d"
    kwargs = {
        "n_stages": len(features),
        "features_per_stage": features,
        "conv_op": f"torch.nn.modules.conv.Conv{d}",
        "kernel_sizes": kernels,
        "strides": strides,
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{d}",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    kwargs.update(kw)
    return {
        "network_class_name": network_class,
        "arch_kwargs": kwargs,
        "_kw_requires_import": list(imports),
    }


def spec(name, architecture, channels, classes, shape, **more):
    return {
        "name": name,
        "architecture": architecture,
        "input_channels": channels,
        "num_classes": classes,
        "input_shape": [shape[0], channels, *shape[1:]],
        "deep_supervision": True,
        "mode": "train",
        **more,
    }


def cases():
    iso = [[3, 3, 3]] * 3
    iso_strides = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    aniso = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    aniso_strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    k2, s2 = [[3, 3]] * 3, [[1, 1], [2, 2], [2, 2]]
    plain = dict(n_conv_per_stage=[1, 1, 1], n_conv_per_stage_decoder=[1, 1])
    two = dict(n_conv_per_stage=[2, 2, 2], n_conv_per_stage_decoder=[2, 2])
    with_block = ("conv_op", "norm_op", "dropout_op", "nonlin", "block")
    return [
        spec("plain-3d", arch(PLAIN, 3, [4, 6, 8], iso, iso_strides, **two), 1, 2, [2, 8, 16, 8]),
        spec(
            "plain-aniso",
            arch(
                PLAIN,
                3,
                [4, 6, 8],
                aniso,
                aniso_strides,
                n_conv_per_stage=[2, 1, 2],
                n_conv_per_stage_decoder=[1, 2],
            ),
            1,
            2,
            [1, 4, 16, 12],
        ),
        spec("plain-2d", arch(PLAIN, 2, [4, 8, 12], k2, s2, **two), 1, 2, [2, 24, 16]),
        spec(
            "plain-dropout",
            arch(
                PLAIN,
                3,
                [4, 6, 8],
                iso,
                iso_strides,
                dropout_op="torch.nn.Dropout3d",
                dropout_op_kwargs={"p": 0.25, "inplace": True},
                **plain,
            ),
            1,
            2,
            [1, 8, 8, 8],
            mode="eval",
        ),
        spec(
            "plain-nobias",
            arch(PLAIN, 3, [4, 6, 8], iso, iso_strides, conv_bias=False, **plain),
            1,
            2,
            [1, 8, 8, 8],
        ),
        spec(
            "plain-nonlinfirst",
            arch(PLAIN, 3, [4, 6, 8], iso, iso_strides, nonlin_first=True, **plain),
            1,
            2,
            [2, 8, 8, 8],
        ),
        spec(
            "plain-channels",
            arch(PLAIN, 3, [5, 7, 9], iso, iso_strides, **plain),
            3,
            4,
            [2, 8, 8, 8],
        ),
        spec(
            "plain-single-head",
            arch(PLAIN, 3, [4, 6, 8], iso, iso_strides, **plain),
            1,
            2,
            [1, 8, 8, 8],
            deep_supervision=False,
        ),
        # stage 1: skip with pooling and projection; stage 2: only pooling (equal channels); stage
        # 3: only projection; second blocks: identity.
        spec(
            "resenc-basic",
            arch(
                RESENC,
                3,
                [4, 6, 6, 8],
                aniso + [[3, 3, 3]],
                [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 1, 1]],
                n_blocks_per_stage=[1, 2, 2, 1],
                n_conv_per_stage_decoder=[1, 1, 1],
            ),
            1,
            2,
            [2, 4, 16, 8],
        ),
        spec(
            "resenc-bottleneck",
            arch(
                RESENC,
                3,
                [4, 8, 8],
                iso,
                iso_strides,
                imports=with_block,
                block=BOTTLENECK,
                bottleneck_channels=[2, 4, 4],
                stem_channels=6,
                n_blocks_per_stage=[1, 2, 1],
                n_conv_per_stage_decoder=[1, 2],
            ),
            2,
            3,
            [1, 8, 8, 8],
        ),
        spec(
            "resenc-2d",
            arch(
                RESENC,
                2,
                [4, 8, 8],
                k2,
                s2,
                n_blocks_per_stage=[1, 2, 2],
                n_conv_per_stage_decoder=[1, 1],
            ),
            1,
            3,
            [2, 24, 16],
        ),
        spec(
            "resenc-dropout-nobias",
            arch(
                RESENC,
                3,
                [4, 6, 8],
                iso,
                iso_strides,
                conv_bias=False,
                dropout_op="torch.nn.Dropout3d",
                dropout_op_kwargs={"p": 0.5},
                n_blocks_per_stage=[1, 1, 1],
                n_conv_per_stage_decoder=[1, 1],
            ),
            1,
            2,
            [1, 8, 8, 8],
            mode="eval",
        ),
    ]


def run(spec, args, weights="hash", data=None):
    """(arrays, description) of one case."""
    network = stack.build(spec)
    stack.load_weights(network, weights)
    network.train(spec.get("mode", "train") == "train")
    if data is None:
        data = stack.hash_tensor(-1, tuple(spec["input_shape"]))
    heads = network(data)
    if torch.is_tensor(heads):
        heads = [heads]
    loss = None
    for i, head in enumerate(heads):
        term = (head * stack.hash_tensor(-2 - i, tuple(head.shape))).mean()
        loss = term if loss is None else loss + term
    loss.backward()
    arrays = {f"head_{i}": h.detach().numpy() for i, h in enumerate(heads)}
    arrays["loss"] = loss.detach().numpy()
    for name, p in network.named_parameters():
        if p.grad is not None:
            arrays["grad/" + name] = p.grad.numpy()
    description = {
        "meta": stack.meta(args, weights=str(weights) if weights == "hash" else "file"),
        "spec": spec,
        "loss": float(loss),
        "heads": [list(h.shape) for h in heads],
        "state_dict": stack.state_dict_rows(network),
        "named_parameters": stack.named_parameter_rows(network),
    }
    return arrays, description


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument(
        "--out", required=True, help="folder of golden files, or with --spec the .npz to write"
    )
    p.add_argument("--spec", help="live: one spec")
    p.add_argument("--weights-fill", choices=["hash"], default="hash")
    p.add_argument("--weights", help="live: checkpoint or state dict instead of the fill")
    p.add_argument("--input", help="live: .npy input instead of the hash fill")
    p.add_argument(
        "--input-shape", type=int, nargs="+", help="live: input shape instead of the spec's"
    )
    args = p.parse_args()
    stack.start(args)
    if args.spec:
        spec = stack.read_spec(args.spec)
        if args.input_shape:
            spec["input_shape"] = args.input_shape
        data = torch.from_numpy(np.load(args.input)) if args.input else None
        arrays, description = run(spec, args, args.weights or args.weights_fill, data)
        stack.write_npz(args.out, arrays)
        stack.write_json(args.out.removesuffix(".npz") + ".json", description)
        return
    for spec in cases():
        arrays, description = run(spec, args)
        stack.write_npz(f"{args.out}/{spec['name']}.npz", arrays)
        stack.write_json(f"{args.out}/{spec['name']}.json", description)
        print(spec["name"], description["heads"], len(description["state_dict"]), "keys")


if __name__ == "__main__":
    main()
