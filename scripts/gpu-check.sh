#!/usr/bin/env bash
# Checks lntorch on a machine with an NVIDIA GPU that has Python with torch, nvcc, g++ and make, but
# no Go.
#
#   scripts/gpu-check.sh pack      on a machine with Go: packs what must be compiled with Go, and
#                                  what make needs in its place, into build/gpu-check/packed.tar.xz,
#                                  to be copied together with the work tree
#   scripts/gpu-check.sh [PART…]   on the GPU machine; parts (default: shim tests trace):
#     shim    the shim, compiled against that torch, with CUDA kernels if nvcc is found
#     tests   the packed tests that use devices; one that finds no GPU fails
#     trace   the recorded steps of testdata/phantom-mini, on the CPU and on the GPU, against
#             PyTorch's losses
#     augment augmentation on the device: its tests against the CPU, then milliseconds a patch and a
#             batch of two, and memory; batches on their way beside steps: their order, how much of
#             their time steps hide, and memory
#     ranks   one rank as a process group (NCCL on a GPU): PyTorch's losses, and a step in at most 1.02
#             of the time without; with several GPUs, as many ranks train the steps together
#     bench   scripts/gpu_bench.py, with the flags in BENCHFLAGS
#
# DEVICE=cpu runs the parts without a GPU, to test this script. PYTHON names the Python with torch
# (default python3). Results go to $OUT, by default build/gpu-check: gpu-tests.log, gpu-augment.log,
# gpu-feed.log, gpu_bench.md and .json. Every requested part runs; the exit status is 0 if all passed.
set -euo pipefail
cd "$(dirname "$0")/.."

work=build/gpu-check
packed=$work/packed.tar.xz
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
out=${OUT:-$work}

