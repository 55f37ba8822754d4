#!/usr/bin/env bash
# A job for Slurm. Submit it with what `megachar launch` takes; `megachar launch --slurm-script` says where it lies:
#
#     sbatch "$(megachar launch --slurm-script)" t64-modern data.path=/shared/enwik8 output=/shared/runs parallel.pipe=8 parallel.data=8
#
# Options of sbatch go before the script, and win over these: one task per GPU, whole nodes. A job that Slurm requeues
# continues its run.
#SBATCH --job-name=megachar
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=megachar-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script: sbatch SCRIPT EXPERIMENT}"
[ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"
exec megachar launch "$@" --launcher slurm
