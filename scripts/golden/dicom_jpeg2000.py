"""Writes JPEG 2000 and HTJ2K codestreams as DICOM holds them, by the encoders of others, and what they hold.

    dicom_jpeg2000.py OUT [--seed S]

OUT/codestreams.npz has the codestreams, OUT/expected.json for each: syntax, rows, columns, allocated, stored (bits),
signed, lossless, writer, and sha256 of its pixels as little-endian cells. Of lossless frames the pixels are the
originals that were compressed; of lossy ones what pylibjpeg-openjpeg decodes. OUT/series.zip is a series of three
slices, OUT/series.json its shape and the sha256 of its values as int16. --seed gives frames with other content and of
other sizes.

Needs scripts/requirements-images.txt, and for glymur the library libopenjp2 (Debian: libopenjp2-7).
"""

import argparse
import hashlib
import io
import json
import struct
import tempfile
import zipfile
from pathlib import Path

import glymur
import imagecodecs
import numpy as np
import PIL.Image
import pydicom
from openjpeg.utils import decode as openjpeg_decode
from openjpeg.utils import encode_array

PREFIX = "1.2.840.10008.1.2.4."
J2K, LOSSY, HT, RPCL, HT_LOSSY = (PREFIX + s for s in ("90", "91", "201", "202", "203"))

SIZES = {
    "square": (32, 32),
    "odd": (37, 51),
    "row": (1, 70),
    "column": (61, 1),
    "pixel": (1, 1),
    "wide": (5, 131),
}


def scene(rng, rows, columns, bits):
    """A body in air with organs and noise, over most of the range."""
    y, x = np.mgrid[0:rows, 0:columns]
    r = np.hypot((y - rows / 2) / (rows / 2 + 1), (x - columns / 2) / (columns / 2 + 1))
    a = np.where(r < 0.8, 0.45 + 0.1 * np.sin(x / 5) * np.cos(y / 7), 0.0)
    a = np.where(np.hypot(y - rows / 2, x - columns / 3) < rows / 8, 0.95, a)
    a = a * (2**bits - 1) + np.where(r < 0.8, rng.standard_normal(a.shape) * 2**bits / 1000, 0)
    return np.clip(a, 0, 2**bits - 1).astype(np.uint8 if bits <= 8 else np.uint16)


def signed(a, bits):
    """The same values, as many below 0 as above."""
    return (a.astype(np.int32) - 2 ** (bits - 1)).astype(np.int8 if bits <= 8 else np.int16)


class Corpus:
    def __init__(self):
        self.frames, self.expected = {}, {}

    def add(self, name, syntax, stream, pixels, stored, writer, lossless=True, **header):
        """pixels is what was compressed; header changes what the DICOM header says."""
        assert name not in self.expected, name
        stream = bytes(stream) + b"\0" * (len(stream) % 2)
        if not header:
            # pylibjpeg-openjpeg takes an offset for part of the size
            with_offset = name.startswith("offset")
            decoded = imagecodecs.jpeg2k_decode(stream) if with_offset else openjpeg_decode(stream)
            assert decoded.shape == pixels.shape, (name, decoded.shape)
            if lossless:
                assert np.array_equal(decoded.astype(pixels.dtype), pixels), name
            else:
                assert not np.array_equal(decoded, pixels), name
                pixels = decoded.astype(pixels.dtype)
        cells = header.get("cells", pixels)
        self.frames[name] = np.frombuffer(stream, np.uint8)
        self.expected[name] = {
            "syntax": syntax,
            "rows": pixels.shape[0],
            "columns": pixels.shape[1],
            "allocated": cells.itemsize * 8,
            "stored": stored,
            "signed": cells.dtype.kind == "i",
            "lossless": lossless,
            "writer": writer,
            "sha256": hashlib.sha256(cells.tobytes()).hexdigest(),
        }


def pillow(a, **options):
    out = io.BytesIO()
    PIL.Image.fromarray(a).save(out, "JPEG2000", no_jp2=True, **options)
    return out.getvalue()


def with_glymur(a, **options):
    with tempfile.TemporaryDirectory() as tmp:
        path = f"{tmp}/a.j2k"
        glymur.Jp2k(path, data=a, **options)
        return Path(path).read_bytes()


def add_depths(c, rng):
    """Every precision that CT, MR, PET and radiographs have, with and without sign."""
    for bits in 1, 2, 7, 8, 9, 10, 12, 13, 15, 16:
        a = scene(rng, 33, 37, bits)  # its encoder always makes six resolutions
        c.add(f"bits-{bits}", J2K, encode_array(a, bits_stored=bits), a, bits, "pylibjpeg-openjpeg")
        if bits > 1:
            s = signed(a, bits)
            stream = encode_array(s, bits_stored=bits)
            c.add(f"bits-{bits}-signed", J2K, stream, s, bits, "pylibjpeg-openjpeg")
    for bits in 8, 16:
        for extreme in 0, 2**bits - 1, 2 ** (bits - 1):
            a = np.full((40, 35), extreme, np.uint8 if bits == 8 else np.uint16)
            stream = encode_array(a, bits_stored=bits)
            c.add(f"flat-{bits}-{extreme}", J2K, stream, a, bits, "pylibjpeg-openjpeg")
    noise = rng.integers(0, 2**16, (33, 32), dtype=np.uint16)
    c.add("noise-16", J2K, encode_array(noise, bits_stored=16), noise, 16, "pylibjpeg-openjpeg")


