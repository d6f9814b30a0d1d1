#!/usr/bin/env bash
#SBATCH --job-name=frontier
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Three minutes before the end (or on preemption with grace) this script, and nothing else, is told: it drains.
#SBATCH --signal=B:TERM@180
#
# A campaign on Slurm: sbatch deploy/slurm.sh campaign.yaml
# Set FRONTIER_STORE to a postgresql:// URL, or keep the SQLite file on a local disk of the first node, never on a
# network disk. FRONTIER_VENV is an environment with frontier that every node sees. The job requeues itself until the
# campaign is complete; nothing that is recorded is run twice.
set -euo pipefail

spec=${1:?usage: sbatch deploy/slurm.sh campaign.yaml}
port=${RAY_PORT:-6379}
grace=${FRONTIER_GRACE:-120}
if [ -n "${FRONTIER_VENV:-}" ]; then
  # shellcheck disable=SC1091
  source "$FRONTIER_VENV/bin/activate"
fi

# Ray 2.60 turns tokens on in some entry points only; with the mode said everywhere, all agree.
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
export RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-25}
if [ "$RAY_AUTH_MODE" = token ] && [ ! -s "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]; then
  ray get-auth-token --generate >/dev/null
  chmod 600 "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$head:$port
node_pids=()
driver=
told=
interrupted=
# Steps inherit the job's GPUs, but since Slurm 22.05 not its CPUs.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

start_node() { # NODE ARGUMENTS…: `ray start --block` ends a node's workers with its raylet
  local node=$1
  shift
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" --kill-on-bad-exit=0 ray start --block "$@" &
  node_pids+=($!)
}

# shellcheck disable=SC2329
drain() { # frontier gives leases back within its grace; engines stay up meanwhile
  told=yes interrupted=yes
  [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true
}
trap drain TERM USR1

# shellcheck disable=SC2329
end_nodes() {
  for pid in "${node_pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait "${node_pids[@]}" 2>/dev/null || true
}
trap end_nodes EXIT

start_node "$head" --head --node-ip-address="$head" --port="$port" --dashboard-host=127.0.0.1
for attempt in $(seq 60); do
  ray status --address "$address" >/dev/null 2>&1 && break
  [ "$attempt" -lt 60 ] || { echo "ray did not start on $address within two minutes" >&2; exit 1; }
  sleep "${RAY_WAIT_SECONDS:-2}"
done
for node in "${nodes[@]:1}"; do start_node "$node" --address="$address"; done

queue_again() {
  echo "drained before the end of the allocation; queued again"
  scontrol requeue "$SLURM_JOB_ID"
  exit 130
}

[ -z "$told" ] || queue_again
frontier run "$spec" --ray "$address" --plain --grace "$grace" &
driver=$!
[ -z "$told" ] || kill -TERM "$driver"
while :; do # a signal ends `wait` early; what counts is how the command itself ends
  interrupted=
  code=0
  wait "$driver" || code=$?
  [ -n "$interrupted" ] || break
done
echo "frontier run ended with $code"
# 143: it was told before it could listen, so it had nothing to drain.
if [ -n "$told" ] && { [ "$code" -eq 130 ] || [ "$code" -eq 143 ]; }; then queue_again; fi
exit "$code"
