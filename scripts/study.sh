#!/usr/bin/env bash
# The study of docs/studies/phantom.md, as `make study` runs it: phantoms of two domains, a small SwinUNETR
# pretrained on the source domain beside the bundled PlainConvUNet, and the grid of docs/studies/phantom.yaml.
# What is there already is not done again, so a study that was stopped goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."

lntorch=$PWD/bin/lntorch
work=$PWD/results/study
study=docs/studies/phantom
export nnUNet_raw=$work/raw nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
mkdir -p "$work"

# The source domain is that of the bundled model (testdata/foundation/README.md). The target domain's CTs are cut
# to about two patches, without contrast, sharper and noisier.
source=Dataset301_PhantomSource
target=Dataset303_PhantomTarget
[ -d "$nnUNet_raw/$source" ] || $lntorch phantom --id 301 --name PhantomSource --size small --cases 20 --seed 301
[ -d "$nnUNet_raw/$target" ] || $lntorch phantom --id 303 --name PhantomTarget --domain target --size small \
  --shape 26,53,53 --phase none --kernel sharp --noise 40 --cases 10 --test-cases 20 --seed 303

# SwinUNETR begins with MONAI's own random weights: 12 features in place of 48, and 1 to 8 heads in place of 3 to 24.
swin=$nnUNet_results/$source/nnUNetTrainer_SwinUNETR__nnUNetPlans__3d_swin
if [ ! -f "$work/swin.pth" ]; then
  $(python3 scripts/nnunet_venv.py | tail -n 1) - "$work/swin.pth" <<'PY'
import os
import sys

import torch
from monai.networks.nets.swin_unetr import SwinUNETR

torch.manual_seed(301)
net = SwinUNETR(img_size=(32, 32, 64), in_channels=1, out_channels=2, feature_size=12, num_heads=(1, 2, 4, 8))
torch.save({"network_weights": net.state_dict(), "trainer_name": "nnUNetTrainer_SwinUNETR"}, sys.argv[1] + ".part")
os.rename(sys.argv[1] + ".part", sys.argv[1])
PY
fi
if [ ! -f "$swin/fold_0/checkpoint_final.pth" ]; then
  plans=$nnUNet_preprocessed/$source/nnUNetPlans.json
  if ! grep -qs 3d_swin "$plans"; then
    $lntorch fingerprint -d 301
    $lntorch plan -d 301
    python3 - "$plans" <<'PY'
import json
import sys

path = sys.argv[1]
plans = json.load(open(path))
plans["configurations"]["3d_swin"] = {"inherits_from": "3d_fullres", "patch_size": [32, 32, 64], "batch_size": 2}
json.dump(plans, open(path, "w"), indent=4)
PY
  fi
  begin="--pretrained-weights $work/swin.pth"
  [ ! -f "$swin/fold_0/checkpoint_latest.pth" ] || begin=--c
  $lntorch train 301 3d_swin 0 -tr nnUNetTrainer_SwinUNETR --method full --epochs 40 --iterations 40 \
    --val-iterations 2 --disable-tta --seed 301 --threads 2 $begin
fi

# Two workers of one thread each: on the CPU the number of threads is part of the bits.
$lntorch experiment run $study.yaml -o "$work/grid" --jobs 2 --threads 1 >/dev/null
for file in splits.json scores.csv table.md table.csv table.tex; do
  cp "$work/grid/$file" "$study/"
done
cp "$work"/grid/plots/*.svg "$study/"
$lntorch experiment status $study.yaml -o "$work/grid"
