"""Writes RTSTRUCT and SEG objects with other people's programs, and in expected.json the masks that they stand for.

    dicom_labels.py OUT [--seed N]

Needs scripts/requirements-images.txt, and for two cases DCMTK's dcmconv. Four CT series (SERIES/NN.dcm in ct.zip) and the objects (a member each of objects.zip). Every text that no reader
needs is MARKER, which ROI and segment names hold, too.

Written twice with one seed, all files are equal but dcmqi's, which have UIDs and dates of their own.

expected.json: series: size (x, y, z); objects: series, parts (number, name, mask), options. A mask is base64 of zlib of
numpy.packbits(z, y, x). It comes from
    rt-utils' files: the masks that rt-utils was given (with use_pin_hole: those that it drew);
    stars and keyholes: dcmrtstruct2nii's masks. Centres of pixels keep 0.002 pixel away from the contours, on which programs differ;
    resampled: SimpleITK's nearest neighbours of these masks on another grid;
    SEG: the arrays that highdicom, dcmqi and pydicom were given; for another orientation the voxels that they were taken from.
"""

import argparse
import base64
import contextlib
import copy
import io
import json
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

sys.modules["gdcm"] = (
    None  # its RLE encoder, which pydicom prefers, ends the process on frames of odd sizes
)

import dcmqi
import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

MARKER = "ZQMARKERQZ"
ROOT = "1.2.826.0.1.3680043.8.498.15."
KEEP = 0.002  # pixels between a centre and a contour
pydicom.read_file = pydicom.dcmread  # dcmrtstruct2nii 5 calls it so
pydicom.config.settings.writing_validation_mode = pydicom.config.RAISE


