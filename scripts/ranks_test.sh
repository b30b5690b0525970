#!/usr/bin/env bash
# Starts two ranks by everything that starts ranks, and compares what they train, bit for bit.
#
#   scripts/ranks_test.sh [PART…]     parts, all by default:
#     num_gpus   -num_gpus 2 on the CPU; what is refused before anything starts
#     torchrun   PyTorch's, of the Python that scripts/nnunet_venv.py makes; a restart
#     mpi        Open MPI's mpirun
#     slurm      srun and sbatch in a Slurm of one node (scripts/slurm.sh)
#     hosts      two "hosts": network namespaces joined by a cable, names, a cable pulled
#     bandwidth  the same cable at RATE (20mbit): --compress bf16 sends half and waits less
#
# LNTORCH names the program (bin/lntorch). mpi, slurm, hosts and bandwidth need Debian's openmpi-bin, Slurm and
# iproute2, and root.
set -euo pipefail
cd "$(dirname "$0")/.."

lntorch=$(realpath "${LNTORCH:-bin/lntorch}")
python=${PYTHON:-python3}
mini=$PWD/testdata/phantom-mini
fold=$mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0
work=$(mktemp -d)
ended=()
finish() {
  for command in ${ended[@]+"${ended[@]}"}; do $command >/dev/null 2>&1 || true; done
  rm -rf "$work"
}
trap finish EXIT
say() { echo "ranks-test: $*"; }
die() { say "$*" >&2; exit 1; }

# Four recorded steps. What starts the ranks stands before it.
trace=("$lntorch" trace --checkpoint "$fold/checkpoint_final.pth" --batches "$mini/trajectory" --method full
  --numerics reference --threads 1 -device cpu)

# steps NAME COMMAND…: COMMAND trains the steps with -o work/NAME.
steps() {
  local name=$1
  shift
  timeout 100 "$@" -o "$work/$name" >"$work/$name.log" 2>&1 || { cat "$work/$name.log"; die "$name: exit status $?"; }
  same "$name"
}

# same NAME: two ranks of one row each took part, agree with each other, and have the bits of those before.
same() {
  "$python" - "$work" "$1" <<'PY'
import json, pathlib, sys
work, name = pathlib.Path(sys.argv[1]), sys.argv[2]
found = json.loads((work / name / "losses.json").read_text())
if found.get("world_size") != 2 or found["rows"] != [1, 1]:
    sys.exit(f"ranks-test: {name}: {found.get('world_size')} ranks with rows {found.get('rows')}, expected 2 with 1 each")
a, b = found["weights_sha256"]
if a != b:
    sys.exit(f"ranks-test: {name}: the ranks ended with other weights: {a[:12]}, {b[:12]}")
bits = {k: found[k] for k in ("losses", "rank_losses", "weights_sha256")}
first = work / "first.json"
if not first.exists():
    first.write_text(json.dumps(bits))
elif json.loads(first.read_text()) != bits:
    sys.exit(f"ranks-test: {name}: other bits than before: {bits} {first.read_text()}")
print(f"ranks-test: {name}: weights {a[:12]} on both ranks")
PY
}

# refused SENTENCE COMMAND…: COMMAND ends with exit status 1 or 2 in five seconds and says SENTENCE.
refused() {
  local sentence=$1 code=0 log=$work/refused.log
  shift
  timeout -k 1 5 "$@" >"$log" 2>&1 || code=$?
  [ $code = 1 ] || [ $code = 2 ] || { cat "$log"; die "exit status $code, expected 1 or 2: $*"; }
  grep -qF -- "$sentence" "$log" || { cat "$log"; die "no word of \"$sentence\": $*"; }
  say "refused: $sentence"
}

num_gpus() {
  steps num_gpus "${trace[@]}" -num_gpus 2
  refused 'WORLD_SIZE=2 is set, but RANK is not' env WORLD_SIZE=2 "${trace[@]}" -o "$work/no"
  refused '--num-gpus: found "0"' "${trace[@]}" -num_gpus 0 -o "$work/no"
  refused 'no-such-host.invalid has no address here' "${trace[@]}" -num_gpus 2 --master no-such-host.invalid:7 -o "$work/no"
  local port
  coproc BUSY { exec "$python" -c '
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); print(s.getsockname()[1], flush=True); input()'; }
  read -r port <&"${BUSY[0]}"
  refused "127.0.0.1:$port, but rank 0 cannot listen there" "${trace[@]}" -num_gpus 2 --master "127.0.0.1:$port" -o "$work/no"
  kill "$BUSY_PID"
  wait "$BUSY_PID" 2>/dev/null || true
  # Variables of a launcher that started nobody, ignored.
  env WORLD_SIZE=2 LNTORCH_DIST=off "${trace[@]}" -o "$work/alone" >/dev/null 2>&1 || die "--dist off reads the environment"
}

torchrun() {
  local run
  run=$(dirname "$("$python" scripts/nnunet_venv.py)")/torchrun
  steps torchrun "$run" --nproc-per-node 2 --no-python "${trace[@]}"
  refused 'start it by `torchrun --no-python lntorch train' "$run" --nproc-per-node 2 "${trace[@]}"
}

mpi() {
  steps mpi mpirun --allow-run-as-root --oversubscribe -n 2 "${trace[@]}"
}

slurm() {
  SLURM_CONF=
  ended+=("scripts/slurm.sh stop $work/slurm")
  eval "$(CPUS=2 scripts/slurm.sh start "$work/slurm")"
  steps srun srun -n 2 "${trace[@]}"
  # A batch script of two tasks is one process; srun in it starts two.
  cat >"$work/job.sh" <<END
#!/bin/bash
#SBATCH --ntasks=2
set -e
${trace[*]} -o $work/batch
srun ${trace[*]} -o $work/sbatch
END
  sbatch --wait --output "$work/job.log" "$work/job.sh" >/dev/null || { cat "$work/job.log"; die "the job failed"; }
  ! grep -q world_size "$work/batch/losses.json" || die "a batch script that is no step waited for other ranks"
  same sbatch
  go test -count=1 -run TestNodesAreWhatScontrolLists ./internal/launch >/dev/null || die "hosts of Slurm's lists"
}

for part in ${@:-num_gpus torchrun mpi slurm hosts bandwidth}; do
  $part
done
say "passed in $SECONDS s"
