#!/usr/bin/env bash
# One command of hyena-glt on all nodes of a Slurm allocation: Ray starts on each, the command runs on the first, Ray ends with it.
#
#   sbatch --nodes=4 --gpus-per-node=8 cluster/slurm.sh pretrain CONFIG --output_dir /shared/runs/NAME
#
# Submit it where `hyena-glt` and `ray` are on the PATH, in an environment that all nodes see, as they must see the folders in CONFIG.
# Before the time is up the command saves a checkpoint and the job is queued again; it goes on from there, as after the loss of a node.
#SBATCH --job-name=hyena-glt
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
set -euo pipefail

(($#)) || { echo "usage: sbatch --nodes=N $0 COMMAND [CONFIG] [section.key=value ...]" >&2; exit 2; }
for name in hyena-glt ray; do
    command -v "$name" > /dev/null || { echo "error: $name is not on the PATH; activate its environment, then sbatch again" >&2; exit 1; }
done

# The job's folder, which only its owner may enter, on storage that all nodes share: the home folder is, on most clusters.
job=${HYENA_GLT_JOBS:-$HOME/.hyena-glt/jobs}/$SLURM_JOB_ID
rm -rf "$job"
mkdir -p "$(dirname "$job")"
mkdir -m 700 "$job"
trap 'rm -rf "$job"' EXIT
# shellcheck disable=SC2329  # the traps call it
stop() { if [[ -e $job/pid ]]; then kill -TERM "$(< "$job/pid")" || true; fi; }
requeue=
trap 'requeue=1; stop' USR1
trap stop TERM

# A token of the job's own, in a file: what stands in the environment or on a command line, others can see.
(umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' > "$job/token")
unset RAY_AUTH_TOKEN RAY_ADDRESS
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job/token
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-600} RAY_USAGE_STATS_ENABLED=0
ulimit -n "$(ulimit -Hn)"

# This script runs on the first node, which becomes the head. Its name may stand for loopback there, so the address is given.
head=${HYENA_GLT_HEAD_ADDRESS:-$(hostname --all-ip-addresses | cut -d' ' -f1)}
address=$head:$((20000 + SLURM_JOB_ID % 10000))

# What each node runs. A node that is faster than a busy head does not find it, and tries again; where the head's own Ray does not start
# (symmetric-run may end with 0 there), that ends the job. The command leaves its exit status, and a node on which Ray ends before that
# ends the job. It leaves its process number too, to be told to stop: only it is to hear of that, as Ray's own processes would end before
# the checkpoint is saved.
# shellcheck disable=SC2016
command='(echo $BASHPID > "$0/pid"; exec "$@"); status=$?; echo $status > "$0/status"; exit $status'
# shellcheck disable=SC2016
node='for attempt in $(seq $((SLURM_NODEID ? 3 : 1))); do
    ray symmetric-run "$@"
    ended=$?
    if [[ -e $0/status ]]; then exit $ended; elif [[ -e $0/pid ]]; then break; fi
done
echo "error: Ray ended on $(hostname) before the command did" >&2
exit 1'

srun --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=1 bash -c "$node" "$job" --address "$address" --min-nodes "$SLURM_NNODES" \
    --num-cpus "$SLURM_CPUS_ON_NODE" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --dashboard-host 127.0.0.1 \
    -- bash -c "$command" "$job" env RAY_ADDRESS="$address" hyena-glt "$@" &
step=$!
while kill -0 "$step" 2> /dev/null; do wait "$step" || true; done  # a signal ends `wait`, not the step

if [[ ! -e $job/status ]]; then
    echo "error: the command did not run to its end, because Ray did not start on all $SLURM_NNODES nodes or ended on one; see above" >&2
    exit 1
fi
status=$(< "$job/status")
# 130 where a run has saved; above 128 too where what the signal met saves as it goes, or had not begun.
if [[ $requeue && $status -gt 128 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
