"""Writes the small corpus of testdata/golden/npz with the real numpy: .npy files of every type, order and header
version, .npz archives, and expected.json with the values in row-major order.

    npz_corpus.py OUT
"""

import json
import os
import sys

import numpy as np

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
rng = np.random.default_rng(5)
arrays = {}
for name in "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8".split():
    base = (
        rng.integers(0, 100, (2, 3, 4))
        if name[0] != "f"
        else np.round(rng.normal(size=(2, 3, 4)), 2)
    )
    arrays[name] = base.astype(name)
    arrays["big_" + name] = arrays[name].astype(arrays[name].dtype.newbyteorder(">"))
    arrays["fortran_" + name] = np.asfortranarray(arrays[name])
arrays |= {
    "bool": rng.random((3, 5)) < 0.5,
    "scalar": np.array(2.5, np.float32),
    "vector": np.arange(7, dtype=np.int16) - 3,
    "empty": np.zeros((0, 3)),
    "one": np.array([[[-1]]], np.int8),
    "extremes": np.array([-(2**63), 2**63 - 1]),
    "transposed": rng.normal(size=(3, 4, 5)).astype(np.float32).transpose(2, 1, 0),
    "long": np.zeros(100, np.uint8),
    "special": np.array([0.0, -0.0, np.inf, -np.inf, 6e-8, 65504], np.float16),
}
expected = {}
for name, a in arrays.items():
    np.save(f"{out}/{name}.npy", a)
    flat = a.ravel(order="C")
    values = (
        [repr(float(x)) for x in flat.astype(np.float64)]
        if a.dtype.kind == "f"
        else [str(int(x)) for x in flat]
    )
    expected[name] = {"dtype": a.dtype.str, "shape": list(a.shape), "values": values}
for version in ((2, 0), (3, 0)):
    with open(f"{out}/version{version[0]}.npy", "wb") as f:
        np.lib.format.write_array(f, arrays["fortran_f4"], version=version)
    expected[f"version{version[0]}"] = expected["fortran_f4"]
np.savez(f"{out}/stored.npz", **{k: arrays[k] for k in ("f4", "fortran_i2", "scalar", "empty")})
np.savez_compressed(
    f"{out}/deflated.npz", **{k: arrays[k] for k in ("f4", "fortran_i2", "scalar", "empty")}
)
np.save(f"{out}/refused_object.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
np.save(f"{out}/refused_structured.npy", np.zeros(2, dtype=[("a", "<f4"), ("b", "<i2")]))
expected["versions"] = {"python": sys.version.split()[0], "numpy": np.__version__}
with open(f"{out}/expected.json", "w") as f:
    json.dump(expected, f, indent=0)
    f.write("\n")
