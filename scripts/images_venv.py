#!/usr/bin/env python3
"""Creates the Python environment with SimpleITK, pydicom and the readers and writers of DICOM objects
that make test-images compares with, and prints its interpreter. Contents:
scripts/requirements-images.txt; location: see environments.py.
"""

from environments import Environment

IMAGES = Environment(
    "images",
    "requirements-images.txt",
    "about 400 MB are fetched, 1 GB on disk, a minute",
    3,
    "import SimpleITK, pydicom, nrrd, highdicom, dcmqi, rt_utils, plastimatch, gdcm, imagecodecs, PIL, glymur, rle, jpeg_ls; "
    "import openjpeg, libjpeg, scipy.ndimage; pydicom.read_file = pydicom.dcmread; import dcmrtstruct2nii",
    options=["--no-deps"],
)

if __name__ == "__main__":
    IMAGES.main()
