"""Writes the small corpus of testdata/golden/pth with the real torch and numpy, and describes any
checkpoint as JSON.

    pth_corpus.py OUT                 write the corpus and, an index.json of their descriptions
    pth_corpus.py --describe FILE…    print the description of each .pth or .pkl, one per line
    pth_corpus.py --weights-only FILE…   the same through torch's restricted loader

The Go tests compare with the description: types, order, exact values (floats as hex), and for
tensors dtype, shape, stride, offset, sha256 of the elements and which storage they share.
"""

import collections
import hashlib
import json
import os
import pickle
import sys

import numpy as np
import torch


class Describer:
    def __init__(self):
        self.seen = {}
        self.storages = {}
        self.keep = []

    def storage(self, untyped):
        self.keep.append(untyped)
        return self.storages.setdefault(untyped._cdata, len(self.storages))

    def describe(self, v):
        if isinstance(v, (list, dict, set, torch.Tensor, np.ndarray)) and not isinstance(
            v, np.generic
        ):
            if id(v) in self.seen:
                return {"ref": self.seen[id(v)]}
            self.seen[id(v)] = len(self.seen)
            self.keep.append(v)
        return self.value(v)

    def pairs(self, v):
        return [[self.describe(k), self.describe(x)] for k, x in v.items()]

    def value(self, v):
        if v is None:
            return {"t": "None"}
        if isinstance(v, torch.Tensor):
            raw = v.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return {
                "t": "Parameter" if isinstance(v, torch.nn.Parameter) else "Tensor",
                "dtype": str(v.dtype)[6:],
                "size": list(v.shape),
                "stride": list(v.stride()),
                "offset": v.storage_offset(),
                "requires_grad": v.requires_grad,
                "sha256": hashlib.sha256(raw).hexdigest(),
                "storage": self.storage(v.untyped_storage()),
                "bytes": v.untyped_storage().nbytes(),
            }
        if isinstance(v, (torch.storage.TypedStorage, torch.storage.UntypedStorage)):
            untyped = v if isinstance(v, torch.storage.UntypedStorage) else v._untyped_storage
            return {
                "t": "Storage",
                "dtype": str(getattr(v, "dtype", torch.uint8))[6:],
                "storage": self.storage(untyped),
                "bytes": untyped.nbytes(),
                "sha256": hashlib.sha256(
                    torch.empty(0, dtype=torch.uint8).set_(untyped).numpy().tobytes()
                ).hexdigest(),
            }
        if isinstance(v, torch.Size):
            return {"t": "Size", "v": list(v)}
        if isinstance(v, torch.device):
            return {"t": "device", "v": str(v)}
        if isinstance(v, torch.dtype):
            return {"t": "dtype", "v": str(v)[6:]}
        if isinstance(v, np.ndarray):
            return {
                "t": "ndarray",
                "dtype": v.dtype.str,
                "shape": list(v.shape),
                "fortran": bool(v.flags.f_contiguous and not v.flags.c_contiguous),
                "v": np.ascontiguousarray(v).tobytes().hex(),
            }
        if isinstance(v, np.generic):
            return {"t": "scalar", "dtype": v.dtype.str, "v": v.tobytes().hex()}
        if isinstance(v, np.dtype):
            return {"t": "numpy.dtype", "v": v.str}
        if type(v) is bool:
            return {"t": "bool", "v": v}
        if type(v) is int:
            return {"t": "int", "v": str(v)}
        if type(v) is float:
            return {"t": "float", "v": np.float64(v).tobytes().hex()}
        if type(v) is complex:
            return {"t": "complex", "v": np.complex128(v).tobytes().hex()}
        if type(v) is str:
            return {
                "t": "str",
                "v": v.encode("utf-8", "surrogatepass").hex()
                if any(0xD800 <= ord(c) < 0xE000 for c in v)
                else v,
            }
        if type(v) in (bytes, bytearray):
            return {"t": type(v).__name__, "v": v.hex()}
        if type(v) in (tuple, list):
            return {"t": type(v).__name__, "v": [self.describe(x) for x in v]}
        if type(v) in (set, frozenset):
            return {
                "t": type(v).__name__,
                "v": sorted(
                    (self.describe(x) for x in v), key=lambda x: json.dumps(x, sort_keys=True)
                ),
            }
        if type(v) is dict:
            return {"t": "dict", "v": self.pairs(v)}
        if type(v) is collections.OrderedDict:
            return {
                "t": "OrderedDict",
                "v": self.pairs(v),
                "attrs": self.describe(dict(v.__dict__)) if v.__dict__ else None,
            }
        if type(v) is collections.defaultdict:
            return {
                "t": "defaultdict",
                "factory": v.default_factory.__name__ if v.default_factory else None,
                "v": self.pairs(v),
            }
        raise TypeError(type(v))


