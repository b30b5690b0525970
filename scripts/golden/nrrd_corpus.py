"""Writes NRRD files and, in expected.json, what SimpleITK and nnU-Net's SimpleITKIO read from them.

    nrrd_corpus.py OUT [--pynrrd | --live | --random N | --read | --copy FOLDER [--only PATTERN]] [--seed S]

Without options the corpus of testdata/golden/nrrd: files that SimpleITK wrote, headers of every kind, and the files that
pynrrd wrote before. --pynrrd writes these anew; it needs pynrrd 1.1.3, which is not part of the stack of nnU-Net but of
scripts/requirements-images.txt. --live: all of that, with other pixels and geometry, every type in every encoding also
detached, and 60 of the following. --random: N files that SimpleITK wrote, of random types, sizes and geometry; --read: the
files that are there, which pynrrd, if installed, must read as SimpleITK does; --copy: what SimpleITK writes of the files of a
folder. Readings: size, type, spacing, origin, direction, sha256 of the pixels, and, if nnU-Net is installed, nnunet (shape,
spacing, sha256 of the float32 array); or vector; or error; or crash. What begins with differs- is read otherwise by us. No
nnunet for what begins with type- or space-.
"""

import argparse
import bz2
import gzip
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

try:
    import nrrd
except ImportError:
    nrrd = None
try:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
except ImportError:
    SimpleITKIO = None

TYPES = "int8 uint8 int16 uint16 int32 uint32 int64 uint64 float32 float64".split()
# The names of each type, as NRRD's definition has them.
NAMES = {
    "int8": ["signed char", "int8", "int8_t"],
    "uint8": ["uchar", "unsigned char", "uint8", "uint8_t"],
    "int16": ["short", "short int", "signed short", "signed short int", "int16", "int16_t"],
    "uint16": ["ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"],
    "int32": ["int", "signed int", "int32", "int32_t"],
    "uint32": ["uint", "unsigned int", "uint32", "uint32_t"],
    "int64": [
        "longlong",
        "long long",
        "long long int",
        "signed long long",
        "signed long long int",
        "int64",
        "int64_t",
    ],
    "uint64": [
        "ulonglong",
        "unsigned long long",
        "unsigned long long int",
        "uint64",
        "uint64_t",
    ],
    "float32": ["float"],
    "float64": ["double"],
}
PIXELS = np.arange(8, dtype="<i2").tobytes()
HEADER = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "2 2 2",
    "space directions": "(1,0,0) (0,2,0) (0,0,3)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(1,2,3)",
}


def header(
    pixels=PIXELS, *, magic="NRRD0004", end="\n", drop=(), blank=True, lines=(), sep=": ", **changes
):
    """A file; lines come last in the header, changes have _ for spaces."""
    fields = {k: v for k, v in HEADER.items() if k not in drop}
    fields.update({k.replace("_", " "): v for k, v in changes.items()})
    text = [magic] + [k + sep + v for k, v in fields.items()] + list(lines)
    return (end.join(text) + end + (end if blank else "")).encode("latin-1") + pixels


def plain(pixels=PIXELS, **changes):
    """A file without a space."""
    return header(pixels, drop=("space", "space directions", "space origin"), **changes)


def axis(kind, size, first=True, pixels=PIXELS, **changes):
    """A file with an axis of values, before or behind those of space."""
    put = (lambda a, b: f"{a} {b}") if first else (lambda a, b: f"{b} {a}")
    fields = {
        "dimension": "4",
        "sizes": put(size, "2 2 2"),
        "space directions": put("none", HEADER["space directions"]),
        "kinds": put(kind, HEADER["kinds"]),
    }
    fields.update(changes)
    return header(pixels, **fields)


def encoded(a, encoding):
    raw = a.tobytes()
    return {
        "raw": lambda: raw,
        "gzip": lambda: gzip.compress(raw, mtime=0),
        "bzip2": lambda: bz2.compress(raw),
        "hex": lambda: raw.hex().encode(),
        "ascii": lambda: (" ".join(str(v) for v in a.ravel().tolist()) + "\n").encode(),
    }[encoding]()


