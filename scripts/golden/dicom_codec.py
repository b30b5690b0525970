"""Writes compressed frames as DICOM holds them, made by the encoders of others, and what they hold.

    dicom_codec.py OUT [--seed S]

OUT/codestreams.npz has the frames, OUT/expected.json for each: syntax, rows, columns, allocated, stored
(bits), signed, writer, and sha256 of its pixels as little-endian cells. The pixels are the originals
that were compressed, and an independent decoder agrees; of lossy frames they are what CharLS, DCMTK or
libjpeg-turbo decodes. --seed gives frames with other content and of other sizes.

Needs scripts/requirements-images.txt and DCMTK's programs (Debian: dcmtk).
"""

import argparse
import hashlib
import io
import json
import subprocess
import tempfile
from pathlib import Path

import gdcm
import imagecodecs
import jpeg_ls
import numpy as np
import PIL.Image
import pydicom
import rle
from pydicom.encaps import generate_frames

PREFIX = "1.2.840.10008.1.2."
RLE, BASELINE, SV1, JLS, NEAR = (PREFIX + s for s in ("5", "4.50", "4.70", "4.80", "4.81"))
LOSSLESS = PREFIX + "4.57"


def scene(rng, rows, columns, bits):
    """A body in air with organs and noise, over most of the range."""
    y, x = np.mgrid[0:rows, 0:columns]
    r = np.hypot((y - rows / 2) / (rows / 2 + 1), (x - columns / 2) / (columns / 2 + 1))
    a = np.where(r < 0.8, 0.45 + 0.1 * np.sin(x / 5) * np.cos(y / 7), 0.0)
    a = np.where(np.hypot(y - rows / 2, x - columns / 3) < rows / 8, 0.95, a)
    a = a * (2**bits - 1) + np.where(r < 0.8, rng.standard_normal(a.shape) * 2**bits / 200, 0)
    return np.clip(a, 0, 2**bits - 1).astype(np.uint16)


def noise(rng, rows, columns, bits):
    return rng.integers(0, 2**bits, (rows, columns), dtype=np.uint16)


def runs(rng, rows, columns, bits):
    """Long runs, rows that are one run, and single pixels in them."""
    a = np.zeros((rows, columns), np.uint16)
    for _ in range(12):
        y, x = rng.integers(0, rows), rng.integers(0, columns)
        a[y : y + 9, x : x + 30] = rng.integers(0, 2**bits)
    spots = rng.random(a.shape) < 0.01
    a[spots] = rng.integers(0, 2**bits, spots.sum())
    return a


def jumps(rows, columns):
    """Differences of 32768, whose category has no additional bits."""
    return (np.indices((rows, columns)).sum(0) % 2 * 32768).astype(np.uint16)


def dataset(pixels, stored, signed):
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "2.25.14"
    ds.Modality, ds.PatientName, ds.PatientID = "CT", "", ""
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored = pixels.itemsize * 8, stored
    ds.HighBit, ds.PixelRepresentation = stored - 1, int(signed)
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OW"
    return ds


def fragments(path):
    return next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))


def dcmtk(program, pixels, stored, signed, *options):
    """The codestream that a program of DCMTK writes, and what DCMTK reads from it."""
    with tempfile.TemporaryDirectory() as tmp:
        raw, packed, back = (f"{tmp}/{n}.dcm" for n in ("raw", "packed", "back"))
        dataset(pixels, stored, signed).save_as(raw, enforce_file_format=True)
        subprocess.run([program, *options, raw, packed], check=True)
        reader = {"dcmcrle": "dcmdrle", "dcmcjpls": "dcmdjpls"}.get(program, "dcmdjpeg")
        subprocess.run([reader, packed, back], check=True)
        read = np.frombuffer(pydicom.dcmread(back).PixelData, pixels.dtype, pixels.size)
        return fragments(packed), read.reshape(pixels.shape)


