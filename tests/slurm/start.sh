#!/usr/bin/env bash
# A throw-away Slurm of this machine alone, in a folder: start.sh FOLDER [CPUS] starts it; stop.sh FOLDER, or
# the end of the process that has called this, ends it.
#
# Its controller, its one node and its munged have their own ports, sockets, key and configuration; nothing is written
# outside FOLDER, and no service of the machine is touched. Afterwards `export SLURM_CONF=FOLDER/slurm.conf` and sbatch,
# squeue and scancel speak to it. The node claims CPUS processors, 64 GB and two GPUs, whatever the machine has.
set -euo pipefail

folder=$(mkdir -p "$1" && cd "$1" && pwd)
cpus=${2:-16}
# munged insists on folders that nobody else may write.
chmod 755 "$folder"
mkdir -p "$folder"/{munge,state,spool,logs}
chmod 700 "$folder/munge"

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

(umask 077 && head -c 1024 /dev/urandom > "$folder/munge/key")
cat > "$folder/slurm.conf" <<CONF
ClusterName=throwaway
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/logs/slurmctld.log
SlurmdLogFile=$folder/logs/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=100000,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
MinJobAge=300
GresTypes=gpu
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=65536 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF

touch "$folder"/gpu0 "$folder"/gpu1 # stand in for devices
echo "Name=gpu File=$folder/gpu[0-1]" > "$folder/gres.conf"

export SLURM_CONF="$folder/slurm.conf"
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
    --log-file="$folder/logs/munged.log" --seed-file="$folder/munge/seed"
slurmctld -c
slurmd -c
# It does not outlive whoever has started it.
(while kill -0 $PPID 2>/dev/null; do sleep 2; done; "$(dirname "$0")/stop.sh" "$folder") </dev/null >/dev/null 2>&1 &
for _ in $(seq 150); do
    [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && exit 0
    sleep 0.2
done
echo "Slurm does not start; its logs are in $folder/logs" >&2
tail -n 5 "$folder"/logs/*.log >&2
exit 1
