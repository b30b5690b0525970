#!/usr/bin/env bash
# Starts two ranks by everything that starts ranks, and compares what they train, bit for bit.
#
#   scripts/ranks_test.sh [PART…]     parts, all by default:
#     num_gpus   -num_gpus 2 on the CPU; what is refused before anything starts
#     torchrun   PyTorch's, of the Python that scripts/nnunet_venv.py makes; a restart
#     elastic    torchrun --nnodes 1:2: a second rank comes later
#     mpi        Open MPI's mpirun
#     slurm      srun and sbatch in a Slurm of two nodes on this host (scripts/slurm.sh), with the scripts of the docs
#     hosts      two "hosts": network namespaces joined by a cable, names, folders of one alone, a cable pulled
#     bandwidth  the same cable at RATE (20mbit): --compress bf16 sends half and waits less
#     gigabit    the same with the released PlainConvUNet at 1gbit; not among the default ones
#
# bandwidth and gigabit write what they have measured to MEASURED, where that is set (scripts/bench_ranks.py). Where a host
# cannot have network namespaces, or a cable no rate, the exit status is 77 and the last line says what is missing.
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

# A short training, its results in $nnUNet_results; what is added to it comes after. goon is it with --c.
goon=("$lntorch" train 102 3d_phantom 0 -p nnUNetPlansSource -tr nnUNetTrainer_DGST --val-iterations 1 --disable-tta --threads 1 -device cpu)
train=("${goon[@]}" -pretrained_weights "$fold/checkpoint_final.pth")
goon+=(--c)
cp -R "$mini/preprocessed" "$work/preprocessed"
export nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
trained=Dataset102_PhantomTarget/nnUNetTrainer_DGST__nnUNetPlansSource__3d_phantom/fold_0

# await FILE: until it is there, at most two minutes.
await() {
  local _
  for _ in $(seq 1200); do [ ! -e "$1" ] || return 0; sleep 0.1; done
  die "$1 does not come"
}

