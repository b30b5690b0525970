"""The part evaluate of scripts/bench.py: scores of label volumes, beside surface-distance on the arrays in
memory and nnUNetv2_evaluate_folder.

surface-distance runs in the Python of `make test-images`, or the one that LNTORCH_IMAGES_PYTHON names.
It runs this file, too, for one task given as JSON. Both sides must find the same numbers.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_images import made_python, times
from bench_processes import Command, environment

SPACING = (2.5, 0.9, 0.9)  # mm, z, y, x
TOLERANCES = (1, 2, 3)


# ---- the other Python's side: tasks ------------------------------------------------------------


def ellipsoid(v, centre, radii):
    """Sets the voxels of an ellipsoid, centre and radii in mm."""
    import numpy as np

    lo = [max(0, int((c - r) / s)) for c, r, s in zip(centre, radii, SPACING)]
    hi = [min(n, int((c + r) / s) + 2) for c, r, s, n in zip(centre, radii, SPACING, v.shape)]
    z, y, x = np.ogrid[tuple(slice(a, b) for a, b in zip(lo, hi))]
    away = [((i * s - c) / r) ** 2 for i, s, c, r in zip((z, y, x), SPACING, centre, radii)]
    v[tuple(slice(a, b) for a, b in zip(lo, hi))][away[0] + away[1] + away[2] < 1] = 1


def pair(shape, nodes, seed):
    """A reference and a prediction: so many nodes, each found beside its place or missed, and some
    invented; of 0 nodes a mask of the size of a body."""
    import numpy as np

    extent = [n * s for n, s in zip(shape, SPACING)]
    r, p = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    if nodes == 0:
        centre = [e / 2 for e in extent]
        ellipsoid(r, centre, [0.46 * e for e in extent])
        ellipsoid(p, centre, [0.46 * e - 3 for e in extent])
        return r, p
    rng = np.random.RandomState(seed)
    for i in range(nodes):
        centre = rng.uniform(0.05, 0.95, 3) * extent
        radii = rng.uniform(2, 10) * rng.uniform(0.7, 1.3, 3)
        if i % 8:
            ellipsoid(r, centre, radii)
        if i % 7:
            ellipsoid(p, centre + rng.uniform(-1.5, 1.5, 3), radii * rng.uniform(0.8, 1.2))
    return r, p


def write(o):
    """Pairs as .nii.gz in the folders reference and prediction."""
    import SimpleITK as sitk

    for k in range(o["count"]):
        for name, v in zip(("reference", "prediction"), pair(o["shape"], o["nodes"], k)):
            folder = Path(o["folder"]) / name
            folder.mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(v)
            image.SetSpacing(SPACING[::-1])
            sitk.WriteImage(image, str(folder / f"LN_{k:03d}.nii.gz"), True)


def surface_distance(o):
    """The scores of surfaces from arrays in memory; reading them is not timed."""
    import numpy as np
    import SimpleITK as sitk

    if not hasattr(np, "Inf"):  # surface-distance 0.1 is older than NumPy 2
        np.Inf, np.NaN = np.inf, np.nan
    import surface_distance as sd

    read = lambda path: sitk.GetArrayFromImage(sitk.ReadImage(path)) > 0
    r, p = read(o["reference"]), read(o["prediction"])
    spacing = sitk.ReadImage(o["reference"]).GetSpacing()[::-1]  # as NIfTI keeps it
    start, used = time.perf_counter(), time.process_time()
    d = sd.compute_surface_distances(r, p, spacing)
    found = {f"NSD_{t}": sd.compute_surface_dice_at_tolerance(d, t) for t in TOLERANCES}
    found["HD95"], found["HD"] = (sd.compute_robust_hausdorff(d, q) for q in (95, 100))
    found["ASD_ref_to_pred"], found["ASD_pred_to_ref"] = sd.compute_average_surface_distance(d)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - used,
                "scores": {k: float(v) for k, v in found.items()},
            }
        )
    )


TASKS = {"write": write, "surface_distance": surface_distance}


# ---- the part ----------------------------------------------------------------------------------


class Evaluation:
    """A run of the part: the other Python, and a folder for inputs and outputs."""

    def __init__(self, b, folder):
        self.b, self.folder = b, Path(folder)
        self.python = os.environ.get("LNTORCH_IMAGES_PYTHON") or made_python()

    def words(self, name, **options):
        return [self.python, __file__, json.dumps({"task": name, **options}, default=str)]

    def pairs(self, name, shape, nodes, count):
        folder = self.folder / name
        words = self.words("write", folder=folder, shape=shape, nodes=nodes, count=count)
        subprocess.run(words, check=True, env=environment())
        return folder / "reference", folder / "prediction"

    def ours(self, reference, prediction, out):
        return Command(
            [self.b.args.lntorch, "evaluate", reference, prediction, "-l", "1", "-o", out],
            GOMAXPROCS=self.b.threads,
        )

    def compared(self, title, sides, limit, most=None):
        """Times both sides; limit is what lntorch's time may be by the other's."""
        answers = self.b.group(title, sides, warmup=0, most=most, alike=())
        for row in self.b.rows[-len(sides) :]:
            cpu = statistics.median(a["cpu_seconds"] for a in answers[row["who"]])
            row.update(cpu_seconds=cpu, limit=None)
        self.b.rows[-1]["limit"] = limit
        return answers

    def surfaces(self, title, shape, nodes, limit):
        reference, prediction = (
            folder / "LN_000.nii.gz" for folder in self.pairs(title, shape, nodes, 1)
        )
        out = self.folder / "summary.json"
        last = lambda log: json.loads(log.strip().splitlines()[-1])
        theirs = "surface-distance, arrays in memory"
        words = self.words("surface_distance", reference=reference, prediction=prediction)
        answers = self.compared(
            f"pair of files {times(shape)}, {title}",
            {"lntorch": self.ours(reference, prediction, out), theirs: Command(words, last)},
            limit,
            most=3,
        )
        ours = json.loads(out.with_name("scores.json").read_text())["cases"][0]["labels"]["1"]
        for name, value in answers[theirs][0]["scores"].items():
            if not math.isclose(ours[name], value, rel_tol=1e-6, abs_tol=1e-9):
                raise SystemExit(f"bench: {title}: {name} is {ours[name]} and {value}")

    def folders(self, shape, count):
        reference, prediction = self.pairs("pairs", shape, 6, count)
        files = {
            "plans.json": {"image_reader_writer": "SimpleITKIO"},
            "dataset.json": {
                "channel_names": {"0": "CT"},
                "labels": {"background": 0, "node": 1},
                "numTraining": count,
                "file_ending": ".nii.gz",
            },
        }
        for name, content in files.items():
            (self.folder / name).write_text(json.dumps(content))
        out = {who: self.folder / who / "summary.json" for who in ("ours", "theirs")}
        for path in out.values():
            path.parent.mkdir()
        program = Path(sys.executable).with_name("nnUNetv2_evaluate_folder")
        self.compared(
            f"{count} pairs of files {times(shape)}, 6 nodes each",
            {
                "lntorch": self.ours(reference, prediction, out["ours"]),
                "nnUNetv2_evaluate_folder, voxels alone": Command(
                    [program, reference, prediction, "-o", out["theirs"]]
                    + ["-djfile", self.folder / "dataset.json"]
                    + ["-pfile", self.folder / "plans.json", "-np", self.b.threads]
                ),
            },
            0.1,
        )
        if out["ours"].read_bytes() != out["theirs"].read_bytes():
            raise SystemExit("bench: lntorch and nnU-Net wrote different summaries")


def run_evaluate(b, size):
    with tempfile.TemporaryDirectory() as folder:
        run, o = Evaluation(b, folder), size["evaluate"]
        b.about = "surface-distance 0.1 (one thread), nnU-Net 2.5.1"
        run.surfaces(f"{o['nodes']} nodes", o["shape"], o["nodes"], 0.125)
        run.surfaces("a mask of the size of a body", o["shape"], 0, 0.333)
        peak = b.rows[0]["peak_rss_bytes"] / 1e9
        missed = ", missed" * (peak > 0.7)
        run.folders(o["small"], o["pairs"])
        b.notes.append("nnUNetv2_evaluate_folder is a whole command, imports included.")
        b.notes.append(f"Memory of the first pair: {peak:.2f} GB, reach ≤ 0.7 GB{missed}.")


PARTS = {"evaluate": run_evaluate}
REAL = {
    "evaluate": {"shape": [200, 512, 512], "nodes": 40, "small": [40, 96, 96], "pairs": 100},
}
QUICK = {
    "evaluate": {"shape": [20, 64, 64], "nodes": 6, "small": [8, 24, 24], "pairs": 4},
}

if __name__ == "__main__":
    sys.path.pop(0)  # scripts/openjpeg.py would be taken for the package of that name
    options = json.loads(sys.argv[1])
    TASKS[options["task"]](options)
