#!/usr/bin/env bash
# The model behind `make foundation`: pretrained by lntorch on phantoms of the source domain alone. Its
# network is small (four stages, 8 to 64 features), so that the demonstration adapts it in minutes on
# two cores. The result replaces testdata/foundation; the same seed, machine and number of threads give
# the same weights.
set -euo pipefail
cd "$(dirname "$0")/.."

work=results/foundation
lntorch=bin/lntorch
out=testdata/foundation
rm -rf "$work"
export nnUNet_raw=$work/raw nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results

$lntorch phantom --id 301 --name PhantomSource --size small --cases 20 --seed 301
$lntorch fingerprint -d 301
$lntorch plan -d 301
dataset=Dataset301_PhantomSource
python3 - "$nnUNet_preprocessed/$dataset/nnUNetPlans.json" <<'PY'
import json
import sys

path = sys.argv[1]
plans = json.load(open(path))
full = plans["configurations"]["3d_fullres"]
arch = json.loads(json.dumps(full["architecture"]))
kernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
arch["arch_kwargs"].update(
    n_stages=4,
    features_per_stage=[8, 16, 32, 64],
    kernel_sizes=kernels,
    strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
    n_conv_per_stage=[2, 2, 2, 2],
    n_conv_per_stage_decoder=[2, 2, 2],
)
plans["configurations"]["3d_phantom"] = {
    "inherits_from": "3d_fullres",
    "patch_size": [24, 64, 64],
    "batch_size": 2,
    "architecture": arch,
}
json.dump(plans, open(path, "w"), indent=4)
PY
# Preprocessed on the way.
$lntorch train 301 3d_phantom 0 --method full --epochs "${EPOCHS:-200}" --iterations 50 --val-iterations 5 --seed 301

model=$nnUNet_results/$dataset/nnUNetTrainer__nnUNetPlans__3d_phantom
rm -rf "$out"
mkdir -p "$out/fold_0"
cp "$model"/{plans,dataset,dataset_fingerprint}.json "$out"
cp "$model"/fold_0/{checkpoint_final.pth,run.json} "$out/fold_0"
mkdir -p "$out/fold_0/validation"
cp "$model"/fold_0/validation/summary.json "$out/fold_0/validation"
echo "written: $out"
