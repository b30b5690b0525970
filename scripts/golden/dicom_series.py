"""Writes DICOM series with pydicom, a zip each, and in expected.json what images they hold.

    dicom_series.py OUT [--seed S]

Needs scripts/requirements-images.txt. With --seed: the same cases with other sizes, places, angles and pixels, and "dcm2niix"
beside "sitk" if Debian's dcm2niix is there. The expected geometry and values are the generator's own, before they were written. For regular
series of single slices "sitk" is what SimpleITK reads from the same files. Texts that no reader needs are the marker MARKER.
Fields of a stack: slices, size, spacing, origin, direction, type and sha256 of the values (little endian, x fastest), localizer,
problems, tilt_degrees, missing, duplicates; positions of the slices; field [a, b, c, d] where the value at p is a·p + d to 0.0005;
error where it cannot be read. "choice" is the stack that is taken without being asked for, 0 if there is none.
"""

import argparse
import copy
import hashlib
import io
import json
import shutil
import struct
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

MARKER = "ZQMARKERQZ"
ROOT = "1.2.826.0.1.3680043.8.498.14."
CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
ROWS, COLUMNS = 6, 9
PIXEL = (0.75, 0.5)  # between rows, between columns
FIELD = (1.25, -2.5, 3.0, 40.0)
START = (-12.5, 30.25, -100)  # of most series
ANGLES = (0.3, -0.2)  # of those that are turned
TILT = 15
rng = np.random.default_rng(14)


def vary(seed):
    """Other sizes, places, angles and pixels than those of the golden files."""
    r = np.random.default_rng(seed)
    rows, columns = (int(n) for n in r.integers((6, 8), 15))
    globals().update(
        rng=r,
        ROWS=rows,
        COLUMNS=columns,
        PIXEL=tuple(round(float(x), 3) for x in r.uniform(0.5, 1.2, 2)),
        FIELD=tuple(round(float(x), 3) for x in (*r.uniform(-4, 4, 3), r.uniform(-90, 90))),
        START=tuple(round(float(x), 2) for x in r.uniform(-400, 400, 3)),
        ANGLES=tuple(float(x) for x in r.uniform(-0.6, 0.6, 2)),
        TILT=float(r.uniform(4, 15)),
    )


def uid(*parts):
    return ROOT + ".".join(str(p) for p in parts)


def text(x):
    return np.format_float_positional(x, trim="-")[:16]


def axes(orientation):
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    row = np.cross(column, normal)
    row /= np.linalg.norm(row)
    return row, np.cross(normal, row), normal