def sample(dtype, rng=None):
    """Eight pixels with the extremes of the type; with rng the others are random."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        big = np.finfo(dtype).max
        a = np.array([0.1, -0.0, 1e-30, -2.5, big, -big, 3, 1 / 3], dtype)
        if rng:
            a[[0, 3, 6, 7]] = rng.standard_normal(4) * 10.0 ** rng.integers(-20, 20, 4)
        return a
    info = np.iinfo(dtype)
    a = np.array([0, 1, info.max, info.min, 7, 8, 9, info.max // 3], dtype)
    if rng:
        a[4:] = rng.integers(info.min, info.max, 4, dtype=dtype, endpoint=True)
    return a


def variants(rng=None):
    """name -> bytes of a .nrrd."""
    z = gzip.compress(PIXELS, mtime=0)
    bz = bz2.compress(PIXELS)
    damaged = z[:-8] + bytes([z[-8] ^ 1]) + z[-7:]
    base = header()
    two = dict(dimension="2", sizes="4 2", kinds="domain domain")
    four = dict(
        dimension="4",
        sizes="2 2 2 2",
        kinds="domain domain domain domain",
    )
    four_space = dict(
        space_dimension="4",
        space_directions="(1,0,0,0) (0,2,0,0) (0,0,3,0) (0,0,0,4)",
        space_origin="(1,2,3,4)",
    )
    out = {
        "plain": base,
        "followed": header(PIXELS + b"xyz"),
        "short": header(PIXELS[:-2]),
        "crlf": header(end="\r\n"),
        "cr": header(end="\r"),
        "magic-0": header(magic="NRRD00.01"),
        "magic-1": header(magic="NRRD0001"),
        "magic-2": header(magic="NRRD0002"),
        "magic-3": header(magic="NRRD0003"),
        "magic-5": header(magic="NRRD0005"),
        "magic-6": header(magic="NRRD0006"),
        "upper": base.replace(b"type: short", b"TYPE: SHORT").replace(b"raw", b"RAW"),
        "joined-names": base.replace(b"space directions", b"spacedirections").replace(
            b"space origin", b"spaceorigin"
        ),
        "comments": header(lines=("# a comment", "#", "#:= x: y")),
        "pairs": header(lines=("key:=value", "a key:= with: colon", "empty:=")),
        "differs-pair-of-colon": header(lines=("a: b:=c",)),
        "content": header(lines=("content: somebody's image: of 2020",)),
        "number": header(lines=("number: 8", "min: 0", "max: 7", "old min: 0", "oldmax: 7")),
        "labels": header(lines=('labels: "x" "y" "z"', 'sample units: "HU"')),
        "thicknesses": header(lines=("thicknesses: 1 2 3",)),
        "units": header(lines=('space units: "mm" "mm" "mm"',)),
        "frame": header(magic="NRRD0005", lines=("measurement frame: (0,1,0) (1,0,0) (0,0,1)",)),
        "unknown-field": header(lines=("wurst: 1",)),
        "no-field": header(lines=("wurst",)),
        "no-space-behind-colon": header(sep=":"),
        "twice": header(lines=("encoding: raw",)),
        "no-blank": header(blank=False),
        "no-type": header(drop=("type",)),
        "no-sizes": header(drop=("sizes",)),
        "no-encoding": header(drop=("encoding",)),
        "no-endian": header(drop=("endian",)),
        "no-endian-byte": header(PIXELS[:8], drop=("endian",), type="uchar"),
        "no-endian-text": header(b"0 1 2 3 4 5 6 7\n", drop=("endian",), encoding="text"),
        "no-endian-hex": header(PIXELS.hex().encode(), drop=("endian",), encoding="hex"),
        "bad-endian": header(endian="middle"),
        "bad-encoding": header(encoding="zip"),
        "bad-type": header(type="char"),
        "block": header(type="block", lines=("block size: 2",)),
        "order": base.replace(b"dimension: 3\n", b"").replace(b"kinds", b"dimension: 3\nkinds"),
        "axes-0": plain(dimension="0", sizes="", kinds=""),
        "axes-1": plain(dimension="1", sizes="8", kinds="domain"),
        "axes-2": plain(**two),
        "axes-2-space": header(
            drop=("space", "space directions", "space origin"),
            **two,
            space_dimension="2",
            space_directions="(0,1) (-2,0)",
            space_origin="(5,6)",
        ),
        "axes-4": plain(PIXELS * 2, **four),
        "axes-4-space": header(
            PIXELS * 2, drop=("space", "space directions", "space origin"), **four, **four_space
        ),
        "axes-4-none": header(
            PIXELS * 2, **four, space_directions=HEADER["space directions"] + " none"
        ),
        "axes-17": plain(dimension="17", sizes="1 " * 17, kinds="domain " * 17),
        "sizes-0": header(sizes="2 0 2"),
        "sizes-negative": header(sizes="2 -2 2"),
        "sizes-few": header(sizes="2 2"),
        "sizes-many": header(sizes="2 2 2 2"),
        "space-twice": header(lines=("space dimension: 3",)),
        "space-unknown": header(space="upper"),
        "space-of-4": header(space="LPST"),
        "space-alone": header(drop=("space directions", "space origin")),
        "directions-alone": header(drop=("space origin",)),
        "directions-before-space": base.replace(b"space: left-posterior-superior\n", b"").replace(
            b"endian", b"space: LPS\nendian"
        ),
        "directions-spaced": header(space_directions=" ( 1 , 0 ,0)\t(0,2, 0)(0,0,3)  "),
        "directions-few": header(space_directions="(1,0,0) (0,2,0)"),
        "directions-many": header(space_directions=HEADER["space directions"] + " (1,1,1)"),
        "directions-of-2": header(space_directions="(1,0) (0,2) (0,3)"),
        "directions-none": header(space_directions="(1,0,0) none (0,0,3)"),
        "directions-nan": header(space_directions="(1,0,0) (nan,nan,nan) (0,0,3)"),
        "directions-part-nan": header(space_directions="(1,0,0) (0,nan,0) (0,0,3)"),
        "directions-inf": header(space_directions="(1,0,0) (0,inf,0) (0,0,3)"),
        "directions-zero": header(space_directions="(1,0,0) (0,0,0) (0,0,3)"),
        "directions-shear": header(space_directions="(1,0,0) (0.3,2,0) (0.1,-0.7,3)"),
        "directions-singular": header(space_directions="(1,0,0) (1,0,0) (0,0,3)"),
        "directions-turned": header(space_directions="(0,0,-1) (0.6,0.8,0) (-0.8,0.6,0)"),
        "directions-tiny": header(space_directions="(1e-3,0,0) (0,1e-5,1e-9) (0,0,3e-7)"),
        "origin-nan": header(space_origin="(nan,nan,nan)"),
        "origin-none": header(space_origin="none"),
        "origin-of-2": header(space_origin="(1,2)"),
        "spacings": plain(spacings="1 2 0.3"),
        "spacings-negative": plain(spacings="1 -2 3"),
        "spacings-nan": plain(spacings="1 nan 3"),
        "spacings-zero": plain(spacings="1 0 3"),
        "spacings-inf": plain(spacings="1 inf 3"),
        "spacings-few": plain(spacings="1 2"),
        "spacings-and-space": header(spacings="1 2 3", drop=("space directions",)),
        "spacings-and-directions": header(spacings="1 2 3"),
        "spacings-and-nan": header(spacings="nan nan nan"),
        "nothing": plain(),
        "mins": plain(spacings="1 2 3", axis_mins="10 20 30"),
        "mins-node": plain(spacings="1 2 3", axis_mins="10 20 30", centers="node cell ???"),
        "mins-maxs": plain(axis_mins="10 20 30", axis_maxs="13 25 37", centerings="node cell node"),
        "mins-alone": plain(axis_mins="10 20 30"),
        "mins-first-nan": plain(spacings="1 2 3", axis_mins="nan 20 30"),
        "kinds-space": header(kinds="space space space"),
        "kinds-unknown": header(kinds="??? none domain"),
        "kinds-bad": header(kinds="wurst domain domain"),
        "kinds-few": header(kinds="domain domain"),
        "no-kinds": header(drop=("kinds",)),
        "stub-first": axis("stub", 1),
        "stub-last": axis("stub", 1, first=False),
        "scalar-first": axis("scalar", 1),
        "stub-of-2": axis("stub", 2, pixels=PIXELS * 2),
        "vector": axis("vector", 2, pixels=PIXELS * 2),
        "vector-of-1": axis("vector", 1),
        "list-last": axis("list", 2, first=False, pixels=PIXELS * 2),
        "rgb": axis("RGB-color", 3, pixels=PIXELS * 3),
        "complex": axis("complex", 2, pixels=PIXELS * 2),
        "values-twice": axis("vector", 1, sizes="1 1 2 4", kinds="vector list domain domain"),
        "byte-skip": header(b"abc" + PIXELS, byte_skip="3"),
        "byte-skip-end": header(b"abc" + PIXELS, byte_skip="-1"),
        "byte-skip-before-end": header(b"abc" + PIXELS + b"xy", byte_skip="-3"),
        "byte-skip-far": header(byte_skip="100"),
        "line-skip": header(b"a\nbc\r\nd\n" + PIXELS, lines=("line skip: 3",)),
        "line-byte-skip": header(b"a\nbc\nxy" + PIXELS, lineskip="2", byteskip="2"),
        "line-skip-far": header(line_skip="100"),
        "line-skip-negative": header(line_skip="-1"),
        "gzip-byte-skip": header(
            gzip.compress(b"abc" + PIXELS, mtime=0), encoding="gzip", byte_skip="3"
        ),
        "gzip-byte-skip-end": header(
            gzip.compress(b"abc" + PIXELS, mtime=0), encoding="gzip", byte_skip="-1"
        ),
        "gzip-byte-skip-before-end": header(
            gzip.compress(b"abc" + PIXELS + b"xy", mtime=0), encoding="gzip", byte_skip="-3"
        ),
        "gzip-line-skip": header(b"a\nb\n" + z, encoding="gzip", line_skip="2"),
        "gzip-longer": header(gzip.compress(PIXELS + b"abc", mtime=0), encoding="gzip"),
        "gzip-members": header(
            gzip.compress(PIXELS[:5], mtime=0) + gzip.compress(PIXELS[5:], mtime=0), encoding="gzip"
        ),
        "gzip-followed": header(z + b"abc", encoding="gz"),
        "gzip-short": header(gzip.compress(PIXELS[:-2], mtime=0), encoding="gzip"),
        "gzip-name": header(
            z[:3] + b"\x1c" + z[4:10] + b"\x03\x00abc" + b"a.raw\x00" + b"hello\x00" + z[10:],
            encoding="gzip",
        ),
        "text": header(b"0 1 2 3\n4 5 6 -7\n", encoding="text"),
        "txt": header(b"0 1 , 2 ,3\r\n4\t5 6 +7\n", encoding="txt"),
        "text-skip": header(
            b"first line\nxx 0 1 2 3 4 5 6 7\n", encoding="ascii", line_skip="1", byte_skip="3"
        ),
        "text-short": header(b"0 1 2 3 4 5 6\n", encoding="ascii"),
        "text-word": header(b"0 1 2 x 4 5 6 7\n", encoding="ascii"),
        "text-float": header(b"0.1 inf -inf 1e3 4. .5 -6E-2 7\n", encoding="ascii", type="float"),
        "hex": header(b"0000 0100\n02000300 0400\t0500 06 00 0 7 0 0 zzz", encoding="hex"),
        "hex-upper": header(
            PIXELS.replace(b"\x07", b"\xab").hex().upper().encode(), encoding="hex"
        ),
        "hex-short": header(PIXELS[:-1].hex().encode(), encoding="hex"),
        "hex-bad": header(b"zz" + PIXELS.hex().encode(), encoding="hex"),
        # What ITK does not read, or reads otherwise: see the tests.
        "differs-bzip2": header(bz, encoding="bzip2"),
        "differs-bz2": header(bz, encoding="bz2"),
        "differs-bzip2-skip": header(bz2.compress(b"abc" + PIXELS), encoding="bz2", byte_skip="3"),
        "differs-bzip2-skip-end": header(
            bz2.compress(b"abc" + PIXELS), encoding="bz2", byte_skip="-1"
        ),
        "differs-bzip2-damaged": header(bz[:20] + bytes([bz[20] ^ 4]) + bz[21:], encoding="bz2"),
        "differs-bzip2-cut": header(bz[:-5], encoding="bz2"),
        "gzip-checksum": header(damaged, encoding="gzip"),
        "gzip-cut": header(z[:-4], encoding="gzip"),
        "differs-trailing-spaces": header(type="short  ", encoding="raw "),
        "text-end": header(b"0 1 2 3 4 5 6 7", encoding="text"),
        "differs-text-commas": header(b"0,1,2,3,4,5,6,7\n", encoding="text"),
        "differs-text-fraction": header(b"0 1.5 2 3 4 5 6 7\n", encoding="text"),
        "differs-text-wide": header(b"0 70000 2 3 4 5 6 7\n", encoding="text"),
        "differs-spacings-unit": plain(spacings="1mm 2 3"),
        "differs-spacings-hex": plain(spacings="0x2 2 3"),
        "differs-sizes-fraction": header(sizes="2 2.5 2"),
        "differs-units-and-directions": header(lines=('units: "mm" "mm" "mm"',)),
        "differs-byte-skip-into-header": header(PIXELS[:-2], byte_skip="-1"),
        "differs-mins-part-nan": plain(spacings="1 2 3", axis_mins="10 nan 30"),
    }
    for dtype, names in NAMES.items():
        a = sample(dtype, rng)
        for i, name in enumerate(names):
            out[f"type-{dtype}-{i}"] = header(a.tobytes(), type=name)
        for order in "little", "big":
            b = a.astype(a.dtype.newbyteorder("<" if order == "little" else ">"))
            for encoding in "raw", "gzip", "hex", "ascii", "bzip2":
                if order == "big" and encoding == "ascii":
                    continue
                name = f"{encoding}-{order}-{dtype}"
                content = header(
                    encoded(b, encoding), type=names[0], endian=order, encoding=encoding
                )
                out[("differs-" if encoding == "bzip2" else "") + name] = content
    for i, name in enumerate(
        "left-posterior-superior|left posterior superior|leftposteriorsuperior|LPS|lps|"
        "right-anterior-superior|right anterior superior|rightanteriorsuperior|RAS|"
        "left-anterior-superior|left anterior superior|leftanteriorsuperior|LAS|scanner-xyz|"
        "3D-right-handed|3D right handed|3Drighthanded|3D-left-handed|3D left handed|3Dlefthanded|"
        "scanner xyz".split("|")
    ):
        directions = "(0.5,0.1,0) (-0.3,2,0.7) (0,0.2,3)"
        out[f"space-{i}"] = header(space=name, space_directions=directions)
    for i, name in enumerate(
        "right-anterior-superior-time|RAST|left-anterior-superior-time|LAST|"
        "left-posterior-superior-time|LPST|left posterior superior time|scanner-xyz-time|scanner-xyzt|"
        "3D-right-handed-time|3Drighthandedtime|3D-left-handed-time".split("|")
    ):
        four_space.pop("space_dimension", None)
        out[f"space-time-{i}"] = header(PIXELS * 2, **four, **four_space, space=name)
    return out


def detached():
    """name -> (bytes of a .nhdr, {name of a data file: bytes})."""
    half = {f"h{i}.raw": PIXELS[8 * i : 8 * i + 8] for i in range(2)}
    rows = {f"r{i}.raw": PIXELS[4 * i : 4 * i + 4] for i in range(4)}
    packed = {f"h{i}.raw.gz": gzip.compress(PIXELS[8 * i : 8 * i + 8], mtime=0) for i in range(2)}
    z = {"whole.raw.gz": gzip.compress(PIXELS, mtime=0)}
    whole = {"whole.raw": PIXELS}

    def nhdr(*lines, blank=False, **changes):
        return header(b"", blank=blank, lines=lines, **changes)

    return {
        "one": (nhdr("data file: whole.raw"), whole),
        "one-blank": (nhdr("data file: whole.raw", blank=True), whole),
        "one-joined": (nhdr("datafile:   ./whole.raw"), whole),
        "one-crlf": (nhdr("data file: whole.raw", end="\r\n"), whole),
        "one-first": (nhdr(blank=True, magic="NRRD0004\ndata file: whole.raw"), whole),
        "one-gzip": (nhdr("data file: whole.raw.gz", encoding="gzip"), z),
        "one-text": (nhdr("data file: t.txt", encoding="text"), {"t.txt": b"0 1 2 3 4 5 6 7\n"}),
        "one-hex": (nhdr("data file: t.hex", encoding="hex"), {"t.hex": PIXELS.hex().encode()}),
        "one-skip": (nhdr("data file: behind.raw", byte_skip="3"), {"behind.raw": b"abc" + PIXELS}),
        "one-skip-end": (
            nhdr("data file: behind.raw", byte_skip="-1"),
            {"behind.raw": b"abc" + PIXELS},
        ),
        "one-lines": (nhdr("data file: l.raw", line_skip="2"), {"l.raw": b"a\nb\n" + PIXELS}),
        "list": (nhdr("data file: LIST", *half), half),
        "differs-list-blank": (nhdr("data file: LIST", *half, blank=True), half),
        "list-2": (nhdr("data file: LIST 2", *half), half),
        "list-1": (nhdr("data file: LIST 1", *rows), rows),
        "list-3": (nhdr("data file: LIST 3", *half), half),
        "list-3-one": (nhdr("data file: LIST 3", *whole), whole),
        "list-gzip": (nhdr("data file: LIST", *packed, encoding="gzip"), packed),
        "list-lacking": (nhdr("data file: LIST", "h0.raw"), half),
        "list-absent": (nhdr("data file: LIST", "h0.raw", "none.raw"), half),
        "list-many": (nhdr("data file: LIST", *half, "whole.raw"), half),
        "list-early": (nhdr(magic="NRRD0004\ndata file: LIST\nh0.raw\nh1.raw"), half),
        "pattern": (nhdr("data file: h%d.raw 0 1 1"), half),
        "pattern-down": (
            nhdr("data file: g%d.raw 1 0 -1"),
            {"g1.raw": PIXELS[:8], "g0.raw": PIXELS[8:]},
        ),
        "pattern-width": (
            nhdr("data file: w%03d.raw 1 2 1"),
            {"w001.raw": PIXELS[:8], "w002.raw": PIXELS[8:]},
        ),
        "pattern-axes": (nhdr("data file: r%d.raw 0 3 1 1"), rows),
        "pattern-3": (nhdr("data file: h%01d.raw 0 1 1 3"), half),
        "pattern-steps": (
            nhdr("data file: s%d.raw 2 7 4"),
            {"s2.raw": PIXELS[:8], "s6.raw": PIXELS[8:]},
        ),
        "pattern-few": (nhdr("data file: h%d.raw 0 0 1"), half),
        "pattern-many": (nhdr("data file: h%d.raw 0 2 1"), half),
        "pattern-step-0": (nhdr("data file: h%d.raw 0 1 0"), half),
        "pattern-away": (nhdr("data file: h%d.raw 0 1 -1"), half),
        "pattern-early": (nhdr(magic="NRRD0004\ndata file: h%d.raw 0 1 1"), half),
        "absent": (nhdr("data file: absent.raw"), {}),
        "short": (nhdr("data file: short.raw"), {"short.raw": PIXELS[:-1]}),
        "differs-no-end": (nhdr("data file: whole.raw")[:-1], whole),
        "differs-one-bzip2": (
            nhdr("data file: whole.bz2", encoding="bz2"),
            {"whole.bz2": bz2.compress(PIXELS)},
        ),
    }


def typed(rng):
    """name -> (bytes of a .nhdr, its data file, bytes of that): every type, encoding and byte order."""
    out = {}
    for dtype in TYPES:
        a = sample(dtype, rng)
        for order in "little", "big":
            b = a.astype(a.dtype.newbyteorder("<" if order == "little" else ">"))
            for encoding in "raw", "gzip", "hex", "ascii", "bzip2":
                if order == "big" and encoding == "ascii":
                    continue
                name = f"detached-{encoding}-{order}-{dtype}"
                directions = " ".join(
                    "(" + ",".join(repr(float(x)) for x in v) + ")"
                    for v in rng.standard_normal((3, 3))
                )
                content = header(
                    b"",
                    blank=False,
                    type=str(rng.choice(NAMES[dtype])),
                    space=str(rng.choice(["LPS", "RAS", "LAS", "scanner-xyz"])),
                    space_directions=directions,
                    endian=order,
                    encoding=encoding,
                    lines=(f"data file: {name}.data",),
                )
                differs = "differs-" if encoding == "bzip2" else ""
                out[differs + name] = (content, name + ".data", encoded(b, encoding))
    return out


def random_image(rng, dims=None, dtype=None):
    dims = dims or int(rng.integers(2, 5))
    shape = [int(n) for n in rng.integers(1, 6, dims)]
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


def write_pynrrd(out, rng, values=None):
    for dtype in TYPES:
        a = sample(dtype, values).reshape(2, 2, 2, order="F")
        for encoding in "raw", "gzip", "bzip2", "ascii":
            ending = "nhdr" if dtype in ("int16", "float32") else "nrrd"
            fields = {
                "encoding": encoding,
                "space": str(rng.choice(["LPS", "RAS", "left-anterior-superior"])),
                "space directions": rng.standard_normal((3, 3)),
                "space origin": rng.standard_normal(3),
                "a key": "and a value",
            }
            if encoding == "raw" and a.itemsize > 1 and dtype != "int16":
                fields["endian"] = "big"
            path = out / f"pynrrd-{encoding}-{dtype}.{ending}"
            nrrd.write(str(path), a, fields, detached_header=False)
            # The same file every day; gzip has the time, too.
            content = re.sub(rb"# on [^\n]*\n", b"", path.read_bytes())
            head, blank, data = content.partition(b"\n\n")
            if encoding == "gzip" and blank:
                content = head + blank + data[:4] + bytes(4) + data[8:]
            path.write_bytes(content)
            if encoding == "gzip" and not blank:
                path = path.with_suffix(".raw.gz")
                content = path.read_bytes()
                path.write_bytes(content[:4] + bytes(4) + content[8:])


LAS = re.compile(rb"\nspace: *(las|left[- ]?anterior[- ]?superior)\n", re.IGNORECASE)


def mended(path, value):
    """SimpleITK up to 2.5.2 turns x of left-anterior-superior instead of y (ITK's pull request 5224)."""
    old = tuple(int(n) for n in sitk.Version.VersionString().split(".")[:3]) <= (2, 5, 2)
    if old and LAS.search(path.read_bytes()):
        value["origin"] = [v if i > 1 else -v for i, v in enumerate(value["origin"])]
        value["direction"] = [v if i > 5 else -v for i, v in enumerate(value["direction"])]


def disagreement(path, a, image):
    """What pynrrd reads otherwise than SimpleITK, whose pixels and geometry a and image are."""
    b, head = nrrd.read(str(path))
    if b.dtype != a.dtype or b.transpose().tobytes() != a.tobytes():
        return "pixels"
    n = image.GetDimension()
    vectors = np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing()
    for key, want in ("space directions", vectors.T), ("space origin", image.GetOrigin()):
        if not np.allclose(head[key], want, rtol=1e-12, atol=1e-14):
            return key
    return None


def read(path, agree=False):
    """What is read from a file. agree: pynrrd must read the same."""
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
        mended(path, value)
        if (
            "vector" in image.GetPixelIDTypeAsString()
            or "complex" in image.GetPixelIDTypeAsString()
        ):
            value = {"vector": True}
        elif SimpleITKIO and not path.name.startswith(("type-", "space-")):
            data, props = SimpleITKIO().read_images([str(path)])
            value["nnunet"] = {
                "shape": data.shape,
                "spacing": [float(v) for v in props["spacing"]],
                "sha256": hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest(),
            }
        if agree and nrrd and (what := disagreement(path, a, image)):
            value = {"error": "pynrrd reads other " + what}
    except RuntimeError as e:
        text = str(e).strip().splitlines()[-1].replace(str(path.parent) + "/", "")
        value = {"error": re.sub("0x[0-9a-f]+", "0x", text)}
    if not np.isfinite(value.get("origin", (0,))).all():
        value = {"error": "the origin is not finite"}
    return value


def reading(path, agree=False):
    """The same, in a process of its own where ITK may crash."""
    if path.name.startswith(
        ("detached-", "differs-detached-", "type-", "pynrrd-", "sitk-", "random-")
    ):
        return read(path, agree)
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with os.fdopen(into, "w") as f:
            json.dump(read(path, agree), f)
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as f:
        text = f.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if status == 0 else {"crash": True}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--pynrrd", action="store_true")
    p.add_argument("--live", action="store_true")
    p.add_argument("--random", type=int, default=0)
    p.add_argument("--read", action="store_true")
    p.add_argument("--copy")
    p.add_argument("--only", default="*")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.pynrrd:
        write_pynrrd(out, np.random.default_rng(5))
        return
    sitk.ProcessObject_GlobalWarningDisplayOff()
    rng = np.random.default_rng(args.seed)
    names, n = [], args.random
    if args.copy:
        for f in sorted(Path(args.copy).glob(args.only + ".n*r*")):
            image = sitk.ReadImage(str(f))
            for key in image.GetMetaDataKeys():
                image.EraseMetaData(key)
            sitk.WriteImage(image, str(out / f.name), b"gzip" in f.read_bytes()[:1000])
        return
    if args.read:
        names = sorted(f.name for f in out.iterdir() if f.suffix in (".nrrd", ".nhdr"))
    elif not args.random:
        if args.live:
            n = 60
            write_pynrrd(out, rng, rng)
            for name, (content, file, pixels) in typed(rng).items():
                (out / f"{name}.nhdr").write_bytes(content)
                (out / file).write_bytes(pixels)
                names.append(f"{name}.nhdr")
        for name, content in variants(rng if args.live else None).items():
            (out / f"{name}.nrrd").write_bytes(content)
            names.append(f"{name}.nrrd")
        for name, (content, data) in detached().items():
            (out / f"{name}.nhdr").write_bytes(content)
            for file, pixels in data.items():
                (out / file).write_bytes(pixels)
            names.append(f"{name}.nhdr")
        for dtype in TYPES:
            for dims in 2, 3, 4:
                ending, packed = (
                    ("nhdr", dims == 2) if dtype in ("int16", "uint8") else ("nrrd", dims != 3)
                )
                names.append(f"sitk-{dtype}-{dims}d.{ending}")
                sitk.WriteImage(random_image(rng, dims, dtype), str(out / names[-1]), packed)
        names += sorted(f.name for f in out.glob("pynrrd-*.n*"))
    for i in range(n):
        names.append(f"random-{i}.{rng.choice(['nrrd', 'nhdr'])}")
        sitk.WriteImage(random_image(rng), str(out / names[-1]), bool(rng.integers(2)))
    lines = [f"{json.dumps(n)}: {json.dumps(reading(out / n, args.read))}" for n in names]
    (out / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
