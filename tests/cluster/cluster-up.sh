#!/usr/bin/env bash
# Start a real SLURM cluster with several virtual nodes on this one machine,
# without systemd.  Run as root.  Doing it twice is harmless.
#
#   cluster-up.sh                      # settings: see cluster-lib.sh
#   . "$SLURM_LAB_DIR/env.sh"          # then sinfo, sbatch, srun, ... work
#   cluster-down.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/cluster-lib.sh"

((EUID == 0)) || die "must run as root"
[[ $DIR != *[[:space:]]* ]] || die "SLURM_LAB_DIR must not hold spaces"
[[ $SLURM_LAB_PROCTRACK =~ ^(auto|cgroup|linuxproc)$ ]] || die "SLURM_LAB_PROCTRACK: auto, cgroup or linuxproc"
((SLURM_LAB_REQUEUE_WAIT >= 5)) || die "SLURM_LAB_REQUEUE_WAIT: at least 5 (slurmctld would ignore less, and wait 120)"

made() { echo "$*" >>"$DIR/run/made"; } # for cluster-down.sh to undo

# --- packages ----------------------------------------------------------------
install_packages() {
  local want=()
  [[ -x /usr/sbin/slurmctld && -x /usr/sbin/slurmd && -x /usr/bin/sbatch ]] || want+=(slurm-wlm)
  [[ -x /usr/sbin/munged ]] || want+=(munge)
  command -v ip >/dev/null || want+=(iproute2)
  [[ -x /usr/sbin/slurmdbd ]] || want+=(slurmdbd)
  [[ -x /usr/sbin/mariadbd ]] || want+=(mariadb-server-core mariadb-client-core)
  ((${#want[@]})) || return 0
  say "installing ${want[*]}"
  export DEBIAN_FRONTEND=noninteractive
  { timeout 300 apt-get update -qq &&
    timeout 600 apt-get install -y -qq --no-install-recommends "${want[@]}"; } >"$DIR/log/apt.log" 2>&1 9>&- ||
    die "apt-get failed, see $DIR/log/apt.log"
}

# --- munge -------------------------------------------------------------------
start_munge() {
  # munged insists on files that only its own user can write.
  install -d -o munge -g munge -m 0755 "$DIR/munge"
  if [[ ! -s $DIR/munge/key ]]; then
    (umask 077 && head -c 128 /dev/urandom >"$DIR/munge/key")
    chown munge:munge "$DIR/munge/key"
  fi
  rm -f "$DIR/munge/socket" "$DIR/munge/socket.lock"
  run_daemon munged setpriv --reuid munge --regid munge --clear-groups -- \
    /usr/sbin/munged --foreground --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" \
    --pid-file="$DIR/munge/pid" --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed"
  wait_until 15 munge_answers || die "munged does not answer, see $DIR/log/munged.out"
}
munge_answers() { munge -S "$DIR/munge/socket" -n | unmunge -S "$DIR/munge/socket"; }

# --- network -----------------------------------------------------------------
# Each node gets a UTS namespace (its own hostname), a network namespace, joined
# to a bridge on which the machine itself has address .1, and, at its slurmd's
# start, a mount namespace with an /etc/hosts that knows all nodes.  The UTS
# namespace is pinned by a file, so that its number stays ours and
# cluster-down.sh can tell by it what ran on the node.
node_addr() { echo "$SLURM_LAB_SUBNET.$((10 + $1))"; } # INDEX

make_network() {
  local i=0 node ns
  {
    echo "127.0.0.1 localhost"
    echo "$CTL_ADDR controller"
    for node in $(node_list); do
      i=$((i + 1))
      echo "$(node_addr $i) $node"
    done
  } >"$DIR/hosts"

  ip link add "$BRIDGE" type bridge
  made link "$BRIDGE"
  ip addr add "$CTL_ADDR/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  i=0
  for node in $(node_list); do
    i=$((i + 1))
    touch "$DIR/run/$node.uts"
    unshare --uts="$DIR/run/$node.uts" hostname "$node"
    ns=$(netns_of "$node")
    ip netns add "$ns"
    made netns "$ns"
    ip link add "$ns" type veth peer name eth0 netns "$ns"
    made link "$ns"
    ip link set "$ns" master "$BRIDGE" up
    ip -n "$ns" addr add "$(node_addr $i)/24" dev eth0
    ip -n "$ns" link set lo up
    ip -n "$ns" link set eth0 up
  done
}

# --- configuration -----------------------------------------------------------
# Is there a freezer hierarchy (cgroup v1) where cgroups can be made, and none
# yet of our nodes' names?
freezer_usable() {
  local node
  [[ $(stat -fc %T "$FREEZER" 2>/dev/null) == cgroupfs ]] || return 1
  for node in $(node_list); do
    mkdir "$FREEZER/slurm_$node" 2>/dev/null || return 1
    rmdir "$FREEZER/slurm_$node"
  done
}

write_config() {
  local i=0 node nodes="" gres_types="" gres="" proctrack=$SLURM_LAB_PROCTRACK
  if [[ $proctrack == auto ]]; then
    freezer_usable && proctrack=cgroup || proctrack=linuxproc
  fi
  if [[ $proctrack == cgroup ]]; then
    printf '%s\n' CgroupPlugin=cgroup/v1 "CgroupMountpoint=${FREEZER%/*}" CgroupAutomount=no >"$DIR/cgroup.conf"
    for node in $(node_list); do made cgroup "$FREEZER/slurm_$node"; done
  else
    rm -f "$DIR/cgroup.conf"
  fi
  if ((SLURM_LAB_GPUS)); then
    gres_types="GresTypes=gpu"
    gres=" Gres=gpu:$SLURM_LAB_GPUS"
    # slurmd counts only GPUs that have a device file: here copies of /dev/null.
    for ((i = 0; i < SLURM_LAB_GPUS; i++)); do mknod "$DIR/run/gpu$i" c 1 3; done
    i=0
    echo "Name=gpu File=$DIR/run/gpu[0-$((SLURM_LAB_GPUS - 1))]" >"$DIR/gres.conf"
  else
    rm -f "$DIR/gres.conf"
  fi
  for node in $(node_list); do
    i=$((i + 1))
    nodes+="NodeName=$node NodeHostname=$node NodeAddr=$(node_addr $i) Port=$((SLURM_LAB_PORT + 9 + i))"
    nodes+=" CPUs=$SLURM_LAB_CPUS RealMemory=64000$gres State=UNKNOWN\\n"
  done
  sed -e "s|@DIR@|$DIR|g" \
    -e "s|@CTL_ADDR@|$CTL_ADDR|g" \
    -e "s|@CTL_PORT@|$SLURM_LAB_PORT|g" \
    -e "s|@REQUEUE_WAIT@|$SLURM_LAB_REQUEUE_WAIT|g" \
    -e "s|@NODE_TIMEOUT@|$SLURM_LAB_NODE_TIMEOUT|g" \
    -e "s|@GRACE@|$SLURM_LAB_GRACE|g" \
    -e "s|@FIRST_JOB@|$((EPOCHSECONDS % 60000000))|" \
    -e "s|@PROCTRACK@|$proctrack|g" \
    -e "s|@DBD_PORT@|$((SLURM_LAB_PORT + 1))|g" \
    -e "s|@GRES_TYPES@|$gres_types|" \
    -e "s|@NODES@|$nodes|" \
    "$here/slurm.conf.in" >"$DIR/slurm.conf"
  echo "export SLURM_CONF=$DIR/slurm.conf" >"$DIR/env.sh"
}

# --- daemons -----------------------------------------------------------------
start_accounting() {
  local user=mysql sock=$DIR/mysql/socket
  getent passwd mysql >/dev/null || user=nobody
  install -d -o "$user" -m 0755 "$DIR/mysql"
  if [[ ! -d $DIR/mysql/data/mysql ]]; then
    timeout 120 mariadb-install-db --no-defaults --user="$user" --datadir="$DIR/mysql/data" \
      --skip-test-db --auth-root-authentication-method=socket --skip-name-resolve \
      >"$DIR/log/mariadb-install.log" 2>&1 || die "mariadb-install-db failed, see $DIR/log"
  fi
  run_daemon mariadbd mariadbd --no-defaults --user="$user" --datadir="$DIR/mysql/data" \
    --socket="$sock" --pid-file="$DIR/mysql/pid" --skip-networking --skip-log-bin \
    --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900
  wait_until 30 mariadb --no-defaults --socket="$sock" -e 'select 1' || die "mariadbd does not answer"
  cat >"$DIR/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket
DbdHost=localhost
DbdAddr=$CTL_ADDR
DbdPort=$((SLURM_LAB_PORT + 1))
SlurmUser=root
LogFile=$DIR/log/slurmdbd.log
PidFile=$DIR/run/slurmdbd.slurm-pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
CommitDelay=1
CONF
  chmod 600 "$DIR/slurmdbd.conf"
  run_daemon slurmdbd env SLURM_CONF="$DIR/slurm.conf" MYSQL_UNIX_PORT="$sock" slurmdbd -D
  wait_until 30 sacctmgr -n show cluster || die "slurmdbd does not answer, see $DIR/log/slurmdbd.log"
  # What is there already is fine. One account: jobs of any other are refused, as on real sites.
  {
    sacctmgr -i add cluster lab
    sacctmgr -i add account lab Description=tests Organization=tests
    sacctmgr -i add user "$(id -un)" account=lab
  } >/dev/null 2>&1 || true
  [[ -n $(sacctmgr -nP show assoc user="$(id -un)") ]] || die "no account could be made, see $DIR/log/slurmdbd.log"
}

all_idle() { [[ $(sinfo -h -N -p main -t idle -o %N | wc -l) -eq $SLURM_LAB_NODES ]]; }
all_alive() {
  local name
  for name in munged mariadbd slurmdbd slurmctld $(node_list | sed 's/^/slurmd-/'); do
    daemon_pid "$name" || return 1
  done
}
all_running() { all_alive && timeout 10 scontrol ping; }
settled() { # up, or no use waiting
  all_idle || ! all_alive || sinfo -h -N -o %T | grep -q inval
}

# What this cluster was started with, and when: cluster-down.sh reads it too.
settings() {
  local name
  for name in ${!SLURM_LAB_*}; do
    [[ $name == SLURM_LAB_LOCKED ]] || printf '%s=%q\n' "$name" "${!name}"
  done
  printf 'SETTINGS_BOOT=%q\n' "$BOOT"
}

# --- go ----------------------------------------------------------------------
mkdir -p "$DIR"/{run,log,state,spool}
chmod 755 "$DIR" "$DIR"/{run,log,spool}
exec 9>"$DIR/lock"
flock -w 120 9 || die "another cluster-up.sh or cluster-down.sh is at work on $DIR"
export SLURM_CONF=$DIR/slurm.conf
CTL_ADDR=$SLURM_LAB_SUBNET.1

install_packages
if [[ -e $DIR/run/settings ]]; then
  if [[ $(settings) == "$(<"$DIR/run/settings")" ]] && all_running >/dev/null 2>&1; then
    say "already up: export SLURM_CONF=$SLURM_CONF"
    exit 0
  fi
  say "clearing an earlier cluster, dead or with other settings"
  SLURM_LAB_LOCKED=1 "$here/cluster-down.sh"
  mkdir -p "$DIR"/{run,state,spool}
fi

is_up=""
trap '[[ -n $is_up ]] || { say "start failed, undoing"; SLURM_LAB_LOCKED=1 "$here/cluster-down.sh"; }' EXIT
settings >"$DIR/run/settings"
rm -f "$DIR"/log/{munged,mariadb,slurm}*
write_config
make_network
start_munge
start_accounting
run_daemon slurmctld slurmctld -D -f "$DIR/slurm.conf"
for node in $(node_list); do start_slurmd "$node"; done
wait_until 60 settled || true
all_idle || die "nodes are not idle: $(timeout 10 sinfo -h -N -o '%N=%T' 2>&1 | tr '\n' ' '); see $DIR/log"
is_up=yes
say "up: $SLURM_LAB_NODES nodes idle; export SLURM_CONF=$SLURM_CONF"
