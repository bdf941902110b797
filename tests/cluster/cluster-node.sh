#!/usr/bin/env bash
# Break or mend one node of the running test cluster.
#
#   cluster-node.sh crash NODE   kill -9 all that runs on it, as a power cut would
#   cluster-node.sh start NODE   start slurmd there again
#   cluster-node.sh cut NODE     pull its network cable
#   cluster-node.sh join NODE    plug the cable in again
#   cluster-node.sh pids NODE    list what runs on it
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/cluster-lib.sh"

((EUID == 0)) || die "must run as root"
[[ -r $DIR/run/settings ]] || die "no cluster at $DIR"
. "$DIR/run/settings"
action=${1:-} node=${2:-}
node_list | grep -qx -- "$node" || die "no node '$node'"
export SLURM_CONF=$DIR/slurm.conf

case $action in
  crash)
    # Again and again, for what forks while we look.
    kill_all() {
      local left
      left=$(on_node "$node")
      [[ -n $left ]] || return 0
      # shellcheck disable=SC2086 # one word a process
      kill -KILL $left 2>/dev/null || true
      return 1
    }
    wait_until 10 kill_all || die "could not end everything on $node"
    ;;
  start) daemon_pid "slurmd-$node" >/dev/null || start_slurmd "$node" ;;
  cut | join)
    [[ $action == cut ]] && state=down || state=up
    ip link set "$(netns_of "$node")" "$state"
    ;;
  pids) on_node "$node" ;;
  *) die "usage: cluster-node.sh crash|start|cut|join|pids NODE" ;;
esac