def describe(path, weights_only=False):
    if path.endswith(".pkl"):
        with open(path, "rb") as f:
            v = pickle.load(f)
    else:
        v = torch.load(path, map_location="cpu", weights_only=weights_only)
    return json.dumps(Describer().describe(v), sort_keys=True)


def dtype_tensors():
    g = torch.Generator().manual_seed(7)
    out = {}
    for name in "float64 float32 float16 bfloat16 complex64 complex128".split():
        out[name] = torch.randn(2, 3, generator=g, dtype=torch.float64).to(getattr(torch, name))
    out["special32"] = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45])
    out["special16"] = torch.tensor(
        [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 6e-8], dtype=torch.float16
    )
    for name in "int64 int32 int16 int8 uint8".split():
        out[name] = torch.randint(0, 100, (2, 3), generator=g).to(getattr(torch, name))
    out["negative"] = torch.tensor([-1, -(2**62)])
    out["bool"] = torch.tensor([[True, False], [False, True]])
    return out


def view_tensors():
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    shared = [1, 2]
    return {
        "base": base,
        "alias": base.view(12, 5),
        "transposed": base.permute(2, 0, 1),
        "slice": base[1:, ::2, 3],
        "row": base[2],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "scalar": torch.tensor(3.5),
        "element": base[1, 2, 3],
        "empty": torch.empty(0),
        "empty2": torch.empty(3, 0, 2),
        "none": base[:0],
        "int": torch.tensor(7),
        "same": base,
        "list": shared,
        "list again": shared,
        "column": torch.arange(10)[3::4],
    }


def parameters():
    p = torch.nn.Parameter(torch.ones(2, 2))
    return [
        p,
        torch.nn.Parameter(torch.zeros(3), requires_grad=False),
        torch.ones(2, requires_grad=True),
        p,
    ]


def state_dict():
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3), torch.nn.InstanceNorm3d(4, affine=True), torch.nn.LeakyReLU()
    )
    net.register_module("again", net[0])
    return net.state_dict()


