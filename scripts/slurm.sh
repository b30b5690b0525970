#!/usr/bin/env bash
# A real Slurm, for tests and to try job scripts on: this host is controller, node and client. Debian's
# packages, as root; no systemd, cgroups or accounting. Several may run side by side, each in a folder of
# its own.
#
#   scripts/slurm.sh start DIR       starts it, its state and logs in DIR; prints what to export
#   scripts/slurm.sh stop DIR        ends it, jobs included
#   scripts/slurm.sh run COMMAND…    starts one in a temporary folder, runs COMMAND with SLURM_CONF set, ends
#                                    it; the exit status is COMMAND's
#
#   eval "$(scripts/slurm.sh start build/slurm)" && srun -n2 hostname; scripts/slurm.sh stop build/slurm
#
# CPUS and MEMORY (MB) are what a node has to offer, by default what the machine has. Memory is booked,
# not enforced, and so are GPUS (none), which need not exist. NODES names several nodes, all of them on
# this host. Missing packages are installed by apt-get.
set -euo pipefail

packages=(slurmctld slurmd slurm-client munge)

start() {
  [ "$(id -u)" = 0 ] || { echo "slurm.sh: the daemons want to be root" >&2; exit 1; }
  if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    # Debian starts services on installation where there is systemd; these run with the configuration below.
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"; } >&2
  fi
  mkdir -p "$1"
  local dir host
  dir=$(cd "$1" && pwd)
  host=$(hostname -s)
  [ ! -e "$dir/slurmctld.pid" ] || stop "$dir"
  mkdir -p "$dir"/{state,spool,munge}
  chmod 755 "$dir" "$dir/munge"
  [ -e "$dir/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$dir/munge/key")
  munged --force --key-file "$dir/munge/key" --socket "$dir/munge/socket" --pid-file "$dir/munge/pid" \
    --log-file "$dir/munge/log" --seed-file "$dir/munge/seed" >"$dir/munge/start" 2>&1 || { cat "$dir/munge/start" >&2; exit 1; }
  local nodes ports i node
  nodes=(${NODES:-$host})
  ports=($(free_ports $((${#nodes[@]} + 1))))
  cat >"$dir/slurm.conf" <<END
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
GresTypes=gpu
END
  for ((i = 0; i < ${GPUS:-0}; i++)); do
    : >"$dir/gpu$i"
    echo "Name=gpu File=$dir/gpu$i"
  done >"$dir/gres.conf"
  for i in "${!nodes[@]}"; do
    echo "NodeName=${nodes[$i]} NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[$((i + 1))]} CPUs=${CPUS:-$(nproc)}" \
      "RealMemory=${MEMORY:-$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)} ${GPUS:+Gres=gpu:$GPUS} State=UNKNOWN" >>"$dir/slurm.conf"
  done
  export SLURM_CONF=$dir/slurm.conf
  # Their standard output would keep a caller's pipe open.
  slurmctld -f "$SLURM_CONF" >"$dir/start" 2>&1 </dev/null || { cat "$dir/start" >&2; exit 1; }
  for _ in $(seq 50); do [ -e "$dir/slurmctld.pid" ] && sinfo >/dev/null 2>&1 && break; sleep 0.2; done
  for node in "${nodes[@]}"; do
    mkdir -p "$dir/spool/$node"
    slurmd -N "$node" -f "$SLURM_CONF" >>"$dir/start" 2>&1 </dev/null || { cat "$dir/start" >&2; exit 1; }
  done
  for _ in $(seq 150); do
    [ "$(sinfo -h -o %t 2>/dev/null)" != idle ] || { echo "export SLURM_CONF=$SLURM_CONF"; return; }
    sleep 0.2
  done
  echo "slurm.sh: the nodes do not come up:" >&2
  { sinfo; tail -qn 5 "$dir"/slurm*.log; } >&2 || true
  stop "$dir"
  exit 1
}

free_ports() {
  python3 -c '
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in held: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))' "$1"
}

stop() {
  local dir file pid
  dir=$(cd "$1" && pwd)
  if SLURM_CONF=$dir/slurm.conf timeout 10 squeue -h >/dev/null 2>&1; then
    SLURM_CONF=$dir/slurm.conf timeout 10 scancel --user root >/dev/null 2>&1 || true
    for _ in $(seq 25); do # its daemons of running steps end with the jobs
      [ -n "$(SLURM_CONF=$dir/slurm.conf timeout 10 squeue -h 2>/dev/null)" ] || break
      sleep 0.2
    done
  fi
  local files=("$dir"/slurmd-*.pid "$dir"/slurmctld.pid "$dir"/munge/pid) pids=()
  for file in "${files[@]}"; do [ -s "$file" ] && pids+=("$(cat "$file")"); done
  [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
  for pid in ${pids[@]+"${pids[@]}"}; do
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  done
  rm -f "${files[@]}"
}

case ${1:-} in
start) start "${2:?a folder}" ;;
stop) stop "${2:?a folder}" ;;
run)
  shift
  dir=$(mktemp -d)
  trap 'stop "$dir"; rm -rf "$dir"' EXIT
  start "$dir" >/dev/null
  SLURM_CONF=$dir/slurm.conf "$@"
  ;;
*)
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  exit 2
  ;;
esac
