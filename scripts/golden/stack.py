"""Shared by the golden scripts: the network of a spec, the integer-hash fill, and the record of how
a file was made.

A network spec is a JSON object:

    {"name": "plain-3d",
     "architecture": {...},       with network_class_name, arch_kwargs and _kw_requires_import,
                                  as in plans.json
     "input_channels": 1, "num_classes": 2, "input_shape": [2, 1, 16, 16, 16],
     "deep_supervision": true, "mode": "train",
     "labels": {...}, "regions_class_order": [...], "batch_dice": false}     for training only

The last three have the same meaning as in dataset.json and plans.json; num_classes must agree with
them.
Instead of "architecture" a spec may hold the network of a trainer that ignores the plans:

     "swin": {"class": "SwinUNETR" or "SwinUNETRv2", "feature_size": 48, "use_checkpoint": false}
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

for _name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(
        _name, "/nonexistent"
    )  # nnU-Net prints a page of advice if they are missing
os.environ["nnUNet_compile"] = "f"

import numpy as np
import torch

warnings.filterwarnings("ignore", category=FutureWarning)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "testdata" / "golden"
PHANTOM = ROOT / "testdata" / "phantom-mini"
FOUNDATION = (
    PHANTOM / "results" / "Dataset101_PhantomSource" / "nnUNetTrainer__nnUNetPlans__3d_phantom"
)


def parser(description, threads=2):
    """An argument parser with the options common to all scripts."""
    p = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("--threads", type=int, default=threads, help="intra-op threads of torch")
    p.add_argument(
        "--deterministic", action="store_true", help="torch.use_deterministic_algorithms(True)"
    )
    p.add_argument("--seed", type=int, default=0)
    return p


def start(args):
    """Applies the options of parser()."""
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(args.deterministic)
    torch.manual_seed(args.seed)


def versions(*names):
    from importlib.metadata import version

    return {n: version(n) for n in names}


def meta(args, **more):
    """Metadata on how a golden file was made."""
    return {
        "script": Path(sys.argv[0]).name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions("numpy", "nnunetv2", "dynamic_network_architectures", "batchgeneratorsv2"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "seed": args.seed,
        **more,
    }


def write_json(path, value):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, dict):  # one line per key: small, and still readable in a diff
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        path.write_text(json.dumps(value, indent=1) + "\n")


def write_npz(path, arrays):
    """np.savez_compressed with a fixed time stamp, so that equal content gives equal files."""
    import io
    import zipfile

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            z.writestr(info, buffer.getvalue())


def read_spec(path):
    """A bare spec, or the one inside a golden JSON file under "spec"."""
    value = json.loads(Path(path).read_text())
    return value.get("spec", value)


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def hash_values(p, count):
    """u in [-0.5, 0.5) for elements 0..count-1 of tensor p (float64); testdata/state-dicts has the
    same rule.

    p is the index in named_parameters; -1 is the input, -2-i the weight of head i in network.py's
    loss.
    """
    m = np.uint64(0xFFFFFFFF)
    j = np.arange(count, dtype=np.uint64)
    offset = np.uint64(((p + 1) * 2246822519) % (1 << 32))
    h = (j * np.uint64(2654435761) + offset) & m
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(2246822519)) & m
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(3266489917)) & m
    h ^= h >> np.uint64(16)
    return h.astype(np.float64) / 4294967296.0 - 0.5


def hash_tensor(p, shape):
    """The hash fill of an input-like tensor: 2u, float32."""
    return torch.from_numpy(
        (2 * hash_values(p, int(np.prod(shape)))).astype(np.float32).reshape(shape)
    )


def hash_parameter(p, name, shape):
    count = int(np.prod(shape))
    u = hash_values(p, count)
    if name.endswith("relative_position_bias_table"):
        value = 2 * u
    elif len(shape) >= 2:
        value = 2 * u * np.sqrt(3 / (count / shape[0]))
    elif name.endswith("weight"):
        value = 1 + 0.5 * u
    else:
        value = 0.5 * u
    return torch.from_numpy(value.astype(np.float32).reshape(shape))


def fill(network):
    """Overwrites every parameter with its hash fill."""
    with torch.no_grad():
        for p, (name, parameter) in enumerate(network.named_parameters()):
            parameter.copy_(hash_parameter(p, name, tuple(parameter.shape)))


def build_swin(spec):
    """MONAI's network as built by LN-Seg-FM's nnUNetTrainer_SwinUNETR and v2, in any size."""
    from monai.networks.nets import SwinUNETR

    s = spec["swin"]
    spatial = spec["input_shape"][2:]
    return SwinUNETR(
        img_size=(64,) * len(spatial),
        in_channels=spec["input_channels"],
        out_channels=spec["num_classes"],
        feature_size=s["feature_size"],
        use_checkpoint=s.get("use_checkpoint", False),
        use_v2=s["class"] == "SwinUNETRv2",
        spatial_dims=len(spatial),
    )


def build(spec, deep_supervision=None):
    """The spec's network as nnU-Net builds it from plans."""
    if "swin" in spec:
        return build_swin(spec)
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    a = spec["architecture"]
    network = get_network_from_plans(
        a["network_class_name"],
        dict(a["arch_kwargs"]),
        a["_kw_requires_import"],
        spec["input_channels"],
        spec["num_classes"],
        allow_init=True,
    )
    ds = spec.get("deep_supervision", True) if deep_supervision is None else deep_supervision
    network.decoder.deep_supervision = ds
    return network


