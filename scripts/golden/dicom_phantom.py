"""Writes a phantom CT as a DICOM series with pydicom, a zip.

    dicom_phantom.py CT.nii.gz OUT.zip

Needs pydicom 3.0.2 and SimpleITK. Slices are stored + intercept -1024, in files whose names are in another order than they are.
Spacing, origin and directions are written with eight digits, so that a NIfTI made of the series has the float32 of the original.
Texts that no reader needs are the marker MARKER.
"""

import io
import sys
import zipfile

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

MARKER = "ZQMARKERQZ"
ROOT = "1.2.826.0.1.3680043.8.498.15."
TEXTS = (
    "PatientName PatientID PatientComments InstitutionName StudyDescription SeriesDescription AccessionNumber ProtocolName "
    "ReferringPhysicianName OperatorsName StationName StudyID ImageComments InstitutionAddress DeviceSerialNumber "
    "PerformingPhysicianName BodyPartExamined"
).split()


def digits(values):
    return [f"{v:.8g}" for v in values]


def encoded(image, values, k):
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for name in TEXTS:
        setattr(ds, name, MARKER)
    ds.StudyDate, ds.StudyTime = "19700101", "123456"
    ds.PatientBirthDate, ds.PatientSex = "19000101", "O"
    item = Dataset()
    item.CodeValue = item.CodeMeaning = item.CodingSchemeDesignator = MARKER
    ds.ProcedureCodeSequence = Sequence([item])
    ds.add_new(0x00090010, "LO", MARKER)
    ds.add_new(0x00091001, "LT", MARKER)
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{ROOT}4.{k + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
        ROOT + "1",
        ROOT + "2",
        ROOT + "3",
    )
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", 3, k + 1
    direction = np.array(image.GetDirection()).reshape(3, 3)
    x, y, z = image.GetSpacing()
    ds.ImagePositionPatient = digits(image.TransformIndexToPhysicalPoint((0, 0, k)))
    ds.ImageOrientationPatient = digits([*direction[:, 0], *direction[:, 1]])
    ds.PixelSpacing, ds.SliceThickness = digits([y, x]), digits([z])[0]
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope = -1024, 1
    ds.PixelData = (values.astype("i4") + 1024).astype("<u2").tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    to = io.BytesIO()
    pydicom.dcmwrite(to, ds, enforce_file_format=True)
    return to.getvalue()


def main():
    image = sitk.ReadImage(sys.argv[1])
    values = sitk.GetArrayFromImage(image)
    with zipfile.ZipFile(sys.argv[2], "w") as z:
        for k in range(len(values)):
            info = zipfile.ZipInfo(f"IM{7 * k % len(values):04d}", (2020, 1, 1, 0, 0, 0))
            info.external_attr = 0o100644 << 16
            z.writestr(info, encoded(image, values[k], k), zipfile.ZIP_DEFLATED, 9)


main()