def add_sizes(c, rng):
    for name, size in SIZES.items():
        a = scene(rng, *size, 12)
        c.add(
            f"size-{name}",
            J2K,
            with_glymur(a, numres=1 + min(min(size).bit_length() - 1, 5)),
            a,
            16,
            "glymur",
        )
        stream = imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True, bitspersample=12)
        c.add(f"size-{name}-12", J2K, stream, a, 12, "imagecodecs")


def add_structure(c, rng):
    """What a codestream may be made of: tiles, precincts, layers, orders, styles of code blocks, marker segments."""
    a = scene(rng, 45, 53, 12)
    for tile in (16, 16), (32, 53), (45, 7):
        stream = with_glymur(a, tilesize=tile, numres=1 + min(tile).bit_length() - 1)
        c.add("tiles-%d-%d" % tile, J2K, stream, a, 16, "glymur")
    for order in "LRCP", "RLCP", "RPCL", "PCRL", "CPRL":
        stream = with_glymur(
            a, prog=order, tilesize=(32, 32), numres=4, psizes=[(32, 32)], cbsize=(16, 16)
        )
        c.add(f"order-{order}", J2K, stream, a, 16, "glymur")
    # bypass, reset, termination on each pass, vertically causal, predictable termination, segmentation symbols
    for style in 1, 2, 4, 8, 16, 32, 63:
        c.add(f"style-{style}", J2K, with_glymur(a, modesw=style), a, 16, "glymur")
    c.add("markers", J2K, with_glymur(a, sop=True, eph=True, plt=True, tlm=True), a, 16, "glymur")
    c.add("levels-1", J2K, with_glymur(a, numres=1), a, 16, "glymur")
    c.add("levels-6", J2K, with_glymur(a, numres=6), a, 16, "glymur")
    layers = with_glymur(a, cratios=[20, 5, 1])
    c.add("layers", J2K, layers, a, 16, "glymur")
    for name, grid in {
        "offset": {"offset": (5, 9), "tile_size": (64, 64)},
        "offset-tiles": {"offset": (5, 9), "tile_size": (32, 16), "tile_offset": (5, 9)},
    }.items():
        # with tiles Pillow puts other pixels in them than it was given
        c.add(name, J2K, pillow(a, num_resolutions=3, **grid), a, 16, "Pillow", name == "offset")
    b = scene(rng, 43, 39, 8)
    stream = pillow(
        b,
        num_resolutions=3,
        tile_size=(16, 16),
        codeblock_size=(8, 8),
        precinct_size=(16, 16),
        comment="x",
    )
    c.add("pillow", J2K, stream, b, 8, "Pillow")
    boxes = imagecodecs.jpeg2k_encode(a, codecformat="jp2", reversible=True, bitspersample=16)
    assert boxes[4:8] == b"jP  "
    c.add("boxes", J2K, boxes, a, 16, "imagecodecs")
    at = boxes.index(b"jp2c")
    long = (
        boxes[: at - 4] + struct.pack(">I4sQ", 1, b"jp2c", len(boxes) - at + 12) + boxes[at + 4 :]
    )
    c.add("boxes-long", J2K, long, a, 16, "imagecodecs")


def add_lossy(c, rng):
    for bits in 8, 12, 16:
        a = scene(rng, 48, 57, bits)
        for ratio in 4, 16:
            stream = encode_array(a, bits_stored=bits, compression_ratios=[ratio])
            c.add(f"lossy-{bits}-{ratio}", LOSSY, stream, a, bits, "pylibjpeg-openjpeg", False)
        s = signed(a, bits)
        stream = encode_array(s, bits_stored=bits, signal_noise_ratios=[30, 45])
        c.add(f"lossy-{bits}-signed", LOSSY, stream, s, bits, "pylibjpeg-openjpeg", False)
    b = scene(rng, 50, 41, 8)
    stream = pillow(
        b,
        irreversible=True,
        quality_mode="rates",
        quality_layers=[8],
        num_resolutions=4,
        tile_size=(32, 32),
    )
    c.add("lossy-pillow", LOSSY, stream, b, 8, "Pillow", False)