def load_weights(network, where):
    """'hash', or a .pth file: an nnU-Net checkpoint or a bare state dict. Strict."""
    if where == "hash":
        fill(network)
        return
    weights = torch.load(where, map_location="cpu", weights_only=False)
    network.load_state_dict(weights.get("network_weights", weights), strict=True)


def state_dict_rows(network):
    """[key, shape, dtype, storage id by first appearance] in the order of state_dict()."""
    ids = {}
    rows = []
    for key, t in network.state_dict().items():
        storage = ids.setdefault(t.untyped_storage().data_ptr(), len(ids))
        rows.append([key, list(t.shape), str(t.dtype).removeprefix("torch."), storage])
    return rows


def named_parameter_rows(network):
    return [[i, n, list(p.shape), p.numel()] for i, (n, p) in enumerate(network.named_parameters())]


def plans_spec(plans_file, dataset_file, configuration):
    """The spec of a configuration of real plans; its patch_size is kept under "patch_size"."""
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(plans_file))
    dataset = json.loads(Path(dataset_file).read_text())
    c = plans.get_configuration(configuration)
    labels = plans.get_label_manager(dataset)
    channels = determine_num_input_channels(plans, c, dataset)
    return {
        "name": configuration,
        "architecture": {
            "network_class_name": c.network_arch_class_name,
            "arch_kwargs": c.network_arch_init_kwargs,
            "_kw_requires_import": list(c.network_arch_init_kwargs_req_import),
        },
        "input_channels": channels,
        "num_classes": labels.num_segmentation_heads,
        "input_shape": [c.batch_size, channels, *c.patch_size],
        "patch_size": list(c.patch_size),
        "deep_supervision": True,
        "labels": dataset["labels"],
        "regions_class_order": dataset.get("regions_class_order"),
        "batch_dice": c.batch_dice,
    }


def label_manager(spec):
    """nnU-Net's own label manager for the spec's labels."""
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    labels = {k: tuple(v) if isinstance(v, list) else v for k, v in spec["labels"].items()}
    order = spec.get("regions_class_order")
    manager = LabelManager(labels, regions_class_order=None if order is None else tuple(order))
    if "num_classes" in spec and manager.num_segmentation_heads != spec["num_classes"]:
        raise SystemExit(
            f"spec has num_classes {spec['num_classes']}, its labels give {manager.num_segmentation_heads}"
        )
    return manager


def ds_scales(strides):
    """Deep-supervision scales, by nnU-Net's own method."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    owner = SimpleNamespace(
        enable_deep_supervision=True,
        configuration_manager=SimpleNamespace(pool_op_kernel_sizes=strides),
    )
    return nnUNetTrainer._get_deep_supervision_scales(owner)


def build_loss(spec, strides, ddp=False):
    """The loss that nnUNetTrainer builds for the spec's labels and these strides (no compile).

    Without deep supervision ("deep_supervision": false) it is the plain loss on one tensor.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    owner = SimpleNamespace(
        label_manager=label_manager(spec),
        configuration_manager=SimpleNamespace(batch_dice=spec.get("batch_dice", False)),
        is_ddp=ddp,
        _do_i_compile=lambda: False,
        enable_deep_supervision=spec.get("deep_supervision", True),
        _get_deep_supervision_scales=lambda: ds_scales(strides),
    )
    return nnUNetTrainer._build_loss(owner)


def make_targets(spec, strides, shape, rng, valid=True):
    """Random blocky targets in the form of nnU-Net's validation transforms, one tensor per level.

    shape is (n, *spatial). Labels: int16 (n, 1, ...). Regions: bool (n, regions (+1 ignore), ...).
    valid=False puts the ignore label everywhere.
    """
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
        DownsampleSegForDSTransform,
    )
    from batchgeneratorsv2.transforms.utils.seg_to_regions import (
        ConvertSegmentationToRegionsTransform,
    )

    manager = label_manager(spec)
    values = list(manager.all_labels)
    if manager.has_ignore_label:
        values.append(manager.ignore_label)
    spatial = shape[1:]
    seg = rng.choice(values, size=shape, p=_weights(values, manager))
    for axis in range(1, len(shape)):  # blocks of 2, so that lower levels are not only noise
        seg = np.repeat(np.take(seg, range(0, (spatial[axis - 1] + 1) // 2), axis), 2, axis)
        seg = np.take(seg, range(spatial[axis - 1]), axis)
    if not valid:
        seg[:] = manager.ignore_label
    seg = seg.astype(np.int16)
    to_regions = None
    if manager.has_regions:
        regions = list(manager.foreground_regions)
        if manager.has_ignore_label:
            regions.append(manager.ignore_label)
        to_regions = ConvertSegmentationToRegionsTransform(regions=regions, channel_in_seg=0)
    down = (
        DownsampleSegForDSTransform(ds_scales=ds_scales(strides))
        if spec.get("deep_supervision", True)
        else None
    )
    cases = []
    for case in seg:
        data = {"segmentation": torch.from_numpy(case[None])}
        if to_regions is not None:
            data = to_regions(**data)
        if down is not None:
            data = down(**data)
        s = data["segmentation"]
        cases.append(s if isinstance(s, list) else [s])
    return [torch.stack([c[k] for c in cases]) for k in range(len(cases[0]))]


def _weights(values, manager):
    w = np.array([3.0 if v == 0 else 1.0 for v in values])
    return w / w.sum()
