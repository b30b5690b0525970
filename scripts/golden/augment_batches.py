"""Makes the batches that lntorch augment batches --crops wrote once more, with nnU-Net's padding and
batchgeneratorsv2's own transforms. Live only.

    augment_batches.py BATCHES CASES OUTPUT.npz

BATCHES is the folder of batches, CASES the folder of preprocessed cases. A crop that is not the
case's is an error. The output has for sample j of batch n n/j/data and n/j/target/0, ….
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from augment_transforms import apply_drawn


def cut(array, lower, upper, value):
    """The box of an array, as in nnU-Net 2.5.1's data_loader_3d.py."""
    shape = array.shape[1:]
    inside = [slice(max(0, a), min(n, b)) for a, b, n in zip(lower, upper, shape, strict=True)]
    pad = [(-min(0, a), max(b - n, 0)) for a, b, n in zip(lower, upper, shape, strict=True)]
    return np.pad(array[(slice(None), *inside)], ((0, 0), *pad), constant_values=value)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("batches", type=Path)
    p.add_argument("cases", type=Path)
    p.add_argument("output")
    a = p.parse_args()
    torch.set_num_threads(1)
    arrays, outside = {}, 0
    for n, path in enumerate(sorted(a.batches.glob("batch_*.json"))):
        images = np.load(a.batches / f"{path.stem}_crop_data.npy")
        segs = np.load(a.batches / f"{path.stem}_crop_seg.npy")
        for j, sample in enumerate(json.loads(path.read_text())["samples"]):
            with np.load(a.cases / (sample["key"] + ".npz")) as case:
                image, seg = case["data"], case["seg"]
            if "selected_slice" in sample:
                image, seg = image[:, sample["selected_slice"]], seg[:, sample["selected_slice"]]
            box = sample["bbox_lbs"], sample["bbox_ubs"]
            for ours, theirs in ((images, cut(image, *box, 0)), (segs, cut(seg, *box, -1))):
                if not np.array_equal(ours[j], theirs):
                    raise SystemExit(f"{path.stem}, sample {j}: the crop is not {sample['key']}'s")
                outside += int((theirs == -1).sum())
            data = {"image": torch.from_numpy(images[j]), "segmentation": torch.from_numpy(segs[j])}
            for spec in sample["transforms"]:
                noise = np.load(a.batches / spec["noise"]) if "noise" in spec else None
                data = apply_drawn(data, spec, noise)
            arrays[f"{n}/{j}/data"] = data["image"].numpy()
            targets = data["segmentation"]
            for k, t in enumerate(targets if isinstance(targets, list) else [targets]):
                arrays[f"{n}/{j}/target/{k}"] = t.numpy()
    if not outside:
        raise SystemExit("no crop reaches beyond its case")
    np.savez_compressed(a.output, **arrays)


if __name__ == "__main__":
    main()
