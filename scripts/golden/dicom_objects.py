"""Has lntorch write label maps as RTSTRUCT and SEG, and reads these with the programs of others.

    dicom_objects.py LNTORCH --golden OUT
    dicom_objects.py LNTORCH --seed N [--cases K]

Readers of RTSTRUCT: rt-utils 1.2.7 (square pixels and matrix alone: it swaps them otherwise), dcmrtstruct2nii 5, plastimatch 1.10
(axial series alone). Readers of SEG: highdicom 0.28.2, dcmqi 1.5.7. Debian's dciodvfy (dicom3tools) must report no error, which knows
no SEG of type LABELMAP. Every reader must give back each voxel of each label, or the script fails.

With --golden it writes small series (NAME.zip), label maps (NAME.mha) and expected.json: for each file its flags, the sha256 of what
lntorch (version dev) wrote, and the sha256 of the label map that each reader returned: uint8, (z, y, x) of the series, segment i as i.
Texts of the series that may not be copied are MARKER. Without it the shapes, grids and labels are random.
Needs scripts/requirements-images.txt.
"""

import argparse
import contextlib
import glob
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path

import dcmqi
import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat
from scipy import ndimage

MARKER = "ZQMARKERQZ"


def numbers(values):
    return [DSfloat(float(v), auto_format=True) for v in values]


def write_series(folder, shape, spacing, orientation, origin, root, multi=False):
    """A CT of shape (z, y, x) and spacing (x, y, z) along row, column and their normal; its pixels say nothing."""
    n, rows, columns = shape
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(row, column)

    def common(uid, sop_class):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
            root + ".1",
            root + ".2",
            root + ".3",
        )
        ds.PatientName, ds.PatientID, ds.PatientSex, ds.StudyID = "Müller^Eva", "P1", "F", "S1"
        ds.StudyDate, ds.StudyTime, ds.StudyDescription = "20210203", "040506", "Abdomen"
        ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "pseudonyms"
        for name in (
            "SeriesDescription ProtocolName InstitutionName InstitutionAddress StationName OperatorsName PerformingPhysicianName "
            "PatientComments PatientAddress OtherPatientNames ImageComments BodyPartExamined DeviceSerialNumber ManufacturerModelName "
            "AdditionalPatientHistory Occupation PatientTelephoneNumbers RequestingPhysician Manufacturer SoftwareVersions"
        ).split():
            setattr(ds, name, MARKER)
        ds.add_new(0x00090010, "LO", MARKER)
        ds.add_new(0x00091001, "LT", MARKER)
        ds.Modality, ds.SeriesNumber = "CT", 4
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = (
            rows,
            columns,
            1,
            "MONOCHROME2",
        )
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 1
        return ds

    def position(i):
        return numbers(np.round(np.array(origin) + normal * i * spacing[2], 9))

    folder.mkdir(parents=True)
    pixels = np.zeros((rows, columns), "<i2").tobytes()
    if multi:
        ds = common(root + ".9", "1.2.840.10008.5.1.4.1.1.2.1")
        ds.ImageType, ds.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], n
        shared = Dataset()
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [Dataset()], [Dataset()]
        shared.PixelMeasuresSequence[0].PixelSpacing = numbers((spacing[1], spacing[0]))
        shared.PixelMeasuresSequence[0].SliceThickness = numbers(spacing[2:])[0]
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = numbers(orientation)
        ds.SharedFunctionalGroupsSequence = [shared]
        ds.PerFrameFunctionalGroupsSequence = []
        for i in reversed(range(n)):
            frame, plane = Dataset(), Dataset()
            plane.ImagePositionPatient = position(i)
            frame.PlanePositionSequence = [plane]
            ds.PerFrameFunctionalGroupsSequence.append(frame)
        ds.PixelData = pixels * n
        ds.save_as(folder / "0.dcm", enforce_file_format=True)
        return
    for i in range(n):
        ds = common(f"{root}.5.{i + 1}", "1.2.840.10008.5.1.4.1.1.2")
        ds.ImageType, ds.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], n - i
        ds.ImagePositionPatient, ds.ImageOrientationPatient = position(i), numbers(orientation)
        ds.PixelSpacing, ds.SliceThickness = (
            numbers((spacing[1], spacing[0])),
            numbers(spacing[2:])[0],
        )
        ds.RescaleSlope, ds.RescaleIntercept, ds.PixelData = 1, 0, pixels
        ds.save_as(folder / f"{i * 37 % 101}.dcm", enforce_file_format=True)


