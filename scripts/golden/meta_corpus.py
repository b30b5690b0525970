"""Writes MetaImage files and, in expected.json, what SimpleITK and nnU-Net's SimpleITKIO read from them.

    meta_corpus.py OUT [--live | --random N | --read] [--seed S]

Without options the corpus of testdata/golden/meta: files that SimpleITK wrote, and headers of every kind. --live: the same
with other pixels and geometry, every type in every encoding and byte order, attached and detached, and 60 of the following.
--random: N files that SimpleITK wrote, of random types, sizes and geometry; --read: the files that are there. Readings: size,
type, spacing, origin, direction, sha256 of the pixels, and, if nnU-Net is installed, nnunet (shape, spacing, sha256 of the
float32 array); or error; or crash. No hashes of what begins with differs-.
"""

import argparse
import gzip
import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

try:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
except ImportError:
    SimpleITKIO = None

TYPES = "int8 uint8 int16 uint16 int32 uint32 int64 uint64 float32 float64".split()
PIXELS = np.arange(8, dtype="<i2").tobytes()
HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "1 2 3",
    "ElementSpacing": "1 2 3",
    "DimSize": "2 2 2",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


def header(pixels=PIXELS, sep=" = ", end="\n", drop=(), **changes):
    fields = {k: v for k, v in HEADER.items() if k not in drop}
    last = changes.pop("ElementDataFile", fields.pop("ElementDataFile"))
    fields = {**fields, **changes, "ElementDataFile": last}
    return "".join(k + sep + v + end for k, v in fields.items()).encode() + pixels


