"""Has the programs of others store series in every transfer syntax: DCMTK, GDCM, pydicom and OpenJPH.

    dicom_syntaxes.py OUT [--seed S]

Writes zips and expected.json as dicom_series.py does. The expected values are those that were stored; of lossy files those that
the writer's own reader finds. Needs scripts/requirements-images.txt and Debian's dcmtk. Live only: no golden files.
"""

import argparse
import io
import subprocess
import tempfile
from pathlib import Path

import dicom_series as series
import gdcm
import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)


def scene(rng, rows, columns, low, high):
    """A body with noise in air, over the whole range."""
    y, x = np.mgrid[:rows, :columns]
    r = np.hypot((y - rows / 2) / rows, (x - columns / 2) / columns)
    a = np.where(r < 0.4, 0.5 + 0.2 * np.sin(x / 5) + rng.standard_normal(r.shape) / 50, 0)
    a[rng.random(r.shape) < 0.005] = 1
    return np.rint(np.clip(a, 0, 1) * (high - low)).astype("i8") + low


def by_dcmtk(program, *options):
    def convert(data):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "a").write_bytes(data)
            run = subprocess.run(
                [program, *options, f"{folder}/a", f"{folder}/b"], capture_output=True, text=True
            )
            if run.returncode:
                raise SystemExit(f"{program} {' '.join(options)}: {run.stderr}")
            return Path(folder, "b").read_bytes()

    return convert


def by_gdcm(syntax):
    def convert(data):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "a").write_bytes(data)
            reader = gdcm.ImageReader()
            reader.SetFileName(f"{folder}/a")
            assert reader.Read()
            change = gdcm.ImageChangeTransferSyntax()
            change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
            change.SetInput(reader.GetImage())
            assert change.Change()
            writer = gdcm.ImageWriter()
            writer.SetFileName(f"{folder}/b")
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            assert writer.Write()
            return Path(folder, "b").read_bytes()

    return convert


def saved(ds):
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue()


def by_pydicom(syntax, **options):
    def convert(data):
        ds = pydicom.dcmread(io.BytesIO(data))
        plugin = {RLELossless: "pylibjpeg"}.get(syntax, "")
        ds.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False, **options)
        return saved(ds)

    return convert


def by_openjph(syntax, fragments=1, **options):
    def convert(data):
        ds = pydicom.dcmread(io.BytesIO(data))
        pixels = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
        streams = [imagecodecs.htj2k_encode(a, **options) for a in pixels]
        ds.PixelData = encapsulate([bytes(s) for s in streams], fragments_per_frame=fragments)
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = syntax
        return saved(ds)

    return convert


def by_themselves(data):
    return pydicom.dcmread(io.BytesIO(data)).pixel_array


def after(program):
    """What a decoder of DCMTK makes of a file."""
    return lambda data: by_themselves(by_dcmtk(program)(data))


