#!/usr/bin/env bash
# The demonstration's fine-tuning (scripts/demo.sh: 4 epochs of 40 iterations on four cases) with
# each list of transforms, three seeds, DGST and full: 18 trainings, about ten minutes on 2 cores.
# Prints the mean Dice of the four held-out cases. Needs `make`.
set -euo pipefail
cd "$(dirname "$0")/.."

data=testdata/phantom-demo
out=results/demo-augmentation
foundation=$data/foundation/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth
rm -rf "$out"
mkdir -p "$out"
printf '| list | method | seed 0 | seed 1 | seed 2 | mean |\n| --- | --- | --: | --: | --: | --: |\n'
for list in none mirror nnunet; do
  for method in dgst full; do
    row=""
    for seed in 0 1 2; do
      results=$out/$list-$method-$seed
      bin/lntorch train 102 3d_phantom 0 --plans nnUNetPlansSource --preprocessed "$data/preprocessed" --results "$results" \
        --disable-tta --head keep --epochs 4 --iterations 40 --val-iterations 4 --seed "$seed" \
        --pretrained-weights "$foundation" --method "$method" --augmentation "$list" > "$results.log" 2>&1
      dice=$(cat "$results"/*/*/fold_0/training_log* | sed -n 's/.*Mean Validation Dice: *\([0-9.]*\).*/\1/p')
      row="$row $dice"
    done
    echo "$list $method $row" | awk '{printf "| `%s` | %s | %.3f | %.3f | %.3f | %.3f |\n", $1, $2, $3, $4, $5, ($3 + $4 + $5) / 3}'
  done
done
