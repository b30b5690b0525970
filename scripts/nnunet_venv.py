#!/usr/bin/env python3
"""Creates the Python environment with nnU-Net 2.5.1, MONAI 1.3.0 and PEFT 0.14.0 that tests compare
with, and prints its interpreter. Contents: scripts/requirements-nnunet.txt; location: see environments.py.
"""

from environments import Environment

NNUNET = Environment(
    "nnunet",
    "requirements-nnunet.txt",
    "about 3 GB are fetched, 6 GB on disk, some minutes",
    10,
    "import torch, nnunetv2, SimpleITK, skimage, dynamic_network_architectures, monai, peft, safetensors; "
    "print('torch', torch.__version__)",
)

if __name__ == "__main__":
    NNUNET.main()
