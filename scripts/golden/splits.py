"""Writes testdata/golden/splits.json: draws of numpy's legacy generator, and the splits that
nnU-Net 2.5.1's trainer makes of case names. Usage: python scripts/golden/splits.py OUTPUT"""

import json
import os
import sys
import tempfile

import numpy as np
import sklearn
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def random_case(seed, n, k):
    r = np.random.RandomState(seed)
    words = [int(r.randint(0, 2**32, dtype=np.uint64)) for _ in range(700 if seed == 0 else 3)]
    shuffled = np.arange(257)
    r.shuffle(shuffled)
    out = {"seed": seed, "words": words, "shuffle": shuffled.tolist(), "n": n, "k": k}
    out["with"] = r.choice(n, k).tolist()
    out["without"] = r.choice(n, k, replace=False).tolist()
    out["int"] = [int(r.randint(0, 2**i)) for i in range(33)]
    out["after"] = int(r.randint(0, 2**32, dtype=np.uint64))
    return out


class Trainer(nnUNetTrainer):
    """Just enough of a trainer to make splits."""

    def __init__(self, folder, fold):
        self.fold = fold
        self.preprocessed_dataset_folder_base = folder
        self.preprocessed_dataset_folder = os.path.join(folder, "c")
        self.folder_with_segs_from_previous_stage = None

    def print_to_log_file(self, *_, **__):
        pass


def split_cases():
    out = []
    for n in list(range(5, 31)) + [57]:
        keys = [f"LN_{i:03d}" for i in range(n)]
        if n % 2:
            keys = ["b2", "B10", "a", "Z_9", "é1"] + keys[
                5:
            ]  # code-point order, not alphabetical order
        with tempfile.TemporaryDirectory() as d:
            os.mkdir(os.path.join(d, "c"))
            for k in keys:
                open(os.path.join(d, "c", k + ".npz"), "w").close()
            for fold in [0, 5, 17]:
                train, val = Trainer(d, fold).do_split()
                if fold == 0:
                    with open(os.path.join(d, "splits_final.json")) as f:
                        out.append({"keys": keys, "file": f.read(), "beyond": {}})
                else:
                    out[-1]["beyond"][fold] = {
                        "train": [str(k) for k in train],
                        "val": [str(k) for k in val],
                    }
    return out


if __name__ == "__main__":
    with open(sys.argv[1], "w") as f:
        json.dump(
            {
                "versions": {
                    "numpy": np.__version__,
                    "sklearn": sklearn.__version__,
                    "nnunetv2": "2.5.1",
                },
                "random": [
                    random_case(0, 17, 10),
                    random_case(12345, 1000, 10),
                    random_case(4294967295, 20, 10),
                    random_case(1234, 65536, 12),
                ],
                "splits": split_cases(),
            },
            f,
            separators=(",", ":"),
        )