def variants():
    """name -> bytes of a file."""
    z, g = zlib.compress(PIXELS), gzip.compress(PIXELS, mtime=0)
    turned, other = "0 1 0 1 0 0 0 0 1", "0 0 1 0 1 0 1 0 0"
    damaged = z[:-1] + bytes([z[-1] ^ 1])

    def packed(stream, size):
        return header(stream, CompressedData="True", CompressedDataSize=str(size))

    plain = header()
    first = b"ObjectType = Image\nNDims = 3\n"
    two = dict(NDims="2", DimSize="4 2", Offset="1 2", TransformMatrix="1 0 0 1")
    four = "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"
    return {
        "plain": plain,
        "followed": header(PIXELS + b"xyz"),
        "short": header(PIXELS[:-2]),
        "crlf": header(end="\r\n"),
        "cr": header(end="\r"),
        "colon": header(sep=": "),
        "no-spaces": header(sep="="),
        "least": header(drop=("ObjectType", "BinaryData", "BinaryDataByteOrderMSB", "Offset")),
        "no-matrix": header(drop=("TransformMatrix",)),
        "no-spacing": header(drop=("ElementSpacing",)),
        "origin": header(drop=("Offset",), Origin="4 5 6"),
        "position": header(drop=("Offset",), Position="4 5 6"),
        "origin-before-offset": header(Origin="4 5 6"),
        "offset-before-position": header(Position="4 5 6"),
        "rotation": header(drop=("TransformMatrix",), Rotation=turned),
        "orientation": header(drop=("TransformMatrix",), Orientation=turned),
        "rotation-before-orientation": header(
            drop=("TransformMatrix",), Orientation=other, Rotation=turned
        ),
        "matrix-before-rotation": header(Rotation=turned),
        "element-size": header(drop=("ElementSpacing",), ElementSize="4 5 6"),
        "spacing-before-size": header(ElementSize="4 5 6"),
        "spacing-twice": header(ElementSpacing="1 1 1\nElementSpacing = 3 3 3"),
        "negative-spacing": header(ElementSpacing="1 -2 3", TransformMatrix=other),
        "zero-spacing": header(ElementSpacing="1 0 3"),
        "nan-spacing": header(ElementSpacing="1 nan 3"),
        "word-spacing": header(ElementSpacing="1 x 3"),
        "short-spacing": header(ElementSpacing="1 2"),
        "hex-spacing": header(ElementSpacing="0x1p1 2 3"),
        "exponents": header(ElementSpacing="1e0 +2E0 3."),
        "huge-offset": header(Offset="1 1e400 3"),
        "scaled": header(TransformMatrix="2 0 0 0 1 0 0 0 1"),
        "shear": header(TransformMatrix="1 0.5 0 0 1 0 0 0 1"),
        "singular": header(TransformMatrix="1 0 0 1 0 0 0 0 1"),
        "short-matrix": header(TransformMatrix="1 0 0 0 1 0"),
        "long-matrix": header(TransformMatrix="1 0 0 0 1 0 0 0 1 7"),
        "comma-matrix": header(TransformMatrix="1,0,0,0,1,0,0,0,1"),
        "big-endian": header(BinaryDataByteOrderMSB="True"),
        "big-endian-t": header(BinaryDataByteOrderMSB="true"),
        "big-endian-1": header(BinaryDataByteOrderMSB="1"),
        "element-big-endian": header(drop=("BinaryDataByteOrderMSB",), ElementByteOrderMSB="True"),
        "binary-before-element": header(ElementByteOrderMSB="True"),
        "zlib": packed(z, len(z)),
        "zlib-followed": packed(z + b"abc", len(z)),
        "gzip": packed(g, len(g)),
        "long": header(PIXELS * 2, ElementType="MET_LONG"),
        "ulong": header(PIXELS * 2, ElementType="MET_ULONG"),
        "ascii-char": header(PIXELS[:8], ElementType="MET_ASCII_CHAR"),
        "no-such-type": header(ElementType="MET_WURST"),
        "lower-type": header(ElementType="met_short"),
        "no-type": header(drop=("ElementType",)),
        "local": header(ElementDataFile="local"),
        "local-spaces": header(ElementDataFile="Local  "),
        "at-the-end": header(b"1234" + PIXELS, HeaderSize="-1"),
        "one-channel": header(ElementNumberOfChannels="1"),
        "no-channel": header(ElementNumberOfChannels="0"),
        "negative-size": header(DimSize="2 -2 2"),
        "short-size": header(DimSize="2 2"),
        "long-size": header(DimSize="2 2 2 2"),
        "no-size": header(drop=("DimSize",)),
        "scaling": header(
            ElementToIntensityFunctionSlope="2", ElementToIntensityFunctionOffset="1"
        ),
        "unknown-field": header(Wurst="a b", Comment="x = y"),
        "units": header(DistanceUnits="cm", CenterOfRotation="9 9 9"),
        "leading-spaces": plain.replace(b"Offset", b"  Offset"),
        "leading-comment": b"# MetaImage\n" + plain,
        "leading-blank": b"\n" + plain,
        "axes-late": plain.replace(b"NDims = 3\n", b"").replace(b"DimSize", b"NDims = 3\nDimSize"),
        "axes-first": plain.replace(first, b"NDims = 3\nObjectType = Image\n"),
        "no-axes": header(drop=("NDims",)),
        "1d": header(NDims="1", DimSize="8", Offset="1", ElementSpacing="1", TransformMatrix="1"),
        "2d": header(**two, ElementSpacing="1 2"),
        "4d": header(
            PIXELS * 2,
            NDims="4",
            DimSize="2 2 2 2",
            Offset="1 2 3 4",
            ElementSpacing="1 2 3 4",
            TransformMatrix=four,
        ),
        "axes-negative": header(NDims="-3"),
        "axes-many": header(NDims="99"),
        # What ITK reads without an error and not as it is, or not as it should: see the tests.
        "differs-zlib-no-size": header(z, CompressedData="True"),
        "differs-zlib-size-small": packed(z, len(z) - 4),
        "differs-zlib-size-large": packed(z + b"abcdef", len(z) + 4),
        "differs-zlib-beyond-the-end": packed(z, len(z) + 4),
        "differs-zlib-size-negative": packed(z, -1),
        "differs-zlib-checksum": packed(damaged, len(z)),
        "differs-zlib-less": packed(zlib.compress(PIXELS[:-2]), len(zlib.compress(PIXELS[:-2]))),
        "differs-zlib-more": packed(
            zlib.compress(PIXELS + b"ab"), len(zlib.compress(PIXELS + b"ab"))
        ),
        "differs-zlib-cut": packed(z[:-3], len(z) - 3),
        "differs-no-voxels": header(DimSize="2 0 2"),
        "differs-nan-offset": header(Offset="1 nan 3"),
        "differs-into-header": header(b"1234" + PIXELS, HeaderSize="4"),
        "differs-channels": header(PIXELS * 2, ElementNumberOfChannels="2"),
        "text": header(b"0 1 2 3 4 5 6 7\n", BinaryData="False"),
        "differs-text-lines": header(b"0\n1\r\n2 3\t4 5   6 7", BinaryData="False"),
        "text-float": header(
            b"0.1 1e3 -2.5 3 4 5 6 1e-30\n", BinaryData="False", ElementType="MET_FLOAT"
        ),
        "text-uchar": header(b"0 255 2 3 4 5 6 7\n", BinaryData="False", ElementType="MET_UCHAR"),
        "differs-text-end": header(b"0 1 2 3 4 5 6 7", BinaryData="False"),
        "differs-text-short": header(b"0 1 2 3 4 5 6\n", BinaryData="False"),
        "differs-text-wide": header(b"0 1 2 3 4 5 6 70000\n", BinaryData="False"),
        "differs-text-word": header(b"0 1 2 x 4 5 6 7\n", BinaryData="False"),
        "differs-text-zlib": header(z, BinaryData="False", CompressedData="True"),
    }


