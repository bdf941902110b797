# Sourced by the batch scripts beside it, on every node. What to set at your site is marked SITE; see README.md.

# SITE: the environment with hnm in it; a job starts in a bare shell
# module load cuda; source /path/to/.venv/bin/activate

# SITE: the network between the nodes; without it gloo and NCCL take the interface of the node's hostname, often the slow one
# export GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0

# a folder called `launch` or `configs` where the job starts must not be imported instead of hnm's
export PYTHONSAFEPATH=1
# lines reach the log when they are printed, not when 8 kB have come together
export PYTHONUNBUFFERED=1
# one thread a core that the job was given: by default every process starts one for each core of the node
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
# a restarted torchrun must not find the addresses of dead ranks in its store (torch 2.13 with gloo: the restart hangs)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# NCCL says why it fails, in a few lines
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# the agents of torchrun part in any order; one that finds the other gone prints a page about it after a good end
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
