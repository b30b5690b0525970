"""The networks that the golden scripts build: a file each, with

cases()      specs (see stack.py) for network.py: every head's output and every gradient
training()   (name, the case whose network it is, labels, what else the spec has) for train_steps.py
"""

import importlib
import pkgutil


def every():
    """The modules of this folder by name: a new network is a new file."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{n}") for n in names]


def cases():
    return [s for m in every() for s in m.cases()]


def training():
    """Specs that differ in labels, dimension and loss."""
    specs = {s["name"]: s for s in cases()}
    for m in every():
        for name, net, labels, more in m.training():
            yield {**specs[net], "name": name, "mode": "train", "labels": labels, **more}


# ---- what several networks' files use ----

ISO, ISO_STRIDES = [[3, 3, 3]] * 3, [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
ANISO, ANISO_STRIDES = [[1, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
FLAT, FLAT_STRIDES = [[3, 3]] * 3, [[1, 1], [2, 2], [2, 2]]

WITH_BLOCK = ("conv_op", "norm_op", "dropout_op", "nonlin", "block")
BOTTLENECK = "dynamic_network_architectures.building_blocks.residual.BottleneckD"

BINARY = {"background": 0, "node": 1}


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