def shapes(rng, shape, labels, kind):
    """Blobs with holes and islands in them, single voxels, diagonals, rings within rings, a chessboard, noise."""
    if kind == 0:
        mask = ndimage.gaussian_filter(rng.normal(size=shape), (0.5, 1.2, 1.2)) > 0.1
    elif kind == 1:
        mask = rng.random(shape) < rng.uniform(0.2, 0.8)
    elif kind == 2:
        z, y, x = np.indices(shape)
        centre = np.array(shape) / 2 + rng.uniform(-3, 3, 3)
        r = np.sqrt((y - centre[1]) ** 2 + (x - centre[2]) ** 2) + 0.3 * z
        mask = (r * rng.uniform(0.3, 1)).astype(int) % 2 == 0
    else:
        z, y, x = np.indices(shape)
        mask = (x + y + z) % 2 == 0
        mask &= ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0
    mask ^= rng.random(shape) < 0.02
    out = mask.astype(np.uint8)
    region = ndimage.gaussian_filter(rng.normal(size=(labels, *shape)), (0, 1, 3, 3)).argmax(0)
    return out * (region + 1).astype(np.uint8)


def label_image(mask, spacing, orientation, origin, order=(0, 1, 2), flips=(False, False, False)):
    image = sitk.GetImageFromArray(mask)
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(row, column)
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([float(o) for o in origin])
    image.SetDirection(np.stack([row, column, normal], 1).ravel().tolist())
    return sitk.Flip(sitk.PermuteAxes(image, order), flips)


def by_name(parts, names):
    out = None
    for i, name in enumerate(names):
        part = parts.get(name, parts.get(name.replace(" ", "_")))
        if part is None:
            continue
        out = np.zeros(part.shape, np.uint8) if out is None else out
        if out[part].any():
            raise SystemExit(f"{name}: shares voxels with another")
        out[part] = i + 1
    return out


def rt_utils(series, path, names):
    from rt_utils import RTStructBuilder

    rt = RTStructBuilder.create_from(dicom_series_path=str(series), rt_struct_path=str(path))
    return by_name(
        {n: np.moveaxis(rt.get_roi_mask_by_name(n), -1, 0) for n in rt.get_roi_names()}, names
    )


def dcmrtstruct2nii(series, path, names):
    pydicom.read_file = pydicom.dcmread
    with contextlib.redirect_stdout(io.StringIO()):
        from dcmrtstruct2nii import dcmrtstruct2nii as convert
        from dcmrtstruct2nii.adapters.convert.filenameconverter import FilenameConverter

        with tempfile.TemporaryDirectory() as d:
            convert(str(path), str(series), d, gzip=False, convert_original_dicom=False)
            parts = {}
            for name in names:
                file = Path(d, FilenameConverter().convert("mask_" + name) + ".nii")
                if file.exists():
                    parts[name] = sitk.GetArrayFromImage(sitk.ReadImage(str(file))) > 0
    return by_name(parts, names)


def plastimatch(series, path, names):
    program = Path(importlib.util.find_spec("plastimatch").origin).parent / "bin" / "plastimatch"
    with tempfile.TemporaryDirectory() as d:
        run = subprocess.run(
            [
                program,
                "convert",
                "--input",
                path,
                "--referenced-ct",
                series,
                "--output-prefix",
                d,
                "--prefix-format",
                "nrrd",
            ],
            capture_output=True,
        )
        run.check_returncode()
        files = glob.glob(d + "/*.nrrd")
        return by_name(
            {Path(f).stem: sitk.GetArrayFromImage(sitk.ReadImage(f)) > 0 for f in files}, names
        )


