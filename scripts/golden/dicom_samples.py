"""Reads DICOM files with pydicom: those that pydicom brings, and those of other folders.

    dicom_samples.py OUT FOLDER...

OUT/NAME.dcm is each file, and placed-NAME.dcm one that lacks a place in space with one added. OUT/expected.json says what pydicom
reads from it: samples, frames and sha256 of the values (stored · slope + intercept) as little-endian float32, slices ascending
along the normal; or error. Needs scripts/requirements-images.txt. Live only: no golden files.
"""

import argparse
import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import apply_rescale


PLACE = {
    "ImagePositionPatient": [1, 2, 3],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "PixelSpacing": [1, 1],
}


def rescaled(ds):
    """The values, slice by slice along the normal."""
    stored = ds.pixel_array
    if "PerFrameFunctionalGroupsSequence" not in ds:
        return apply_rescale(stored, ds)
    shared = ds.SharedFunctionalGroupsSequence[0]
    frames = []
    for item, pixels in zip(ds.PerFrameFunctionalGroupsSequence, stored, strict=True):

        def group(name, item=item):
            return (item.get(name) or shared.get(name))[0]

        value = group("PixelValueTransformationSequence")
        o = np.array(group("PlaneOrientationSequence").ImageOrientationPatient, float)
        position = np.array(group("PlanePositionSequence").ImagePositionPatient, float)
        along = np.dot(np.cross(o[:3], o[3:]), position)
        values = pixels * float(value.RescaleSlope) + float(value.RescaleIntercept)
        frames.append((along, values))
    return np.stack([f for _, f in sorted(frames, key=lambda f: f[0])])


def reading(path):
    try:
        ds = pydicom.dcmread(path)
        if "PixelData" not in ds:
            return {"error": "no pixels"}
        if ds.SOPClassUID.startswith("1.2.840.10008.5.1.4.1.1.66"):
            return {"error": "no image"}
        values = np.ascontiguousarray(rescaled(ds).astype("<f4"))
    except Exception as e:  # whatever pydicom raises on its odd files
        return {"error": f"{type(e).__name__}: {e}"}
    return {
        "frames": int(ds.get("NumberOfFrames") or 1),
        "samples": int(ds.SamplesPerPixel),
        "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    own = Path(pydicom.__file__).parent / "data"
    expected = {}
    for folder in own / "test_files", own / "charset_files", *args.folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if path.read_bytes()[128:132] != b"DICM":
                continue
            name = "-".join(path.relative_to(folder).parts)
            if not name.endswith(".dcm"):
                name += ".dcm"
            assert name not in expected, name
            (args.out / name).write_bytes(path.read_bytes())
            expected[name] = reading(path)
            if expected[name].get("samples") == 1:
                ds = pydicom.dcmread(path)
                if "PerFrameFunctionalGroupsSequence" in ds or all(k in ds for k in PLACE):
                    continue
                for k, v in PLACE.items():
                    setattr(ds, k, v)
                ds.save_as(args.out / ("placed-" + name))
                expected["placed-" + name] = expected[name]
    lines = [f"{json.dumps(n)}: {json.dumps(e)}" for n, e in expected.items()]
    (args.out / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
