from networks import (
    ANISO,
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

CLASS = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def cases():
    return [
        # stage 1: skip with pooling and projection; stage 2: only pooling (equal channels); stage
        # 3: only projection; second blocks: identity.
        spec(
            "resenc-basic",
            arch(
                CLASS,
                3,
                [4, 6, 6, 8],
                ANISO + [[3, 3, 3]],
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
            "resenc-2d",
            arch(
                CLASS,
                2,
                [4, 8, 8],
                FLAT,
                FLAT_STRIDES,
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
                CLASS,
                3,
                [4, 6, 8],
                ISO,
                ISO_STRIDES,
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


def training():
    return [
        ("resenc-2d", "resenc-2d", {"background": 0, "a": 1, "b": 2}, {"batch_dice": True}),
        ("resenc-3d", "resenc-basic", BINARY, {}),
    ]
