"""Writes NIfTI files and, in expected.json, what nnU-Net's reader classes (over the real SimpleITK
and nibabel) read from them: hash of the float32 array, spacing, properties, type of the pixels.

    nifti_corpus.py OUT [--random N] [--seed S]

Without --random it writes the small fixed corpus of testdata/golden/nifti; with it, N files of
random headers and pixels.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import sys

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--random", type=int, default=0)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()
out = args.out
os.makedirs(out, exist_ok=True)
rng = np.random.default_rng(args.seed)
nib.imageglobals.logger.setLevel(100)
sitk.ProcessObject_GlobalWarningDisplayOff()
expected = {}
CODES = {
    "u1": 2,
    "i2": 4,
    "i4": 8,
    "f4": 16,
    "f8": 64,
    "i1": 256,
    "u2": 512,
    "u4": 768,
    "i8": 1024,
    "u8": 1280,
}


def digest(a):
    return hashlib.sha256(
        np.ascontiguousarray(a.astype(a.dtype.newbyteorder("<"))).tobytes()
    ).hexdigest()


def plain(v):
    if isinstance(v, dict):
        return {k: plain(x) for k, x in v.items()}
    return [repr(float(x)) for x in np.ravel(v)]


def read(path):
    """The result of each reader class for a file, or its error."""
    result = {}
    for cls in (SimpleITKIO, NibabelIO, NibabelIOWithReorient):
        try:
            with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
                a, props = cls().read_images((path,))
            result[cls.__name__] = {
                "shape": list(a.shape),
                "sha256": digest(a),
                "props": {k: plain(v) for k, v in props.items()},
            }
            if cls is SimpleITKIO:
                native = sitk.GetArrayFromImage(sitk.ReadImage(path))
                result[cls.__name__] |= {"type": native.dtype.name, "native": digest(native)}
        except Exception as e:
            result[cls.__name__] = {"error": re.sub(r"0x[0-9a-f]+|\S*/", "", str(e))[-200:]}
    return result


def values(dtype, shape):
    dt = np.dtype(dtype)
    if dt.kind == "f":
        return (rng.normal(size=shape) * 500).astype(dt)
    info = np.iinfo(dt)
    a = rng.integers(info.min, info.max, shape, dt, endpoint=True)
    small = rng.integers(0, 100, shape).astype(dt)
    a = np.where(rng.random(shape) < 0.5, a, small)
    if dt.itemsize == 8:  # float32 of this depends on whether it was rounded to float64 before
        a.flat[0] = 2**61 + 2**37 + 1
    return a


def rotation():
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.diag(r))


def header(version, order, dtype, shape, **set):
    cls = nib.Nifti1Header if version == 1 else nib.Nifti2Header
    h = cls(endianness=order, check=False)
    s = h._structarr
    s["magic"] = h.single_magic
    s["vox_offset"] = h.single_vox_offset
    s["datatype"], s["bitpix"] = CODES[dtype], 8 * np.dtype(dtype).itemsize
    s["dim"] = [len(shape)] + list(shape) + [1] * (7 - len(shape))
    s["scl_slope"], s["scl_inter"] = 1, 0
    for k, v in set.items():
        if k == "pixdim":
            for i, x in v.items():
                s["pixdim"][i] = x
        else:
            s[k] = v
    return h


def write(name, h, a, extension=b"", note=None):
    """Writes header and pixels; a has the axes (x, y, z, …)."""
    s = h._structarr.copy()
    body = b"\0\0\0\0"
    if extension:
        n = (len(extension) + 8 + 15) // 16 * 16
        body = (
            b"\1\0\0\0"
            + np.array([n, 6], h.endianness + "i4").tobytes()
            + extension.ljust(n - 8, b"\0")
        )
        s["vox_offset"] += n
    content = s.tobytes() + body + a.astype(a.dtype.newbyteorder(h.endianness)).tobytes(order="F")
    path = f"{out}/{name}"
    with gzip.GzipFile(path, "wb", mtime=0) if name.endswith(".gz") else open(path, "wb") as f:
        f.write(content)
    e = read(path)
    if isinstance(
        h, nib.Nifti2Header
    ):  # SimpleITK does not read NIfTI-2: expect its result for the same header as NIfTI-1
        twin = nib.Nifti1Header(endianness=h.endianness, check=False)
        for k in twin._structarr.dtype.names:
            if k not in ("sizeof_hdr", "magic", "vox_offset") and k in s.dtype.names:
                twin._structarr[k] = s[k]
        twin._structarr["magic"], twin._structarr["vox_offset"] = twin.single_magic, 352
        path = f"{out}/twin.nii"
        with open(path, "wb") as f:
            f.write(
                twin._structarr.tobytes()
                + b"\0\0\0\0"
                + a.astype(a.dtype.newbyteorder(h.endianness)).tobytes(order="F")
            )
        e["SimpleITKIO"] = read(path)["SimpleITKIO"] | {"twin": True}
        os.remove(path)
    expected[name] = e


def srow(m, t):
    m = np.asarray(m, float)
    return {f"srow_{c}": np.append(m[i], t[i]) for i, c in enumerate("xyz")}


def quaternion(r):
    """b, c, d of a rotation and the handedness."""
    r = np.array(r, float)
    qfac = 1.0 if np.linalg.det(r) > 0 else -1.0
    r[:, 2] *= qfac
    q = nib.quaternions.mat2quat(r)
    return {"quatern_b": q[1], "quatern_c": q[2], "quatern_d": q[3]}, qfac


def forms(r, zooms, offset, q=0, s=0, qr=None, qoffset=None, sr=None):
    """Fields of qform and sform; they agree unless qr, qoffset or sr is given."""
    quat, qfac = quaternion(r if qr is None else qr)
    qo = offset if qoffset is None else qoffset
    f = dict(
        quat,
        qform_code=q,
        sform_code=s,
        qoffset_x=qo[0],
        qoffset_y=qo[1],
        qoffset_z=qo[2],
        **srow(np.asarray(r) * zooms if sr is None else sr, offset),
    )
    f["pixdim"] = {0: qfac, 1: zooms[0], 2: zooms[1], 3: zooms[2]}
    return f


def fixed():
    lps, ras = np.diag([-1.0, -1, 1]), np.eye(3)
    oblique = np.array(nib.quaternions.quat2mat([0.92, 0.21, -0.19, 0.2721]))
    z, t = [0.7, 0.8, 2.5], [11.5, -20.25, 30.125]
    for order in "<>":
        for dtype in CODES:
            a = values(dtype, (4, 3, 2))
            write(
                f"type_{dtype}_{'le' if order == '<' else 'be'}.nii",
                header(1, order, dtype, a.shape, **forms(lps, z, t, 1, 1)),
                a,
            )
        a = values("i2", (4, 3, 2))
        write(
            f"v2_{'le' if order == '<' else 'be'}.nii.gz",
            header(2, order, "i2", a.shape, **forms(oblique.astype("f4"), np.float32(z), t, 1, 1)),
            a,
        )
    a = values("i2", (4, 3, 2))

    def case(name, version=1, order="<", dtype="i2", b=a, ext=b"", **f):
        write(
            f"{name}.nii.gz" if not name.endswith(".nii") else name,
            header(version, order, dtype, b.shape, **f),
            b,
            ext,
        )

    # scalings
    base = forms(lps, z, t, 1, 1)
    for k, (slope, inter) in {
        "slope": (2.5, 0),
        "inter": (1, -1024),
        "both": (0.1, 7.3),
        "zero": (0, 5),
        "nan": (np.nan, 5),
        "negative": (-1, 0),
        "inf": (np.inf, 0),
    }.items():
        case(f"scl_{k}", scl_slope=slope, scl_inter=inter, **base)
    for dtype in ("f4", "f8", "i4", "u8"):
        case(
            f"scl_{dtype}",
            dtype=dtype,
            b=values(dtype, (4, 3, 2)),
            scl_slope=1.7,
            scl_inter=-3.1,
            **base,
        )
    # units
    for units in (0, 1, 3, 10):
        case(f"units_{units}", xyzt_units=units, **base)
    # which form
    flipped = ras * [-1, 1, 1]
    turned = oblique @ nib.quaternions.quat2mat([0.999, 0.0, 0.0447, 0])
    skew = lps * z + [[0, 0.2, 0], [0, 0, 0], [0, 0, 0.0]]
    for q in (0, 1, 2):
        for s in (0, 1, 2, 4):
            case(f"codes_{q}{s}", **forms(oblique, z, t, q, s))
            case(f"disagree_{q}{s}", **forms(oblique, z, t, q, s, qr=turned, qoffset=[1, 2, 3]))
            case(f"skew_{q}{s}", **forms(lps, z, t, q, s, sr=skew))
            case(f"flip_{q}{s}", **forms(flipped, z, t, q, s, qr=ras))
    case("turned_12", **forms(oblique, z, t, 1, 2, qr=turned))
    case("turned_24", **forms(lps, z, t, 2, 4, qr=oblique))
    tiny = [0.05, 0.05, 0.05]  # rotated, but no element differs much
    case(
        "tiny_skew_12",
        **forms(lps, tiny, t, 1, 2, sr=lps * tiny + [[0, 9e-6, 0], [0, 0, 0], [0, 0, 0.0]]),
    )
    case("isotropic_12", **forms(oblique, [1.5, 1.5, 1.5], t, 1, 2))
    case("sform_scale", **forms(lps, z, t, 1, 2, sr=lps * [0.7, 0.8, 3.5]))
    case("sform_zero", **forms(lps, z, t, 1, 2, sr=np.zeros((3, 3))))
    case("sform_nan", **forms(lps, z, t, 1, 2, sr=lps * [np.nan, 1, 1]))
    case(
        "quaternion_180",
        **(forms(lps, z, t, 1, 0) | {"quatern_b": 0, "quatern_c": 1.0000001, "quatern_d": 0}),
    )
    case("quaternion_nan", **(forms(lps, z, t, 1, 0) | {"quatern_b": np.nan}))
    # directions: every permutation with flips, oblique ones
    for k, p in enumerate(((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))):
        signs = [(1, 1, 1), (-1, 1, -1), (1, -1, -1), (-1, -1, -1), (1, 1, -1), (-1, 1, 1)][k]
        m = np.zeros((3, 3))
        for j in range(3):
            m[p[j], j] = signs[j]
        case(f"axes_{''.join(map(str, p))}", **forms(m, z, t, 1, 1))
        case(f"oblique_{''.join(map(str, p))}", **forms(oblique @ m, z, t, 1, 1))
    # invalid spacings
    case("pixdim_negative", **(base | {"pixdim": {0: 1, 1: -0.7, 2: 0.8, 3: 2.5}}))
    case("pixdim_zero", **(base | {"pixdim": {0: 1, 1: 0.7, 2: 0, 3: 2.5}}))
    case("pixdim_negative_nocode", pixdim={0: 0, 1: -0.7, 2: 0.8, 3: -2.5})
    # axes
    case("2d", b=values("i2", (5, 4)), **forms(lps, z, t, 1, 1))
    case(
        "2d_sagittal",
        b=values("i2", (5, 4)),
        **forms(np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]), z, t, 1, 1),
    )
    case(
        "4d",
        b=values("i2", (5, 4, 3, 2)),
        xyzt_units=18,
        toffset=3.5,
        **(base | {"pixdim": {0: 1, 1: 0.7, 2: 0.8, 3: 2.5, 4: 40}}),
    )
    case("4d_one", b=values("i2", (5, 4, 3, 1)), **base)
    case("5d_ones", b=values("i2", (5, 4, 3, 1, 1)), **base)
    case("5d", b=values("i2", (5, 4, 3, 2, 2)), **base)
    case("3d_slice", b=values("i2", (5, 4, 1)), **base)
    # layout
    case("extension", ext=b"<xml>an extension</xml>", **base)
    case("vox_offset_early.nii", **(base | {"vox_offset": 0}))
    # NaN and infinite pixels
    for dtype in ("f4", "f8"):
        b = np.arange(24, dtype=dtype).reshape(4, 3, 2)
        b.flat[[0, 7, 23]] = np.nan, np.inf, -np.inf
        case(f"no_numbers_{dtype}", dtype=dtype, b=b, **base)
        case(f"no_numbers_scaled_{dtype}", dtype=dtype, b=b, scl_slope=2, scl_inter=5, **base)
    # files written by the libraries themselves
    im = sitk.GetImageFromArray(values("i2", (3, 4, 5)))
    im.SetSpacing((0.9, 0.9, 3.0)), im.SetOrigin((-10.1, 20.2, -30.3))
    d = oblique @ np.diag([1, -1, 1.0])
    im.SetDirection(d.ravel())
    # base names differ: next to X.nii, ITK reads the pixels of X.nii.gz from that file
    for name in ("sitk_plain.nii", "sitk.nii.gz"):
        sitk.WriteImage(im, f"{out}/{name}", True)
        expected[name] = read(f"{out}/{name}")
    affine = np.eye(4)
    affine[:3] = np.column_stack([oblique * z, t])
    for name, cls in (
        ("nibabel_plain.nii", nib.Nifti1Image),
        ("nibabel.nii.gz", nib.Nifti1Image),
        ("nibabel2.nii", nib.Nifti2Image),
    ):
        nib.save(cls(values("f4", (5, 4, 3)), affine), f"{out}/{name}")
        if cls is nib.Nifti1Image:
            expected[name] = read(f"{out}/{name}")
        else:
            expected[name] = {k: v for k, v in read(f"{out}/{name}").items() if k != "SimpleITKIO"}


def random_case(i):
    version = 1 if rng.random() < 0.85 else 2
    order = "<" if rng.random() < 0.6 else ">"
    dtype = rng.choice(list(CODES))
    ndim = rng.choice([2, 3, 3, 3, 3, 3, 3, 4])
    shape = tuple(int(n) for n in rng.integers(1, 7, ndim))
    kind = rng.random()
    if kind < 0.35:
        r = np.eye(3)[:, rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    else:
        r = rotation() * rng.choice([-1.0, 1.0], 3)
        if kind < 0.6:  # a few degrees off the axes
            small = nib.quaternions.quat2mat(np.append(1, rng.normal(size=3) * 0.05))
            r = small @ np.eye(3)[:, rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    zooms = np.float32(
        rng.choice([0.5, 0.7, 0.9765625, 1, 1.5, 3, 5], 3)
        * (1 if rng.random() < 0.7 else rng.uniform(0.5, 2, 3))
    )
    if rng.random() < 0.2:
        zooms[:] = zooms[0]
    offset = np.round(rng.normal(size=3) * 200, int(rng.integers(0, 5)))
    q, s = int(rng.choice([0, 1, 1, 2, 3])), int(rng.choice([0, 1, 1, 2, 2, 4]))
    more = {}
    u = rng.random()
    if u < 0.15:
        more["qr"] = rotation()
    elif u < 0.3:
        more["qr"] = r * rng.choice([-1.0, 1.0], 3)
    elif u < 0.4:
        more["qoffset"] = offset + rng.normal(size=3) * 10 ** rng.uniform(-8, 1)
    elif u < 0.6:
        more["sr"] = r * zooms + rng.normal(size=(3, 3)) * 10 ** rng.uniform(-7, -0.5)
    elif u < 0.7:
        more["sr"] = r * zooms * rng.choice([1, 1 + 10 ** rng.uniform(-7, 0)], 3)
    elif u < 0.8:
        more["sr"] = r @ np.eye(3)[:, rng.permutation(3)] * zooms * rng.choice([-1.0, 1.0], 3)
    f = forms(r, zooms, offset, q, s, **more)
    f["pixdim"][4] = float(rng.choice([0, 1, 2.5]))
    if rng.random() < 0.1:
        f["pixdim"][int(rng.integers(0, 4))] *= -1
    if rng.random() < 0.05:
        f["pixdim"][int(rng.integers(1, 4))] = 0
    if version == 2:  # its NIfTI-1 counterpart must hold the same values
        f = {
            k: (np.float32(v) if k != "pixdim" else {i: np.float32(x) for i, x in v.items()})
            for k, v in f.items()
        }
    if rng.random() < 0.3:
        f |= {
            "scl_slope": rng.choice([0.0, 1.0, 0.5, -1.0, 0.1, 3.7, np.nan]),
            "scl_inter": rng.choice([0.0, -1024.0, 0.1]),
        }
        f = {k: np.float32(v) if k.startswith("scl") else v for k, v in f.items()}
    f["xyzt_units"] = int(rng.choice([0, 1, 2, 3, 10, 18, 26]))
    f["toffset"] = float(rng.choice([0, 3.5]))
    ext = b"text" * int(rng.integers(0, 20)) if rng.random() < 0.1 else b""
    write(
        f"random_{i:04d}.nii" + (".gz" if rng.random() < 0.5 else ""),
        header(version, order, dtype, shape, **f),
        values(dtype, shape),
        ext,
    )


if args.random:
    for i in range(args.random):
        random_case(i)
else:
    fixed()
    expected["versions"] = {
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "nibabel": nib.__version__,
        "SimpleITK": sitk.__version__,
    }
with open(f"{out}/expected.json", "w") as f:
    json.dump(expected, f, indent=0)
    f.write("\n")