def plain_values(tuple_keys=True):
    shared = {"x": [1, 2.5]}
    v = collections.OrderedDict(
        none=None,
        yes=True,
        no=False,
        ints=[
            0,
            1,
            255,
            256,
            65535,
            65536,
            -1,
            2**31 - 1,
            -(2**31),
            2**31,
            2**63 - 1,
            -(2**63),
            2**63,
            2**200,
            -(2**200),
        ],
        floats=[0.0, -0.0, 1.5, float("inf"), -float("inf"), float("nan"), 5e-324, 1e308],
        text=["", "aé€😀", "line\nbreak\\u0041", "x" * 300, "\udc80"],
        blob=[b"", b"\x00\xff\x80abc", bytes(range(256)) * 2],
        array=[bytearray(), bytearray(b"\x00\xfe")],
        complex=1.5 - 2j,
        tuples=[(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((1,), (2, (3,)))],
        shared=[shared, shared],
        nested=[[[[]]]],
        sets=[set(), {1, 2, "a"}, frozenset(), frozenset({1, (2, 3)})],
        long=list(range(1050)),
        many={i: str(i) for i in range(1050)},
        keys={
            1: "a",
            "1": "b",
            2.5: "c",
            None: "d",
            (1, "x"): "e",
            b"k": "f",
            True + 1: "g",
            np.int64(9): "h",
            frozenset({5}): "i",
        },
        default=collections.defaultdict(list, {"a": [1]}),
        default2=collections.defaultdict(dict),
        ordered=collections.OrderedDict([(2, 1), (1, 2)]),
    )
    v.extra = "attribute"
    return v


def numpy_values():
    a = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    return {
        "scalars": [
            np.float64(1.5),
            np.float32(-0.0),
            np.float16(2.5),
            np.int64(-3),
            np.int32(4),
            np.int16(-5),
            np.int8(6),
            np.uint8(7),
            np.uint64(2**64 - 1),
            np.bool_(True),
            np.complex64(1 + 2j),
            np.float64("nan"),
            np.str_("né"),
            np.bytes_(b"ab"),
        ],
        "a": a,
        "a again": a,
        "fortran": np.asfortranarray(a.astype(np.float32)),
        "view": a[:, ::2],
        "big": a.astype(">i4"),
        "bigscalar": a.astype(">i4")[0, 0, 1],
        "bool": np.array([True, False]),
        "zero": np.array(3.25),
        "empty": np.empty((0, 4), np.int64),
        "text": np.array(["a", "bcd"]),
        "dtype": np.dtype("<f4"),
        "dtypes": [np.dtype("int64"), np.dtype("bool")],
        "list": [],
        "half": np.array([1, 2], np.float16),
    }


def torch_values():
    return {
        "device": [
            torch.device("cpu"),
            torch.device("cuda"),
            torch.device("cuda", 0),
            torch.device("cuda:1"),
        ],
        "dtype": [torch.float32, torch.bfloat16, torch.int64, torch.bool],
        "size": [torch.Size([]), torch.Size([1, 2, 3])],
    }


def main(out):
    os.makedirs(out, exist_ok=True)
    trees = {
        "dtypes": dtype_tensors(),
        "views": view_tensors(),
        "parameters": parameters(),
        "state_dict": state_dict(),
        "values": {"plain": plain_values(), "numpy": numpy_values(), "torch": torch_values()},
        "tensor": torch.arange(5),
        "storages": [torch.arange(4.0).storage(), torch.arange(4).untyped_storage()],
    }
    names = []
    for name, tree in trees.items():
        torch.save(tree, f"{out}/{name}.pth")
        if name == "storages":
            tree = tree[:1]  # torch cannot load legacy files with an untyped storage
        torch.save(tree, f"{out}/{name}_legacy.pth", _use_new_zipfile_serialization=False)
        names += [f"{name}.pth", f"{name}_legacy.pth"]
    torch.save(view_tensors(), f"{out}/protocol4.pth", pickle_protocol=4)
    names.append("protocol4.pth")
    if tuple(int(x) for x in torch.__version__.split(".")[:2]) > (
        2,
        4,
    ):  # 2.4 cannot save these types
        torch.save(
            {n: torch.arange(6).to(getattr(torch, n)) for n in ("uint16", "uint32", "uint64")},
            f"{out}/unsigned.pth",
        )
        names.append("unsigned.pth")
    for protocol in range(6):
        name = f"values_{protocol}.pkl"
        with open(f"{out}/{name}", "wb") as f:
            pickle.dump(
                {"plain": plain_values(), "numpy": numpy_values(), "torch": torch_values()},
                f,
                protocol=protocol,
            )
        names.append(name)
    for protocol in (1, 3, 4, 5):  # 2 is the default
        for name, tree in (
            ("views", view_tensors()),
            ("state_dict", state_dict()),
            ("values", trees["values"]),
        ):
            torch.save(
                tree,
                f"{out}/{name}_legacy_{protocol}.pth",
                pickle_protocol=protocol,
                _use_new_zipfile_serialization=False,
            )
            names.append(f"{name}_legacy_{protocol}.pth")
    described, index = {}, {}
    for name in names:  # files with the same content share a description
        text = describe(f"{out}/{name}")
        if text not in described:
            described[text] = os.path.splitext(name)[0] + ".json"
            with open(f"{out}/{described[text]}", "w") as f:
                f.write(text + "\n")
        index[name] = described[text]
    with open(f"{out}/index.json", "w") as f:
        json.dump(index, f, indent=1)
        f.write("\n")
    with open(f"{out}/versions.json", "w") as f:
        json.dump(
            {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__},
            f,
        )
        f.write("\n")


if __name__ == "__main__":
    if sys.argv[1] in ("--describe", "--weights-only"):
        for path in sys.argv[2:]:
            print(describe(path, sys.argv[1] == "--weights-only"))
    else:
        main(sys.argv[1])
