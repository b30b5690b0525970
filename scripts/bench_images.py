"""The part images of scripts/bench.py: DICOM series, compressed NIfTI, NRRD and MetaImage,
structure sets and segmentations, beside SimpleITK and the programs for RTSTRUCT and SEG.

Theirs run in the Python of `make test-images`, or the one that LNTORCH_IMAGES_PYTHON names. It runs
this file, too, for one task given as JSON. JPEG lossless is written by Debian's dcmtk.

The CT is the phantom of scripts/bench.py: smooth shapes with noise like a reconstruction's. Its
slices repeat after size["images"]["unique"] of them, which no codec and no deflate sees, so that
the inputs are written in seconds.
"""

import contextlib
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_processes import Command, adopt_orphans, environment

SPACING = (0.8, 0.8, 2.5)  # mm, x, y, z
ROOT = "1.2.826.0.1.3680043.8.498.77."
CT = "1.2.840.10008.5.1.4.1.1.2"
# What the transfer syntaxes are called: their UID below 1.2.840.10008.1.2, and what lntorch's time
# may be, by SimpleITK's.
SYNTAXES = {
    "uncompressed": (".1", 0.5),
    "JPEG 2000": (".4.90", 1.0),
    "JPEG lossless": (".4.70", 0.7),
    "JPEG-LS": (".4.80", 0.7),
    "RLE": (".5", 0.7),
}
# Of a clinical structure set: name, centre and radii as parts of the image, waves of the outline,
# first and last slice as parts of the stack, points a contour.
ROIS = [
    ("BODY", 0.50, 0.50, 0.40, 0.30, 9, 0.00, 1.00, 900),
    ("Lung_L", 0.66, 0.48, 0.11, 0.17, 5, 0.05, 0.70, 420),
    ("Lung_R", 0.34, 0.48, 0.11, 0.17, 5, 0.05, 0.70, 420),
    ("Heart", 0.54, 0.42, 0.09, 0.08, 4, 0.10, 0.40, 260),
    ("SpinalCord", 0.50, 0.66, 0.016, 0.014, 3, 0.00, 1.00, 60),
    ("Oesophagus", 0.51, 0.58, 0.02, 0.015, 3, 0.05, 0.90, 64),
    ("CTV", 0.45, 0.51, 0.06, 0.05, 6, 0.40, 0.80, 180),
    ("GTVp", 0.44, 0.50, 0.03, 0.03, 6, 0.45, 0.60, 110),
    ("GTVn", 0.47, 0.53, 0.015, 0.012, 4, 0.55, 0.75, 70),
]
MARGIN = 0.05  # pixels: no point of a contour lies so near to a line through centres


# ---- the other Python's side: tasks ------------------------------------------------------------


def volume(shape, unique):
    """Hounsfield units, int16."""
    import numpy as np

    nz, ny, nx = shape
    rng = np.random.RandomState(14)
    y, x = np.mgrid[:ny, :nx].astype(np.float32) - np.array([ny / 2, nx / 2]).reshape(2, 1, 1)
    y, x = y / ny * 512, x / nx * 512
    planes = []
    for z in range(min(nz, unique)):
        w = 1 + 0.1 * np.sin(z / unique * 6)
        inside = (y / (170 * w)) ** 2 + (x / (130 * w)) ** 2 < 1
        v = np.where(inside, 50, -1000).astype(np.float32)
        v[((y - 74) / 30) ** 2 + (x / 40) ** 2 < 1] = 700
        v[((y + 56) / 18) ** 2 + (x / 22) ** 2 < 1] = -950
        n = rng.randn(ny, nx).astype(np.float32)
        n = (n + np.roll(n, 1, 0) + np.roll(n, 1, 1) + np.roll(n, 1, (0, 1))) / 2
        planes.append(np.clip(v + n * np.where(inside, 25, 8), -1024, 3000).astype(np.int16))
    return np.stack([planes[z % len(planes)] for z in range(nz)])


