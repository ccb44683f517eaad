#!/bin/bash
# A Slurm job array, each task one shard of the samples: sbatch slurm_array.sh --tasks docvqa:val --model Qwen/Qwen2-VL-7B-Instruct
# All write into one folder on a file system that the nodes share; a task that is requeued goes on where it stopped. When the array is done,
# the same command without --shard says whether anything is missing, and asks it.
#SBATCH --job-name=evalkit
#SBATCH --array=1-8
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
# The array must begin at 1, so that task I of N is shard I/N.
exec evalkit run "$@" --output "${OUTPUT:-results}" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