def instances(series):
    """(UID, frame) of each slice, ascending along the normal."""
    slices = []
    for file in series.iterdir():
        ds = pydicom.dcmread(file)
        if "PerFrameFunctionalGroupsSequence" in ds:
            o = (
                ds.SharedFunctionalGroupsSequence[0]
                .PlaneOrientationSequence[0]
                .ImageOrientationPatient
            )
            for i, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
                slices.append(
                    (frame.PlanePositionSequence[0].ImagePositionPatient, ds.SOPInstanceUID, i + 1)
                )
        else:
            o = ds.ImageOrientationPatient
            slices.append((ds.ImagePositionPatient, ds.SOPInstanceUID, None))
    normal = np.cross(o[:3], o[3:])
    return [s[1:] for s in sorted(slices, key=lambda s: np.dot(normal, s[0]))]


def read_highdicom(series, path, names):
    seg = highdicom.seg.segread(path)
    slices = instances(series)
    options = dict(
        combine_segments=True, ignore_spatial_locations=False, assert_missing_frames_are_empty=True
    )
    if slices[0][1] is None:
        found = seg.get_pixels_by_source_instance([s[0] for s in slices], **options)
    else:
        found = seg.get_pixels_by_source_frame(slices[0][0], [s[1] for s in slices], **options)
    labels = [str(s.SegmentLabel) for s in seg.SegmentSequence if s.SegmentNumber > 0]
    if labels != list(names):
        raise SystemExit(f"{path}: segments {labels}, expected {names}")
    return found.astype(np.uint8)


def read_dcmqi(reference, path, names, attributes):
    """By geometry alone: dcmqi's image is resampled to the grid of the label map, and must lie on it."""
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(
            [
                Path(dcmqi.__file__).parent / "bin" / "segimage2itkimage",
                "--inputDICOM",
                path,
                "--outputDirectory",
                d,
                "-t",
                "nrrd",
                "-p",
                "o",
            ],
            check=True,
            capture_output=True,
        )
        meta = json.loads(Path(d, "o-meta.json").read_text())
        if attributes:
            check_attributes(meta)
        out = np.zeros(sitk.GetArrayViewFromImage(reference).shape, np.uint8)
        for group, attributes in enumerate(meta["segmentAttributes"]):
            image = sitk.ReadImage(f"{d}/o-{group + 1}.nrrd")
            index = np.array(reference.TransformPhysicalPointToContinuousIndex(image.GetOrigin()))
            if np.abs(index - np.round(index)).max() > 1e-4 or not np.allclose(
                image.GetDirection(), reference.GetDirection(), atol=1e-6
            ):
                raise SystemExit(f"{path}: dcmqi's image does not lie on the grid")
            if (
                not np.allclose(image.GetSpacing(), reference.GetSpacing(), atol=1e-6)
                and reference.GetSize()[2] > 1
            ):
                raise SystemExit(
                    f"{path}: dcmqi's spacing {image.GetSpacing()}, expected {reference.GetSpacing()}"
                )
            x, y, z = np.round(index).astype(int)
            part = sitk.GetArrayFromImage(image)
            for a in attributes:
                if a["SegmentLabel"] != names[a["labelID"] - 1]:
                    raise SystemExit(
                        f"{path}: {a['SegmentLabel']}, expected {names[a['labelID'] - 1]}"
                    )
                at = np.argwhere(part == a["labelID"]) + (z, y, x)
                out[tuple(at.T)] = a["labelID"]
    return out


def verify(path):
    run = subprocess.run(["dciodvfy", path], capture_output=True, text=True, errors="replace")
    errors = [
        line
        for line in (run.stdout + run.stderr).splitlines()
        if line.startswith(("Error", "Abort"))
    ]
    if errors:
        raise SystemExit(f"{path}: dciodvfy: " + "; ".join(errors))


def check(path):
    """Patient, study and frame of reference, and nothing that must not be there."""
    ds = pydicom.dcmread(path)
    for name, want in dict(
        PatientName="Müller^Eva",
        PatientID="P1",
        PatientBirthDate="",
        AccessionNumber="",
        StudyDate="20210203",
        StudyDescription="Abdomen",
    ).items():
        if getattr(ds, name) != want:
            raise SystemExit(f"{path}: {name} is {getattr(ds, name)!r}, expected {want!r}")
    if MARKER.encode() in Path(path).read_bytes():
        raise SystemExit(f"{path}: holds {MARKER}")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


