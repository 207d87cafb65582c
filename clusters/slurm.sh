#!/usr/bin/env bash
# A study on Slurm: begins it, or goes on with it; five minutes before the time limit it stops with checkpoints written
# and puts itself back into the queue. From a folder that all nodes see, in an environment that has dastune:
#
#   sbatch clusters/slurm.sh cifar10_noise --set data.root=$PWD/data
#
# What follows the study goes to `dastune run` (not another name: the script needs to know the study's folder, which is
# runs/STUDY here). Change the lines below, or override them: sbatch --nodes=8 --time=2-0 clusters/slurm.sh ...
# README.md has the rest.
#
#SBATCH --job-name=dastune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=dastune-%j.log
# --exclusive: `ray symmetric-run` ends with `ray stop`, which ends every Ray of yours on the node, another job's too.
# --requeue: after the loss of a node, and where preemption requeues; the study goes on where its folder says.

set -euo pipefail

if (($# == 0)); then
  echo "usage: sbatch clusters/slurm.sh STUDY [options of dastune run]" >&2
  exit 2
fi
study=$1
shift
name=$(basename "$study" .yaml)
output=$PWD/runs
code_file=$output/$name.exit-$SLURM_JOB_ID
mkdir -p "$output"
rm -f "$code_file"

if [[ $(ray --version) != *" 2.60.0" ]]; then
  echo "dastune: $(ray --version) is here, but this script is for ray 2.60.0: pip install 'ray[tune]==2.60.0'" >&2
  exit 2
fi
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
export RAY_USAGE_STATS_REPORT_URL=http://127.0.0.1:9/ # Ray would tell once that it tells nothing
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600 # nodes start when they start; Ray's own is 30 s
# Made once, in HOME, which all nodes share; readable by you alone, and never in the log.
(umask 077 && ray get-auth-token --generate > /dev/null)

# MLflow's server, for the driver, which runs on this node. One process writes its sqlite file, so a shared file system
# with locks will do; on one without (Lustre without flock) set MLFLOW_TRACKING_URI to a server of yours before sbatch.
if [[ -z ${MLFLOW_TRACKING_URI:-} ]]; then
  mkdir -p "$output/mlflow"
  MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
    --allowed-hosts localhost:5000,127.0.0.1:5000 --backend-store-uri "sqlite:///$output/mlflow/mlflow.db" \
    --serve-artifacts --artifacts-destination "$output/mlflow/artifacts" &> "$output/mlflow/server.log" &
  mlflow_server=$!
  trap 'kill "$mlflow_server" 2> /dev/null || true' EXIT
  export MLFLOW_TRACKING_URI=http://127.0.0.1:5000
  if ! timeout 120 bash -c "until curl -sf $MLFLOW_TRACKING_URI/health > /dev/null; do sleep 1; done"; then
    echo "dastune: MLflow's server does not start; see $output/mlflow/server.log" >&2
    exit 2
  fi
fi

noticed=
trap 'noticed=yes; echo "dastune: the time limit is near; the study stops"; dastune stop "$output/$name" || true' USR1

read -r head_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # the node this script runs on
# The driver's exit code goes through a file: symmetric-run ends with 0 if Ray did not start, and srun's code is the
# highest of all nodes'. The file's writer outlives a SIGTERM, which is the driver's.
# --wait=0, --kill-on-bad-exit=0: a node that is lost does not end the others; its searches begin again elsewhere.
# --cpus-per-task: srun does not take it over from sbatch.
# shellcheck disable=SC2016 # expanded by the shell on the head node
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  --cpus-per-task="$SLURM_CPUS_PER_TASK" --wait=0 --kill-on-bad-exit=0 \
  ray symmetric-run --address "$head_node:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- \
  bash -c 'trap : TERM; "$@"; code=$?; echo "$code" > "$0"; exit "$code"' "$code_file" \
  dastune run "$study" --resume --address auto --output "$output" --set "name=$name" "$@" &
step=$!
while kill -0 "$step" 2> /dev/null; do
  wait "$step" || true # a signal interrupts it
done

if [[ ! -s $code_file ]]; then
  echo "dastune: Ray did not start, or the driver was killed; what is above says why" >&2
  exit 1
fi
code=$(< "$code_file")
rm -f "$code_file"
if [[ -n $noticed && $code == 130 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
