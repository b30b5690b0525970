#!/usr/bin/env bash
# The demonstration behind `make demo`: a foundation model meets the CTs of another hospital. One command
# scores it on four held-out cases as it is, fine-tunes it on eight annotated ones with DGST, scores it
# again, and writes a report. Everything is synthetic: it shows the program and nothing about patients.
#
# Settings were fixed beforehand: seed 0, DGST's own learning rate, 4 epochs of 40 iterations.
set -euo pipefail
cd "$(dirname "$0")/.."

data=testdata/phantom-demo
out=results/demo
lntorch=bin/lntorch

rm -rf "$out"
$lntorch adapt --checkpoint "$data/foundation/nnUNetTrainer__nnUNetPlans__3d_phantom" \
  --cases "$data/raw/Dataset102_PhantomTarget" -o "$out" --epochs 4 --iterations 40 --disable_tta