ATTRIBUTES = {
    "segmentAttributes": [
        [
            {
                "labelID": 3,
                "SegmentLabel": "Spleen",
                "SegmentDescription": "drawn by hand",
                "SegmentAlgorithmType": "MANUAL",
                "SegmentedPropertyCategoryCodeSequence": {
                    "CodeValue": "123037004",
                    "CodingSchemeDesignator": "SCT",
                    "CodeMeaning": "Body structure",
                },
                "SegmentedPropertyTypeCodeSequence": {
                    "CodeValue": "78961009",
                    "CodingSchemeDesignator": "SCT",
                    "CodeMeaning": "Spleen",
                },
                "recommendedDisplayRGBValue": [250, 200, 10],
            },
            {
                "labelID": 1,
                "SegmentLabel": "Lymph node",
                "SegmentAlgorithmType": "SEMIAUTOMATIC",
                "SegmentAlgorithmName": "brush",
                "SegmentedPropertyCategoryCodeSequence": {
                    "CodeValue": "49755003",
                    "CodingSchemeDesignator": "SCT",
                    "CodeMeaning": "Morphologically Abnormal Structure",
                },
                "SegmentedPropertyTypeCodeSequence": {
                    "CodeValue": "59441001",
                    "CodingSchemeDesignator": "SCT",
                    "CodeMeaning": "Lymph Node",
                },
                "SegmentedPropertyTypeModifierCodeSequence": {
                    "CodeValue": "7771000",
                    "CodingSchemeDesignator": "SCT",
                    "CodeMeaning": "Left",
                },
                "AnatomicRegionSequence": {
                    "CodeValue": "113257007",
                    "CodingSchemeDesignator": "SCT",
                    "CodeMeaning": "Structure of cardiovascular system",
                },
                "recommendedDisplayRGBValue": [20, 140, 90],
                "TrackingIdentifier": "node 7",
                "TrackingUniqueIdentifier": "1.2.826.0.1.3680043.8.498.1407.99",
            },
        ]
    ]
}


def check_attributes(meta):
    """dcmqi must say of each segment what ATTRIBUTES says."""
    said = {a["SegmentLabel"]: a for group in meta["segmentAttributes"] for a in group}
    for want in ATTRIBUTES["segmentAttributes"][0]:
        got = dict(said[want["SegmentLabel"]], labelID=want["labelID"])
        rgb = np.array(got.pop("recommendedDisplayRGBValue")) - want["recommendedDisplayRGBValue"]
        if np.abs(rgb).max() > 1 or any(
            got.get(k) != v for k, v in want.items() if k != "recommendedDisplayRGBValue"
        ):
            raise SystemExit(f"dcmqi: {said[want['SegmentLabel']]}, expected {want}")


