"""Describes a raw dataset folder with nnU-Net, SimpleITK and scipy: JSON on stdout.

phantom_dataset.py FOLDER: nnU-Net's verify_dataset_integrity, then of every image size, spacing, origin, direction, type and range, and of its
label map the 26-connected components with their label and number of voxels.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(name, "/nonexistent")


def main(folder):
    import numpy as np
    import SimpleITK as sitk
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
    from scipy import ndimage

    with contextlib.redirect_stdout(sys.stderr):
        verify_dataset_integrity(str(folder), 1)  # raises if something is wrong
    cases = {}
    for part in "Tr", "Ts":
        for path in sorted((folder / f"images{part}").glob("*_0000.nii.gz")):
            name = path.name.removesuffix("_0000.nii.gz")
            image = sitk.ReadImage(str(path))
            label = sitk.ReadImage(str(folder / f"labels{part}" / f"{name}.nii.gz"))
            assert label.GetSize() == image.GetSize() and label.GetSpacing() == image.GetSpacing()
            assert (
                label.GetOrigin() == image.GetOrigin()
                and label.GetDirection() == image.GetDirection()
            )
            pixels, seg = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(label)
            numbered, count = ndimage.label(seg > 0, np.ones((3, 3, 3)))
            components = []
            for k in range(1, count + 1):
                values = seg[numbered == k]
                assert (values == values[0]).all()
                components.append({"Label": int(values[0]), "Voxels": int(values.size)})
            cases[name] = {
                "Size": image.GetSize(),
                "Spacing": image.GetSpacing(),
                "Origin": image.GetOrigin(),
                "Direction": image.GetDirection(),
                "Type": image.GetPixelIDTypeAsString(),
                "LabelType": label.GetPixelIDTypeAsString(),
                "Least": int(pixels.min()),
                "Most": int(pixels.max()),
                "Components": components,
            }
    json.dump({"Verified": True, "Cases": cases}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
