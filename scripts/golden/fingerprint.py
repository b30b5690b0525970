"""Statistics of foreground intensities by nnU-Net 2.5.1's own sampling and numpy, of small
synthetic cases.

Usage: python scripts/golden/fingerprint.py OUTPUT"""

import json
import os
import sys
import tempfile

for folder in ("raw", "preprocessed", "results"):
    os.environ.setdefault(
        "nnUNet_" + folder, tempfile.gettempdir()
    )  # otherwise nnU-Net prints warnings

import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)


def main(path):
    rng = np.random.RandomState(11)
    out = []
    for _ in range(40):
        draws, channels = (
            int(rng.choice([1, 7, 8, 100, 127, 128, 129, 1000, 8192, 10007])),
            rng.randint(1, 3),
        )
        cases, samples = [], []
        for i in range(rng.randint(1, 6)):
            n = int(rng.choice([0, 1, 2, 3, 50, 200])) if i else int(rng.choice([1, 5, 64, 150]))
            kind = rng.randint(3)
            values = [
                rng.randint(-1000, 1000, (channels, n)).astype(np.float32),
                rng.randn(channels, n).astype(np.float32) * 1e3,
                rng.choice(np.array([0.0, -0.0, 1.5, 3e-8], np.float32), (channels, n)),
            ][kind]
            cases.append(values.tolist())
            seg = (
                np.ones((1, 1, 1, max(n, 1)), np.float32)
                if n
                else np.zeros((1, 1, 1, 1), np.float32)
            )
            image = (
                values.reshape(channels, 1, 1, n) if n else np.ones((channels, 1, 1, 1), np.float32)
            )
            samples.append(
                DatasetFingerprintExtractor.collect_foreground_intensities(
                    seg, image, num_samples=draws
                )[0]
            )
        want = []
        for c in range(channels):
            v = np.array([np.concatenate([s[j] for s in samples]) for j in range(channels)])[c]
            low, median, high = np.percentile(v, np.array((0.5, 50.0, 99.5)))
            want.append(
                {
                    "mean": float(np.mean(v)),
                    "median": float(median),
                    "std": float(np.std(v)),
                    "min": float(np.min(v)),
                    "max": float(np.max(v)),
                    "percentile_99_5": float(high),
                    "percentile_00_5": float(low),
                }
            )
        out.append({"draws": draws, "cases": cases, "want": want})
    json.dump(out, open(path, "w"))


if __name__ == "__main__":
    main(sys.argv[1])