class Case:
    """A series with a label map on it, and what is to be written of that."""

    def __init__(
        self,
        work,
        lntorch,
        name,
        shape,
        spacing,
        orientation,
        origin,
        mask,
        root,
        order=(0, 1, 2),
        flips=(False,) * 3,
        **kind,
    ):
        self.lntorch, self.name, self.mask = lntorch, name, mask
        self.series = work / name
        write_series(self.series, shape, spacing, orientation, origin, root, **kind)
        self.reference = label_image(mask, spacing, orientation, origin)
        self.labels = work / f"{name}.mha"
        sitk.WriteImage(
            label_image(mask, spacing, orientation, origin, order, flips),
            str(self.labels),
            useCompression=True,
        )
        square = spacing[0] == spacing[1] and shape[1] == shape[2]
        self.readers = {}
        if not kind:
            if square:
                self.readers["rt_utils"] = rt_utils
            self.readers["dcmrtstruct2nii"] = dcmrtstruct2nii
            if list(orientation) == [1, 0, 0, 0, 1, 0]:
                self.readers["plastimatch"] = plastimatch

    def write(self, *flags):
        out = self.series.parent / "out.dcm"
        subprocess.run(
            [
                self.lntorch,
                "image",
                "convert",
                self.labels,
                out,
                "--reference",
                self.series,
                "--force",
                *flags,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.series.parent,
        )
        return out

    def expected(self, nodes):
        """The label map of segments, and their names."""
        values = [int(v) for v in np.unique(self.mask) if v]
        if not values:
            return self.mask, ["label 1"]
        names = {1: "Lymph node", 2: "label 2", 3: "Spleen"}
        want, listed = np.zeros(self.mask.shape, np.uint16), []
        for v in values:
            if not nodes:
                listed.append(names[v])
                want[self.mask == v] = len(listed)
                continue
            found, n = ndimage.label(self.mask == v, np.ones((3, 3, 3)))
            for k in range(1, n + 1):
                listed.append(f"{names[v]} {k}")
                want[found == k] = len(listed)
        return want, listed

    def run(self, *flags):
        """Writes, reads and compares. Returns the record of expected.json."""
        nodes = "--per-node" in flags
        want, names = self.expected(nodes)
        if len(names) > 255:
            return None
        want = want.astype(np.uint8)
        flags = list(flags)
        for value, name in ((1, "Lymph node"), (3, "Spleen")):
            if (self.mask == value).any() and "--segments" not in flags:
                flags += ["--segment", f"{value}={name}"]
        out = self.write(*flags)
        check(out)
        readers = self.readers
        if "seg" in flags:
            readers = {
                "highdicom": read_highdicom,
                "dcmqi": lambda _, path, names: read_dcmqi(
                    self.reference, path, names, "--segments" in flags
                ),
            }
        if "labelmap" not in flags:
            verify(out)
        record = {
            "series": self.name,
            "flags": flags,
            "sha256": sha256(out.read_bytes()),
            "readers": {},
        }
        for reader, read in readers.items():
            found = read(self.series, out, names)
            if found is None or found.shape != want.shape or (found != want).any():
                wrong = (
                    "nothing"
                    if found is None
                    else f"{(found != want).sum()} of {(want > 0).sum()} voxels"
                )
                raise SystemExit(
                    f"{self.name}: {' '.join(flags)}: {reader}: differs in {wrong}: {self.labels}"
                )
            record["readers"][reader] = sha256(found.tobytes())
        return record


KINDS = [
    ("--to", "rtstruct"),
    ("--to", "rtstruct", "--per-node"),
    ("--to", "seg"),
    ("--to", "seg", "--per-node"),
    ("--to", "seg", "--seg-type", "labelmap"),
]
AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)