def with_gdcm(pixels, stored, signed, syntax):
    with tempfile.TemporaryDirectory() as tmp:
        raw, packed = f"{tmp}/raw.dcm", f"{tmp}/packed.dcm"
        dataset(pixels, stored, signed).save_as(raw, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(raw)
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(packed)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return fragments(packed)


def lossless_jpeg(pixels, bits, predictor, restart_rows=0, transform=0, fill=False):
    """T.81, annex H, with the plainest Huffman table: 5 bits for every category."""
    a = pixels.astype(np.int64) >> transform
    rows, columns = a.shape
    segments, out = [], ""
    for y in range(rows):
        begin = y == 0 or (restart_rows and y % restart_rows == 0)
        if begin and y:
            segments.append(out)
            out = ""
        for x in range(columns):
            ra, rb, rc = a[y, x - 1], a[y - 1, x], a[y - 1, x - 1]
            if begin:
                p = ra if x else 1 << (bits - transform - 1)
            elif x == 0:
                p = rb
            else:
                p = (
                    0,
                    ra,
                    rb,
                    rc,
                    ra + rb - rc,
                    ra + (rb - rc >> 1),
                    rb + (ra - rc >> 1),
                    ra + rb >> 1,
                )
                p = p[predictor]
            d = int(a[y, x] - p) % 65536
            d = d - 65536 if d > 32768 else d
            category = abs(d).bit_length()
            out += f"{category:05b}"
            if 0 < category < 16:
                out += f"{(d if d > 0 else d + (1 << category) - 1):0{category}b}"
    segments.append(out)
    entropy = b""
    for i, s in enumerate(segments):
        s += "1" * (-len(s) % 8)
        s = bytes(int(s[j : j + 8], 2) for j in range(0, len(s), 8)).replace(b"\xff", b"\xff\0")
        last = i == len(segments) - 1
        marker = b"" if last else (b"\xff\xff" if fill else b"\xff") + bytes([0xD0 + i % 8])
        entropy += s + marker

    def segment(marker, content):
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content

    sizes = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    return (
        b"\xff\xd8"
        + segment(0xFE, b"restart" if restart_rows else b"plain")
        + segment(0xC3, bytes([bits]) + sizes + b"\1\1\x11\0")
        + segment(0xC4, bytes([0x02, 0, 0, 0, 0, 17] + [0] * 11 + list(range(17))))
        + (segment(0xDD, (restart_rows * columns).to_bytes(2, "big")) if restart_rows else b"")
        + segment(0xDA, bytes([1, 1, 0x20, predictor, 0, transform]))
        + entropy
        + b"\xff\xd9"
    )


def restarted_jpegls(pixels, bits, near, rows):
    """CharLS's codestreams of bands of rows, joined by restart markers."""
    bands = [pixels[y : y + rows] for y in range(0, len(pixels), rows)]
    streams = [charls(b, bits, near) for b in bands]
    header, entropy = None, []
    for s in streams:
        begin = s.index(b"\xff\xda")
        begin += 2 + int.from_bytes(s[begin + 2 : begin + 4], "big")
        entropy.append(s[begin:-2])
        header = header or s[:begin]
    frame = header.index(b"\xff\xf7")
    scan = header.index(b"\xff\xda")
    header = (
        header[: frame + 5]
        + len(pixels).to_bytes(2, "big")
        + header[frame + 7 : scan]
        + b"\xff\xdd\0\4"
        + rows.to_bytes(2, "big")
        + header[scan:]
    )
    out = header + entropy[0]
    for i, e in enumerate(entropy[1:]):
        out += bytes([0xFF, 0xD0 + i % 8]) + e
    return out + b"\xff\xd9"


def charls(pixels, bits, near):
    cells = pixels.astype(np.uint8 if bits <= 8 else np.uint16)
    return bytes(jpeg_ls.encode_buffer(cells.tobytes(), *pixels.shape, 1, bits, near))


def large(pixels, bits):
    """pyjpegls has no room for codestreams larger than the pixels; DCMTK has."""
    stream, read = dcmtk("dcmcjpls", pixels, bits, False, "+el")
    assert (read == pixels).all() and (read_charls(stream, bits, pixels.shape) == pixels).all()
    return stream


def read_charls(stream, bits, shape):
    pixels, _ = jpeg_ls.decode_buffer(stream)
    return np.frombuffer(pixels, np.uint8 if bits <= 8 else "<u2").reshape(shape)


class Corpus:
    def __init__(self):
        self.frames, self.expected = {}, {}

    def add(self, name, syntax, stream, pixels, stored, writer, signed=False, allocated=None):
        allocated = allocated or pixels.itemsize * 8
        cells = np.ascontiguousarray(pixels).astype(f"<u{allocated // 8}")
        assert name not in self.frames, name
        self.frames[name] = np.frombuffer(bytes(stream), np.uint8)
        self.expected[name] = {
            "syntax": syntax,
            "rows": pixels.shape[0],
            "columns": pixels.shape[1],
            "allocated": allocated,
            "stored": stored,
            "signed": signed,
            "writer": writer,
            "sha256": hashlib.sha256(cells.tobytes()).hexdigest(),
        }


SIZES = {"one": (1, 1), "row": (1, 37), "column": (41, 1), "odd": (33, 29)}


def add_rle(c, rng):
    for bits in 8, 16, 32:
        dtype = np.dtype(f"<u{bits // 8}")
        for name, image in (
            ("scene", scene(rng, 29, 33, min(bits, 16))),
            ("runs", runs(rng, 40, 150, 8)),
        ):
            a = image.astype(dtype)
            if bits == 32:
                a = a * np.uint32(65521)
            stream = rle.encode_pixel_data(
                a.tobytes(), rows=a.shape[0], columns=a.shape[1], bits_allocated=bits, samples_per_pixel=1,
                number_of_frames=1, byteorder="<",
            )  # fmt: skip
            c.add(f"rle-{name}-{bits}", RLE, stream, a, bits, "pylibjpeg-rle")
            if bits <= 16:
                stream, read = dcmtk("dcmcrle", a, bits, False)
                assert (read == a).all()
                c.add(f"rle-{name}-{bits}-dcmtk", RLE, stream, a, bits, "dcmtk")
    for name, size in SIZES.items():
        a = noise(rng, *size, 16)
        c.add(
            f"rle-{name}",
            RLE,
            with_gdcm(a, 16, True, gdcm.TransferSyntax.RLELossless),
            a,
            16,
            "gdcm",
            True,
        )


def add_lossless(c, rng):
    def turbo(a, bits, predictor):
        cells = a.astype(np.uint8) if bits <= 8 else a
        stream = imagecodecs.jpeg8_encode(
            cells, lossless=True, predictor=predictor, bitspersample=bits
        )
        assert (imagecodecs.jpeg8_decode(stream) == a).all()
        return stream, cells

    for predictor in range(1, 8):
        for bits in 2, 8, 12, 16:
            a = scene(rng, 24, 31, bits)
            stream, cells = turbo(a, bits, predictor)
            syntax = SV1 if predictor == 1 else LOSSLESS
            c.add(f"lossless-{predictor}-{bits}", syntax, stream, cells, bits, "libjpeg-turbo")
        a = noise(rng, 11, 13, 16)
        stream, cells = turbo(a, 16, predictor)
        c.add(f"lossless-{predictor}-noise", LOSSLESS, stream, cells, 16, "libjpeg-turbo")
        a = scene(rng, 24, 31, 12)
        stream, read = dcmtk("dcmcjpeg", a, 12, False, "+el", "+sv", str(predictor))
        assert (read == a).all()
        c.add(f"lossless-{predictor}-dcmtk", LOSSLESS, stream, a, 12, "dcmtk")
    for bits in 3, 4, 5, 6, 7, 9, 10, 11, 13, 14, 15:
        stream, cells = turbo(scene(rng, 17, 19, bits), bits, 1)
        c.add(f"lossless-bits-{bits}", SV1, stream, cells, bits, "libjpeg-turbo", allocated=16)
    for name, size in SIZES.items():
        a = scene(rng, *size, 12)
        stream, cells = turbo(a, 12, 7)
        c.add(f"lossless-{name}", LOSSLESS, stream, cells, 12, "libjpeg-turbo")
    stream, cells = turbo(runs(rng, 60, 150, 12), 12, 1)
    c.add("lossless-runs", SV1, stream, cells, 12, "libjpeg-turbo")
    stream, cells = turbo(jumps(12, 15), 16, 1)
    c.add("lossless-jumps", SV1, stream, cells, 16, "libjpeg-turbo")
    a = (scene(rng, 40, 30, 12).astype(np.int16) - 1024).view(np.uint16)
    for name, signed, stored in (("gdcm", False, 16), ("gdcm-signed", True, 16)):
        stream = with_gdcm(a, stored, signed, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
        assert (imagecodecs.jpegsof3_decode(stream).view(np.uint16) == a).all()
        c.add(f"lossless-{name}", SV1, stream, a, stored, "gdcm", signed)
    stream, read = dcmtk("dcmcjpeg", a, 16, True, "+e1")
    assert (read == a).all()
    c.add("lossless-dcmtk-signed", SV1, stream, a, 16, "dcmtk", True)
    a = scene(rng, 24, 31, 12)
    stream, read = dcmtk("dcmcjpeg", a, 12, False, "+el", "+sv", "4", "+pt", "3")
    assert (read == a >> 3 << 3).all()
    c.add("lossless-transform-dcmtk", LOSSLESS, stream, read, 12, "dcmtk")
    for predictor in range(1, 8):
        for rows, transform in ((1, 0), (3, 0), (5, 2)):
            a = noise(rng, 19, 9, 12)
            stream = lossless_jpeg(a, 12, predictor, rows, transform, fill=rows == 3)
            a = a >> transform << transform
            assert (imagecodecs.jpeg8_decode(stream) == a).all()
            c.add(
                f"lossless-{predictor}-restart-{rows}",
                LOSSLESS,
                stream,
                a,
                12,
                "this script, read by libjpeg-turbo",
            )


def add_jpegls(c, rng):
    for bits in range(2, 17):
        a = scene(rng, 33, 29, bits).astype(np.uint8 if bits <= 8 else np.uint16)
        c.add(f"jpegls-bits-{bits}", JLS, charls(a, bits, 0), a, bits, "CharLS")
    for bits in 2, 8, 12, 16:
        dtype = np.uint8 if bits <= 8 else np.uint16
        a = runs(rng, 60, 200, bits).astype(dtype)
        c.add(f"jpegls-runs-{bits}", JLS, charls(a, bits, 0), a, bits, "CharLS")
        a = noise(rng, 13, 17, bits).astype(dtype)
        c.add(f"jpegls-noise-{bits}", JLS, large(a, bits), a, bits, "CharLS in DCMTK")
        for near in 1, 2, 3:
            for name, image in (
                ("scene", scene(rng, 33, 29, bits)),
                ("runs", runs(rng, 40, 100, bits)),
            ):
                if near > (2**bits - 1) // 2:
                    continue
                a = image.astype(dtype)
                stream = charls(a, bits, near)
                read = read_charls(stream, bits, a.shape)
                assert np.abs(read.astype(int) - a).max() <= near
                c.add(f"jpegls-near-{near}-{name}-{bits}", NEAR, stream, read, bits, "CharLS")
    for name, size in SIZES.items():
        a = scene(rng, *size, 12)
        c.add(f"jpegls-{name}", JLS, large(a, 12), a, 12, "CharLS in DCMTK")
    a = (
        jumps(40, 40) // 8
    )  # predictions are always wrong in one direction: the bias reaches its bounds
    c.add("jpegls-bias", JLS, charls(a, 16, 0), a, 16, "CharLS")
    a = (scene(rng, 40, 30, 12).astype(np.int16) - 1024).view(np.uint16)
    c.add("jpegls-signed", JLS, charls(a, 16, 0), a, 16, "CharLS", True)
    c.add(
        "jpegls-gdcm",
        JLS,
        with_gdcm(a, 16, True, gdcm.TransferSyntax.JPEGLSLossless),
        a,
        16,
        "gdcm",
        True,
    )
    a = scene(rng, 40, 30, 12)
    presets = ("+pc", "+t1", "5", "+t2", "12", "+t3", "40", "+rs", "9")
    for name, syntax, options in (
        ("presets", JLS, ("+el", *presets)),
        ("dcmtk", JLS, ("+el",)),
        ("padded", JLS, ("+el", "+pz")),
        ("presets-near", NEAR, ("+en", "+md", "3", *presets)),
    ):
        stream, read = dcmtk("dcmcjpls", a, 12, False, *options)
        assert syntax == NEAR or (read == a).all()
        assert (read_charls(stream, 12, a.shape) == read).all()
        c.add(f"jpegls-{name}", syntax, stream, read, 12, "dcmtk")
    for near in 0, 2:
        for rows in 1, 7:
            a = runs(rng, 61, 40, 12) if near else scene(rng, 61, 40, 12)
            stream = restarted_jpegls(a, 12, near, rows)
            read = read_charls(stream, 12, a.shape)
            assert np.abs(read.astype(int) - a).max() <= near
            name = f"jpegls-restart-{rows}" + ("-near" if near else "")
            c.add(name, NEAR if near else JLS, stream, read, 12, "CharLS, its bands joined")


def add_baseline(c, rng):
    def add(name, stream, writer):
        c.add(f"baseline-{name}", BASELINE, stream, imagecodecs.jpeg8_decode(stream), 8, writer)

    def pillow(a, **options):
        out = io.BytesIO()
        PIL.Image.fromarray(a).save(out, "JPEG", **options)
        return out.getvalue()

    for name, size in SIZES.items():
        add(
            name,
            imagecodecs.jpeg8_encode(scene(rng, *size, 8).astype(np.uint8), 90),
            "libjpeg-turbo",
        )
    a = scene(rng, 48, 64, 8).astype(np.uint8)
    for quality in 1, 30, 95:
        add(f"blocks-{quality}", imagecodecs.jpeg8_encode(a, quality), "libjpeg-turbo")
    add(
        "noise",
        imagecodecs.jpeg8_encode(noise(rng, 30, 30, 8).astype(np.uint8), 100),
        "libjpeg-turbo",
    )
    add("dcmtk", dcmtk("dcmcjpeg", a, 8, False, "+eb", "+un")[0], "dcmtk")
    for blocks in 1, 5:
        add(f"restart-{blocks}", pillow(a, quality=90, restart_marker_blocks=blocks), "Pillow")
    stream = bytearray(pillow(scene(rng, 33, 29, 8).astype(np.uint8)))
    stream[stream.index(b"\xff\xc0") + 11] = 0x22  # sampling factors mean nothing for one component
    add("sampled", stream, "Pillow")


def add_large(c, rng):
    """Large enough to be timed, and for JPEG-LS to halve its contexts."""
    a = scene(rng, 120, 150, 12)
    stream = rle.encode_pixel_data(
        a.tobytes(), rows=120, columns=150, bits_allocated=16, samples_per_pixel=1, number_of_frames=1,
        byteorder="<",
    )  # fmt: skip
    c.add("rle-large", RLE, stream, a, 12, "pylibjpeg-rle")
    stream = imagecodecs.jpeg8_encode(a, lossless=True, predictor=1, bitspersample=12)
    c.add("lossless-large", SV1, stream, a, 12, "libjpeg-turbo")
    c.add("jpegls-large", JLS, charls(a, 12, 0), a, 12, "CharLS")


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
    for add in add_rle, add_lossless, add_jpegls, add_baseline, add_large:
        add(c, rng)
    np.savez_compressed(out / "codestreams.npz", **c.frames)
    lines = [f"{json.dumps(n)}: {json.dumps(e)}" for n, e in c.expected.items()]
    (out / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
