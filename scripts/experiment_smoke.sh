#!/usr/bin/env bash
# A grid from end to end on phantoms, as `make experiment-smoke` runs it: plan, draws, two workers of which one
# is killed, tables, pictures, page; then a Makefile of the same grid, and a run by hand. It shows that the
# commands work together, and nothing about methods.
set -euo pipefail
cd "$(dirname "$0")/.."

lntorch=$PWD/bin/lntorch
out=results/experiment-smoke
rm -rf "$out"
mkdir -p "$out"
cat >"$out/grid.yaml" <<END
name: experiment-smoke
datasets:
  target: {dataset: 102, test: imagesTs, pool: imagesTr}
networks:
  unet: {checkpoint: $PWD/testdata/phantom-demo/foundation/nnUNetTrainer__nnUNetPlans__3d_phantom}
methods:
  none: {method: none}
  full: {method: full}
  dgst: {method: dgst}
train: {head: keep, epochs: 2, iterations: 10}
shots: [1, 3]
draws: 2
seeds: 1
evaluate: {disable-tta: true}
END
export nnUNet_raw=$PWD/testdata/phantom-demo/raw
export LNTORCH_THREADS=1 # of each worker: on the CPU the number is part of the bits
grid="$out/grid.yaml -o $PWD/$out/grid"
fail() { echo "experiment-smoke: $1" >&2; exit 1; }

$lntorch experiment plan $grid
$lntorch experiment splits $grid --json >"$out/splits.json"

# Two workers; one is killed at its first run, and the other takes that over.
$lntorch experiment run $grid --jobs 2 --lock-timeout 5 >"$out/table.md" &
run=$!
for _ in $(seq 600); do
  grep -qs '"start"' "$out"/grid/journal/*.jsonl && break
  sleep 0.1
done
kill -9 "$(pgrep -P "$run" | head -n 1)"
wait "$run" || fail "the grid did not end with 0"
[ "$(ls -d "$out"/grid/runs/*/done | wc -l)" = 9 ] || fail "expected 9 runs"
[ "$(wc -l <"$out/grid/scores.csv")" = 37 ] || fail "expected 9 runs × 4 cases in scores.csv"
for file in table.md table.csv table.tex table.json report.html splits.json experiment.json; do
  [ -s "$out/grid/$file" ] || fail "$file is missing"
done
cat "$out/table.md"
$lntorch experiment status $grid

# Once more, from make: nothing is left to do. Then a run is done again, to the same scores.
cp "$out/grid/scores.csv" "$out/scores.csv"
$lntorch experiment plan $grid --make >"$out/Makefile"
from_make() { make --no-print-directory -s -C "$out/grid" -f ../Makefile LNTORCH="$lntorch" "$@"; }
from_make -j2 -k >/dev/null
key=$(grep -l '"method": "dgst"' "$out"/grid/runs/*/run.json | head -n 1 | xargs dirname)
rm -r "$key"
from_make -n | grep -q "key=$(basename "$key")" || fail "make does not see that a run is gone"
from_make -j2 -k >/dev/null
cmp "$out/scores.csv" "$out/grid/scores.csv"

# The same run by hand, to the same scores.
$lntorch experiment command $grid "$(basename "$key")" --folder "$out/by-hand" >"$out/by-hand.sh"
PATH=$PWD/bin:$PATH bash -e "$out/by-hand.sh" >"$out/by-hand.log" 2>&1 || fail "a line of experiment command failed: $out/by-hand.log"
python3 - "$key/scores.json" "$out/by-hand/predictions/scores.json" <<'PY'
import json
import sys

run, hand = ({c["case"]: c["labels"] for c in json.load(open(f))["cases"]} for f in sys.argv[1:])
assert run and run == hand, "experiment-smoke: a run by hand has other scores"
PY
echo "experiment-smoke: $out/grid/report.html"