def turned(rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return tuple(round(float(v), 9) for v in [*q[0], *q[1]])


def golden(work, lntorch, out):
    rng = np.random.default_rng(14)
    root = "1.2.826.0.1.3680043.8.498.1407"

    def blob(shape, labels):
        return shapes(rng, shape, labels, 0)

    cases = [
        Case(
            work,
            lntorch,
            "axial",
            (5, 24, 24),
            (0.7, 0.7, 2.5),
            AXIAL,
            (-120.3, 40.25, -310),
            blob((5, 24, 24), 3),
            root + ".1",
        ),
        Case(
            work,
            lntorch,
            "noise",
            (3, 16, 16),
            (0.9765625, 0.9765625, 5),
            AXIAL,
            (3, -250.125, 1000.5),
            shapes(rng, (3, 16, 16), 2, 1),
            root + ".2",
        ),
        Case(
            work,
            lntorch,
            "rings",
            (4, 33, 33),
            (1.5, 1.5, 1),
            AXIAL,
            (0, 0, 0),
            shapes(rng, (4, 33, 33), 1, 2),
            root + ".3",
        ),
        Case(
            work,
            lntorch,
            "oblique",
            (4, 17, 23),
            (0.8, 1.1, 3),
            turned(rng),
            (10, 20, 30),
            blob((4, 17, 23), 2),
            root + ".4",
            (2, 0, 1),
            (True, False, True),
        ),
        Case(
            work,
            lntorch,
            "sagittal",
            (6, 13, 11),
            (0.5, 0.75, 2),
            SAGITTAL,
            (-9, 8.5, 7),
            blob((6, 13, 11), 2),
            root + ".5",
            (1, 2, 0),
            (False, True, False),
        ),
        Case(
            work,
            lntorch,
            "enhanced",
            (4, 14, 18),
            (0.6, 0.6, 2),
            AXIAL,
            (1, 2, 3),
            blob((4, 14, 18), 2),
            root + ".6",
            multi=True,
        ),
        Case(
            work,
            lntorch,
            "one-slice",
            (1, 15, 15),
            (0.6, 0.6, 4),
            AXIAL,
            (1, 2, 3),
            blob((1, 15, 15), 2),
            root + ".7",
        ),
    ]
    empty = Case(
        work,
        lntorch,
        "empty",
        (2, 8, 8),
        (1, 1, 1),
        AXIAL,
        (0, 0, 0),
        np.zeros((2, 8, 8), np.uint8),
        root + ".8",
    )
    empty.readers = {}
    cases.append(empty)
    # plastimatch and dcmrtstruct2nii read no volume of one slice
    cases[-2].readers = {"rt_utils": rt_utils}
    out.mkdir(parents=True, exist_ok=True)
    for folder in (work, out):
        (folder / "attributes.json").write_text(json.dumps(ATTRIBUTES, indent=1) + "\n")
    files = [
        cases[0].run("--to", to, "--segments", "attributes.json") for to in ("seg", "rtstruct")
    ]
    files += [record for case in cases for kind in KINDS if (record := case.run(*kind))]
    for case in cases:
        (out / case.labels.name).write_bytes(case.labels.read_bytes())
        with zipfile.ZipFile(out / f"{case.name}.zip", "w", zipfile.ZIP_DEFLATED) as z:
            for file in sorted(case.series.iterdir()):
                z.writestr(
                    zipfile.ZipInfo(file.name, (2026, 1, 1, 0, 0, 0)),
                    file.read_bytes(),
                    zipfile.ZIP_DEFLATED,
                    9,
                )
    colours = [
        {"rgb": [r, g, b], "cielab": list(highdicom.color.CIELabColor.from_rgb(r, g, b).value)}
        for r, g, b in rng.integers(0, 256, (40, 3)).tolist()
    ]
    versions = {
        "highdicom": highdicom.__version__,
        "pydicom": pydicom.__version__,
        "SimpleITK": sitk.Version.VersionString(),
    }
    lines = ['{"meta": ' + json.dumps(versions)]
    for key, rows in (("files", files), ("colours", colours)):
        lines.append(f'"{key}": [\n ' + ",\n ".join(map(json.dumps, rows)) + "\n]")
    (out / "expected.json").write_text(",\n".join(lines) + "}\n")


def live(work, lntorch, seed, count):
    rng = np.random.default_rng(seed)
    for i in range(count):
        shape = tuple(int(v) for v in rng.integers((2, 4, 4), (9, 48, 48)))
        pixel = rng.uniform(0.3, 2, 2).round(int(rng.integers(1, 9)))
        orientation = [AXIAL, AXIAL, SAGITTAL, turned(rng)][i % 4]
        if i == 0:  # of a clinical size
            shape, pixel = (2, 512, 512), np.array([0.7421875] * 2)
        elif i % 4 == 0:
            shape, pixel = (shape[0], shape[1], shape[1]), pixel[[0, 0]]
        spacing = (float(pixel[0]), float(pixel[1]), round(float(rng.uniform(0.6, 6)), 3))
        origin = rng.uniform(-600, 600, 3).round(int(rng.integers(1, 7)))
        order = tuple(int(v) for v in rng.permutation(3))
        flips = tuple(bool(v) for v in rng.integers(0, 2, 3))
        mask = shapes(rng, shape, int(rng.integers(1, 4)), rng.integers(4))
        if i == 0:
            y, x = rng.integers(0, 450, 2)
            mask[:, :y], mask[:, y + 60 :], mask[:, :, :x], mask[:, :, x + 60 :] = 0, 0, 0, 0
        kind = {"multi": True} if i % 8 == 7 else {}
        root = f"1.2.826.0.1.3680043.8.498.{seed}.{i}"
        case = Case(
            work,
            lntorch,
            f"case{i}",
            shape,
            spacing,
            orientation,
            origin,
            mask,
            root,
            order,
            flips,
            **kind,
        )
        for flags in KINDS:
            case.run(*flags)
    print(f"seed {seed}: {count} series, {len(KINDS)} files each: every voxel came back")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lntorch", type=Path)
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--cases", type=int, default=8)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if a.golden:
            golden(Path(work), a.lntorch.resolve(), a.golden)
        else:
            live(
                Path(work),
                a.lntorch.resolve(),
                a.seed if a.seed is not None else int.from_bytes(os.urandom(4)),
                a.cases,
            )


main()
