"""How nnU-Net 2.5.1 reads folders of raw datasets.

Usage: python scripts/golden/raw_cases.py OUTPUT
           finds the cases among synthetic file names
       python scripts/golden/raw_cases.py --verify FOLDER
           checks the integrity of every dataset in FOLDER; prints JSON: name to error or null"""

import contextlib
import io
import json
import multiprocessing
import os
import random
import sys
import tempfile
import traceback
import warnings

warnings.simplefilter("ignore")
for name in ("raw", "preprocessed", "results"):
    os.environ.setdefault("nnUNet_" + name, tempfile.gettempdir())

from nnunetv2.experiment_planning import verify_dataset_integrity as verify
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets


def find(names, dataset_json):
    with tempfile.TemporaryDirectory() as root:
        os.makedirs(os.path.join(root, "imagesTr"))
        for n in names:
            path = os.path.join(root, "imagesTr", n)
            os.makedirs(path) if n.endswith("/") else open(path, "w").close()
        found = get_filenames_of_train_images_and_targets(
            root, json.loads(json.dumps(dataset_json))
        )
        return [
            {
                "id": str(k),
                "images": [os.path.relpath(i, root) for i in v["images"]],
                "label": os.path.relpath(v["label"], root),
            }
            for k, v in found.items()
        ]


def cases(path):
    rng = random.Random(5)
    stems = [
        "a",
        "b",
        "B",
        "case_1",
        "case_10",
        "case_2",
        "x.y",
        "é",
        "日本",
        "a_0000",
        ".hidden",
        "a+b",
        "[c]",
        "a b",
        "",
        "LN_000",
    ]
    out = []
    for ending in (".nii.gz", ".nii", ".NII.GZ", "_im.nii"):
        for _ in range(5):
            names = set()
            for s in rng.sample(stems, 6):
                for c in rng.sample(
                    [
                        "_0000",
                        "_0001",
                        "_0002",
                        "_000",
                        "_00001",
                        "0000",
                        "-0000",
                        "_abcd",
                        "",
                        "_0010",
                    ],
                    rng.randint(1, 4),
                ):
                    names.add(
                        s
                        + c
                        + rng.choice([ending, ending, ending, ending.lower(), ".nii.gz", ".txt"])
                    )
            names.discard("")
            names = sorted(names) + ["folder_0000" + ending + "/"]
            doc = {"file_ending": ending}
            out.append({"names": names, "doc": doc, "cases": find(names, doc)})
    listed = {
        "file_ending": ".nii.gz",
        "dataset": {
            "z": {"images": ["imagesTr/1.nii.gz", "../other/2.nii.gz"], "label": "l/z.nii.gz"},
            "a": {"images": ["./imagesTr//a.nii.gz"], "label": "a.nii.gz", "more": 1},
        },
    }
    out.append({"names": [], "doc": listed, "cases": find([], listed)})
    json.dump(out, open(path, "w"))


def check(root):
    spawn = multiprocessing.get_context
    multiprocessing.get_context = lambda _=None: spawn(
        "fork"
    )  # the same code, without starting an interpreter for each worker
    out = {}
    for name in sorted(os.listdir(root)):
        text = io.StringIO()
        try:
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                verify.verify_dataset_integrity(os.path.join(root, name), 1)
            out[name] = None
        except BaseException:
            out[name] = traceback.format_exc(limit=-1)
    print(json.dumps(out))


if __name__ == "__main__":
    check(sys.argv[2]) if sys.argv[1] == "--verify" else cases(sys.argv[1])