T = gdcm.TransferSyntax
# name: (how to store it, None or how to find what is stored, kinds of pixels)
ALL = "u8 u12 i16"
WAYS = {
    **{
        f"dcmcjpeg-sv{n}": (by_dcmtk("dcmcjpeg", "+el", "+sv", str(n)), None, "u12 i16")
        for n in range(1, 8)
    },
    "dcmcjpeg-e1": (by_dcmtk("dcmcjpeg", "+e1"), None, ALL),
    "dcmcjpeg-fragments": (by_dcmtk("dcmcjpeg", "+e1", "+fs", "1"), None, ALL),
    "dcmcjpeg-no-table": (by_dcmtk("dcmcjpeg", "+e1", "-ot"), None, "u12"),
    "dcmcjpeg-baseline": (by_dcmtk("dcmcjpeg", "+eb"), after("dcmdjpeg"), "u8"),
    "dcmcrle": (by_dcmtk("dcmcrle"), None, ALL),
    "dcmcrle-fragments": (by_dcmtk("dcmcrle", "+fs", "1"), None, ALL),
    "dcmcjpls": (by_dcmtk("dcmcjpls", "+el"), None, ALL),
    "dcmcjpls-fragments": (by_dcmtk("dcmcjpls", "+el", "+fs", "1"), None, "i16"),
    "dcmcjpls-near": (by_dcmtk("dcmcjpls", "+en", "+md", "3"), after("dcmdjpls"), "u8 u12"),
    "dcmconv-deflated": (by_dcmtk("dcmconv", "+td"), None, ALL),
    "dcmconv-deflated-undefined": (by_dcmtk("dcmconv", "+td", "-e"), None, "i16"),
    "dcmconv-big-endian": (by_dcmtk("dcmconv", "+tb"), None, ALL),
    "dcmconv-big-endian-undefined": (by_dcmtk("dcmconv", "+tb", "-e"), None, "i16"),
    "dcmconv-implicit": (by_dcmtk("dcmconv", "+ti", "+e"), None, ALL),
    "dcmconv-implicit-undefined": (by_dcmtk("dcmconv", "+ti", "-e"), None, "i16"),
    "dcmconv-undefined": (by_dcmtk("dcmconv", "+te", "-e"), None, "i16"),
    # of 8 bits it fails on frames of odd sizes
    "gdcm-rle": (by_gdcm(T.RLELossless), None, "u12 i16"),
    "gdcm-jpeg": (by_gdcm(T.JPEGLosslessProcess14_1), None, "u12 i16"),
    "gdcm-jpegls": (by_gdcm(T.JPEGLSLossless), None, ALL),
    "gdcm-jpeg2000": (by_gdcm(T.JPEG2000Lossless), None, ALL),
    "pydicom-rle": (by_pydicom(RLELossless), None, ALL),
    "pydicom-jpegls": (by_pydicom(JPEGLSLossless), None, ALL),
    "pydicom-near": (by_pydicom(JPEGLSNearLossless, jls_error=2), by_themselves, "u8 u12"),
    "pydicom-jpeg2000": (by_pydicom(JPEG2000Lossless), None, ALL),
    "pydicom-lossy": (by_pydicom(JPEG2000, j2k_cr=[8]), by_themselves, ALL),
    "openjph": (by_openjph(HTJ2KLossless, reversible=True), None, "u8 i16"),
    "openjph-rpcl": (by_openjph(HTJ2KLosslessRPCL, reversible=True, tlm=True), None, "i16"),
    "openjph-fragments": (by_openjph(HTJ2KLossless, 3, reversible=True), None, "i16"),
    "openjph-lossy": (
        by_openjph(HTJ2K, level=0.002, reversible=False),
        by_themselves,
        "u8",
    ),
}
KINDS = {"u8": (8, 0, 255, False), "u12": (16, 0, 4095, False), "i16": (16, -32768, 32767, True)}


def cases(rng):
    positions = series.along(series.AXIAL, series.START, 2.5 * np.arange(3))
    for kind, (bits, low, high, signed) in KINDS.items():
        stored = np.stack([scene(rng, series.ROWS, series.COLUMNS, low, high) for _ in range(3)])
        changes = dict(BitsStored=12, HighBit=11) if kind == "u12" else {}
        plain = [
            series.save(series.one(1, p, s, number=i + 1, bits=bits, signed=signed, **changes))
            for i, (p, s) in enumerate(zip(positions, stored))
        ]
        many = series.enhanced(1, positions, stored)
        series.pixel_elements(many, stored, bits=bits, signed=signed, **changes)
        for name, (convert, find, kinds) in WAYS.items():
            if kind not in kinds.split():
                continue
            for form, sources in ("", plain), ("-enhanced", [series.save(many)]):
                if form and name.startswith("gdcm"):
                    continue
                files = [(f"{i}.dcm", convert(data)) for i, data in enumerate(sources)]
                found = stored
                if find:
                    found = np.concatenate(
                        [find(data).reshape(-1, *stored.shape[1:]) for _, data in files]
                    )
                    if (found == stored).all():
                        raise SystemExit(f"{name}: nothing was lost")
                e = series.expect(found.astype("f8") - 1024, positions)
                yield f"{name}-{kind}{form}", files, e


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=14)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    series.vary(args.seed)
    rng = np.random.default_rng(args.seed)
    # some fragments of a kilobyte, and odd numbers of pixels
    series.ROWS, series.COLUMNS = (int(n) for n in rng.integers(33, 90, 2))
    expected = {}
    for name, files, e in cases(rng):
        series.pack(args.out / f"{name}.zip", files)
        expected[name] = dict(stacks=[e], choice=1)
    series.describe(args.out, expected)


if __name__ == "__main__":
    main()
