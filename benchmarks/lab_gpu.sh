#!/usr/bin/env bash
# The lab on one GPU, from the repository's root: bash benchmarks/lab_gpu.sh OUT [SECONDS [STUDY ...]]
# Stacks against one model at a time (half a minute), then the studies for so many seconds.
set -u
out=$1 seconds=${2:-230}
shift $(($# > 1 ? 2 : 1))
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1
timeout 60 python benchmarks/stacked.py --device cuda --models 3 48 --steps 40 2>&1 | tee "$out/stacked.md"
python benchmarks/lab_gpu.py "$out" "$@" --seconds "$seconds"
