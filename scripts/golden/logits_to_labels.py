"""Labels by nnU-Net's own LabelManager.convert_logits_to_segmentation.

Golden files:  logits_to_labels.py --golden testdata/golden/logits_to_labels

NAME.npz: logits (heads,z,y,x) float16 or float32, labels (z,y,x) uint8. cases.json: the labels of
dataset.json for each NAME.
The logits cover the decisive cases: ties of all and of some classes, float16 subnormals around 0,
large values, and noise.
"""

import numpy as np

import stack


def make_logits(rng, heads, shape, dtype):
    x = rng.normal(0, 3, (heads, *shape)).astype(np.float32)
    x[:, 0] = np.round(x[:, 0])  # many ties
    x[:, 1] = x[:1, 1]  # all classes equal
    tiny = rng.integers(-3, 4, x[:, 2].shape) * np.float32(2.0**-24)
    x[:, 2] = tiny  # subnormal in float16
    x[:, 3] *= 1000  # saturated
    return x.astype(dtype)


def main():
    p = stack.parser(__doc__.splitlines()[0])
    p.add_argument("--golden", metavar="DIR", required=True)
    args = p.parse_args()
    stack.start(args)
    rng = np.random.default_rng(args.seed)
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3}
    cases = []
    for name, dtype, labels, order in [
        ("labels", np.float16, {"background": 0, "a": 1, "b": 2}, None),
        ("labels-ignore", np.float32, {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4}, None),
        ("regions", np.float16, regions, [1, 2, 3]),
        ("regions-reordered", np.float32, regions, [3, 1, 2]),
    ]:
        spec = {"labels": labels, "regions_class_order": order}
        manager = stack.label_manager(spec)
        logits = make_logits(rng, manager.num_segmentation_heads, (5, 6, 7), dtype)
        seg = manager.convert_logits_to_segmentation(logits)
        stack.write_npz(
            f"{args.golden}/{name}.npz", {"logits": logits, "labels": seg.astype(np.uint8)}
        )
        cases.append({"name": name, **spec})
        print(name, np.bincount(seg.ravel().astype(int)))
    stack.write_json(f"{args.golden}/cases.json", {"cases": cases, "meta": stack.meta(args)})


if __name__ == "__main__":
    main()
