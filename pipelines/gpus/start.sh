#!/usr/bin/env bash
# The plain way to all GPUs of this machine: a scheduler, and for each GPU some worker processes that see no other.
#   pipelines/gpus/start.sh [GPUS [PROCESSES_A_GPU [THREADS_A_PROCESS]]]
#   wsi-magnet run slide.svs -o results --scheduler tcp://127.0.0.1:8786
# Ctrl-C ends them all.
set -euo pipefail

gpus=${1:-$(nvidia-smi --list-gpus | wc -l)}
processes=${2:-4}
threads=${3:-$(($(nproc) * 2 / (gpus * processes)))} # half of them wait for the GPU
[ "$threads" -ge 1 ] || threads=1

export DASK_DISTRIBUTED__WORKER__MEMORY__{TARGET,SPILL,PAUSE}=False

trap 'kill $(jobs -p) 2>/dev/null' EXIT
dask scheduler --host 127.0.0.1 --port 8786 &
for ((gpu = 0; gpu < gpus; gpu++)); do
    CUDA_VISIBLE_DEVICES=$gpu dask worker tcp://127.0.0.1:8786 --name "gpu-$gpu" --nworkers "$processes" \
        --nthreads "$threads" --resources "GPU=$threads" --memory-limit 0 \
        --preload wsi_magnet.runtime.process_setup &
done
wait
