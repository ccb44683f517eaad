#!/bin/bash
# A Ray cluster for the time of one Slurm job, and a run over it: sbatch slurm_ray.sh --tasks docvqa:val --model Qwen/Qwen2-VL-7B-Instruct
# A node that Slurm loses costs what it had in hand. Needs pip install 'evalkit[ray]' in the environment that the nodes share.
#SBATCH --job-name=evalkit-ray
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
set -euo pipefail
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
address="$head:${PORT:-6379}"
# A head asks for ~/.ray/auth_token where it finds one: then all show it.
test ! -f ~/.ray/auth_token || export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --node-ip-address="$head" --port="${PORT:-6379}" --block &
for _ in $(seq "${TRIES:-60}"); do  # until the head answers
    ray status --address "$address" > /dev/null 2>&1 && break
    sleep 1
done
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$node" ray start --address="$address" --block &
done
# Replicas start as nodes come in; the run need not wait for all of them.
evalkit run "$@" --output "${OUTPUT:-results}" --executor "ray:$address"
