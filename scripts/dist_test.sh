#!/usr/bin/env bash
# Tests an archive of `make dist` on a system with nothing installed: scripts/dist_test.sh ARCHIVE
#
# Makes a root folder of the Debian packages that the smallest installation has (bash, coreutils,
# tar, gzip, libstdc++6 and what they depend on), unpacks the archive in it, and runs the program
# there without network: doctor, inspect, trace against PyTorch's losses, a training run. The
# packages are fetched with apt-get once and kept in build/dist. Needs root, or user namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."

archive=$1
python=${PYTHON:-python3}
debs=$PWD/build/dist/debs
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
say() { echo "dist-test: $*"; }

command -v apt-get >/dev/null && command -v unshare >/dev/null ||
  { say "needs apt-get and unshare, so a Debian or Ubuntu" >&2; exit 1; }

if [ ! -e "$debs/complete" ]; then
  mkdir -p "$debs"
  apt-cache policy libstdc++6 | grep 'Candidate: [0-9]' >/dev/null || apt-get -qq update
  mapfile -t packages < <(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances bash coreutils tar gzip libstdc++6 | grep '^[a-z]' | grep -v -e : -e awk | sort -u)
  say "fetching ${packages[*]}"
  (cd "$debs" && apt-get -qq download "${packages[@]}" 2> >(grep -v unsandboxed >&2)) ||
    { say "apt-get download failed (message above); apt-get update may be needed" >&2; exit 1; }
  touch "$debs/complete"
fi

for deb in "$debs"/*.deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink --exclude './usr/share/*'
done
mkdir -p "$root"/{proc,dev,tmp,opt,work}
cp -R testdata/phantom-mini/{results,preprocessed,trajectory} "$root/work"
cp testdata/phantom-mini/raw/Dataset102_PhantomTarget/imagesTs/LN_004_0000.nii.gz "$root/work/ct.nii.gz"
cp "$archive" "$root/opt/lntorch.tar.gz"

cat >"$root/inside" <<'INSIDE'
set -euo pipefail
for tool in gcc g++ cc make python3 go git ld; do
  if command -v $tool >/dev/null; then echo "$tool is present: this root is not minimal" >&2; exit 1; fi
done
mkdir /opt/first && tar -xzf /opt/lntorch.tar.gz -C /opt/first
mv /opt/first/* "/opt/moved here" # another location, with a space in its name
mkdir -p /usr/local/bin && ln -s "/opt/moved here/bin/lntorch" /usr/local/bin/lntorch
cd /work
export nnUNet_preprocessed=/work/preprocessed nnUNet_results=/work/results
fold=results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0
echo "== doctor"; lntorch doctor
echo "== inspect"; lntorch inspect $fold/checkpoint_final.pth >inspect.txt; head -5 inspect.txt
echo "== trace"; lntorch trace --checkpoint $fold/checkpoint_final.pth --batches trajectory --method full --numerics reference -o trace
echo "== train"; lntorch train 102 3d_phantom 0 -p nnUNetPlansSource -tr nnUNetTrainer_DGST -pretrained_weights $fold/checkpoint_final.pth \
  --epochs 1 --iterations 2 --val-iterations 1 --disable-tta
if [ -e "/opt/moved here/licenses/niivue/LICENSE" ]; then
  echo "== view"
  lntorch view ct.nii.gz >url.txt &
  for _ in {1..100}; do [ -s url.txt ] && break; sleep 0.2; done
  kill -TERM $!
  wait $!
  url=$(<url.txt)
  [[ $url == http://127.0.0.1:* ]] || { echo "view printed: $url"; exit 1; }
fi
INSIDE

# Separate mount and process namespaces: the mounts end with the last process.
as_root=()
[ "$(id -u)" = 0 ] || as_root=(--map-root-user)
unshare "${as_root[@]}" --mount --pid --fork --net bash -c '
  mount -t proc proc "$1/proc"
  for device in null zero urandom; do touch "$1/dev/$device"; mount --bind /dev/$device "$1/dev/$device"; done
  exec chroot "$1" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/root OMP_WAIT_POLICY=passive bash /inside' - "$root" 2>&1 | tee build/dist/inside.log

grep -q '"\?/opt/moved here/lib/torch/lib/libtorch_cpu.so' build/dist/inside.log ||
  { say "libtorch was not loaded from the unpacked archive" >&2; exit 1; }
if tar -tzf "$archive" | grep -q /lib/liblntorch_openjpeg.so$; then
  grep -q '"\?/opt/moved here/lib/liblntorch_openjpeg.so' build/dist/inside.log ||
    { say "OpenJPEG was not loaded from the unpacked archive" >&2; exit 1; }
fi
"$python" - testdata/phantom-mini/trajectory/full_losses.json "$root/work/trace/losses.json" <<'PY'
import json, sys
want, got = (json.load(open(f))["losses"] for f in sys.argv[1:])
far = max(abs(b - a) / abs(a) for a, b in zip(want, got))
print("dist-test: losses %s, at most %.1e from PyTorch's" % (" ".join("%.6f" % x for x in got), far))
assert len(want) == len(got) > 0 and far <= 1e-5, want
PY
[ -s "$root"/work/results/Dataset102_PhantomTarget/nnUNetTrainer_DGST__nnUNetPlansSource__3d_phantom/fold_0/checkpoint_final.pth ] ||
  { say "the training left no checkpoint_final.pth" >&2; exit 1; }
say "$(basename "$archive") runs in a root of $(ls "$debs"/*.deb | wc -l) packages: $(cd "$debs" && ls -- *.deb | cut -d _ -f 1 | tr '\n' ' ')"
