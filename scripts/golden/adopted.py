"""Opens plans with nnU-Net 2.5.1's own PlansManager, builds the network of a configuration and
loads the weights of a checkpoint into it.

Usage: python scripts/golden/adopted.py PLANS DATASET_JSON CONFIGURATION CHECKPOINT

Prints JSON: the configuration, and the source of the intensity statistics for normalisation."""

import json
import os
import sys
import tempfile

for folder in ("raw", "preprocessed", "results"):
    os.environ.setdefault(
        "nnUNet_" + folder, tempfile.gettempdir()
    )  # otherwise nnU-Net prints warnings

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def main(plans, dataset_json, configuration, checkpoint):
    p, d = PlansManager(plans), load_json(dataset_json)
    c = p.get_configuration(configuration)
    labels = p.get_label_manager(d)
    net = get_network_from_plans(
        c.network_arch_class_name,
        c.network_arch_init_kwargs,
        c.network_arch_init_kwargs_req_import,
        determine_num_input_channels(p, c, d),
        labels.num_segmentation_heads,
        deep_supervision=True,
    )
    net.load_state_dict(
        torch.load(checkpoint, map_location="cpu", weights_only=False)["network_weights"]
    )
    with torch.no_grad():
        out = net(torch.zeros(1, 1, *c.patch_size))
    assert (
        c.resampling_fn_data
        and c.resampling_fn_seg
        and c.resampling_fn_probabilities
        and p.image_reader_writer_class
        and c.preprocessor_class
    )
    assert p.experiment_planner_class
    print(
        json.dumps(
            {
                "patch": c.patch_size,
                "batch": c.batch_size,
                "spacing": c.spacing,
                "normalisation": c.normalization_schemes,
                "mean": p.foreground_intensity_properties_per_channel["0"]["mean"],
                "transpose": p.transpose_forward,
                "output": list((out[0] if isinstance(out, (list, tuple)) else out).shape),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
