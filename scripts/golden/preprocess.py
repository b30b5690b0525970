"""Writes what nnU-Net 2.5.1 makes of small images in preprocessing, called function by function.
Usage: python scripts/golden/preprocess.py OUTPUT_FOLDER [SEED] (from the repository root). The test suite
runs it with other seeds and compares what it writes.

crop.npz   per case i: image_i (c,z,y,x), box_i (3,2), seg_i = the labels of crop_to_nonzero without a
           segmentation (0 inside, -1 outside)."""
import os
import sys

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

OUT = sys.argv[1]
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 0


def crop():
    rng = np.random.RandomState(SEED)
    out = {}

    def add(image):
        i = len(out) // 3
        _, seg, box = crop_to_nonzero(image.astype(np.float32))
        out[f"image_{i}"], out[f"seg_{i}"], out[f"box_{i}"] = image, seg, np.array(box)

    types = [np.int16, np.uint8, np.float32, np.int8, np.float64, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
    for i in range(24):
        shape = [1 + i % 3] + [int(n) for n in rng.randint(1, 10, 3)]
        image = (rng.rand(*shape) < rng.choice([0.02, 0.2, 0.5, 0.8])) * rng.randint(1, 90, shape)
        add(image.astype(types[i % len(types)]))
    for n in ((4, 5, 6), (1, 1, 1)):
        add(np.zeros((1, *n), np.int16))
        add(np.ones((1, *n), np.int16))
    ball = (np.indices((12, 13, 14)) - np.array([6, 6, 7]).reshape(3, 1, 1, 1)) ** 2
    r = ball.sum(0)
    shell = ((r > 12) & (r < 26)).astype(np.int16)  # a closed hole
    add(shell[None])
    open_ = shell.copy()
    open_[6, 6, 7:] = 0  # a tunnel into it
    add(open_[None])
    two = np.stack([shell, np.roll(open_, 1, 0)])
    add(two)
    values = np.zeros((1, 4, 5, 6), np.float32)
    values[0, 1, 2, 3], values[0, 2, 1, 1], values[0, 3, 3, 3] = np.nan, -0.0, 1e-42
    add(values)
    np.savez_compressed(os.path.join(OUT, "crop.npz"), **out)


os.makedirs(OUT, exist_ok=True)
crop()
