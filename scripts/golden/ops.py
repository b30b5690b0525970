"""Every operator of package torch, computed by PyTorch -> testdata/golden/ops.json.

Run with the pinned torch: python scripts/golden/ops.py
A case names a method of Go's torch.Scope and lists its arguments in Go's order; {"t": i} stands for
input i, null for an absent tensor. Outputs, and where PyTorch differentiates the operator the
gradients of sum(output*cotangent), are PyTorch's.
"exact" cases have no rounding beyond IEEE's own, so that every implementation gives the same bits.
Numbers are strings with enough digits to restore the same bits when parsed as their type.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

OUT = Path(__file__).resolve().parents[2] / "testdata" / "golden" / "ops.json"
GEN = torch.Generator().manual_seed(20240501)
CASES = []


def rnd(*shape, scale=1.0):
    return torch.randn(shape, generator=GEN) * scale


def pos(*shape):
    return torch.rand(shape, generator=GEN) + 0.1


def ints(high, *shape):
    return torch.randint(0, high, shape, generator=GEN)


def array(t):
    t = t.detach()
    if t.dtype == torch.float32:
        data = " ".join(str(np.float32(v)) for v in t.flatten().tolist())
    elif t.dtype == torch.float64:
        data = " ".join(repr(v) for v in t.flatten().tolist())
    else:
        data = " ".join(str(int(v)) for v in t.flatten().tolist())
    return {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape), "data": data}


class In:
    """Marks a tensor argument."""

    def __init__(self, t):
        self.t = t


def case(op, note, fn, *args, exact=False, grad=True, inplace=False):
    """fn is called with the arguments in Go's order; in-place operators return their first
    operand."""
    tensors = []

    def encode(a):
        if isinstance(a, In):
            tensors.append(a.t)
            return {"t": len(tensors) - 1}
        return a

    coded = [encode(a) for a in args]
    leaves = [
        t.clone().requires_grad_(grad and not inplace and t.is_floating_point()) for t in tensors
    ]
    it = iter(leaves)
    out = fn(*[next(it) if isinstance(a, In) else a for a in args])
    if inplace:
        out = leaves[0]
    outs = list(out) if isinstance(out, (tuple, list)) else [out]
    c = {
        "op": op,
        "name": f"{op} {note}".strip(),
        "args": coded,
        "in": [array(t) for t in tensors],
        "out": [array(o) for o in outs],
    }
    if exact:
        c["exact"] = True
    if inplace:
        c["inplace"] = True
    if outs[0].requires_grad:
        cot = rnd(*outs[0].shape)
        (outs[0] * cot).sum().backward()
        c["cotangent"] = array(cot)
        c["grads"] = [array(leaf.grad) if leaf.grad is not None else None for leaf in leaves]
    CASES.append(c)


def pointwise():
    a, b, row = rnd(3, 4), rnd(3, 4), rnd(4)
    away = b.sign() * (b.abs() + 0.2)
    case("Add", "", lambda x, y: x + y, In(a), In(b), exact=True)
    case("Add", "broadcast", lambda x, y: x + y, In(a), In(row), exact=True, grad=False)
    case("AddScaled", "", lambda x, y, k: torch.add(x, y, alpha=k), In(a), In(b), -0.37)
    case("Sub", "", lambda x, y: x - y, In(a), In(b), exact=True)
    case("Mul", "", lambda x, y: x * y, In(a), In(b), exact=True)
    case("Mul", "broadcast", lambda x, y: x * y, In(a), In(row))
    case("Div", "", lambda x, y: x / y, In(a), In(away))
    case(
        "Add_",
        "",
        lambda x, y, k: x.add_(y, alpha=k),
        In(a),
        In(row),
        1.0,
        inplace=True,
        exact=True,
    )
    case("Add_", "scaled", lambda x, y, k: x.add_(y, alpha=k), In(a), In(b), 0.3, inplace=True)
    case("Mul_", "", lambda x, y: x.mul_(y), In(a), In(b), inplace=True, exact=True)
    case("Div_", "", lambda x, y: x.div_(y), In(a), In(away), inplace=True)
    case("AddScalar", "", lambda x, v: x + v, In(a), 0.7, exact=True)
    case("MulScalar", "", lambda x, v: x * v, In(a), -1.3, exact=True)
    case("DivScalar", "", lambda x, v: x / v, In(a), 3.0)
    case("AddScalar_", "", lambda x, v: x.add_(v), In(a), 0.7, inplace=True, exact=True)
    case("MulScalar_", "", lambda x, v: x.mul_(v), In(a), -1.3, inplace=True, exact=True)
    case("DivScalar_", "", lambda x, v: x.div_(v), In(a), 3.0, inplace=True)
    case("Pow", "2.5", lambda x, e: x**e, In(pos(3, 4)), 2.5)
    case("Pow", "-1", lambda x, e: x**e, In(away), -1.0)
    case("Neg", "", torch.neg, In(a), exact=True)
    case("Abs", "", torch.abs, In(a), exact=True)
    case("Exp", "", torch.exp, In(a))
    case("Log", "", torch.log, In(pos(3, 4)))
    case("Sqrt", "", torch.sqrt, In(pos(3, 4)))
    case("Reciprocal", "", torch.reciprocal, In(away))
    case("Sigmoid", "", torch.sigmoid, In(rnd(3, 4, scale=4)))
    case("Tanh", "", torch.tanh, In(a))
    case("Relu", "", torch.relu, In(a), exact=True)
    case("Gelu", "", F.gelu, In(rnd(3, 4, scale=3)))
    case("LeakyRelu", "", lambda x, s: F.leaky_relu(x, s), In(a), 0.01)
    case("LeakyRelu_", "", lambda x, s: F.leaky_relu_(x, s), In(a), 0.01, inplace=True)
    case("Dropout", "off", lambda x, p, t: F.dropout(x, p, t), In(a), 0.5, False, exact=True)
    case(
        "FeatureDropout",
        "off",
        lambda x, p, t: torch.feature_dropout(x, p, t),
        In(rnd(2, 3, 2, 2)),
        0.5,
        False,
        exact=True,
    )
    case("ClampMin", "", lambda x, v: torch.clamp(x, min=v), In(a), -0.2, exact=True)
    case("ClampMax", "", lambda x, v: torch.clamp(x, max=v), In(a), 0.3, exact=True)
    case("Clamp", "", lambda x, low, high: torch.clamp(x, low, high), In(a), -0.2, 0.3, exact=True)
    odd = torch.tensor([1.0, float("inf"), -float("inf"), float("nan"), 0.0, 3e38])
    ties = torch.tensor([-2.5, -1.5, -0.75, -0.5, 0.5, 1.5, 2.5, 2.75, 1e9])
    case("Floor", "", torch.floor, In(ties), exact=True, grad=False)
    case("Round", "halves to even", torch.round, In(ties), exact=True, grad=False)
    case("IsFinite", "", torch.isfinite, In(odd), exact=True)
    case("LogicalNot", "", torch.logical_not, In(ints(2, 7).bool()), exact=True)
    p, q = ints(3, 3, 4).float(), ints(3, 4).float()
    for i, f in enumerate((torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge)):
        case("Compare", f.__name__, lambda x, o, y, f=f: f(x, y), In(p), i, In(q), exact=True)
        case("CompareScalar", f.__name__, lambda x, o, v, f=f: f(x, v), In(p), i, 1.0, exact=True)
    cond = ints(2, 3, 4).bool()
    case("Where", "", torch.where, In(cond), In(a), In(b), exact=True)
    case("WhereScalar", "", torch.where, In(cond), In(a), -2.0, exact=True)
    case("MaskedFill", "", lambda x, m, v: x.masked_fill(m, v), In(a), In(cond), 7.0, exact=True)
    case("Maximum", "", torch.maximum, In(a), In(b), exact=True)
    case("Minimum", "", torch.minimum, In(a), In(b), exact=True, grad=False)


def shape():
    a = rnd(2, 3, 4)
    case("Reshape", "", lambda x, *s: x.reshape(s), In(a), 4, -1, exact=True)
    case("Expand", "", lambda x, *s: x.expand(s), In(rnd(2, 1, 3)), 2, 4, 3)
    case("Permute", "", lambda x, *d: x.permute(d), In(a), 2, 0, 1, exact=True)
    case("Transpose", "", lambda x, i, j: x.transpose(i, j), In(a), 0, -1, exact=True)
    case("Squeeze", "", lambda x, d: x.squeeze(d), In(rnd(2, 1, 3)), 1, exact=True)
    case("Unsqueeze", "", lambda x, d: x.unsqueeze(d), In(a), -1, exact=True)
    case("Flip", "", lambda x, *d: x.flip(d), In(a), 0, 2, exact=True)
    case("Roll", "", lambda x, s, d: x.roll(s, d), In(a), [1, -2], [1, 2], exact=True)
    case("Narrow", "", lambda x, d, s, n: x.narrow(d, s, n), In(a), 2, 1, 2, exact=True)
    case("Select", "", lambda x, d, i: x.select(d, i), In(a), 1, -1, exact=True)
    case("SliceDim", "", lambda x, d, s, e, st: x[:, :, s:e:st], In(a), 2, 0, 4, 3, exact=True)
    case(
        "Cat",
        "",
        lambda d, *ts: torch.cat(ts, d),
        1,
        In(rnd(2, 1, 3)),
        In(rnd(2, 2, 3)),
        In(rnd(2, 3, 3)),
        exact=True,
    )
    case(
        "Stack", "", lambda d, *ts: torch.stack(ts, d), 1, In(rnd(2, 3)), In(rnd(2, 3)), exact=True
    )
    case("Pad", "", lambda x, p, v: F.pad(x, p, value=v), In(a), [1, 2, 0, -1], 0.5, exact=True)
    case(
        "IndexSelect",
        "",
        lambda x, d, i: x.index_select(d, i),
        In(a),
        1,
        In(torch.tensor([2, 0, 2, 1])),
    )
    case("Gather", "", lambda x, d, i: x.gather(d, i), In(a), 2, In(ints(4, 2, 3, 2)))
    once = torch.stack([torch.randperm(4, generator=GEN)[:2] for _ in range(6)]).reshape(2, 3, 2)
    case("Scatter", "", lambda x, d, i, v: x.scatter(d, i, v), In(a), 2, In(once), -1.0, exact=True)
    case(
        "Scatter_",
        "",
        lambda x, d, i, v: x.scatter_(d, i, v),
        In(a),
        2,
        In(once),
        1.0,
        inplace=True,
        exact=True,
    )


def reduce():
    a = rnd(2, 3, 5)
    case("Sum", "", lambda x: x.sum(), In(a))
    case("Sum", "of bools", lambda x: x.sum(), In(ints(2, 20).bool()), exact=True)
    case("SumDims", "", lambda x, k, *d: x.sum(d, k), In(a), False, 0, 2)
    case("SumDims", "keep", lambda x, k, *d: x.sum(d, k), In(a), True, 1)
    case("Mean", "", lambda x: x.mean(), In(a))
    case("MeanDims", "", lambda x, k, *d: x.mean(d, k), In(a), True, -1)
    case("MeanDims", "two", lambda x, k, *d: x.mean(d, k), In(a), False, 0, 2)
    case("Amax", "", lambda x, k, *d: x.amax(d, k), In(a), True, 1, 2, exact=True)
    case("Amin", "", lambda x, k, *d: x.amin(d, k), In(a), False, 0, 2, exact=True, grad=False)
    tied = torch.tensor([[1.0, 3.0, 3.0, 0.0], [5.0, 5.0, 2.0, 5.0]])
    case("Argmax", "ties", lambda x, d, k: x.argmax(d, k), In(tied), 1, False, exact=True)
    case("Argmax", "keep", lambda x, d, k: x.argmax(d, k), In(a), 1, True, exact=True)
    for name, v in (("some", [0, 1, 0]), ("none", [0, 0]), ("all", [1, 1])):
        case("All", name, torch.all, In(torch.tensor(v).bool()), exact=True)
        case("Any", name, torch.any, In(torch.tensor(v).bool()), exact=True)
    case("VectorNorm", "2", lambda x, o: torch.linalg.vector_norm(x, o), In(a), 2.0)
    case("VectorNorm", "1", lambda x, o: torch.linalg.vector_norm(x, o), In(a), 1.0)
    case("Softmax", "", lambda x, d: x.softmax(d), In(rnd(2, 3, 5, scale=4)), 1)
    case("LogSoftmax", "", lambda x, d: x.log_softmax(d), In(rnd(2, 3, 5, scale=4)), 1)
    case("TopK", "", lambda x, k, d: x.topk(k, d), In(a), 3, 2, exact=True)


def conv():
    x2, x3 = rnd(2, 4, 5, 4), rnd(1, 2, 3, 4, 4)
    w2, w3 = rnd(6, 4, 3, 3, scale=0.2), rnd(3, 2, 3, 3, 3, scale=0.2)

    def c(x, w, b, s, p, d, g):
        return (F.conv3d if len(s) == 3 else F.conv2d)(x, w, b, s, p, d, g)

    def ct(x, w, b, s):
        return (F.conv_transpose3d if len(s) == 3 else F.conv_transpose2d)(x, w, b, s)

    def pool(x, k, s):
        return (F.avg_pool3d if len(s) == 3 else F.avg_pool2d)(x, k, s)

    case("Conv", "2d", c, In(x2), In(w2), In(rnd(6)), [1, 1], [1, 1], [1, 1], 1)
    case("Conv", "2d without bias", c, In(x2), In(w2), None, [2, 1], [0, 1], [1, 2], 1)
    case("Conv", "2d groups", c, In(x2), In(rnd(4, 1, 3, 3)), In(rnd(4)), [1, 1], [1, 1], [1, 1], 4)
    case("Conv", "3d", c, In(x3), In(w3), In(rnd(3)), [1, 1, 1], [1, 1, 1], [1, 1, 1], 1)
    case(
        "Conv",
        "3d strided, anisotropic",
        c,
        In(x3),
        In(rnd(3, 2, 1, 3, 3)),
        In(rnd(3)),
        [1, 2, 2],
        [0, 1, 1],
        [1, 1, 1],
        1,
    )
    case(
        "Conv",
        "3d without bias, dilated",
        c,
        In(x3),
        In(rnd(2, 2, 2, 2, 2)),
        None,
        [1, 1, 1],
        [0, 1, 0],
        [2, 1, 1],
        1,
    )
    case("ConvTranspose", "2d", ct, In(x2), In(rnd(4, 3, 2, 2)), In(rnd(3)), [2, 2])
    case("ConvTranspose", "3d", ct, In(x3), In(rnd(2, 3, 2, 2, 2)), In(rnd(3)), [2, 2, 2])
    case(
        "ConvTranspose",
        "3d anisotropic without bias",
        ct,
        In(x3),
        In(rnd(2, 3, 1, 2, 2)),
        None,
        [1, 2, 2],
    )

    def join(x, w, b, skip, stride):
        return torch.cat([ct(x, w, b, stride), skip], 1)

    case(
        "ConvTransposeCat",
        "2d",
        join,
        In(rnd(2, 3, 2, 3)),
        In(rnd(3, 17, 2, 2)),
        In(rnd(17)),
        In(rnd(2, 4, 4, 6)),
        [2, 2],
    )
    case(
        "ConvTransposeCat",
        "3d anisotropic without bias",
        join,
        In(rnd(2, 2, 2, 3, 2)),
        In(rnd(2, 3, 1, 2, 2)),
        None,
        In(rnd(2, 3, 2, 6, 4)),
        [1, 2, 2],
    )
    case("AvgPool", "2d", pool, In(x2), [2, 3], [2, 2])
    case("AvgPool", "3d", pool, In(x3), [2, 2, 2], [1, 2, 2])
    case("Linear", "", F.linear, In(rnd(2, 3, 5)), In(rnd(4, 5)), In(rnd(4)))
    case("Linear", "without bias", F.linear, In(rnd(3, 5)), In(rnd(4, 5)), None)
    case("MatMul", "", torch.matmul, In(rnd(3, 5)), In(rnd(5, 2)))
    case("MatMul", "batched", torch.matmul, In(rnd(2, 3, 5)), In(rnd(2, 5, 2)))

    def sdpa(q, k, v, mask, drop, scale):
        return F.scaled_dot_product_attention(q, k, v, mask, drop, scale=scale)

    q, k, v = rnd(1, 2, 4, 3), rnd(1, 2, 5, 3), rnd(1, 2, 5, 3)
    case("ScaledDotProductAttention", "", sdpa, In(q), In(k), In(v), None, 0.0, 0.6)
    case("ScaledDotProductAttention", "mask", sdpa, In(q), In(k), In(v), In(rnd(4, 5)), 0.0, 0.6)


def norm():
    def inorm(x, w, b, eps):
        return F.instance_norm(x, weight=w, bias=b, eps=eps)

    case("InstanceNorm", "3d", inorm, In(rnd(2, 3, 3, 4, 2)), In(rnd(3)), In(rnd(3)), 1e-5)
    case(
        "InstanceNorm", "2d without affine, large eps", inorm, In(rnd(2, 3, 4, 5)), None, None, 0.5
    )

    def fused(x, w, b, residual, eps, slope):
        z = F.instance_norm(x, weight=w, bias=b, eps=eps)
        return F.leaky_relu(z if residual is None else z + residual, slope)

    case(
        "InstanceNormLeakyReLU",
        "3d",
        fused,
        In(rnd(2, 3, 3, 4, 2)),
        In(rnd(3)),
        In(rnd(3)),
        None,
        1e-5,
        0.01,
    )
    case(
        "InstanceNormLeakyReLU",
        "3d, 18 channels, residual",
        fused,
        In(rnd(2, 18, 3, 2, 2)),
        In(rnd(18)),
        In(rnd(18)),
        In(rnd(2, 18, 3, 2, 2)),
        1e-5,
        0.01,
    )
    case(
        "InstanceNormLeakyReLU",
        "2d without affine, relu",
        fused,
        In(rnd(2, 3, 4, 5)),
        None,
        None,
        None,
        0.5,
        0.0,
    )
    case(
        "InstanceNormLeakyReLU",
        "without rectifier",
        fused,
        In(rnd(1, 17, 3, 2, 2)),
        In(rnd(17)),
        In(rnd(17)),
        None,
        1e-5,
        1.0,
    )
    case("LayerNorm", "", F.layer_norm, In(rnd(2, 3, 6)), [6], In(rnd(6)), In(rnd(6)), 1e-5)
    case("LayerNorm", "two axes", F.layer_norm, In(rnd(2, 3, 6)), [3, 6], None, None, 1e-5)


def loss():
    x, t = rnd(2, 3, 3, 4, scale=3), ints(3, 2, 3, 4)
    ignored = t.clone()
    ignored[0, :2] = 2
    for i, r in enumerate(("none", "mean", "sum")):
        case(
            "CrossEntropy",
            r,
            lambda x, t, ig, _, r=r: F.cross_entropy(x, t, ignore_index=ig, reduction=r),
            In(x),
            In(t),
            -100,
            i,
        )
        case(
            "CrossEntropy",
            r + " ignoring",
            lambda x, t, ig, _, r=r: F.cross_entropy(x, t, ignore_index=ig, reduction=r),
            In(x),
            In(ignored),
            2,
            i,
        )
        case(
            "BCEWithLogits",
            r,
            lambda x, t, _, r=r: F.binary_cross_entropy_with_logits(x, t, reduction=r),
            In(x),
            In(ints(2, 2, 3, 3, 4).float()),
            i,
        )


def added():
    """Operators added later: their values are drawn last, so that those of older cases do not
    change."""
    case("Index", "", lambda x, i: x[i], In(rnd(4, 3)), In(torch.tensor([[2, 0, 2], [1, 3, 2]])))
    case("Erfinv", "", torch.erfinv, In(torch.rand(3, 4, generator=GEN) * 1.98 - 0.99))
    case(
        "Erfinv",
        "ends",
        torch.erfinv,
        In(torch.tensor([-1.0, 0.0, 1.0, 2.0])),
        exact=True,
        grad=False,
    )


def random():
    """Consecutive draws of a CPU generator."""
    g = torch.Generator().manual_seed(1234)
    return {
        "seed": 1234,
        "normal": array(torch.empty(5, 7).normal_(0.5, 2.0, generator=g)),
        "uniform": array(torch.empty(33).uniform_(-1.0, 3.0, generator=g)),
        "randperm": array(torch.randperm(12, generator=g)),
        "double": array(torch.empty(4, dtype=torch.float64).normal_(0.0, 1.0, generator=g)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for f in (pointwise, shape, reduce, conv, norm, loss, added):
        f()
    names = [c["name"] for c in CASES]
    assert len(set(names)) == len(names), "two cases with the same name"
    text = ",\n".join(json.dumps(c, separators=(",", ":")) for c in CASES)
    OUT.write_text(
        f'{{"torch":"{torch.__version__}","random":{json.dumps(random())},"cases":[\n{text}\n]}}\n'
    )
    print(OUT, OUT.stat().st_size, len(CASES))
