#!/bin/bash
# One shard on each of a list of machines that share a folder and a Python environment:
#   HOSTS="gpu1 gpu2 gpu3" examples/clusters/ssh_list.sh --tasks docvqa:val --model Qwen/Qwen2-VL-7B-Instruct --output /shared/results
# Repeat it to go on after a machine failed; fewer or other machines reuse all answers.
set -uo pipefail
read -ra hosts <<< "$HOSTS"
pids=()
for i in "${!hosts[@]}"; do
    command=$(printf '%q ' cd "$PWD")"&& $(printf '%q ' evalkit run "$@" --shard "$((i + 1))/${#hosts[@]}" -q)"
    ssh "${hosts[$i]}" "$command" 2>&1 | sed "s/^/${hosts[$i]}: /" &
    pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
exit $failed