def identity(series, number):
    """What every file has; the texts are markers."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for name in (
        "PatientName PatientID PatientComments InstitutionName StudyDescription SeriesDescription AccessionNumber ProtocolName "
        "ReferringPhysicianName OperatorsName StationName StudyID ImageComments InstitutionAddress DeviceSerialNumber "
        "PerformingPhysicianName BodyPartExamined"
    ).split():
        setattr(ds, name, MARKER)
    ds.add_new(0x00090010, "LO", MARKER)
    ds.add_new(0x00091001, "LT", MARKER)
    ds.Modality = "CT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(1), uid(2, series)
    ds.FrameOfReferenceUID = uid(3, series)
    ds.SeriesNumber = series
    ds.InstanceNumber = number
    item = Dataset()
    item.CodeMeaning, item.CodeValue = MARKER, MARKER
    inner = Dataset()
    inner.TextValue = MARKER
    item.ContentSequence = Sequence([inner])
    ds.ProcedureCodeSequence = Sequence([item])
    return ds


def pixel_elements(ds, stored, bits=16, signed=True, **changes):
    kind = {8: "u1", 16: "u2", 32: "u4"}[bits]
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = (
        bits,
        bits,
        bits - 1,
        int(signed),
    )
    ds.cells = (stored.astype("i8") & (2**bits - 1)).astype("<" + kind)
    for k, v in changes.items():
        setattr(ds, k, v)


def one(
    series,
    position,
    stored,
    orientation=AXIAL,
    number=1,
    slope=None,
    intercept=-1024,
    thickness=2.5,
    **changes,
):
    ds = identity(series, number)
    ds.SOPClassUID, ds.SOPInstanceUID = (
        CT,
        uid(4, series, *(int(abs(x) * 1000) for x in position), number),
    )
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImagePositionPatient = [text(x) for x in position]
    ds.ImageOrientationPatient = [text(x) for x in orientation]
    ds.PixelSpacing = list(PIXEL)
    ds.SliceThickness = thickness
    ds.RescaleIntercept, ds.RescaleSlope = intercept, slope or 1
    pixel_elements(ds, stored, **changes)
    return ds


def enhanced(
    series, positions, stored, slopes=None, intercepts=None, acquisitions=None, orientation=AXIAL
):
    ds = identity(series, 1)
    ds.SOPClassUID, ds.SOPInstanceUID = ENHANCED, uid(4, series, 1)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames = len(positions)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(PIXEL), 2.5
    plane.ImageOrientationPatient = list(orientation)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = (
        Sequence([measures]),
        Sequence([plane]),
    )
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for i, p in enumerate(positions):
        item, where, value, content = Dataset(), Dataset(), Dataset(), Dataset()
        where.ImagePositionPatient = [text(x) for x in p]
        value.RescaleSlope = slopes[i] if slopes else 1
        value.RescaleIntercept = intercepts[i] if intercepts else -1024
        value.RescaleType = "HU"
        content.FrameAcquisitionNumber = acquisitions[i] if acquisitions else 1
        content.FrameComments = MARKER
        item.PlanePositionSequence, item.FrameContentSequence = (
            Sequence([where]),
            Sequence([content]),
        )
        item.PixelValueTransformationSequence = Sequence([value])
        frames.append(item)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    pixel_elements(ds, stored)
    return ds


def save(ds, syntax=ExplicitVRLittleEndian, undefined=False, pixels=None, unknown=False):
    """The bytes of a file. undefined: sequences and items of undefined length; unknown: sequences as UN."""
    cells = ds.__dict__.get("cells")
    ds = copy.deepcopy(ds)
    ds.__dict__.pop("cells", None)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        ds.get("SOPClassUID", CT),
        ds.get("SOPInstanceUID", uid(9)),
    )
    meta.TransferSyntaxUID = syntax
    meta.SourceApplicationEntityTitle = "ZQMARKERQZ"
    ds.file_meta = meta
    if pixels is not None:
        ds.PixelData = pixels
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    elif cells is not None:
        big = syntax == ExplicitVRBigEndian
        raw = cells.astype(cells.dtype.newbyteorder(">")).tobytes() if big else cells.tobytes()
        if len(raw) % 2:
            raw += b"\0"
        if big and cells.dtype.itemsize == 1:
            raw = np.frombuffer(raw, "<u2").byteswap().tobytes()
        ds.PixelData = raw
        ds["PixelData"].VR = "OW"
    if undefined:
        for e in ds.iterall():
            if e.VR == "SQ":
                e.is_undefined_length = True
                for item in e.value:
                    item.is_undefined_length_sequence_item = True
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    data = out.getvalue()
    for tag in (0x00081032, 0x52009229) if unknown else ():
        explicit, implicit = (sequence_bytes(ds[tag], i) for i in (False, True))
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        was = head + b"SQ\0\0" + struct.pack("<I", len(explicit)) + explicit
        assert data.count(was) == 1
        data = data.replace(was, head + b"UN\0\0" + struct.pack("<I", len(implicit)) + implicit)
    return data


def sequence_bytes(element, implicit):
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
    write_sequence(buffer, element, ["utf8"])
    return buffer.getvalue()


def random(n, low=0, high=3000):
    return rng.integers(low, high, (n, ROWS, COLUMNS))


def along(orientation, start, steps, sideways=None):
    """Positions of slices: steps along the normal, sideways (x, y) in the plane."""
    row, column, normal = axes(orientation)
    out = []
    for i, t in enumerate(steps):
        p = np.array(start, float) + t * normal
        if sideways is not None:
            p = p + sideways[i][0] * row + sideways[i][1] * column
        out.append(tuple(float(text(x)) for x in p))
    return out


def expect(values, positions, orientation=AXIAL, spacing=None, localizer=False, **more):
    """What is expected of slices, in ascending order along the normal."""
    row, column, normal = axes(orientation)
    t = [float(np.dot(p, normal)) for p in positions]
    assert t == sorted(t)
    if spacing is None:
        spacing = (t[-1] - t[0]) / (len(t) - 1)
    e = dict(
        slices=len(positions),
        size=[values.shape[2], values.shape[1], len(positions)],
        localizer=localizer,
        problems=[],
        positions=[list(p) for p in positions],
    )
    whole = bool(np.all(values == np.trunc(values)))
    low, high = values.min(), values.max()
    kind = "float32"
    if whole and low >= -(2**31) and high < 2**31:
        kind = "int16" if low >= -(2**15) and high < 2**15 else "int32"
    e["type"] = kind
    e["sha256"] = hashlib.sha256(
        np.ascontiguousarray(values.astype("<" + np.dtype(kind).str[1:])).tobytes()
    ).hexdigest()
    e["spacing"] = [PIXEL[1], PIXEL[0], spacing]
    e["origin"] = list(positions[0])
    e["direction"] = np.stack([row, column, normal], 1).ravel().tolist()
    return {**e, **more}


def shuffled(n):
    order = list(range(n))
    while n > 2 and (order == sorted(order) or order == sorted(order, reverse=True)):
        rng.shuffle(order)
    return order


def plain(series, positions, stored, orientation=AXIAL, **more):
    """Files of single slices, in an order of names and of numbers that says nothing."""
    names, numbers = shuffled(len(positions)), shuffled(len(positions))
    return [
        (
            f"{chr(97 + names[i])}{series}.dcm",
            save(one(series, p, s, orientation, number=numbers[i] + 1, **more)),
        )
        for i, (p, s) in enumerate(zip(positions, stored))
    ]


def linear(positions, orientation=AXIAL):
    """Stored numbers of FIELD in thousandths."""
    row, column, _ = axes(orientation)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    out = []
    for p in positions:
        at = np.array(p) + x[..., None] * PIXEL[1] * row + y[..., None] * PIXEL[0] * column
        out.append(np.rint((at @ np.array(FIELD[:3]) + FIELD[3]) * 1000).astype("i8"))
    return np.stack(out)


def cases():
    """name -> (files, stacks, choice)"""
    all = {}
    hu = lambda stored: stored.astype("f8") - 1024
    start = START

    def regular(name, orientation, steps=(0, 2.5, 5, 7.5, 10)):
        p, s = along(orientation, start, steps), random(len(steps))
        all[name] = (plain(1, p, s, orientation), [expect(hu(s), p, orientation)], 1)

    regular("regular", AXIAL)
    regular("sagittal", SAGITTAL)
    regular("coronal", (1, 0, 0, 0, 0, -1))
    (c, c2), (s, s2) = np.cos(ANGLES), np.sin(ANGLES)
    regular("rotated", (c, s, 0, -s * c2, c * c2, s2))
    rounded = [round(float(x), 3) for x in (c, s, 0, -s * c2, c * c2, s2)]  # not quite orthogonal
    regular("rounded", tuple(rounded))
    # distances up to 2 % off
    regular("jitter", AXIAL, 2.5 * np.arange(6) + np.array([0, 0.05, -0.04, 0.03, -0.05, 0]))

    # problems, of a field that is linear in space
    def field(name, steps, problems, orientation=AXIAL, sideways=None, **more):
        p = along(orientation, start, steps, sideways)
        stored = linear(p, orientation)
        files = plain(1, p, stored, orientation, bits=32, slope=0.001, intercept=0)
        e = expect(stored * 0.001, p, orientation, problems=problems, field=FIELD, **more)
        all[name] = (files, [e], 1)

    t = 3.0 * np.arange(7)
    field(
        "tilt",
        t * np.cos(np.radians(TILT)),
        ["tilt"],
        sideways=[(0, -x * np.sin(np.radians(TILT))) for x in t],
        tilt_degrees=float(TILT),
    )
    field(
        "tilt-x",
        2.0 * np.arange(5),
        ["tilt"],
        sideways=[(0.3 * i, 0.2 * i) for i in range(5)],
        tilt_degrees=float(np.degrees(np.arctan2(np.hypot(1.2, 0.8), 8))),
    )
    field("shifted-a-little", 2.0 * np.arange(5), [], sideways=[(0.05 * i, 0) for i in range(5)])
    field("gap", [0, 3, 6, 12, 15, 18], ["missing"], missing=[start[2] + 9.0])
    field(
        "gap-of-three",
        [0, 2, 10, 12.05],
        ["missing"],
        missing=[start[2] + t for t in (4.0, 6.0, 8.0)],
    )
    field(
        "gap-rotated",
        [0, 3, 9, 12],
        ["missing"],
        orientation=(c, s, 0, -s * c2, c * c2, s2),
        missing=None,
    )
    field("irregular", [0, 2, 4.5, 7.5, 11], ["irregular"])
    field(
        "irregular-and-tilted",
        [0, 2, 4.5, 7.5, 11],
        ["tilt", "irregular"],
        sideways=[(-0.4 * i, 0) for i in range(5)],
        tilt_degrees=float(np.degrees(np.arctan2(1.6, 11))),
    )
    field("drift", np.cumsum([0] + [2 + 0.04 * i for i in range(8)]), ["irregular"])

    # one slice: its own word for the distance
    p, s = along(AXIAL, start, [0]), random(1)
    all["one-slice"] = (plain(1, p, s, thickness=3.5), [expect(hu(s), p, spacing=3.5)], 1)
    all["one-slice-between"] = (
        plain(1, p, s, thickness=3.5, SpacingBetweenSlices=2),
        [expect(hu(s), p, spacing=2.0)],
        1,
    )

    # duplicates
    p, s = along(AXIAL, start, 2.5 * np.arange(4)), random(4)
    files = plain(1, p, s)
    again = save(one(1, p[2], s[2], number=77))
    all["duplicate-equal"] = ([*files, ("z.dcm", again)], [expect(hu(s), p, duplicates=1)], 1)
    other = save(one(1, p[2], s[2] + 1, number=77))
    e = expect(hu(s), p, problems=["duplicate"], duplicates=1)
    e.update(slices=5, size=[COLUMNS, ROWS, 5], sha256="")
    all["duplicate-different"] = ([*files, ("z.dcm", other)], [e], 1)

    # a localizer in the series: of another orientation, and of the same as the slices
    s1, s3 = random(1), random(1)
    side = along(SAGITTAL, start, [0])
    scout = save(
        one(1, side[0], s1[0], SAGITTAL, number=50, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    )
    same = save(
        one(
            1,
            (*start[:2], round(start[2] + 1, 2)),
            s3[0],
            number=51,
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        )
    )
    all["localizer"] = (
        [*files, ("0.dcm", scout), ("1.dcm", same)],
        [
            expect(hu(s), p),
            expect(hu(s3), [(*start[:2], round(start[2] + 1, 2))], spacing=2.5, localizer=True),
            expect(hu(s1), side, SAGITTAL, spacing=2.5, localizer=True),
        ],
        1,
    )

    all["localizer-axial"] = (
        [*files, ("1.dcm", same)],
        [
            expect(hu(s), p),
            expect(hu(s3), [(*start[:2], round(start[2] + 1, 2))], spacing=2.5, localizer=True),
        ],
        1,
    )

    # acquisitions: twice the same places; places that go on
    s2 = random(4)
    both = [(n.replace(".", "q."), f) for n, f in plain(1, p, s2, AcquisitionNumber=2)]
    all["acquisitions"] = (
        [*plain(1, p, s, AcquisitionNumber=1), *both],
        [expect(hu(s), p), expect(hu(s2), p)],
        0,
    )
    q = along(AXIAL, start, 2.5 * np.arange(4, 8))
    both = [(n.replace(".", "q."), f) for n, f in plain(1, q, s2, AcquisitionNumber=2)]
    all["acquisitions-joined"] = (
        [*plain(1, p, s, AcquisitionNumber=1), *both],
        [expect(hu(np.concatenate([s, s2])), p + q)],
        1,
    )
    both = [(n.replace(".", "q."), f) for n, f in plain(1, p, s2, TemporalPositionIdentifier=2)]
    all["moments"] = (
        [*plain(1, p, s, TemporalPositionIdentifier=1), *both],
        [expect(hu(s), p), expect(hu(s2), p)],
        0,
    )

    # series and sizes side by side
    small = random(4)[:, :4, :4]
    all["two-series"] = (
        [*plain(7, p, s), *plain(3, p[:2], s2[:2])],
        [expect(hu(s2[:2]), p[:2]), expect(hu(s), p)],
        2,
    )
    all["two-sizes"] = (
        [*plain(1, p, s), *[("x" + n, f) for n, f in plain(1, p, small)]],
        [expect(hu(small), p), expect(hu(s), p)],
        0,
    )
    bare = []
    for i, (n, f) in enumerate([*plain(1, p, s), *plain(2, p, s2)]):
        ds = pydicom.dcmread(io.BytesIO(f))
        for k in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
            setattr(ds, k, "")
        del ds.SeriesNumber
        out = io.BytesIO()
        ds.save_as(out)
        bare.append(("ab"[i // 4] + "/" + n, out.getvalue()))
    all["emptied"] = (bare, [expect(hu(s), p), expect(hu(s2), p)], 0)

    # Enhanced CT
    for name, order in {
        "enhanced": range(4),
        "enhanced-shuffled": [2, 0, 3, 1],
        "enhanced-descending": [3, 2, 1, 0],
    }.items():
        ds = enhanced(1, [p[i] for i in order], s[list(order)])
        all[name] = ([("e.dcm", save(ds))], [expect(hu(s), p)], 1)
    ds = enhanced(1, p, s, slopes=[1, 2, 1, 3], intercepts=[-1024, -1000, 0, 5])
    v = s * np.array([1, 2, 1, 3])[:, None, None] + np.array([-1024, -1000, 0, 5])[:, None, None]
    all["enhanced-rescale"] = (
        [("e.dcm", save(ds, undefined=True))],
        [expect(v.astype("f8"), p)],
        1,
    )
    ds = enhanced(1, p + p, np.concatenate([s, s2]), acquisitions=[1] * 4 + [2] * 4)
    all["enhanced-acquisitions"] = (
        [("e.dcm", save(ds, ImplicitVRLittleEndian))],
        [expect(hu(s), p), expect(hu(s2), p)],
        0,
    )
    ds = enhanced(1, p, s)
    all["enhanced-unknown"] = ([("e.dcm", save(ds, unknown=True))], [expect(hu(s), p)], 1)

    # values
    slopes = [0.5, 0.25, 1, 0.123]
    files = [
        (f"{i}.dcm", save(one(1, p[i], s[i], slope=slopes[i], intercept=-3))) for i in range(4)
    ]
    all["rescale-per-slice"] = (files, [expect(s * np.array(slopes)[:, None, None] - 3, p)], 1)
    u = s.copy()
    u[1, 0, 0] = 65535
    all["int32"] = (plain(1, p, u, signed=False), [expect(hu(u), p)], 1)
    i32 = s * 1000003 - 2**31 + 5
    all["bits32"] = (plain(1, p, i32, bits=32, intercept=0), [expect(i32.astype("f8"), p)], 1)
    all["bits32-small"] = (plain(1, p, s, bits=32), [expect(hu(s), p)], 1)
    u32 = s * 1000003
    all["bits32-unsigned"] = (
        plain(1, p, u32, bits=32, signed=False, intercept=0),
        [expect(u32.astype("f8"), p)],
        1,
    )
    u8 = s % 256
    all["bits8"] = (plain(1, p, u8, bits=8, signed=False), [expect(hu(u8), p)], 1)
    i8 = s % 256 - 128
    all["bits8-signed"] = (plain(1, p, i8, bits=8), [expect(hu(i8), p)], 1)
    i12 = s % 4096 - 2048
    junk = (i12 & 0xFFF) | (rng.integers(0, 16, s.shape) << 12)
    all["bits12"] = (plain(1, p, junk, BitsStored=12, HighBit=11), [expect(hu(i12), p)], 1)
    high = ((i12 & 0xFFF) << 4) | rng.integers(0, 16, s.shape)
    all["bits12-high"] = (plain(1, p, high, BitsStored=12, HighBit=15), [expect(hu(i12), p)], 1)

    # transfer syntaxes that are not compressed
    for name, syntax in {
        "implicit": ImplicitVRLittleEndian,
        "big-endian": ExplicitVRBigEndian,
        "deflated": DeflatedExplicitVRLittleEndian,
    }.items():
        files = [
            (f"{i}.dcm", save(one(1, p[i], s[i]), syntax, undefined=i % 2 == 1)) for i in range(4)
        ]
        all[name] = (files, [expect(hu(s), p)], 1)
    ds = enhanced(1, p, s)
    all["big-endian-enhanced"] = ([("e.dcm", save(ds, ExplicitVRBigEndian))], [expect(hu(s), p)], 1)
    all["deflated-enhanced"] = (
        [("e.dcm", save(ds, DeflatedExplicitVRLittleEndian))],
        [expect(hu(s), p)],
        1,
    )
    odd = u8[:, :5, :7]  # of an odd number of bytes: frames begin within words
    ds = enhanced(1, p, odd)
    pixel_elements(ds, odd, bits=8, signed=False)
    all["big-endian-odd"] = ([("e.dcm", save(ds, ExplicitVRBigEndian))], [expect(hu(odd), p)], 1)

    # compressed: RLE, with one fragment and several, with and without offset tables
    ds = enhanced(1, p, s)
    ds.PixelData, ds.file_meta = ds.cells.tobytes(), FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds["PixelData"].VR = "OW"
    kept = ds.__dict__.pop("cells")
    ds.compress(RLELossless, generate_instance_uid=False)
    frames = list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=4))
    ds.cells = kept
    rle = {
        "rle": encapsulate(frames),
        "rle-no-table": encapsulate(frames, has_bot=False),
        "rle-fragments": encapsulate(frames, fragments_per_frame=3),
    }
    for name, pixels in rle.items():
        all[name] = ([("e.dcm", save(ds, RLELossless, pixels=pixels))], [expect(hu(s), p)], 1)
    pixels, offsets, lengths = encapsulate_extended(frames)
    ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = offsets, lengths
    all["rle-extended"] = ([("e.dcm", save(ds, RLELossless, pixels=pixels))], [expect(hu(s), p)], 1)

    # pictures of the same size: in the series, and three in one of their own
    def picture(series, number):
        ds = one(series, p[0], s2[0], number=number)
        del ds.ImagePositionPatient
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        return save(ds)

    e = dict(error="SamplesPerPixel", localizer=False, size=[COLUMNS, ROWS, 1])
    all["pictures"] = (
        [
            *plain(1, p, s),
            ("x.dcm", picture(1, 9)),
            *[(f"y{i}.dcm", picture(2, i + 1)) for i in range(3)],
        ],
        [expect(hu(s), p), {**e, "slices": 1}, {**e, "slices": 3}],
        1,
    )

    # what is not supported
    def refused(name, error, change, **more):
        ds = one(1, p[0], s[0], **more)
        change(ds)
        e = expect(hu(s[:1]), p[:1], spacing=2.5, error=error)
        all[name] = ([("r.dcm", save(ds))], [e], 1)

    def colour(ds):
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0

    def table(ds):
        item = Dataset()
        item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [1, 0, 16], b"\0\0", "HU"
        ds.ModalityLUTSequence = Sequence([item])

    def drop(*names):
        return lambda ds: [delattr(ds, n) for n in names]

    def put(**values):
        return lambda ds: [setattr(ds, k, v) for k, v in values.items()]

    refused("refused-colour", "SamplesPerPixel (0028,0002): found 3, expected 1", colour)
    refused("refused-lut", "ModalityLUTSequence (0028,3000) is not supported", table)
    refused(
        "refused-position",
        "ImagePositionPatient (0020,0032) is missing",
        drop("ImagePositionPatient"),
    )
    refused("refused-spacing", "PixelSpacing (0028,0030) is missing", drop("PixelSpacing"))
    refused(
        "refused-orientation",
        "ImageOrientationPatient (0020,0037): expected two orthogonal vectors",
        put(ImageOrientationPatient=[1, 0, 0, 0.1, 1, 0]),
    )
    refused(
        "refused-slope",
        "RescaleSlope (0028,1053), RescaleIntercept (0028,1052): expected numbers",
        put(RescaleSlope=0),
    )
    refused(
        "refused-palette",
        "PhotometricInterpretation (0028,0004): expected MONOCHROME1 or MONOCHROME2",
        put(PhotometricInterpretation="PALETTE COLOR"),
    )
    ds = one(1, p[0], s[0])
    pixel_elements(ds, s)
    ds.NumberOfFrames = 4
    all["refused-frames"] = (
        [("r.dcm", save(ds))],
        [expect(hu(s), p, error="found 4 frames without functional groups")],
        1,
    )
    return all


def sitk_reading(files, kind):
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files:
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        reader = sitk.ImageSeriesReader()
        (series,) = reader.GetGDCMSeriesIDs(folder)
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder, series))
        image = reader.Execute()
    return described(image, kind)


def dcm2niix_reading(files, kind):
    """What dcm2niix makes of a series, in whose image rows are turned round; it must not have numbers that say nothing."""
    slices = [pydicom.dcmread(io.BytesIO(data)) for _, data in files]
    normal = axes([float(v) for v in slices[0].ImageOrientationPatient])[2]
    slices.sort(key=lambda ds: np.dot(normal, [float(v) for v in ds.ImagePositionPatient]))
    with tempfile.TemporaryDirectory() as folder:
        for i, ds in enumerate(slices):
            ds.InstanceNumber = i + 1
            ds.save_as(Path(folder, f"{i}.dcm"))
        subprocess.run(
            ["dcm2niix", "-b", "n", "-z", "n", "-f", "out", "-o", folder, folder],
            check=True,
            capture_output=True,
        )
        image = sitk.Flip(sitk.ReadImage(f"{folder}/out.nii"), (False, True, False))
    return described(image, kind)


def described(image, kind):
    values = sitk.GetArrayFromImage(image).astype("<" + np.dtype(kind).str[1:])
    return dict(
        size=list(image.GetSize()),
        spacing=list(image.GetSpacing()),
        origin=list(image.GetOrigin()),
        direction=list(image.GetDirection()),
        sha256=hashlib.sha256(values.tobytes()).hexdigest(),
    )


SITK = (
    "regular sagittal coronal rotated rounded rescale-per-slice int32 bits32 bits32-small bits8 bits8-signed bits12 implicit "
    "big-endian deflated"
).split()


def pack(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for file, data in files:
            info = zipfile.ZipInfo(file, (2020, 1, 1, 0, 0, 0))
            info.external_attr = 0o100644 << 16
            z.writestr(info, data, zipfile.ZIP_DEFLATED)


def describe(out, expected):
    meta = dict(pydicom=pydicom.__version__, SimpleITK=sitk.Version_VersionString())
    lines = ",\n".join(
        f" {json.dumps(k)}: {json.dumps(v)}" for k, v in {"meta": meta, **expected}.items()
    )
    (out / "expected.json").write_text("{\n" + lines + "\n}\n")


NIIX = "regular sagittal coronal rotated one-slice acquisitions-joined bits32 bits32-small implicit big-endian".split()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    if args.seed is not None:
        vary(args.seed)
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, (files, stacks, choice) in cases().items():
        pack(out / f"{name}.zip", files)
        expected[name] = dict(stacks=stacks, choice=choice)
        if name in SITK:
            expected[name]["sitk"] = sitk_reading(files, stacks[0]["type"])
        if args.seed is not None and name in NIIX and shutil.which("dcm2niix"):
            expected[name]["dcm2niix"] = dcm2niix_reading(files, stacks[0]["type"])
    describe(out, expected)


if __name__ == "__main__":
    main()