def detached():
    """name -> (bytes of an .mhd, {name of a data file: bytes})."""
    half = {f"h{i}.raw": PIXELS[8 * i : 8 * i + 8] for i in range(2)}
    rows = {f"r{i}.raw": PIXELS[4 * i : 4 * i + 4] for i in range(4)}
    z, g = zlib.compress(PIXELS), gzip.compress(PIXELS, mtime=0)

    def mhd(file, **changes):
        return header(b"", ElementDataFile=file, **changes)

    names = "\n".join(half) + "\n"
    return {
        "one": (mhd("whole.raw"), {"whole.raw": PIXELS}),
        "skipped": (mhd("behind.raw", HeaderSize="3"), {"behind.raw": b"abc" + PIXELS}),
        "at-its-end": (mhd("behind.raw", HeaderSize="-1"), {"behind.raw": b"abc" + PIXELS}),
        "zlib": (
            mhd("a.zraw", CompressedData="True", CompressedDataSize=str(len(z))),
            {"a.zraw": z},
        ),
        "gzip": (
            mhd("a.raw.gz", CompressedData="True", CompressedDataSize=str(len(g))),
            {"a.raw.gz": g},
        ),
        "list": (mhd("LIST\n" + names), half),
        "list-2": (mhd("LIST 2\n" + names), half),
        "list-2D": (mhd("LIST 2D\n" + names), half),
        "list-1D": (mhd("LIST 1D\n" + "\n".join(rows) + "\n"), rows),
        "differs-list-3D": (mhd("LIST 3D\nwhole.raw\n"), {"whole.raw": PIXELS}),
        "list-skipped": (
            mhd("LIST\nb0.raw\nb1.raw\n", HeaderSize="1"),
            {"b0.raw": b"x" + PIXELS[:8], "b1.raw": b"y" + PIXELS[8:]},
        ),
        "pattern": (mhd("h%d.raw 0 1 1"), half),
        "pattern-from": (mhd("h%d.raw 0"), half),
        "pattern-width": (mhd("w%03d.raw 1 2 1"), {"w001.raw": PIXELS[:8], "w002.raw": PIXELS[8:]}),
        "pattern-alone": (mhd("p%d.raw"), {"p1.raw": PIXELS[:8], "p2.raw": PIXELS[8:]}),
        "pattern-more": (mhd("h%d.raw 0 9 1"), half),
        "pattern-steps": (mhd("s%d.raw 2 6 4"), {"s2.raw": PIXELS[:8], "s6.raw": PIXELS[8:]}),
        "pattern-spaces": (
            mhd("a b%d.raw 0 1 1"),
            {"a b0.raw": PIXELS[:8], "a b1.raw": PIXELS[8:]},
        ),
        "differs-list-lacking": (mhd("LIST\nh0.raw\n"), half),
        "differs-list-absent": (mhd("LIST\nh0.raw\nnone.raw\n"), half),
        "differs-pattern-absent": (mhd("h%d.raw 1 2 1"), half),
        "differs-list-short": (mhd("LIST\nh0.raw\nshort.raw\n"), {**half, "short.raw": b"abc"}),
    }


def typed(rng):
    """name -> (bytes of a file, {name of a data file: bytes}): every type, encoding and byte order."""
    elements = "CHAR UCHAR SHORT USHORT INT UINT LONG_LONG ULONG_LONG FLOAT DOUBLE".split()
    out = {}
    for dtype, element in zip(map(np.dtype, TYPES), elements, strict=True):
        if dtype.kind == "f":
            a = rng.standard_normal(8).astype(dtype) * dtype.type(10.0 ** rng.integers(-20, 20))
        else:
            info = np.iinfo(dtype)
            a = rng.integers(info.min, info.max, 8, dtype=dtype, endpoint=True)
        for order in "little", "big":
            raw = a.astype(dtype.newbyteorder("<" if order == "little" else ">")).tobytes()
            for encoding in "raw", "zlib", "gzip", "text":
                if encoding == "text" and order == "big":
                    continue
                # MetaIO reads numbers of text as float64
                text = a // 2**11 if dtype.itemsize == 8 and dtype.kind != "f" else a
                data = {
                    "raw": lambda: raw,
                    "zlib": lambda: zlib.compress(raw),
                    "gzip": lambda: gzip.compress(raw, mtime=0),
                    "text": lambda: (" ".join(str(v) for v in text.tolist()) + "\n").encode(),
                }[encoding]()
                q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
                fields = {
                    "ElementType": "MET_" + element,
                    "BinaryData": str(encoding != "text"),
                    "BinaryDataByteOrderMSB": str(order == "big"),
                    "CompressedData": str(encoding in ("zlib", "gzip")),
                    "TransformMatrix": " ".join(repr(float(v)) for v in q.ravel()),
                    "Offset": " ".join(repr(float(v)) for v in rng.standard_normal(3) * 100),
                    "ElementSpacing": " ".join(repr(float(v)) for v in rng.uniform(0.1, 5, 3)),
                }
                if encoding in ("zlib", "gzip"):
                    fields["CompressedDataSize"] = str(len(data))
                name = f"typed-{encoding}-{order}-{dtype}"
                out[name + ".mha"] = (header(data, **fields), {})
                fields["ElementDataFile"] = name + ".data"
                out[name + ".mhd"] = (header(b"", **fields), {name + ".data": data})
    return out


