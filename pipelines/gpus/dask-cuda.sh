#!/usr/bin/env bash
# As start.sh, by dask-cuda: one worker process for each GPU, pinned to its GPU and to the processors near it.
#   pipelines/gpus/dask-cuda.sh [THREADS_A_GPU]
#   wsi-magnet run slide.svs -o results --scheduler tcp://127.0.0.1:8786
# CUDA_VISIBLE_DEVICES=0,2 in front takes these two GPUs alone. Ctrl-C ends all processes.
set -euo pipefail

threads=${1:-8}

export DASK_DISTRIBUTED__WORKER__MEMORY__{TARGET,SPILL,PAUSE}=False

trap 'kill $(jobs -p) 2>/dev/null' EXIT
dask scheduler --host 127.0.0.1 --port 8786 &
dask cuda worker tcp://127.0.0.1:8786 --nthreads "$threads" --resources "GPU=$threads" --memory-limit 0 \
    --preload wsi_magnet.runtime.process_setup &
wait
