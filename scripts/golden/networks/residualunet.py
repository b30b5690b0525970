from networks import (
    ANISO,
    ANISO_STRIDES,
    BINARY,
    BOTTLENECK,
    FLAT,
    FLAT_STRIDES,
    ISO,
    ISO_STRIDES,
    WITH_BLOCK,
    arch,
    spec,
)

CLASS = "dynamic_network_architectures.architectures.unet.ResidualUNet"


def cases():
    one = dict(n_blocks_per_stage=[1, 1, 1], n_conv_per_stage_decoder=[1, 1])
    return [
        # In the decoder, stages of two blocks and of one.
        spec(
            "resunet-basic",
            arch(
                CLASS,
                3,
                [4, 6, 8],
                ANISO,
                ANISO_STRIDES,
                n_blocks_per_stage=[1, 2, 2],
                n_conv_per_stage_decoder=[2, 1],
            ),
            1,
            2,
            [2, 4, 16, 8],
        ),
        # The decoder's blocks are BasicBlockD all the same.
        spec(
            "resunet-bottleneck",
            arch(
                CLASS,
                3,
                [4, 8, 8],
                ISO,
                ISO_STRIDES,
                imports=WITH_BLOCK,
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
            "resunet-2d",
            arch(
                CLASS,
                2,
                [4, 8, 8],
                FLAT,
                FLAT_STRIDES,
                n_blocks_per_stage=[1, 2, 2],
                n_conv_per_stage_decoder=[1, 2],
            ),
            1,
            3,
            [2, 24, 16],
        ),
        spec(
            "resunet-dropout-nobias",
            arch(
                CLASS,
                3,
                [4, 6, 8],
                ISO,
                ISO_STRIDES,
                conv_bias=False,
                dropout_op="torch.nn.Dropout3d",
                dropout_op_kwargs={"p": 0.5},
                **one,
            ),
            1,
            2,
            [1, 8, 8, 8],
            mode="eval",
        ),
        spec(
            "resunet-single-head",
            arch(CLASS, 3, [4, 6, 8], ISO, ISO_STRIDES, **one),
            1,
            2,
            [1, 8, 8, 8],
            deep_supervision=False,
        ),
    ]


def training():
    ten = {"steps": 10}
    return [
        ("resunet-3d", "resunet-basic", BINARY, ten),
        (
            "resunet-2d",
            "resunet-2d",
            {"background": 0, "a": 1, "b": 2},
            {**ten, "batch_dice": True},
        ),
    ]