# steps NAME COMMAND…: COMMAND trains the steps with -o work/NAME.
steps() {
  local name=$1 code=0
  shift
  "$@" -o "$work/$name" >"$work/$name.log" 2>&1 || code=$?
  [ $code = 0 ] || { cat "$work/$name.log"; die "$name: exit status $code"; }
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

# equal A B: the trainings with results in work/A and work/B ended with the same bits.
equal() {
  "$python" - "$work" "$1" "$2" "$trained" <<'PY'
import sys, zipfile
work, *names, trained = sys.argv[1:]
def tensors(name): # of weights and momentum, by their place in the file
    with zipfile.ZipFile(f"{work}/{name}/{trained}/checkpoint_final.pth") as z:
        return {i.filename: z.read(i) for i in z.infolist() if "/data/" in i.filename}
a, b = map(tensors, names)
other = [k for k in a if a[k] != b.get(k)]
if len(a) < 100 or len(a) != len(b) or other:
    sys.exit(f"ranks-test: of {len(a)} tensors of {names[0]} and {len(b)} of {names[1]}, {len(other)} have other bits")
PY
}

# refused SENTENCE COMMAND…: COMMAND ends with exit status 1 or 2 in five seconds (limit) and says SENTENCE.
limit=5
refused() {
  local sentence=$1 code=0 log=$work/refused.log
  shift
  timeout -k 1 $limit "$@" >"$log" 2>&1 || code=$?
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
  local run agent rank1
  run=$(dirname "$("$python" scripts/nnunet_venv.py)")/torchrun
  steps torchrun "$run" --nproc-per-node 2 --no-python "${trace[@]}"
  # Its own start takes seconds.
  limit=60 refused 'start it by `torchrun --no-python lntorch train' "$run" --nproc-per-node 2 "${trace[@]}"

  # kill -9 of a rank in the second epoch: torchrun starts both again, and they go on from the first epoch's checkpoint.
  local train=("${train[@]}" --epochs 2 --iterations 6)
  nnUNet_results=$work/undisturbed "${train[@]}" -num_gpus 2 >"$work/undisturbed.log" 2>&1 || { cat "$work/undisturbed.log"; die "-num_gpus"; }
  nnUNet_results=$work/restarted "$run" --nproc-per-node 2 --max-restarts 1 --no-python "${train[@]}" >"$work/restarted.log" 2>&1 &
  agent=$!
  await "$work/restarted/$trained/checkpoint_latest.pth"
  for rank1 in $(ps -o pid= --ppid $agent); do
    ! tr '\0' '\n' <"/proc/$rank1/environ" | grep -qx RANK=1 || kill -9 "$rank1"
  done
  wait $agent || { cat "$work/restarted.log"; die "torchrun --max-restarts"; }
  equal undisturbed restarted
  "$python" - "$work/restarted/$trained/run.json" <<'PY'
import json, sys
run = json.load(open(sys.argv[1]))["distributed"]
if (run["launcher"], run["restart"], run["world_size"]) != ("torchrun", 1, 2):
    sys.exit(f"ranks-test: restarted: run.json has {run}")
PY
  say "torchrun --max-restarts: killed and restarted, the bits of an undisturbed training"
}

elastic() {
  local agents=() nodes
  nodes=("$(dirname "$("$python" scripts/nnunet_venv.py)")/torchrun" --nnodes 1:2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint
    "localhost:$((20000 + $$ % 10000))" --rdzv-id "elastic-$$" --no-python "${train[@]}" --epochs 6 --iterations 6)
  export nnUNet_results=$work/elastic
  "${nodes[@]}" >"$work/elastic.log" 2>&1 &
  agents+=($!)
  await "$work/elastic/$trained/checkpoint_latest.pth"
  "${nodes[@]}" >"$work/joined.log" 2>&1 &
  agents+=($!)
  wait "${agents[0]}" && wait "${agents[1]}" || { cat "$work/elastic.log" "$work/joined.log"; die "torchrun --nnodes 1:2"; }
  grep -o 'the training began with 1 rank and goes on with 2 ranks' "$work"/{elastic,joined}.log |
    sed 's/^[^:]*:/ranks-test: torchrun --nnodes 1:2: /' | grep . || { cat "$work/elastic.log"; die "the training began anew"; }
  export nnUNet_results=$work/results
}

mpi() {
  steps mpi mpirun --allow-run-as-root --oversubscribe -n 2 "${trace[@]}"
}

# printed N RANKS ITERATIONS: the Nth job script of docs/distributed.md, as it stands there, though not for as long: lntorch
# on the PATH adds what makes it short. Ended by SIGTERM it is queued again, and ends with the bits of -num_gpus.
printed() {
  local name=printed$1 job words
  local log=$work/$name/pretrain.log
  mkdir -p "$work/$name"
  printf '#!/bin/bash\nexec %q "$@" --epochs 6 --iterations %d --val-iterations 1 --disable-tta --threads 1 -device cpu\n' "$lntorch" "$3" \
    >"$work/$name/lntorch"
  chmod +x "$work/$name/lntorch"
  awk -v n="$1" '/^#!/ {on = ++k == n} /^```$/ {on = 0} on' docs/distributed.md >"$work/$name/job.sh"
  job=$(cd "$work/$name" && nnUNet_results=$work/$name PATH=$work/$name:$PATH sbatch --parsable job.sh)
  await "$work/$name/$trained/checkpoint_latest.pth"
  scancel --signal=TERM "$job"
  state "$job" PENDING || { cat "$log"; die "$name: is not queued again"; }
  # Not in two minutes; but in the second that ended it Slurm would refuse to start it.
  scontrol update "JobId=$job" StartTime=now+3
  state "$job" 'COMPLETED|FAILED' || { cat "$log"; die "$name: does not end"; }
  grep -q 'train: stopped in epoch .* continue with --c' "$log" || { cat "$log"; die "$name: SIGTERM did not stop it"; }
  [ "$(grep -c ': Epoch 0 *$' "$log")" = 1 ] || { cat "$log"; die "$name: queued again, it began anew"; }
  grep -q "[0-9]: $2 ranks on 1 host (gloo): " "$log" || { cat "$log"; die "$name: expected $2 ranks"; }
  read -ra words <<<"$(sed -n 's/^srun .* lntorch //p' "$work/$name/job.sh")"
  nnUNet_results=$work/same$1 "$work/$name/lntorch" "${words[@]}" -num_gpus "$2" >"$work/same$1.log" 2>&1 || { cat "$work/same$1.log"; die "-num_gpus $2"; }
  equal "$name" "same$1" || { cat "$log"; die "$name"; }
  say "job script $1 of docs/distributed.md: $2 ranks, stopped and queued again, the bits of -num_gpus $2"
}

# state JOB STATES: until Slurm says one of them of a job, at most two minutes.
state() {
  local _
  for _ in $(seq 600); do
    ! scontrol show job -o "$1" 2>/dev/null | grep -qE " JobState=($2) " || return 0
    sleep 0.2
  done
  return 1
}

slurm() {
  ended+=("scripts/slurm.sh stop $work/slurm")
  # Slurm sorts nodes by name, and the ranks meet on the first.
  eval "$(CPUS=16 GPUS=2 NODES="$(hostname -s) zz-second" scripts/slurm.sh start "$work/slurm")"
  steps srun srun -N 1 -n 2 "${trace[@]}"
  getent hosts "$(hostname -s)" >/dev/null || export MASTER_ADDR=127.0.0.1
  steps srun_two_nodes srun -N 2 -n 2 "${trace[@]}"
  # A batch script of two tasks is one process; srun in it starts two.
  cat >"$work/job.sh" <<END
#!/bin/bash
#SBATCH --nodes=1 --ntasks=2
set -e
${trace[*]} -o $work/batch
srun ${trace[*]} -o $work/sbatch
END
  sbatch --wait --output "$work/job.log" "$work/job.sh" >/dev/null || { cat "$work/job.log"; die "the job failed"; }
  ! grep -q world_size "$work/batch/losses.json" || die "a batch script that is no step waited for other ranks"
  same sbatch
  printed 1 2 10
  printed 2 4 5
  "${GO:-go}" test -count=1 -run TestNodesAreWhatScontrolLists ./internal/launch >/dev/null || die "hosts of Slurm's lists"
}

lacks() { say "two network namespaces as hosts need $1" >&2; exit 77; }

# cable: two network namespaces, $ns-0 and $ns-1, as two hosts that know each other by name.
ns=lntorch-$$
cable() {
  local i
  [ ! -e "$work/cable" ] || return 0
  [ "$(id -u)" = 0 ] || lacks root
  for i in ip tc unshare; do command -v $i >/dev/null || lacks "$i (Debian: iproute2, util-linux)"; done
  touch "$work/cable"
  ended+=(unplug)
  for i in 0 1; do
    ip netns add $ns-$i || lacks "network namespaces"
    ip -n $ns-$i link set lo up
    mkdir -p /etc/netns/$ns-$i # `ip netns exec` puts these files over those in /etc
    printf '127.0.0.1 localhost\n10.77.0.1 first-host\n10.77.0.2 second-host\n' >/etc/netns/$ns-$i/hosts
  done
  # The hosts' names are addresses of the first; a second cable is for whoever asks for it.
  for i in cable second; do ip link add $i netns $ns-0 type veth peer name $i netns $ns-1; done
  for i in 0 1; do
    ip -n $ns-$i addr add 10.77.0.$((i + 1))/24 dev cable
    ip -n $ns-$i addr add 10.78.0.$((i + 1))/24 dev second
    ip -n $ns-$i link set cable up
    ip -n $ns-$i link set second up
  done
}
unplug() {
  local i
  for i in 0 1; do
    ip netns del $ns-$i || true
    rm -rf /etc/netns/$ns-$i
  done
}

# at0, at1: what stands before a command that is a rank on its host.
rank=(env WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR=first-host MASTER_PORT=29500)
at0=(ip netns exec $ns-0 unshare --uts sh -c 'hostname first-host && exec "$@"' sh "${rank[@]}" RANK=0)
at1=(ip netns exec $ns-1 unshare --uts sh -c 'hostname second-host && exec "$@"' sh "${rank[@]}" RANK=1 nnUNet_results="$work/elsewhere")

# blind1: at1, where the second host sees neither the folder of the results, under the same name, nor the pretrained weights.
blind1=("${at1[@]}" unshare --mount sh -c 'mount -t tmpfs none "$1" && mount -t tmpfs none "$2" && shift 2 && exec "$@"' sh
  "$work/apart" "$fold" env nnUNet_results="$work/apart")

# both COMMAND…: COMMAND on both hosts; rank 1's output goes to work/second.log.
both() {
  "${at1[@]}" "$@" >"$work/second.log" 2>&1 &
  local second=$! code=0
  "${at0[@]}" "$@" || code=$?
  wait $second || { cat "$work/second.log"; return 1; }
  return $code
}

# wrong_interface NAME SENTENCE: the second host is told to use NAME; both end in five seconds, with SENTENCE.
wrong_interface() {
  local second code=0
  GLOO_SOCKET_IFNAME=$1 "${at1[@]}" timeout -k 1 $limit "${trace[@]}" -o "$work/no" >"$work/second.log" 2>&1 &
  second=$!
  refused "$2" "${at0[@]}" "${trace[@]}" -o "$work/no"
  wait $second || code=$?
  [ $code = 1 ] && grep -qF "$2" "$work/second.log" || { cat "$work/second.log"; die "exit status $code, expected 1"; }
}

hosts() {
  cable
  steps hosts both "${trace[@]}"
  # Gradients of four steps, 1.38 MB each, take the cable that the variable names.
  local before
  before=$(sent cable)
  GLOO_SOCKET_IFNAME=second steps hosts_by_interface both "${trace[@]}"
  [ "$(sent second)" -gt 5000000 ] && [ $(($(sent cable) - before)) -lt 500000 ] ||
    die "GLOO_SOCKET_IFNAME=second: $(sent second) bytes took it, $(($(sent cable) - before)) the other cable"
  wrong_interface nosuch0 'GLOO_SOCKET_IFNAME: found "nosuch0", expected interfaces of this host, which has lo, '
  ip -n $ns-1 link add bare type veth peer name bare-end
  wrong_interface bare 'GLOO_SOCKET_IFNAME: interface "bare" has no address'
  GLOO_SOCKET_IFNAME=lo wrong_interface lo 'connect the ranks over GLOO_SOCKET_IFNAME=lo: '
  # The second host does not come.
  refused 'that did not come to first-host:29500 within 2s: 1' "${at0[@]}" "${trace[@]}" --dist-timeout 2 -o "$work/no"
  # The second host sees neither results nor pretrained weights; stopped, and gone on with.
  local i code pids=() short=(--epochs 4 --iterations 12)
  nnUNet_results=$work/shared both "${train[@]}" "${short[@]}" >"$work/shared.log" 2>&1 || { cat "$work/shared.log"; die "two hosts"; }
  mkdir "$work/apart"
  nnUNet_results=$work/apart "${at0[@]}" "${train[@]}" "${short[@]}" >"$work/apart0.log" 2>&1 & pids+=($!)
  "${blind1[@]}" "${train[@]}" "${short[@]}" >"$work/apart1.log" 2>&1 & pids+=($!)
  await "$work/apart/$trained/checkpoint_best.pth"
  kill "${pids[1]}"
  for i in 0 1; do
    code=0
    wait "${pids[$i]}" || code=$?
    [ $code = 130 ] || { tail -n 5 "$work/apart$i.log"; die "results on one host: exit status $code of rank $i, expected 130"; }
  done
  "${blind1[@]}" "${goon[@]}" "${short[@]}" >"$work/apart1.log" 2>&1 & i=$!
  nnUNet_results=$work/apart "${at0[@]}" "${goon[@]}" "${short[@]}" >"$work/apart0.log" 2>&1 || { cat "$work/apart0.log"; die "results on one host"; }
  wait $i || { cat "$work/apart1.log"; die "results on one host: rank 1"; }
  grep -q 'weights from the checkpoint' "$work/apart0.log" || { cat "$work/apart0.log"; die "results on one host: the training began anew"; }
  equal shared apart
  say "results and pretrained weights on one host: stopped and gone on, the bits of an undisturbed training"
  # The cable is pulled: no connection closes, so the time limit must end both.
  local start
  pids=()
  "${at0[@]}" timeout -k 1 60 "${train[@]}" --epochs 1000 --iterations 5 --dist-timeout 3 >"$work/pulled0.log" 2>&1 & pids+=($!)
  "${at1[@]}" timeout -k 1 60 "${train[@]}" --epochs 1000 --iterations 5 --dist-timeout 3 >"$work/pulled1.log" 2>&1 & pids+=($!)
  await "$work/results/$trained/checkpoint_latest.pth"
  start=$SECONDS
  ip -n $ns-0 link set cable down
  for i in 0 1; do
    code=0
    wait "${pids[$i]}" || code=$?
    [ $code = 1 ] || { tail -n 5 "$work/pulled$i.log"; die "cable pulled: exit status $code of rank $i, expected 1"; }
    say "cable pulled: $(tail -n 1 "$work/pulled$i.log")"
  done
  [ $((SECONDS - start)) -le 10 ] || die "cable pulled: the ranks took $((SECONDS - start)) s with --dist-timeout 3"
  [ ! -e "$work/elsewhere" ] || die "the second host wrote results"
  ip -n $ns-0 link set cable up
}

# sent CABLE: bytes that the first host has sent over it.
sent() { ip netns exec $ns-0 cat "/sys/class/net/$1/statistics/tx_bytes"; }

# slow RATE COMMAND…: COMMAND trains on both hosts over a cable of that rate, with gradients as they are and as bf16.
slow() {
  cable
  local i rate=$1 before
  shift
  for i in 0 1; do
    ip netns exec $ns-$i tc qdisc add dev cable root tbf rate "$rate" burst 256kb latency 200ms || lacks "the kernel's qdisc tbf"
  done
  for i in off bf16; do
    rm -rf "${work:?}/$i"
    before=$(sent cable)
    nnUNet_results=$work/$i both "$@" --compress $i >"$work/$i.log" 2>&1 || { cat "$work/$i.log"; die "bandwidth: $i"; }
    echo $(($(sent cable) - before)) >"$work/$i/bytes"
  done
  for i in 0 1; do ip netns exec $ns-$i tc qdisc del dev cable root; done
  "$python" - "$work" "$rate" <<'PY'
import json, os, pathlib, sys
work, rate = sys.argv[1:]
wait, size = {}, {}
for name in ("off", "bf16"):
    run = json.loads(next(pathlib.Path(work, name).rglob("run.json")).read_text())["distributed"]["comm"]
    wait[name] = run["wait_ms"]["median"]
    # the weights are broadcast before the first step, as they are
    size[name] = int(pathlib.Path(work, name, "bytes").read_text()) - run["gradient_bytes"]
print(f"ranks-test: {rate}, gradients of {run['gradient_bytes'] / 1e6:.3g} MB: an iteration waits {wait['off']:.0f} ms, "
      f"with --compress bf16 {wait['bf16']:.0f} ms; sent {size['off']:,} and {size['bf16']:,} bytes")
if "MEASURED" in os.environ:
    json.dump({"rate": rate, "wait_ms": wait, "bytes": size, "gradient_bytes": run["gradient_bytes"]}, open(os.environ["MEASURED"], "w"))
if wait["bf16"] > 0.6 * wait["off"] or size["bf16"] > 0.52 * size["off"]:
    sys.exit("ranks-test: expected half the bytes, and at most 0.6 of the waiting")
PY
}

bandwidth() { slow "${RATE:-20mbit}" "${train[@]}" --epochs 1 --iterations 10; }

gigabit() {
  local data=$work/preprocessed/Dataset102_PhantomTarget
  "$python" - "$data" <<'PY'
import json, sys
data = sys.argv[1]
plans = json.load(open(f"{data}/nnUNetPlansSource.json"))
plans["plans_name"] = "nnUNetPlansReleased"
c = plans["configurations"]["3d_phantom"]
c["patch_size"] = [64, 64, 64]
c["architecture"]["arch_kwargs"].update(
    n_stages=6, features_per_stage=[32, 64, 128, 256, 320, 320], kernel_sizes=[[3, 3, 3]] * 6, strides=[[1, 1, 1]] + [[2, 2, 2]] * 5,
    n_conv_per_stage=[2] * 6, n_conv_per_stage_decoder=[2] * 5)
json.dump(plans, open(f"{data}/nnUNetPlansReleased.json", "w"))
PY
  slow "${RATE:-1gbit}" "$lntorch" train 102 3d_phantom 0 -p nnUNetPlansReleased --method full --augmentation none --val-iterations 1 --disable-tta \
    --epochs 1 --iterations 6 --threads 1 -device cpu
}

for part in ${@:-num_gpus torchrun elastic mpi slurm hosts bandwidth}; do
  $part
done
say "passed in $SECONDS s"