def ct(number, size, spacing, orientation, origin, rng, off=None):
    """Slices of a CT series, ascending along the normal, with random pixels, moved by off (slices, xyz)."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    out = []
    for k in range(size[2]):
        ds = Dataset()
        for name in (
            "PatientName PatientID StudyDescription SeriesDescription AccessionNumber ReferringPhysicianName InstitutionName "
            "StudyID Manufacturer ManufacturerModelName SoftwareVersions DeviceSerialNumber PositionReferenceIndicator"
        ).split():
            setattr(ds, name, MARKER)
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19000101", "O", "099Y"
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "19000102"
        ds.StudyTime = ds.SeriesTime = ds.ContentTime = "010203"
        ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        ds.SOPInstanceUID = ROOT + f"4.{number}.{k + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = ROOT + "1", ROOT + f"2.{number}"
        ds.FrameOfReferenceUID = ROOT + f"3.{number}"
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", number, k + 1
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        position = np.array(origin) + k * spacing[2] * normal
        if off is not None:
            position = position + off[k]
        ds.ImagePositionPatient = [
            np.format_float_positional(x, precision=9, trim="-") for x in position
        ]
        ds.ImageOrientationPatient = [
            np.format_float_positional(x, precision=12, trim="-") for x in orientation
        ]
        ds.PixelSpacing = [spacing[1], spacing[0]]
        ds.SliceThickness = ds.SpacingBetweenSlices = spacing[2]
        ds.Rows, ds.Columns = size[1], size[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.RescaleIntercept, ds.RescaleSlope = -100, 1
        ds.PixelData = rng.integers(0, 4, (size[1], size[0]), "u1").tobytes()
        ds["PixelData"].VR = "OB"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        out.append(ds)
    return out


def settle(ds, number):
    """Dates are fixed, UIDs that a library made at random are numbered: written twice, the files are equal."""
    made = {}
    for e in ds.iterall():
        if e.VR in ("DA", "TM", "DT") and e.value:
            e.value = {"DA": "19000104", "TM": "030405", "DT": "19000104030405"}[e.VR]
        if (
            e.VR == "UI"
            and isinstance(e.value, str)
            and e.value
            and not e.value.startswith((ROOT, "1.2.840.10008."))
        ):
            e.value = made.setdefault(e.value, ROOT + f"9.{number}.{len(made) + 1}")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID


def data(ds):
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def packed(mask):
    return base64.b64encode(
        zlib.compress(np.packbits(np.asarray(mask, bool)).tobytes(), 9)
    ).decode()


class Corpus:
    def __init__(self, rng, folder):
        self.rng, self.folder = rng, Path(folder)
        self.objects, self.expected, self.resampled = {}, {}, {}
        s = 0.1
        c = np.sqrt(1 - s * s)
        turned = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ np.array(
            [[1, 0, 0], [0, c, -s], [0, s, c]]
        )
        self.series = {}
        for name, slices in {
            "square": ct(
                1, (24, 24, 7), (0.8, 0.8, 2.5), (1, 0, 0, 0, 1, 0), (-10.5, 7.25, -31), rng
            ),
            "rotated": ct(
                2,
                (29, 21, 6),
                (0.7, 0.9, 3),
                (*turned[:, 0], *turned[:, 1]),
                (12.25, -40.5, 88),
                rng,
            ),
        }.items():
            self.add_series(name, slices)

    def shape(self, series):
        s = self.series[series]
        return len(s), s[0].Rows, s[0].Columns

    def add(self, name, content, series, parts, **options):
        self.objects[name] = content
        self.expected[name] = {
            "series": series,
            "parts": [
                {"number": n, "name": t, "mask": packed(m), "voxels": int(np.sum(m))}
                for n, t, m in parts
            ],
            **options,
        }

    def add_series(self, name, slices):
        self.series[name] = slices
        (self.folder / name).mkdir()
        for k, ds in enumerate(slices):
            ds.save_as(self.folder / name / f"{k}.dcm", enforce_file_format=True)

    # masks

    def blobs(self, shape, n=4, radius=6):
        """Balls with holes, islands in the holes, single pixels, diagonals and lines."""
        mask = np.zeros(shape, bool)
        z, y, x = np.indices(shape)
        for _ in range(n):
            c = [self.rng.uniform(0, k) for k in shape]
            r = self.rng.uniform(2, radius)
            d = np.sqrt(((z - c[0]) * 2) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2)
            mask |= d < r
            mask &= ~((d < 0.6 * r) & (d > 0.25 * r))
        mask ^= self.rng.random(shape) < 0.02
        i = np.arange(6)
        z0, y0, x0 = (
            self.rng.integers(0, shape[0]),
            self.rng.integers(0, shape[1] - 6),
            self.rng.integers(0, shape[2] - 6),
        )
        mask[z0, y0 + i, x0 + i] = True
        mask[z0, y0, x0 + i] = True
        return mask

    def resample(self, name):
        """What SimpleITK's nearest neighbours make of an object's masks on another grid."""
        series = self.series[self.expected[name]["series"]]
        first = series[0]
        o = np.array(first.ImageOrientationPatient, float)
        spacing = [
            float(first.PixelSpacing[1]),
            float(first.PixelSpacing[0]),
            float(first.SliceThickness),
        ]
        direction = np.stack([o[:3], o[3:], np.cross(o[:3], o[3:])], 1)
        turn = sitk.Euler3DTransform((0, 0, 0), *self.rng.uniform(-0.2, 0.2, 3)).GetMatrix()
        grid = sitk.Image([31, 27, 11], sitk.sitkUInt8)
        grid.SetSpacing([0.63, 0.77, 1.9])
        grid.SetDirection((np.reshape(turn, (3, 3)) @ direction).ravel())
        corner = np.array(first.ImagePositionPatient, float)
        grid.SetOrigin(corner + direction @ self.rng.uniform(-1, 1, 3))
        shape = self.shape(self.expected[name]["series"])
        parts = []
        for p in self.expected[name]["parts"]:
            bits = np.frombuffer(zlib.decompress(base64.b64decode(p["mask"])), "u1")
            image = sitk.GetImageFromArray(np.unpackbits(bits)[: np.prod(shape)].reshape(shape))
            image.SetOrigin(corner)
            image.SetSpacing(spacing)
            image.SetDirection(direction.ravel())
            m = sitk.GetArrayFromImage(
                sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
            )
            parts.append({"name": p["name"], "mask": packed(m), "voxels": int(m.sum())})
        self.resampled[name] = {
            "size": list(grid.GetSize()), "spacing": list(grid.GetSpacing()), "origin": list(grid.GetOrigin()),
            "direction": list(grid.GetDirection()), "parts": parts,
        }  # fmt: skip

    # RTSTRUCT by rt-utils

    def rt_utils(self):
        from rt_utils import RTStructBuilder, image_helper

        shape = self.shape("square")
        for name, options in {
            "rtutils": {},
            "rtutils-exact": {"approximate_contours": False},
            "rtutils-pin": {"use_pin_hole": True},
        }.items():
            rt = RTStructBuilder.create_new(str(self.folder / "square"))
            parts = []
            for i in range(3):
                mask = self.blobs(shape)
                if options.get("use_pin_hole"):
                    # the hole's line must not leave the image
                    mask = np.zeros(shape, bool)
                    mask[1:6, 3:20, 2 + i : 20] = True
                    mask[2:4, 8:15, 6:12] = False
                    mask[2:4, 10:13, 8:10] = i > 0
                title = f"{MARKER} {'abc'[i]}"
                rt.add_roi(mask=np.moveaxis(mask, 0, 2), name=title, **options)
                if options.get("use_pin_hole"):
                    mask = np.stack(
                        [
                            image_helper.create_pin_hole_mask(m, True).astype(bool)
                            if m.any()
                            else m
                            for m in mask
                        ]
                    )
                parts.append((i + 1, title, mask))
            settle(rt.ds, len(self.objects))
            self.add(name + ".dcm", data(rt.ds), "square", parts)

    # RTSTRUCT by pydicom, read by dcmrtstruct2nii

    def star(self, center, radius):
        """A closed path with random angles; where the radius varies much it is far from convex."""
        n = self.rng.integers(5, 14)
        a = np.sort(self.rng.uniform(0, 2 * np.pi, n))
        r = radius * self.rng.uniform(0.3, 1, n)
        return np.stack([center[0] + r * np.cos(a), center[1] + r * np.sin(a)], 1)

    def clear(self, path, shape):
        """Whether all centres keep away from a path in pixels (x, y)."""
        y, x = np.indices(shape[1:])
        p = np.stack([x.ravel(), y.ravel()], 1)
        for a, b in zip(path, np.roll(path, -1, 0), strict=True):
            d = b - a
            k = np.clip((p - a) @ d / max(d @ d, 1e-30), 0, 1)
            if np.min(np.hypot(*(p - a - k[:, None] * d).T)) < KEEP:
                return False
        return True

    def draw(self, make, shape):
        while True:
            path = make()
            if self.clear(path, shape):
                return path

    def rtstruct(self, series, rois):
        """rois: name, [(type, z, points in pixels)]"""
        slices = self.series[series]
        first = slices[0]
        ds = Dataset()
        for e in (
            "PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate StudyTime StudyID AccessionNumber "
            "ReferringPhysicianName FrameOfReferenceUID SpecificCharacterSet"
        ).split():
            setattr(ds, e, first.get(e))
        ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"
        ds.SOPInstanceUID = ROOT + f"5.{len(self.objects) + 1}"
        ds.SeriesInstanceUID = ROOT + f"6.{len(self.objects) + 1}"
        ds.StructureSetLabel = ds.StructureSetName = ds.Manufacturer = ds.SeriesDescription = MARKER
        ds.StructureSetDate, ds.StructureSetTime = "19000103", "020304"
        study, refers, frame = Dataset(), Dataset(), Dataset()
        refers.SeriesInstanceUID = first.SeriesInstanceUID
        refers.ContourImageSequence = [self.image(s) for s in slices]
        study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = (
            "1.2.840.10008.3.1.2.3.1",
            first.StudyInstanceUID,
        )
        study.RTReferencedSeriesSequence = [refers]
        frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = (
            first.FrameOfReferenceUID,
            [study],
        )
        ds.ReferencedFrameOfReferenceSequence = [frame]
        ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
        o = np.array(first.ImageOrientationPatient, float)
        normal = np.cross(o[:3], o[3:])
        spacing = [float(x) for x in first.PixelSpacing]
        for i, (name, contours) in enumerate(rois):
            roi, item, seen = Dataset(), Dataset(), Dataset()
            roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = (
                i + 1,
                name,
                first.FrameOfReferenceUID,
            )
            roi.ROIGenerationAlgorithm, roi.ROIDescription = "MANUAL", MARKER
            item.ReferencedROINumber, item.ROIDisplayColor, item.ContourSequence = (
                i + 1,
                [255, 0, 0],
                [],
            )
            for kind, z, points in contours:
                c = Dataset()
                at = (
                    np.array(first.ImagePositionPatient, float)
                    + z * float(first.SliceThickness) * normal
                )
                p = at + points[:, :1] * spacing[1] * o[:3] + points[:, 1:2] * spacing[0] * o[3:]
                if points.shape[1] > 2:
                    p = p + points[:, 2:] * normal
                c.ContourGeometricType, c.NumberOfContourPoints = kind, len(p)
                c.ContourData = [
                    np.format_float_positional(x, precision=8, trim="-") for x in p.ravel()
                ]
                c.ContourImageSequence = [
                    self.image(slices[min(max(int(z + 0.5), 0), len(slices) - 1)])
                ]
                item.ContourSequence.append(c)
            seen.ObservationNumber = seen.ReferencedROINumber = i + 1
            seen.RTROIInterpretedType, seen.ROIInterpreter, seen.ROIObservationLabel = (
                "ORGAN",
                MARKER,
                MARKER,
            )
            ds.StructureSetROISequence.append(roi)
            ds.ROIContourSequence.append(item)
            ds.RTROIObservationsSequence.append(seen)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        return ds

    @staticmethod
    def image(ds):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        return item

    def read_by_dcmrtstruct2nii(self, ds, series, names):
        with contextlib.redirect_stdout(io.StringIO()):
            from dcmrtstruct2nii import dcmrtstruct2nii
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            ds.save_as(folder + "/r.dcm", enforce_file_format=True)
            dcmrtstruct2nii(
                folder + "/r.dcm",
                str(self.folder / series),
                folder + "/out",
                convert_original_dicom=False,
            )
            masks = []
            for name in names:
                safe = name.replace(" ", "-")
                masks.append(
                    sitk.GetArrayFromImage(sitk.ReadImage(f"{folder}/out/mask_{safe}.nii.gz")) > 0
                )
        return masks

    def stars(self):
        for series in self.series:
            shape = self.shape(series)
            rois = []
            for i in range(4):
                contours = []
                for z in range(shape[0]):
                    for _ in range(self.rng.integers(0, 4)):
                        center = [
                            self.rng.uniform(-2, shape[2] + 2),
                            self.rng.uniform(-2, shape[1] + 2),
                        ]
                        path = self.draw(
                            lambda c=center: self.star(c, self.rng.uniform(1.5, 9)), shape
                        )
                        contours.append(
                            ("CLOSED_PLANAR", z + self.rng.uniform(-0.3, 0.3) * (i > 1), path)
                        )
                rois.append((f"{MARKER} {'abcd'[i]}", contours))
            names = [n for n, _ in rois]
            masks = self.read_by_dcmrtstruct2nii(self.rtstruct(series, rois), series, names)
            parts = list(zip(range(1, 5), names, masks, strict=True))
            self.add(f"stars-{series}.dcm", data(self.rtstruct(series, rois)), series, parts)
        # the same contours as XOR, which dcmrtstruct2nii leaves out, beside points and lines
        other = [(n, [("CLOSEDPLANAR_XOR", z, p) for _, z, p in c]) for n, c in rois]
        for _, c in other[:2]:
            c.append(("POINT", 0, np.array([[3.0, 3.0]])))
            c.append(("OPEN_PLANAR", 0, np.array([[3.0, 3.0], [9, 9], [3, 9]])))
        self.add("stars-xor.dcm", data(self.rtstruct(series, other)), series, parts)

    def keyholes(self):
        """A ring joined by a keyhole; the same with a ring inside; and both as contours of their own."""
        series = "rotated"
        shape = self.shape(series)

        def circle(c, r, n, start):
            a = start + np.linspace(0, 2 * np.pi, n, endpoint=False)
            return np.stack([c[0] + r * np.cos(a), c[1] + r * np.sin(a)], 1)

        def rings():
            c, start = self.rng.uniform(10, 12, 2), self.rng.uniform(0, 6)
            return [circle(c, r, self.rng.integers(9, 20), start) for r in (9.3, 6.1, 3.2)]

        def joined(a, b):
            return np.concatenate([a, a[:1], b[::-1], b[-1:]])

        apart, keyhole, island = [], [], []
        for z in range(1, 5):
            while True:
                a, b, c = rings()
                if all(self.clear(p, shape) for p in (a, b, c, joined(a, b[::-1]))):
                    break
            apart += [("CLOSED_PLANAR", z, p) for p in (a, b, c)]
            ring = np.concatenate([a, a[:1], b[:1], b[:0:-1], b[:1]])
            keyhole.append(("CLOSED_PLANAR", z, ring))
            island += [("CLOSED_PLANAR", z, ring), ("CLOSED_PLANAR", z, c)]
        rois = [
            (f"{MARKER} apart", apart),
            (f"{MARKER} keyhole", keyhole),
            (f"{MARKER} island", island),
        ]
        names = [n for n, _ in rois]
        masks = self.read_by_dcmrtstruct2nii(self.rtstruct(series, rois), series, names)
        self.add(
            "keyholes.dcm",
            data(self.rtstruct(series, rois)),
            series,
            list(zip((1, 2, 3), names, masks, strict=True)),
        )

    # SEG

    def describe(self, i, kind="AUTOMATIC"):
        return hd.seg.SegmentDescription(
            segment_number=i + 1,
            segment_label=f"{MARKER} {'abc'[i]}",
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.LymphNode,
            algorithm_type=kind,
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                MARKER, codes.DCM.ArtificialIntelligence, "1"
            ),
        )

    def highdicom(self, series, array, kind, n, **options):
        return self.settled(
            hd.seg.Segmentation(
                source_images=self.series[series],
                pixel_array=array,
                segmentation_type=kind,
                segment_descriptions=[self.describe(i) for i in range(n)],
                series_instance_uid=ROOT + f"7.{len(self.objects) + 1}",
                series_number=300,
                sop_instance_uid=ROOT + f"8.{len(self.objects) + 1}",
                instance_number=1,
                manufacturer=MARKER,
                manufacturer_model_name=MARKER,
                software_versions="1",
                device_serial_number=MARKER,
                series_description=MARKER,
                **options,
            )
        )

    def settled(self, ds):
        settle(ds, len(self.objects))
        return ds

    def parts(self, masks):
        return [(i + 1, f"{MARKER} {'abc'[i]}", m) for i, m in enumerate(masks)]

    def seg(self):
        for series in self.series:
            shape = self.shape(series)
            masks = [self.blobs(shape) for _ in range(3)]
            for m in masks:
                m[self.rng.integers(0, shape[0])] = False
            stack = np.stack(masks, -1).astype("u1")
            ds = self.highdicom(series, stack, "BINARY", 3)
            self.add(f"binary-{series}.dcm", data(ds), series, self.parts(masks))
            self.add(
                f"binary-all-{series}.dcm",
                data(self.highdicom(series, stack, "BINARY", 3, omit_empty_frames=False)),
                series,
                self.parts(masks),
            )
            self.add(
                f"binary-shuffled-{series}.dcm", data(self.shuffled(ds)), series, self.parts(masks)
            )
        deflated = copy.deepcopy(ds)
        deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        self.add("binary-deflated.dcm", data(deflated), series, self.parts(masks))
        self.add("binary-big-endian.dcm", self.dcmconv(data(ds), "+tb"), series, self.parts(masks))

        soft = np.clip(stack * self.rng.uniform(0.2, 1, stack.shape), 0, 1)
        soft[self.rng.random(stack.shape) < 0.02] = 0.5
        for name, options in {
            "": {},
            "-rle": {"transfer_syntax_uid": RLELossless},
            "-jpegls": {"transfer_syntax_uid": JPEGLSLossless},
            "-100": {"max_fractional_value": 100},
        }.items():
            ds = self.highdicom(
                series, soft, "FRACTIONAL", 3, fractional_type="PROBABILITY", **options
            )
            most = options.get("max_fractional_value", 255)
            for threshold in (0.5, 0.8)[: 1 + (name == "")]:
                stored = np.around(soft * most)  # as highdicom stores it
                found = [stored[..., i] / most >= threshold for i in range(3)]
                self.add(
                    f"fractional{name}{threshold if threshold > 0.5 else ''}.dcm",
                    data(ds),
                    series,
                    self.parts(found),
                    threshold=threshold,
                )

        labels = np.zeros(shape, "u1")
        for i, m in enumerate(masks):
            labels[m] = i + 1
        last = [labels == i + 1 for i in range(3)]
        for name, options in {
            "": {},
            "-rle": {"transfer_syntax_uid": RLELossless},
            "-jpegls": {"transfer_syntax_uid": JPEGLSLossless},
        }.items():
            ds = self.highdicom(series, labels, "LABELMAP", 3, **options)
            self.add(f"labelmap{name}.dcm", data(ds), series, self.parts(last))
        # numbers above 255 need 16 bits
        described = [self.describe(i) for i in range(3)]
        numbers = (2, 300, 40000)
        for d, n in zip(described, numbers, strict=True):
            d.SegmentNumber = n
        wide = np.zeros(shape, "u2")
        for n, m in zip(numbers, last, strict=True):
            wide[m] = n
        for name, options in {"": {}, "-rle": {"transfer_syntax_uid": RLELossless}}.items():
            ds = self.settled(hd.seg.Segmentation(
                self.series[series], wide, "LABELMAP", described, ROOT + f"7.{len(self.objects) + 1}", 300,
                ROOT + f"8.{len(self.objects) + 1}", 1, MARKER, MARKER, "1", MARKER, **options,
            ))  # fmt: skip
            parts = [(n, f"{MARKER} {t}", m) for n, t, m in zip(numbers, "abc", last, strict=True)]
            self.add(f"labelmap16{name}.dcm", data(ds), series, parts)
        self.add(
            "labelmap16-big-endian.dcm",
            self.dcmconv(self.objects["labelmap16.dcm"], "+tb"),
            series,
            parts,
        )

        self.turned("rotated")
        self.dcmqi("rotated")

    def jpeg2000(self):
        """Frames that highdicom compresses with pylibjpeg's OpenJPEG, which wants 32 pixels."""
        series = "large"
        slices = ct(4, (37, 33, 3), (0.8, 0.7, 2), (0, 1, 0, 0, 0, -1), (9.5, -7, 21), self.rng)
        self.add_series(series, slices)
        shape = self.shape(series)
        masks = [self.blobs(shape) for _ in range(3)]
        labels = np.zeros(shape, "u1")
        for i, m in enumerate(masks):
            labels[m] = i + 1
        last = [labels == i + 1 for i in range(3)]
        soft = np.clip(np.stack(masks, -1) * self.rng.uniform(0.2, 1, (*shape, 3)), 0, 1)
        found = [np.around(soft[..., i] * 255) / 255 >= 0.5 for i in range(3)]
        syntax = {"transfer_syntax_uid": JPEG2000Lossless}
        ds = self.highdicom(series, soft, "FRACTIONAL", 3, fractional_type="PROBABILITY", **syntax)
        self.add("fractional-j2k.dcm", data(ds), series, self.parts(found))
        ds = self.highdicom(series, labels, "LABELMAP", 3, **syntax)
        self.add("labelmap-j2k.dcm", data(ds), series, self.parts(last))
        described = [self.describe(i) for i in range(3)]
        numbers = (2, 300, 40000)
        for d, n in zip(described, numbers, strict=True):
            d.SegmentNumber = n
        wide = np.array([0, *numbers], "u2")[labels]
        ds = self.settled(hd.seg.Segmentation(
            slices, wide, "LABELMAP", described, ROOT + f"7.{len(self.objects) + 1}", 300,
            ROOT + f"8.{len(self.objects) + 1}", 1, MARKER, MARKER, "1", MARKER, **syntax,
        ))  # fmt: skip
        parts = [(n, f"{MARKER} {t}", m) for n, t, m in zip(numbers, "abc", last, strict=True)]
        self.add("labelmap16-j2k.dcm", data(ds), series, parts)

    def jitter(self):
        """Slices that miss the regular grid by less than what is refused: 4 % of the spacing, 0.2 pixel."""
        size, spacing = (19, 17, 6), (0.7, 0.9, 3)
        row, column = np.array([0.8, 0.6, 0]), np.array([-0.6, 0.8, 0])
        share = self.rng.uniform(-1, 1, (size[2], 3)) * [0.2, 0.2, 0.04]
        share[0] = share[-1, 2] = 0
        off = share * spacing @ np.array([row, column, np.cross(row, column)])
        slices = ct(3, size, spacing, (*row, *column), (-3.5, 8.25, 40), self.rng, off)
        self.add_series("jitter", slices)
        shape = self.shape("jitter")
        masks = [self.blobs(shape) for _ in range(2)]
        stack = np.stack(masks, -1).astype("u1")
        parts = self.parts(masks)
        self.add(
            "jitter-binary.dcm", data(self.highdicom("jitter", stack, "BINARY", 2)), "jitter", parts
        )
        at = [
            np.array(s.ImagePositionPatient, float) + (size[1] - 1) * spacing[1] * column
            for s in slices
        ]
        ds = self.highdicom(
            "jitter", stack[:, ::-1], "BINARY", 2,
            plane_positions=[hd.PlanePositionSequence("PATIENT", p) for p in at],
            plane_orientation=hd.PlaneOrientationSequence("PATIENT", (*row, *-column)),
            pixel_measures=hd.PixelMeasuresSequence((spacing[1], spacing[0]), spacing[2], spacing[2]),
        )  # fmt: skip
        self.add("jitter-flipped.dcm", data(ds), "jitter", parts)

    def dcmconv(self, content, option):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "a").write_bytes(content)
            subprocess.run(
                ["dcmconv", option, f"{folder}/a", f"{folder}/b"], check=True, capture_output=True
            )
            return Path(folder, "b").read_bytes()

    def shuffled(self, ds):
        """The frames in another order, their bits and functional groups alike."""
        ds = copy.deepcopy(ds)
        n = ds.NumberOfFrames
        size = ds.Rows * ds.Columns
        bits = np.unpackbits(np.frombuffer(ds.PixelData, "u1"), bitorder="little")[
            : n * size
        ].reshape(n, size)
        order = self.rng.permutation(n)
        raw = np.packbits(bits[order].ravel(), bitorder="little").tobytes()
        ds.PixelData = raw + b"\0" * (len(raw) % 2)
        ds.PerFrameFunctionalGroupsSequence = [
            ds.PerFrameFunctionalGroupsSequence[i] for i in order
        ]
        return ds

    def turned(self, series):
        """Frames along other axes of the same voxels: coronal, and axial ones that are flipped."""
        shape = self.shape(series)
        slices = self.series[series]
        masks = [self.blobs(shape) for _ in range(2)]
        stack = np.stack(masks, -1).astype("u1")
        first = slices[0]
        o = np.array(first.ImageOrientationPatient, float)
        dx, dy = o[:3] * float(first.PixelSpacing[1]), o[3:] * float(first.PixelSpacing[0])
        dz = np.cross(o[:3], o[3:]) * float(first.SliceThickness)
        origin = np.array(first.ImagePositionPatient, float)

        def make(name, frames, at, row, column, spacing, between):
            unit = [v / np.linalg.norm(v) for v in (row, column)]
            ds = self.highdicom(
                series, frames, "BINARY", 2,
                plane_positions=[hd.PlanePositionSequence("PATIENT", p) for p in at],
                plane_orientation=hd.PlaneOrientationSequence("PATIENT", np.concatenate(unit)),
                pixel_measures=hd.PixelMeasuresSequence(spacing, between, between),
            )  # fmt: skip
            self.add(name, data(ds), series, self.parts(masks))

        sx, sy, sz = (float(np.linalg.norm(v)) for v in (dx, dy, dz))
        z, y, x = shape
        # rows run along z downwards, columns of pixels along x backwards
        make("turned-coronal.dcm", stack.transpose(1, 0, 2, 3)[:, ::-1, ::-1],
             [origin + j * dy + (x - 1) * dx + (z - 1) * dz for j in range(y)], -dx, -dz, (sz, sx), sy)  # fmt: skip
        make(
            "turned-flipped.dcm",
            stack[:, ::-1],
            [origin + k * dz + (y - 1) * dy for k in range(z)],
            dx,
            -dy,
            (sy, sx),
            sz,
        )
        make(
            "turned-transposed.dcm",
            stack.transpose(0, 2, 1, 3),
            [origin + k * dz for k in range(z)],
            dy,
            dx,
            (sx, sy),
            sz,
        )

    def dcmqi(self, series):
        """itkimage2segimage, which gets one image for all segments and one for each."""
        shape = self.shape(series)
        a, b = self.blobs(shape), self.blobs(shape)
        image = sitk.ReadImage(
            sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(self.folder / series))
        )
        with tempfile.TemporaryDirectory() as folder:
            names = []
            for i, m in enumerate((a, b)):
                im = sitk.GetImageFromArray(m.astype("u1") * (i + 1))
                im.CopyInformation(image)
                names.append(f"{folder}/{i}.nrrd")
                sitk.WriteImage(im, names[-1])
            code = {
                "CodeValue": "59441001",
                "CodingSchemeDesignator": "SCT",
                "CodeMeaning": "Lymph node",
            }
            kind = {
                "CodeValue": "91723000",
                "CodingSchemeDesignator": "SCT",
                "CodeMeaning": "Anatomical structure",
            }
            segments = [
                {
                    "labelID": i + 1, "SegmentDescription": f"{MARKER} {'ab'[i]}", "SegmentLabel": f"{MARKER} {'ab'[i]}",
                    "SegmentAlgorithmType": "MANUAL", "SegmentedPropertyCategoryCodeSequence": kind, "SegmentedPropertyTypeCodeSequence": code,
                }
                for i in range(2)
            ]  # fmt: skip
            about = {
                "ContentCreatorName": MARKER, "ClinicalTrialSeriesID": "1", "ClinicalTrialTimePointID": "1", "SeriesDescription": MARKER,
                "SeriesNumber": "300", "InstanceNumber": "1", "BodyPartExamined": MARKER, "segmentAttributes": [[s] for s in segments],
            }  # fmt: skip
            Path(folder, "meta.json").write_text(json.dumps(about))
            program = Path(dcmqi.__file__).parent / "bin" / "itkimage2segimage"
            for name, options in {"dcmqi": [], "dcmqi-all": ["--skip", "0"]}.items():
                subprocess.run(
                    [program, "--inputImageList", ",".join(names), "--inputDICOMDirectory", str(self.folder / series), "--inputMetadata",
                     f"{folder}/meta.json", "--outputDICOM", f"{folder}/{name}.dcm", *options],
                    check=True, capture_output=True,
                )  # fmt: skip
                self.add(
                    name + ".dcm",
                    Path(folder, name + ".dcm").read_bytes(),
                    series,
                    self.parts((a, b)),
                )


def archive(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        for name, content in files.items():
            z.writestr(
                zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED, 9
            )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=14)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        c = Corpus(np.random.default_rng(args.seed), folder)
        c.rt_utils()
        c.stars()
        c.keyholes()
        c.seg()
        for name in (
            "binary-square.dcm",
            "binary-shuffled-rotated.dcm",
            "turned-coronal.dcm",
            "labelmap.dcm",
        ):
            c.resample(name)
        c.jpeg2000()
        c.jitter()
        archive(
            args.out / "ct.zip",
            {f"{n}/{k:02}.dcm": data(ds) for n, s in c.series.items() for k, ds in enumerate(s)},
        )
    archive(args.out / "objects.zip", c.objects)
    versions = {m: __import__("importlib.metadata").metadata.version(m)
                for m in ("pydicom", "highdicom", "rt-utils", "dcmrtstruct2nii", "dcmqi", "pyjpegls", "pylibjpeg-openjpeg", "SimpleITK")}  # fmt: skip
    expected = {
        "meta": {"versions": versions, "seed": args.seed},
        "series": {n: list(c.shape(n))[::-1] for n in c.series},
        "objects": c.expected,
        "resampled": c.resampled,
    }
    (args.out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