def header(z, shape, stored):
    """A slice's data set without its pixels."""
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CT, f"{ROOT}4.{z + 1}"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20240102"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "101112.5"
    ds.AccessionNumber = ds.PatientID = ds.StudyID = "1"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", "BENCH", "PHANTOM"
    ds.InstitutionName = ds.ReferringPhysicianName = ds.PatientName = "BENCH"
    ds.StudyDescription = ds.SeriesDescription = ds.ProtocolName = "PHANTOM"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19500101", "O", "074Y"
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99BENCH", "PHANTOM"
    ds.ProcedureCodeSequence = [item]
    ds.BodyPartExamined, ds.SliceThickness, ds.KVP = "CHEST", SPACING[2], 120
    ds.DataCollectionDiameter, ds.SoftwareVersions = 500, "1"
    ds.ReconstructionDiameter, ds.GantryDetectorTilt, ds.TableHeight = 500, 0, 150
    ds.RotationDirection, ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure = "CW", 500, 200, 100
    ds.FilterType, ds.GeneratorPower, ds.FocalSpots = "0", 30, [0.9, 0.9]
    ds.ConvolutionKernel, ds.PatientPosition = "B30f", "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = ROOT + "1", ROOT + "2"
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 3, 1, z + 1
    ds.ImagePositionPatient = [-200.0, -200.0, round(z * SPACING[2], 3)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = ROOT + "3", ""
    ds.SliceLocation = round(z * SPACING[2], 3)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = shape[1:]
    ds.PixelSpacing = [SPACING[1], SPACING[0]]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, stored, stored - 1, 0
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    ds.add_new(0x00090010, "LO", "BENCH PRIVATE")
    ds.add_new(0x00091001, "LO", "PHANTOM")
    return ds


def save(ds, path, syntax):
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2" + syntax)
    ds.save_as(path, enforce_file_format=True)


def codestreams(o, cells):
    """The encoded pixels of each slice: by dcmtk for JPEG lossless, else by pydicom's encoders."""
    import pydicom
    from pydicom.encaps import generate_frames

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for z, plane in enumerate(cells):
            ds = header(z, o["shape"], o["stored"])
            ds.PixelData = plane.tobytes()
            ds["PixelData"].VR = "OW"
            path = Path(folder) / f"{z}.dcm"
            save(ds, path, ".1")
            if o["syntax"] == ".4.70":
                subprocess.run(["dcmcjpeg", "+e1", path, path], check=True)
                ds = pydicom.dcmread(path)
            else:
                ds = pydicom.dcmread(path)
                ds.compress("1.2.840.10008.1.2" + o["syntax"])
            if ds.file_meta.TransferSyntaxUID != "1.2.840.10008.1.2" + o["syntax"]:
                raise SystemExit(f"found {ds.file_meta.TransferSyntaxUID}, expected {o['syntax']}")
            found.append(next(generate_frames(ds.PixelData, number_of_frames=1)))
    return found


def series(o):
    """A DICOM series: unsigned pixels of o["stored"] bits, intercept -1024."""
    import numpy as np
    from pydicom.encaps import encapsulate

    folder = Path(o["folder"])
    folder.mkdir()
    cells = (volume(o["shape"], o["unique"]) + 1024).astype("<u2")
    unique = min(o["unique"], len(cells))
    if o["syntax"] != ".1":
        streams = codestreams(o, cells[:unique])
    # Names in another order than positions, as archives have them.
    names = np.random.RandomState(1).permutation(len(cells))
    for z in range(len(cells)):
        ds = header(z, o["shape"], o["stored"])
        if o["syntax"] == ".1":
            ds.PixelData = cells[z].tobytes()
            ds["PixelData"].VR = "OW"
        else:
            ds.PixelData = encapsulate([streams[z % unique]])
            ds["PixelData"].VR = "OB"
            ds["PixelData"].is_undefined_length = True
        save(ds, folder / f"{names[z]:05d}.dcm", o["syntax"])


def scan(o):
    """The CT as one file, written by SimpleITK."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(volume(o["shape"], o["unique"]))
    image.SetSpacing(SPACING)
    image.SetOrigin((-200, -200, 0))
    sitk.WriteImage(image, o["path"], o.get("compressed", False))


def outline(roi, z, shape, rng):
    """A contour in pixels, with no point on a line through centres."""
    import numpy as np

    _, cx, cy, rx, ry, waves, first, last, count = roi
    t = (z / shape[0] - first) / (last - first)
    size = 0.6 + 0.4 * math.sin(math.pi * min(max(t, 0), 1))
    a = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.uniform(0, 1)
    r = size * (1 + 0.06 * np.sin(waves * a + z / 5))
    p = np.stack([shape[2] * (cx + rx * r * np.cos(a)), shape[1] * (cy + ry * r * np.sin(a))], 1)
    part = p - np.floor(p)
    return np.floor(p) + np.clip(part, MARGIN, 1 - MARGIN)


def structures(o):
    """An RTSTRUCT that belongs to a series of series(). points: of one ROI on every slice, else the
    clinical set."""
    import numpy as np
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    shape = o["shape"]
    rois = ROIS
    if o.get("points"):
        rois = [("NODES", 0.5, 0.5, 0.42, 0.42, 40, -1, 2, o["points"] // shape[0])]
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", ROOT + "5.1"
    ds.StudyDate = ds.StructureSetDate = "20240102"
    ds.StudyTime = ds.StructureSetTime = "101112"
    ds.Modality, ds.StructureSetLabel = "RTSTRUCT", "BENCH"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = ROOT + "1", ROOT + "6"
    ds.PatientName = ds.PatientID = ds.StudyID = ds.AccessionNumber = "BENCH"
    ds.PatientBirthDate = ds.PatientSex = ds.ReferringPhysicianName = ds.Manufacturer = ""
    ds.SeriesNumber, ds.FrameOfReferenceUID = 9, ROOT + "3"

    def image(z):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, f"{ROOT}4.{z + 1}"
        return item

    referenced, study, frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = ROOT + "2"
    referenced.ContourImageSequence = [image(z) for z in range(shape[0])]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = ROOT + "1"
    study.RTReferencedSeriesSequence = [referenced]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = ROOT + "3", [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    rng = np.random.RandomState(5)
    for number, roi in enumerate(rois, 1):
        entry, drawn, seen = Dataset(), Dataset(), Dataset()
        entry.ROINumber, entry.ROIName = number, roi[0]
        entry.ReferencedFrameOfReferenceUID, entry.ROIGenerationAlgorithm = ROOT + "3", ""
        drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, [255, 0, 0]
        drawn.ContourSequence = []
        for z in range(shape[0]):
            if not roi[6] * shape[0] <= z < roi[7] * shape[0]:
                continue
            points = outline(roi, z, shape, rng)
            contour = Dataset()
            contour.ContourImageSequence = [image(z)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            at = f"{z * SPACING[2]:.2f}"
            text = "\\".join(
                f"{x:.3f}\\{y:.3f}\\{at}" for x, y in (points * SPACING[:2] - 200).tolist()
            )
            data = (text + " " * (len(text) % 2)).encode()
            where = Tag("ContourData")  # as bytes: pydicom takes long for a million numbers
            contour[where] = RawDataElement(where, "DS", len(data), data, 0, True, True)
            drawn.ContourSequence.append(contour)
        seen.ObservationNumber = seen.ReferencedROINumber = number
        seen.RTROIInterpretedType = seen.ROIInterpreter = ""
        ds.StructureSetROISequence.append(entry)
        ds.ROIContourSequence.append(drawn)
        ds.RTROIObservationsSequence.append(seen)
    ds.ApprovalStatus = "UNAPPROVED"
    save(ds, o["path"], "")


def itk_series(o):
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(o["input"])
    reader.SetFileNames(names)
    sitk.WriteImage(reader.Execute(), o["output"], False)


def itk_convert(o):
    import SimpleITK as sitk

    sitk.WriteImage(sitk.ReadImage(o["input"]), o["output"], o["compress"])


def rtstruct2nii(o):
    """A file a ROI, without the image."""
    import pydicom

    pydicom.read_file = pydicom.dcmread
    from dcmrtstruct2nii import dcmrtstruct2nii

    dcmrtstruct2nii(o["input"], o["series"], o["output"], convert_original_dicom=False)


def highdicom_read(o):
    """The segments as one label map of the series' grid."""
    import highdicom
    import numpy as np
    import SimpleITK as sitk

    seg = highdicom.seg.segread(o["input"])
    found = seg.get_pixels_by_source_instance(
        [f"{ROOT}4.{z + 1}" for z in range(o["shape"][0])],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    image = sitk.GetImageFromArray(found.astype(np.uint8))
    image.SetSpacing(SPACING)
    image.SetOrigin((-200, -200, 0))
    sitk.WriteImage(image, o["output"], True)


def highdicom_write(o):
    """A binary SEG of the labels in a file."""
    import highdicom as hd
    import numpy as np
    import pydicom
    import SimpleITK as sitk
    from pydicom.sr.codedict import codes

    source = [pydicom.dcmread(p) for p in Path(o["series"]).iterdir()]
    source.sort(key=lambda ds: ds.ImagePositionPatient[2])
    labels = sitk.GetArrayFromImage(sitk.ReadImage(o["input"]))
    segments = [
        hd.seg.SegmentDescription(
            segment_number=i + 1,
            segment_label=roi[0],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.LymphNode,
            algorithm_type="MANUAL",
        )
        for i, roi in enumerate(ROIS)
    ]
    hd.seg.Segmentation(
        source,
        labels.astype(np.uint8),
        "BINARY",
        segments,
        ROOT + "8",
        1000,
        ROOT + "7.1",
        1,
        "BENCH",
        "BENCH",
        "1",
        "1",
    ).save_as(o["output"])


def attributes(o):
    """The segments' names for dcmqi."""
    code = lambda value, meaning: {
        "CodeValue": value,
        "CodingSchemeDesignator": "SCT",
        "CodeMeaning": meaning,
    }
    segments = [
        {
            "labelID": i + 1,
            "SegmentDescription": roi[0],
            "SegmentLabel": roi[0],
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": code("91723000", "Anatomical Structure"),
            "SegmentedPropertyTypeCodeSequence": code("59441001", "Lymph Node"),
            "recommendedDisplayRGBValue": [255, 0, 0],
        }
        for i, roi in enumerate(ROIS)
    ]
    about = {
        "ContentCreatorName": "BENCH",
        "SeriesDescription": "BENCH",
        "SeriesNumber": "1000",
        "InstanceNumber": "1",
        "segmentAttributes": [segments],
    }
    Path(o["path"]).write_text(json.dumps(about))


def compare(o):
    """How many voxels of two results differ, as a share. b is a file, or a folder with a mask a ROI,
    of which the last one wins."""
    import numpy as np
    import SimpleITK as sitk

    read = lambda path: sitk.ReadImage(str(path))
    ours = read(o["a"])
    if Path(o["b"]).is_dir():
        theirs, found = None, None
        for i, roi in enumerate(ROIS):
            mask = Path(o["b"]) / f"mask_{roi[0]}.nii.gz"
            theirs = read(mask)
            values = sitk.GetArrayViewFromImage(theirs) > 0
            found = np.zeros(values.shape, np.uint8) if found is None else found
            found[values] = i + 1
    else:
        theirs = read(o["b"])
        found = sitk.GetArrayViewFromImage(theirs)
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        a, b = getattr(ours, name)(), getattr(theirs, name)()
        if not np.allclose(a, b, rtol=0, atol=1e-4):
            raise SystemExit(f"{o['a']}, {o['b']}: {name[3:]} {a} and {b}")
    values = sitk.GetArrayViewFromImage(ours)
    differ = sum(int((a != b).sum()) for a, b in zip(values, found))
    print(json.dumps({"differ": differ / values.size, "foreground": float((found != 0).mean())}))


def programs(o):
    """Where the programs of the Python packages lie."""
    of = lambda name: Path(importlib.util.find_spec(name).origin).parent / "bin"
    print(
        json.dumps(
            {
                "plastimatch": str(of("plastimatch") / "plastimatch"),
                "segimage2itkimage": str(of("dcmqi") / "segimage2itkimage"),
                "itkimage2segimage": str(of("dcmqi") / "itkimage2segimage"),
                "versions": versions(),
            }
        )
    )


def versions():
    from importlib.metadata import version

    names = ("SimpleITK", "highdicom", "dcmqi", "dcmrtstruct2nii", "plastimatch")
    return ", ".join(f"{name} {version(name)}" for name in names)


# Tasks that are timed, and the modules that are imported before.
TIMED = {
    "itk_series": (itk_series, ["SimpleITK"]),
    "itk_convert": (itk_convert, ["SimpleITK"]),
    "rtstruct2nii": (rtstruct2nii, ["dcmrtstruct2nii"]),
    "highdicom_read": (highdicom_read, ["highdicom", "SimpleITK"]),
    "highdicom_write": (highdicom_write, ["highdicom", "SimpleITK"]),
}
TASKS = {
    "series": series,
    "scan": scan,
    "structures": structures,
    "attributes": attributes,
    "compare": compare,
    "programs": programs,
}


def task(o):
    if o["task"] in TASKS:
        TASKS[o["task"]](o)
        return
    run, modules = TIMED[o["task"]]
    with contextlib.redirect_stdout(sys.stderr):
        for name in modules:
            importlib.import_module(name)
        if "SimpleITK" in modules:
            itk = sys.modules["SimpleITK"]
            itk.ProcessObject.SetGlobalDefaultNumberOfThreads(o["threads"])
        start, used = time.perf_counter(), time.process_time()
        run(o)
        answer = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - used,
        }
    print(json.dumps(answer))


# ---- the part ----------------------------------------------------------------------------------


def times(shape):
    return "×".join(map(str, shape))


def made_python():
    """The Python of make test-images, made if it is not there."""
    script = Path(__file__).with_name("images_venv.py")
    return subprocess.run(
        [sys.executable, script], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


class Images:
    """A run of the part: the other Python, and a folder for inputs and outputs."""

    def __init__(self, b, o, folder):
        self.b, self.o, self.folder = b, o, Path(folder)
        adopt_orphans()  # the decoders of JPEG 2000
        self.python = os.environ.get("LNTORCH_IMAGES_PYTHON") or made_python()
        if not shutil.which("dcmcjpeg"):
            raise SystemExit("bench: part images: dcmcjpeg is missing: apt-get install dcmtk")
        self.programs = self.task("programs")

    def words(self, name, **options):
        options = {"task": name, "threads": self.b.threads, **options}
        return [self.python, __file__, json.dumps(options, default=str)]

    def task(self, name, **options):
        """Runs a task that is not timed."""
        out = subprocess.run(
            self.words(name, **options), check=True, env=environment(), stdout=subprocess.PIPE
        ).stdout
        return json.loads(out) if out.strip() else None

    def theirs(self, name, **options):
        last = lambda log: json.loads(log.strip().splitlines()[-1])
        return Command(self.words(name, **options), last)

    def ours(self, *words):
        return Command(
            [self.b.args.lntorch, "image", "convert", *words, "--force"],
            GOMAXPROCS=self.b.threads,
        )

    def path(self, name):
        return self.folder / name

    def compared(self, title, sides, reach, same=None, differing=0.0, most=None):
        """Times sides in turn, at most so often. reach: who, and what lntorch's time may be by
        theirs, or its own in seconds. same: two results that may differ in a share of voxels, differing."""
        answers = self.b.group(title, sides, warmup=0, most=most, alike=())
        if same:
            found = self.task("compare", a=same[0], b=same[1])
            if found["differ"] > differing or not found["foreground"]:
                raise SystemExit(f"bench: {title}: results differ: {found}")
        for row in self.b.rows[-len(sides) :]:
            cpu = statistics.median(a["cpu_seconds"] for a in answers[row["who"]])
            row.update(cpu_seconds=cpu, limit=reach.get(row["who"]))

    def series(self, syntax, shape=None, stored=16):
        folder = self.path("series")
        shutil.rmtree(folder, ignore_errors=True)
        self.task(
            "series",
            folder=folder,
            shape=shape or self.o["shape"],
            unique=self.o["unique"],
            syntax=syntax,
            stored=stored,
        )
        return folder


def run_images(b, size):
    with tempfile.TemporaryDirectory() as folder:
        run = Images(b, size["images"], folder)
        b.about = run.programs["versions"]
        stacks(run)
        files(run)
        labels(run)


def stacks(run):
    ours, theirs = run.path("ours.mha"), run.path("theirs.mha")
    whole = times(run.o["shape"])
    for name, (syntax, reach) in SYNTAXES.items():
        for stored in (16, 12) if syntax == ".1" else (16,):
            folder = run.series(syntax, stored=stored)
            run.compared(
                f"DICOM series {whole}, {name}, {stored} bits stored, to .mha",
                {
                    "lntorch": run.ours(folder, ours, "--uncompressed"),
                    "SimpleITK": run.theirs("itk_series", input=folder, output=theirs),
                },
                {"SimpleITK": reach},
                same=(ours, theirs),
            )
    for path in (run.path("series"), ours, theirs):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def files(run):
    whole = times(run.o["shape"])
    for source, target, compress, reach in (
        (".nii", ".nii.gz", True, 0.2),
        (".nii.gz", ".nii", False, 1.0),
        (".nrrd", ".nrrd", True, 0.5),
        (".nrrd", ".nrrd", False, 1.0),
        (".mha", ".mha", True, 0.5),
        (".mha", ".mha", False, 1.0),
    ):
        given = run.path("given" + source)
        ours, theirs = run.path("ours" + target), run.path("theirs" + target)
        run.task(
            "scan",
            path=given,
            shape=run.o["shape"],
            unique=run.o["unique"],
            compressed=not compress,
        )
        if source == target:
            kinds = ["uncompressed", "compressed"]
            kinds = kinds if compress else kinds[::-1]
            title = f"{source} {whole}, {kinds[0]} to {kinds[1]}"
        else:
            title = f"{source} {whole} to {target}"
        run.compared(
            title,
            {
                "lntorch": run.ours(given, ours, *[] if compress else ["--uncompressed"]),
                "SimpleITK": run.theirs(
                    "itk_convert", input=given, output=theirs, compress=compress
                ),
            },
            {"SimpleITK": reach},
            same=(ours, theirs),
        )
        for path in (given, ours, theirs):
            path.unlink()


def labels(run):
    shape = run.o["stack"]
    folder = run.series(".1", shape=shape)
    structures, ours = run.path("rt.dcm"), run.path("labels.nii.gz")
    run.task("structures", path=structures, shape=shape)
    masks = run.path("masks")
    rois = [f"--roi={roi[0]}" for roi in ROIS]
    run.compared(
        f"RTSTRUCT with nine ROIs on {times(shape)} to labels",
        {
            "lntorch": run.ours(structures, ours, "--reference", folder, *rois),
            "dcmrtstruct2nii, a file each": run.theirs(
                "rtstruct2nii", input=structures, series=folder, output=masks
            ),
            "plastimatch": Command(
                [run.programs["plastimatch"], "convert", "--input", structures]
                + ["--referenced-ct", folder, "--output-labelmap", run.path("labels.mha")]
            ),
        },
        {"dcmrtstruct2nii, a file each": 0.1, "plastimatch": 0.5},
        same=(ours, masks),
        differing=1e-4,
        most=1,  # dcmrtstruct2nii takes long
    )
    names = [f"--segment={i + 1}={roi[0]}" for i, roi in enumerate(ROIS)]
    about, seg, other = run.path("attributes.json"), run.path("seg.dcm"), run.path("other.dcm")
    run.task("attributes", path=about)
    run.compared(
        f"nine labels on {times(shape)} to SEG",
        {
            "lntorch": run.ours(ours, seg, "--to", "seg", "--reference", folder, *names),
            "dcmqi": Command(
                [run.programs["itkimage2segimage"], "--inputImageList", ours]
                + ["--inputDICOMDirectory", folder, "--outputDICOM", other]
                + ["--inputMetadata", about, "--skip"]
            ),
            "highdicom": run.theirs("highdicom_write", input=ours, series=folder, output=other),
        },
        {},
    )
    back, theirs = run.path("back.nii.gz"), run.path("theirs.nii.gz")
    segments = run.path("segments")
    segments.mkdir()
    run.compared(
        f"SEG with nine segments on {times(shape)} to labels",
        {
            "lntorch": run.ours(other, back, "--reference", folder, *rois),
            "dcmqi": Command(
                [run.programs["segimage2itkimage"], "--inputDICOM", other, "--outputType", "nii"]
                + ["--outputDirectory", segments, "--mergeSegments"]
            ),
            "highdicom": run.theirs("highdicom_read", input=other, shape=shape, output=theirs),
        },
        {},
        same=(back, theirs),
    )
    shape = run.o["large"]
    folder = run.series(".1", shape=shape)
    run.task("structures", path=structures, shape=shape, points=run.o["points"])
    run.compared(
        f"RTSTRUCT with one ROI of {run.o['points']:,} points on {times(shape)} to labels".replace(
            ",", " "
        ),
        {
            "lntorch": run.ours(structures, ours, "--reference", folder),
            "plastimatch": Command(
                [run.programs["plastimatch"], "convert", "--input", structures]
                + ["--referenced-ct", folder, "--output-labelmap", run.path("labels.mha")]
            ),
        },
        {"lntorch": 1},
    )


def table(rows):
    """The comparison: time by the clock and of the processor, and memory."""
    rows = [r for r in rows if "limit" in r]
    if not rows:
        return []
    lines = [
        "lntorch's time and memory are those of the command from its start to its end, those of the "
        "Python packages without their imports. The ratios are lntorch's by theirs. CPU is the "
        "processor time, that of lntorch's decoders of JPEG 2000 included.",
        "",
        "| what | who | time | CPU | peak memory | time, ratio | reach | CPU, ratio | memory, ratio |",
        "| --- | --- | --: | --: | --: | --: | --- | --: | --: |",
    ]
    ours = None
    for r in rows:
        cells = [r["what"], r["who"], seconds(r["median"]), seconds(r["cpu_seconds"])]
        cells.append(f"{r['peak_rss_bytes'] / 2**20:.0f} MiB")
        if r["ratio"] is None:
            ours = r
            cells += ["", reached(r["limit"], r["median"], " s"), "", ""]
        else:
            cells += [f"{r['ratio']:.2f}", reached(r["limit"], r["ratio"])]
            cells.append(f"{ours['cpu_seconds'] / r['cpu_seconds']:.2f}")
            cells.append(f"{ours['peak_rss_bytes'] / r['peak_rss_bytes']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def reached(limit, found, unit=""):
    if limit is None:
        return ""
    return f"≤ {limit}{unit}" + ", missed" * (found > limit)


def seconds(s):
    return f"{s:.2f} s"


PARTS = {"images": run_images}
REAL = {
    "images": {
        "shape": [400, 512, 512],
        "unique": 40,
        "stack": [98, 512, 512],
        "large": [200, 512, 512],
        "points": 1_000_000,
    }
}
QUICK = {
    "images": {
        "shape": [12, 64, 64],
        "unique": 4,
        "stack": [12, 64, 64],
        "large": [12, 64, 64],
        "points": 12_000,
    }
}

if __name__ == "__main__":
    sys.path.pop(0)  # scripts/openjpeg.py would be taken for the package of that name
    task(json.loads(sys.argv[1]))