def add_ht(c, rng):
    """HTJ2K by OpenJPH, which shares no code with OpenJPEG."""
    for bits, dtype in (8, np.uint8), (8, np.int8), (16, np.uint16), (16, np.int16):
        a = scene(rng, 45, 53, bits)
        name = f"ht-{np.dtype(dtype).name}"
        a = a if np.dtype(dtype).kind == "u" else signed(a, bits)
        c.add(name, HT, imagecodecs.htj2k_encode(a, reversible=True), a, bits, "OpenJPH")
    a = scene(rng, 45, 53, 12)
    for tile in (16, 16), (64, 32):
        stream = imagecodecs.htj2k_encode(a, reversible=True, tile=tile)
        c.add("ht-tiles-%d-%d" % tile, HT, stream, a, 16, "OpenJPH")
    c.add("ht-tlm", RPCL, imagecodecs.htj2k_encode(a, reversible=True, tlm=True), a, 16, "OpenJPH")
    for levels in 1, 3:
        stream = imagecodecs.htj2k_encode(a, reversible=True, resolutions=levels)
        c.add(f"ht-levels-{levels}", HT, stream, a, 16, "OpenJPH")
    for name, size in SIZES.items():
        b = scene(rng, *size, 12)
        c.add(f"ht-{name}", HT, imagecodecs.htj2k_encode(b, reversible=True), b, 16, "OpenJPH")
    for level in 0.001, 0.02:
        stream = imagecodecs.htj2k_encode(a, level, reversible=False)
        c.add(f"ht-lossy-{level}", HT_LOSSY, stream, a, 16, "OpenJPH", False)


def add_mismatch(c, rng):
    """A codestream that is not signed as PixelRepresentation says holds the bits all the same, as in pydicom's
    _apply_sign_correction; pydicom itself says what comes out of it."""
    bits = 13
    s = signed(scene(rng, 34, 33, bits), bits)
    u = (s.astype(np.int32) & (2**bits - 1)).astype(np.uint16)
    stream = encode_array(u, bits_stored=bits)
    c.add(
        "mismatch-signed",
        J2K,
        stream,
        u,
        bits,
        "pylibjpeg-openjpeg",
        cells=corrected(stream, bits, 1),
    )
    stream = encode_array(s, bits_stored=bits)
    c.add(
        "mismatch-unsigned",
        J2K,
        stream,
        s,
        bits,
        "pylibjpeg-openjpeg",
        cells=corrected(stream, bits, 0),
    )


def corrected(stream, bits, representation):
    """What pydicom makes of a codestream under a PixelRepresentation."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = J2K
    ds.Rows, ds.Columns = openjpeg_decode(stream).shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.PixelRepresentation = 16, bits, representation
    ds.PixelData = pydicom.encaps.encapsulate([stream])
    return pydicom.pixels.pixel_array(ds, decoding_plugin="pylibjpeg")


def write_series(out, rng):
    """A CT of three slices by pydicom, a slice in each syntax, the last one in two fragments."""
    slices = [scene(rng, 34, 37, 12) for _ in range(3)]
    with zipfile.ZipFile(out / "series.zip", "w") as archive:
        for k, (a, syntax) in enumerate(zip(slices, (J2K, HT, J2K))):
            ds = pydicom.Dataset()
            ds.file_meta = pydicom.dataset.FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = syntax
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.14.{k + 1}"
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SeriesNumber = "2.25.15", "2.25.16", 1
            ds.Modality, ds.PatientName, ds.PatientID = "CT", "", ""
            ds.Rows, ds.Columns = a.shape
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
            ds.RescaleSlope, ds.RescaleIntercept, ds.PixelSpacing = 1, -1024, [0.75, 0.75]
            ds.ImagePositionPatient = [0, 0, 2 * k]
            ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            encode = imagecodecs.htj2k_encode if syntax == HT else encode_array
            stream = encode(a, reversible=True) if syntax == HT else encode(a, bits_stored=16)
            ds.PixelData = pydicom.encaps.encapsulate(
                [bytes(stream)], fragments_per_frame=1 + (k == 2)
            )
            ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
            file = io.BytesIO()
            ds.save_as(file, enforce_file_format=True)
            archive.writestr(zipfile.ZipInfo(f"{2 - k}.dcm"), file.getvalue())
    values = (np.stack(slices).astype(np.int32) - 1024).astype("<i2")
    expected = {"shape": values.shape, "sha256": hashlib.sha256(values.tobytes()).hexdigest()}
    (out / "series.json").write_text(json.dumps(expected) + "\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--seed", type=int, default=14)
    args = p.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    c, rng = Corpus(), np.random.default_rng(args.seed)
    if args.seed != 14:
        SIZES.update((name, tuple(int(n) for n in rng.integers(1, 90, 2))) for name in SIZES)
    for add in add_depths, add_sizes, add_structure, add_lossy, add_ht, add_mismatch:
        add(c, rng)
    write_series(out, rng)
    np.savez_compressed(out / "codestreams.npz", **c.frames)
    lines = [f"{json.dumps(n)}: {json.dumps(e)}" for n, e in c.expected.items()]
    (out / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
