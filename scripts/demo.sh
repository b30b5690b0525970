#!/usr/bin/env bash
# The demonstration behind `make demo`: a foundation model meets the CTs of another hospital. lntorch
# draws synthetic CTs of the target domain; then one command scores the bundled model on eight held-out
# ones as it is, fine-tunes it on eight annotated ones with DGST, scores it again, and writes a report.
# Everything is synthetic: it shows the program and nothing about patients.
#
# Settings were fixed beforehand: seed 302, DGST's own learning rate, 10 epochs of 40 iterations.
set -euo pipefail
cd "$(dirname "$0")/.."

out=results/demo
lntorch=bin/lntorch

rm -rf "$out"
mkdir -p "$out"
$lntorch phantom --id 302 --name PhantomTarget --domain target --size small --cases 8 --test-cases 8 \
  --seed 302 -o "$out/raw"
$lntorch adapt --checkpoint testdata/foundation --cases "$out/raw/Dataset302_PhantomTarget" \
  -o "$out/adapted" --epochs 10 --iterations 40 --disable_tta
