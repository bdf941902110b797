# shellcheck shell=bash disable=SC2034
# Shared by cluster-up.sh, cluster-node.sh and cluster-down.sh; sourced, never run.
#
# Settings, each from the environment or a default:
#   SLURM_LAB_DIR           where the cluster keeps everything (must not hold spaces)
#   SLURM_LAB_NODES         how many virtual nodes
#   SLURM_LAB_CPUS          CPUs that each node claims to have
#   SLURM_LAB_GPUS          GPUs that each node claims to have (0: none; they are only counted)
#   SLURM_LAB_PROCTRACK     cgroup (v1 freezer), linuxproc, or auto: cgroup where it can be had
#   SLURM_LAB_SUBNET        first three numbers of the nodes' network
#   SLURM_LAB_PORT          first of the ports used: +0 slurmctld, +1 slurmdbd, +10... slurmd
#   SLURM_LAB_NODE_TIMEOUT  seconds until a silent node counts as down
#   SLURM_LAB_REQUEUE_WAIT  seconds until a requeued job may start again (5 or more)
#   SLURM_LAB_GRACE         seconds a preempted job has between its signal and its end

: "${SLURM_LAB_DIR:=${TMPDIR:-/tmp}/slurm-lab-cluster}"
: "${SLURM_LAB_NODES:=2}"
: "${SLURM_LAB_CPUS:=8}"
: "${SLURM_LAB_GPUS:=0}"
: "${SLURM_LAB_PROCTRACK:=auto}"
: "${SLURM_LAB_SUBNET:=198.18.77}"
: "${SLURM_LAB_PORT:=16817}"
: "${SLURM_LAB_NODE_TIMEOUT:=10}"
: "${SLURM_LAB_REQUEUE_WAIT:=5}"
: "${SLURM_LAB_GRACE:=20}"

DIR=$SLURM_LAB_DIR
BRIDGE=slab-br
FREEZER=/sys/fs/cgroup/freezer # where slurmd keeps a cgroup, slurm_NODE, for each node
BOOT=$(</proc/sys/kernel/random/boot_id)

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# wait_until SECONDS COMMAND...: retry COMMAND until it succeeds or time is up.
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

# start_time PID: when the process began, in clock ticks since boot; fails for
# a process that is gone or only a zombie (PID 1 may never reap ours).
start_time() {
  local stat fields
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  read -ra fields <<<"${stat##*) }" # the name before ") " may hold spaces
  [[ ${fields[0]} != [ZX] ]] || return 1
  echo "${fields[19]}"
}

# A daemon's record, run/NAME.pid, holds "PID START_TIME BOOT_ID": a PID alone
# could by now belong to somebody else.
record() { # NAME PID
  echo "$2 $(start_time "$2") $BOOT" >"$DIR/run/$1.pid"
}

# daemon_pid NAME: print the recorded daemon's PID if that very process lives.
daemon_pid() {
  local pid started boot
  [[ -r $DIR/run/$1.pid ]] || return 1
  read -r pid started boot <"$DIR/run/$1.pid" || return 1
  [[ $boot == "$BOOT" ]] || return 1
  [[ $(start_time "$pid") == "$started" ]] || return 1
  echo "$pid"
}

# run_daemon NAME COMMAND...: start COMMAND in the background in a session of
# its own, holding none of our files open (a CI that waits for its output pipe
# to close would never end).  Every link of COMMAND must exec the next.
run_daemon() {
  local name=$1
  shift
  setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 9>&- &
  record "$name" $!
}

# stop_daemon NAME [SECONDS]: TERM, then KILL.
stop_daemon() {
  local pid
  if pid=$(daemon_pid "$1"); then
    kill -TERM "$pid" 2>/dev/null || true
    wait_until "${2:-10}" not_running "$1" || kill -KILL "$pid" 2>/dev/null || true
    wait_until 5 not_running "$1" || say "$1 (pid $pid) will not die"
  fi
  rm -f "$DIR/run/$1.pid"
}
not_running() { ! daemon_pid "$1" >/dev/null; }

# node_list: names of the nodes.
node_list() {
  local i
  for ((i = 1; i <= SLURM_LAB_NODES; i++)); do echo "node$i"; done
}
# A node's network namespace and its end of the bridge bear the same name.
netns_of() { echo "slab-$1"; }

# start_slurmd NODE: start slurmd inside the node's namespaces, in a mount
# namespace of its own where /etc/hosts is the cluster's.
start_slurmd() {
  local node=$1
  mkdir -p "$DIR/spool/$node"
  run_daemon "slurmd-$node" nsenter --uts="$DIR/run/$node.uts" --net="/run/netns/$(netns_of "$node")" -- \
    unshare --mount --propagation slave -- \
    bash -c 'mount --bind "$1" /etc/hosts && exec slurmd -D -f "$2" -N "$3"' \
    _ "$DIR/hosts" "$DIR/slurm.conf" "$node"
}

# on_node NODE: PIDs of all that runs there.  They share the node's UTS
# namespace, whose number is ours for as long as its file is mounted.
on_node() {
  local uts pid
  mountpoint -q "$DIR/run/$1.uts" || return 0
  uts=$(stat -Lc 'uts:[%i]' "$DIR/run/$1.uts")
  for pid in /proc/[0-9]*; do
    if [[ $(readlink "$pid/ns/uts" 2>/dev/null) == "$uts" ]]; then
      start_time "${pid#/proc/}" >/dev/null && echo "${pid#/proc/}"
    fi
  done
  return 0
}
node_quiet() { [[ -z $(on_node "$1") ]]; }
