#!/usr/bin/env bash
# Ends what start.sh FOLDER has started: its jobs, its daemons. The folder stays, with the logs.
set -uo pipefail

folder=$1
export SLURM_CONF="$folder/slurm.conf"
scancel --user="$(id -un)" 2>/dev/null
for _ in $(seq 50); do
    [ -z "$(squeue --noheader 2>/dev/null)" ] && break
    sleep 0.2
done
for file in slurmd.pid slurmctld.pid munge/pid; do
    [ -f "$folder/$file" ] && kill "$(cat "$folder/$file")" 2>/dev/null
done
exit 0