def random_image(rng, dims=None, dtype=None):
    dims = dims or int(rng.integers(2, 5))
    shape = [int(n) for n in rng.integers(1, 6, dims)]
    if dims == 4:
        shape[0] = max(shape[0], 2)
    dtype = np.dtype(dtype or str(rng.choice(TYPES)))
    if dtype.kind == "f":
        a = rng.standard_normal(shape).astype(dtype)
    else:
        info = np.iinfo(dtype)
        a = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    image = sitk.GetImageFromArray(a, isVector=False)
    image.SetSpacing([float(v) for v in rng.uniform(0.1, 5, dims)])
    image.SetOrigin([float(v) for v in rng.standard_normal(dims) * 10.0 ** rng.integers(-6, 6)])
    q, _ = np.linalg.qr(rng.standard_normal((dims, dims)))
    if rng.random() < 0.3:
        q = np.eye(dims)[rng.permutation(dims)] * rng.choice([-1, 1], dims)
    image.SetDirection([float(v) for v in q.ravel()])
    return image


def read(path):
    """What is read from a file."""
    try:
        image = sitk.ReadImage(str(path))
        a = sitk.GetArrayFromImage(image)
        value = {
            "size": image.GetSize(),
            "type": str(a.dtype),
            "spacing": image.GetSpacing(),
            "origin": image.GetOrigin(),
            "direction": image.GetDirection(),
            "sha256": hashlib.sha256(a.tobytes()).hexdigest(),
        }
        if path.name.startswith("differs-"):
            del value["sha256"]  # in part what was in memory
        elif SimpleITKIO and "vector" not in image.GetPixelIDTypeAsString() and a.size:
            data, props = SimpleITKIO().read_images([str(path)])
            value["nnunet"] = {
                "shape": data.shape,
                "spacing": [float(v) for v in props["spacing"]],
                "sha256": hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest(),
            }
    except RuntimeError as e:
        value = {"error": str(e).strip().splitlines()[-1].replace(str(path), path.name)}
    return value


def reading(path):
    """The same, in a process of its own where ITK may crash."""
    if path.name.startswith(("typed-", "sitk-", "random-")):
        return read(path)
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with os.fdopen(into, "w") as f:
            json.dump(read(path), f)
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as f:
        text = f.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if status == 0 else {"crash": True}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--live", action="store_true")
    p.add_argument("--random", type=int, default=0)
    p.add_argument("--read", action="store_true")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    sitk.ProcessObject_GlobalWarningDisplayOff()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    names, n = [], args.random
    if args.read:
        names = sorted(f.name for f in out.glob("*.mh[ad]"))
    elif not args.random:
        if args.live:
            n = 60
            for name, (content, data) in typed(rng).items():
                (out / name).write_bytes(content)
                for file, pixels in data.items():
                    (out / file).write_bytes(pixels)
                names.append(name)
        for name, content in variants().items():
            (out / f"{name}.mha").write_bytes(content)
            names.append(f"{name}.mha")
        for name, (content, data) in detached().items():
            (out / f"{name}.mhd").write_bytes(content)
            for file, pixels in data.items():
                (out / file).write_bytes(pixels)
            names.append(f"{name}.mhd")
        for dtype in TYPES:
            for dims in 2, 3, 4:
                ending, packed = ("mhd", dims == 2) if dtype == "int16" else ("mha", dims != 3)
                names.append(f"sitk-{dtype}-{dims}d.{ending}")
                sitk.WriteImage(random_image(rng, dims, dtype), str(out / names[-1]), packed)
    for i in range(n):
        names.append(f"random-{i}.{rng.choice(['mha', 'mhd'])}")
        sitk.WriteImage(random_image(rng), str(out / names[-1]), bool(rng.integers(2)))
    lines = [f"{json.dumps(n)}: {json.dumps(reading(out / n))}" for n in names]
    (out / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
