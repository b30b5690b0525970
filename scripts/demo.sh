#!/usr/bin/env bash
# The demonstration behind `make demo`: a foundation model is applied to CTs of another scanner. It is
# scored unchanged, fine-tuned on four annotated cases with DGST and with full fine-tuning, and
# scored again on four held-out cases. Everything is synthetic and shows nothing about patients, nor
# which method is better: it is one seed on four cases.
#
# Settings were fixed beforehand: seed 0, heads kept, each method's own learning rate, 4 epochs of
# 40 iterations.
set -euo pipefail
cd "$(dirname "$0")/.."

data=testdata/phantom-demo
out=results/demo
foundation=$data/foundation/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth
lntorch=bin/lntorch

rm -rf "$out"
mkdir -p "$out"
common=(102 3d_phantom 0 --plans nnUNetPlansSource --preprocessed "$data/preprocessed" --results "$out" --disable-tta)
short=(--head keep --epochs 4 --iterations 40 --val-iterations 4 --seed 0 --pretrained-weights "$foundation")

echo "== the foundation model, unchanged"
$lntorch validate "${common[@]}" --checkpoint "$foundation" -o "$out/before"
echo "== fine-tuning with DGST"
$lntorch train "${common[@]}" "${short[@]}" --method dgst
echo "== full fine-tuning"
$lntorch train "${common[@]}" "${short[@]}" --method full

fold() { echo "$out/Dataset102_PhantomTarget/$1__nnUNetPlansSource__3d_phantom/fold_0"; }
echo
echo "== held-out cases"
$lntorch compare 102 3d_phantom before="$out/before" DGST="$(fold nnUNetTrainer_DGST)/validation" full="$(fold nnUNetTrainer)/validation" \
  --plans nnUNetPlansSource --preprocessed "$data/preprocessed" --raw "$data/raw" -o "$out/demo.png"
echo "fine-tuned model: $(fold nnUNetTrainer_DGST)"
