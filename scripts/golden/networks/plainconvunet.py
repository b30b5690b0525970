from networks import ANISO, ANISO_STRIDES, BINARY, FLAT, FLAT_STRIDES, ISO, ISO_STRIDES, arch, spec

CLASS = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def cases():
    one = dict(n_conv_per_stage=[1, 1, 1], n_conv_per_stage_decoder=[1, 1])
    two = dict(n_conv_per_stage=[2, 2, 2], n_conv_per_stage_decoder=[2, 2])
    return [
        spec("plain-3d", arch(CLASS, 3, [4, 6, 8], ISO, ISO_STRIDES, **two), 1, 2, [2, 8, 16, 8]),
        spec(
            "plain-aniso",
            arch(
                CLASS,
                3,
                [4, 6, 8],
                ANISO,
                ANISO_STRIDES,
                n_conv_per_stage=[2, 1, 2],
                n_conv_per_stage_decoder=[1, 2],
            ),
            1,
            2,
            [1, 4, 16, 12],
        ),
        spec("plain-2d", arch(CLASS, 2, [4, 8, 12], FLAT, FLAT_STRIDES, **two), 1, 2, [2, 24, 16]),
        spec(
            "plain-dropout",
            arch(
                CLASS,
                3,
                [4, 6, 8],
                ISO,
                ISO_STRIDES,
                dropout_op="torch.nn.Dropout3d",
                dropout_op_kwargs={"p": 0.25, "inplace": True},
                **one,
            ),
            1,
            2,
            [1, 8, 8, 8],
            mode="eval",
        ),
        spec(
            "plain-nobias",
            arch(CLASS, 3, [4, 6, 8], ISO, ISO_STRIDES, conv_bias=False, **one),
            1,
            2,
            [1, 8, 8, 8],
        ),
        spec(
            "plain-nonlinfirst",
            arch(CLASS, 3, [4, 6, 8], ISO, ISO_STRIDES, nonlin_first=True, **one),
            1,
            2,
            [2, 8, 8, 8],
        ),
        spec(
            "plain-channels",
            arch(CLASS, 3, [5, 7, 9], ISO, ISO_STRIDES, **one),
            3,
            4,
            [2, 8, 8, 8],
        ),
        spec(
            "plain-single-head",
            arch(CLASS, 3, [4, 6, 8], ISO, ISO_STRIDES, **one),
            1,
            2,
            [1, 8, 8, 8],
            deep_supervision=False,
        ),
    ]


def training():
    multi = {"background": 0, "a": 1, "b": 2, "c": 3}
    regions = {"background": 0, "whole": [1, 2], "core": [2]}
    ordered = {"regions_class_order": [1, 2]}
    return [
        ("binary", "plain-3d", BINARY, {}),
        ("multi-batchdice", "plain-channels", multi, {"batch_dice": True}),
        ("multi-ignore", "plain-channels", {**multi, "ignore": 4}, {}),
        ("regions", "plain-3d", regions, ordered),
        ("regions-ignore", "plain-3d", {**regions, "ignore": 3}, {**ordered, "batch_dice": True}),
        ("2d", "plain-2d", BINARY, {"batch_dice": True}),
        ("no-deep-supervision", "plain-single-head", BINARY, {}),
    ]