# Packages with tests that use devices, and the names of those tests: "package TestA|TestB".
device_tests() {
  grep -rlE --include=*_test.go 'torchtest\.(Each)?Device\(' . | sort | while read -r file; do
    awk -v dir="$(dirname "$file")" '
      /^func / { name = "" }
      match($0, /^func Test[A-Za-z0-9_]*/) { name = substr($0, RSTART + 5, RLENGTH - 5) }
      /torchtest\.(Each)?Device\(/ && name && name != last { print dir, name; last = name }' "$file"
  done | awk '{ if ($1 != p) { if (p) print p, t; p = $1; t = $2 } else t = t "|" $2 } END { if (p) print p, t }'
}

pack() {
  rm -rf "$work"
  mkdir -p "$work/packed"
  device_tests >"$work/packed/tests"
  GOOS=linux GOARCH=amd64 CGO_ENABLED=1 "${GO:-go}" build -trimpath -ldflags '-s -w' -o "$work/packed/lntorch" ./cmd/lntorch
  while read -r package _; do
    GOOS=linux GOARCH=amd64 CGO_ENABLED=1 "${GO:-go}" test -c -trimpath -ldflags '-s -w' -o "$work/packed/$(binary "$package")" "$package"
  done <"$work/packed/tests"
  cp "$(command -v make)" "$work/packed/make"
  "$python" - "$work/packed" "$packed" <<'PY'
import sys, tarfile
with tarfile.open(sys.argv[2], "w:xz", preset=9) as t:
    t.add(sys.argv[1], "packed")
PY
  cat "$work/packed/tests"
  rm -rf "$work/packed"
  # What the tests and the trace read is in the work tree.
  du -ch testdata scripts torch/csrc Makefile "$packed" | tail -1 | sed 's/total/go along at the least/'
  ls -l "$packed"
}

binary() { echo "${1#./}.test" | tr / _; }

unpack() {
  [ -f "$packed" ] || { echo "gpu-check: no $packed; run scripts/gpu-check.sh pack on a machine with Go and copy build/gpu-check here" >&2; exit 1; }
  "$python" - "$packed" "$work" <<'PY'
import sys, tarfile
with tarfile.open(sys.argv[1]) as t:
    t.extractall(sys.argv[2])
PY
  mkdir -p bin "$out"
  install -m 755 "$work/packed/lntorch" bin/lntorch
}

shim() {
  local make=make
  command -v make >/dev/null || make=$work/packed/make
  # nvcc is often installed but not on the PATH.
  command -v nvcc >/dev/null || PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
  "$make" shim TORCH=system PYTHON="$python"
  if [ "$device" = cuda ]; then
    [ -e build/lib/liblntorch_cuda.so ] || { echo "gpu-check: no CUDA kernels were built: $(command -v nvcc || echo 'no nvcc on the PATH')" >&2; return 1; }
  fi
  bin/lntorch doctor || true # it also checks things that are not needed here
}

# TF32 rounds the inputs of convolutions to 10 bits of mantissa; comparisons with float32 disable it.
tests() {
  local failed=0 require=torch
  : >"$out/gpu-tests.log"
  [ "$device" = cuda ] && require=torch,cuda
  while read -r package names; do
    echo "== $package: $names"
    (cd "$package" && NVIDIA_TF32_OVERRIDE=0 LNTORCH_REQUIRE=$require LNTORCH_LIB=$lib timeout 500 "$root/$work/packed/$(binary "$package")" \
      -test.v -test.timeout 480s -test.run "^($names)\$") >"$work/tests.log" 2>&1 || failed=$((failed + 1))
    grep -E '^ *--- (FAIL|SKIP)|^(PASS|FAIL|panic)' "$work/tests.log" | head -40 || true
    cat "$work/tests.log" >>"$out/gpu-tests.log"
  done <"$work/packed/tests"
  [ "$failed" = 0 ]
}

trace() {
  local t=testdata/phantom-mini failed=0 name flags limit
  # Name, tolerance of the losses (rounding; for bfloat16 its 8 bits of mantissa), flags.
  while read -r name limit flags; do
    # shellcheck disable=SC2086
    NVIDIA_TF32_OVERRIDE=0 bin/lntorch trace --checkpoint $t/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth \
      --batches $t/trajectory -o "$work/trace-$name" $flags >"$work/trace-$name.log" 2>&1 &&
      "$python" - "$name" "$limit" "$t/trajectory/full_losses.json" "$work/trace-$name/losses.json" <<'PY' || { failed=1; tail -3 "$work/trace-$name.log"; }
import json, sys
name, limit = sys.argv[1], float(sys.argv[2])
want, got = (json.load(open(f)) for f in sys.argv[3:])
for what in ("losses", "grad_norms_before_clip"):
    w, g = want[what], got[what]
    assert len(w) == len(g) > 0, (w, g)
    far = max(abs(b - a) / abs(a) for a, b in zip(w, g))
    room = limit * (1 if what == "losses" else 50)
    print(f"trace {name}: {what} {' '.join('%.6f' % x for x in g)}, at most {far:.2e} from PyTorch's, allowed {room:.0e}")
    assert far <= room, f"too far from {w}"
PY
  done < <(
    echo "cpu-reference 1e-5 --device cpu --numerics reference"
    echo "cpu 1e-5 --device cpu"
    if [ "$device" = cuda ]; then
      echo "cuda-reference 1e-4 --device cuda --numerics reference"
      echo "cuda 1e-4 --device cuda"
      echo "cuda-bf16 2e-2 --device cuda --amp bf16"
    fi
  )
  [ "$failed" = 0 ]
}

# Batches of two for each size; the same on the CPU beside it. Then the training's feed of batches.
augment() {
  local require=torch times=40x
  if [ "$device" = cuda ]; then require=torch,cuda; else times=1x; fi
  cd train
  NVIDIA_TF32_OVERRIDE=0 LNTORCH_REQUIRE=$require LNTORCH_LIB=$lib timeout 300 "$root/$work/packed/$(binary ./train)" \
    -test.v -test.run '^(TestFeed.*|TestOneBatchIsAhead|TestTrainingOnBatchesOfTheDevice)$' -test.bench "^BenchmarkFeed\$/^$device\$" \
    -test.benchtime 1x -test.timeout 280s >"$out/gpu-feed.log" 2>&1 ||
    { grep -E '^ *--- FAIL|^panic' "$out/gpu-feed.log" | head -20; return 1; }
  grep -E 'ns/op' "$out/gpu-feed.log"
  cd ondevice
  NVIDIA_TF32_OVERRIDE=0 LNTORCH_REQUIRE=$require LNTORCH_LIB=$lib timeout 500 "$root/$work/packed/$(binary ./train/ondevice)" \
    -test.v -test.run . -test.bench "^BenchmarkDevice\$/^$device\$" -test.benchtime $times -test.timeout 480s >"$out/gpu-augment.log" 2>&1 ||
    { grep -E '^ *--- FAIL|^panic' "$out/gpu-augment.log" | head -20; return 1; }
  grep -E 'ns/op|labels differ' "$out/gpu-augment.log"
}

ranks() {
  local t=testdata/phantom-mini backend=gloo network=phantom gpus=1 repeats=4 i
  if [ "$device" = cuda ]; then
    backend=nccl network=full repeats=10
    gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())') # not those of nvidia-smi, which it may be kept from
    [ -e build/lib/liblntorch_nccl.so ] || { echo "gpu-check: no NCCL library was built" >&2; return 1; }
  fi
  steps() { # NAME FLAGS…
    local name=$1
    shift
    NVIDIA_TF32_OVERRIDE=0 bin/lntorch trace --checkpoint $t/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth \
      --batches $t/trajectory -o "$work/ranks-$name" --device "$device" "$@" >"$work/ranks-$name.log" 2>&1 || { tail -n 3 "$work/ranks-$name.log"; return 1; }
    "$python" - "$name" $t/trajectory/full_losses.json "$work/ranks-$name/losses.json" <<'PY'
import json, sys
name = sys.argv[1]
want, got = (json.load(open(f)) for f in sys.argv[2:])
far = max(abs(b - a) / abs(a) for a, b in zip(want["losses"], got["losses"]))
print(f"ranks {name}: world size {got['world_size']}, losses at most {far:.2e} from PyTorch's, allowed 1e-04; {len(set(got['weights_sha256']))} different weights")
assert far <= 1e-4 and len(set(got["weights_sha256"])) == 1
PY
  }
  steps one --dist on --backend $backend || return 1
  [ "$gpus" -lt 2 ] || steps two --num-gpus 2 || return 1 # the recorded batches have two patches
  for i in $(seq 3); do # in turn
    for d in auto on; do
      bin/lntorch bench step --network $network --device "$device" --repeats $repeats --json --dist $d >"$work/ranks-$d-$i.json" 2>/dev/null || return 1
    done
  done
  "$python" - "$work" "$device" <<'PY'
import glob, json, statistics, sys
work, device = sys.argv[1:]
def median(d):
    return statistics.median(json.loads(line)["seconds"] for f in glob.glob(f"{work}/ranks-{d}-*.json") for line in open(f) if line.startswith("{"))
alone, grouped = median("auto"), median("on")
print(f"ranks: a step takes {1e3 * alone:.2f} ms, {1e3 * grouped:.2f} ms as a process group of one: {grouped / alone:.3f}, allowed 1.02 on a GPU")
assert device == "cpu" or grouped <= 1.02 * alone
PY
}

bench() {
  local flags=(--device "$device" --out "$out/gpu_bench.md")
  [ "$device" = cpu ] && flags+=(--networks phantom --amp off --repeats 2 --warmup 1 --steps 1)
  # shellcheck disable=SC2086
  "$python" scripts/gpu_bench.py "${flags[@]}" ${BENCHFLAGS:-}
}

if [ "${1:-}" = pack ]; then
  pack
  exit
fi
root=$PWD
mkdir -p "$out"
out=$(cd "$out" && pwd)
lib=$root/build/lib/liblntorch.so
export LNTORCH_LIB=$lib
unpack
status=0
for part in ${@:-shim tests trace}; do
  case $part in shim | tests | trace | augment | ranks | bench) ;; *) echo "gpu-check: part $part: expected pack, shim, tests, trace, augment, ranks or bench" >&2; exit 2 ;; esac
  echo "==== $part"
  began=$SECONDS
  # Not `if $part`: that would switch off set -e inside.
  set +e
  (set -e; $part)
  rc=$?
  set -e
  echo "==== $part: $([ $rc = 0 ] && echo passed || echo "FAILED ($rc)") after $((SECONDS - began)) s"
  [ $rc = 0 ] || status=1
done
exit $status
