"""What a newer nnU-Net than the pinned one writes: its preprocessed folder, and a checkpoint of its trainer with the
logits that its network gives for an input. The newer nnU-Net stands before the pinned one in PYTHONPATH.

    newer_nnunet.py --golden testdata/golden/nnunet/VERSION

Layout:
    plans.json, dataset.json    of the checkpoint, and of the folder
    tiny/CASE.b2nd, CASE_seg.b2nd, CASE.pkl    two cases, through DefaultPreprocessor and nnUNetDatasetBlosc2
    checkpoint.pth              nnUNetTrainer after one epoch of two iterations on them
    input.npy, logits.npz       (1, 3, 8, 16, 16) and what the network makes of it in eval mode: head_0
    meta.json                   versions
"""

import argparse
import json
import os
import shutil
import sys
import tempfile

WORK = tempfile.mkdtemp()
for name in ("raw", "preprocessed", "results"):
    os.environ["nnUNet_" + name] = os.path.join(WORK, name)
os.environ["nnUNet_compile"] = "f"
os.environ["nnUNet_n_proc_DA"] = "0"

import numpy as np
import torch

CONFIGURATION = "tiny"
ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
STATISTICS = {
    "max": 3.0,
    "mean": 0.0,
    "median": 0.0,
    "min": -3.0,
    "percentile_00_5": -2.5,
    "percentile_99_5": 2.5,
    "std": 1.0,
}
PLANS = {
    "dataset_name": "Dataset900_Tiny",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
    "original_median_shape_after_transp": [12, 20, 20],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
        CONFIGURATION: {
            "data_identifier": "nnUNetPlans_tiny",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [8, 8, 8],
            "median_image_size_in_voxels": [12.0, 20.0, 20.0],
            "spacing": [1.0, 1.0, 1.0],
            "normalization_schemes": ["CTNormalization"] * 3,
            "use_mask_for_norm": [False] * 3,
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": RESAMPLING,
            "resampling_fn_seg_kwargs": dict(RESAMPLING, is_seg=True, order=1),
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": dict(RESAMPLING, order=1),
            "architecture": ARCHITECTURE,
            "batch_dice": False,
        }
    },
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {str(c): STATISTICS for c in range(3)},
}
DATASET = {
    "channel_names": {"0": "x", "1": "x", "2": "x"},
    "labels": {"background": 0, "a": 1, "b": 2, "c": 3},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=4)
        f.write("\n")


def preprocess(folder):
    """Two cases of smooth noise, given to nnU-Net as arrays."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(PLANS)
    configuration = plans.get_configuration(CONFIGURATION)
    rng = np.random.RandomState(0)
    for i, shape in enumerate([(12, 20, 20), (10, 16, 18)]):
        data = np.round(rng.normal(size=(3, *shape)) * 4) / 8
        seg = np.zeros((1, *shape), dtype=np.int16)
        for value in (1, 2, 3):
            corner = [rng.randint(0, n - 4) for n in shape]
            seg[(0, *(slice(c, c + 4) for c in corner))] = value
        properties = {
            "spacing": [1.0, 1.0, 1.0],
            "sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0)},
        }
        data, seg, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            data.astype(np.float32), seg, properties, plans, configuration, DATASET
        )
        nnUNetDatasetBlosc2.save_case(data, seg, properties, os.path.join(folder, "case_%d" % i))


def train():
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(0)
    np.random.seed(0)
    trainer = nnUNetTrainer(PLANS, CONFIGURATION, "all", DATASET, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = (
        1,
        2,
        1,
    )
    trainer.run_training()
    return trainer


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--golden", required=True)
    out = parser.parse_args().golden
    from importlib.metadata import version

    if os.path.basename(os.path.normpath(out)) != version("nnunetv2"):
        sys.exit("nnunetv2 is %s: the folder must have its name" % version("nnunetv2"))
    shutil.rmtree(out, ignore_errors=True)
    cases = os.path.join(out, CONFIGURATION)
    os.makedirs(cases)
    preprocess(cases)
    base = os.path.join(WORK, "preprocessed", PLANS["dataset_name"])
    shutil.copytree(
        cases, os.path.join(base, PLANS["configurations"][CONFIGURATION]["data_identifier"])
    )
    shutil.copytree(cases, os.path.join(base, "gt_segmentations"))
    write_json(os.path.join(base, "dataset.json"), DATASET)
    write_json(os.path.join(base, "dataset_fingerprint.json"), {})
    trainer = train()
    shutil.copy(
        os.path.join(trainer.output_folder, "checkpoint_final.pth"),
        os.path.join(out, "checkpoint.pth"),
    )
    write_json(os.path.join(out, "plans.json"), PLANS)
    write_json(os.path.join(out, "dataset.json"), DATASET)
    x = np.random.RandomState(1).normal(size=(1, 3, 8, 16, 16)).astype(np.float32)
    trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    with torch.no_grad():
        logits = trainer.network(torch.from_numpy(x)).numpy()
    np.save(os.path.join(out, "input.npy"), x)
    np.savez_compressed(os.path.join(out, "logits.npz"), head_0=logits)
    packages = [
        "nnunetv2",
        "dynamic_network_architectures",
        "batchgeneratorsv2",
        "acvl_utils",
        "blosc2",
        "torch",
        "numpy",
    ]
    write_json(
        os.path.join(out, "meta.json"),
        {
            "versions": {p: version(p) for p in packages},
            "cpu": torch.backends.cpu.get_cpu_capability(),
        },
    )
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
