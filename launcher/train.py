"""The script that every launcher runs on every process.

    deepspeed --num_gpus 2 launcher/train.py small data.path=data/corpus parallel.pipe=2
    deepspeed --hostfile hosts launcher/train.py t64-modern data.path=/shared/enwik8 parallel.pipe=4 parallel.data=8
    torchrun --nproc_per_node 2 launcher/train.py small data.path=data/corpus parallel.pipe=2
    mpirun -n 2 python launcher/train.py small data.path=data/corpus parallel.pipe=2

`megachar launch` does the same after checking everything that can be checked before processes start. The first
argument is a preset or a YAML file, the others are overrides; `--resume` continues a run. The processes learn their
ranks from RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or from Open MPI or Slurm.
"""

import argparse
import os
import socket
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext

from megachar.base.bars import waiting
from megachar.base.errors import MegacharError
from megachar.base.exit_codes import ExitCode
from megachar.launching.output import RankOutput
from megachar.launching.ranks import rank_environment
from megachar.runs.folder import run_folder
from megachar.runs.ownership import Claim, claim_run
from megachar.runs.preflight import check_run_folder, load_run
from megachar.training.garbage import no_collection
from megachar.training.watching import watch_rank


def main() -> int:
    """Train; returns the exit status, or ends the process with one (`megachar.base.exit_codes`)."""
    parser = argparse.ArgumentParser(description="Train one experiment on the processes of a launcher.")
    parser.add_argument("experiment", help="a preset or a YAML file")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of the run")
    parser.add_argument("--local_rank", type=int, help="given by deepspeed; LOCAL_RANK is read instead")
    arguments = parser.parse_intermixed_args()
    # torch warns on every rank of what DeepSpeed calls.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    try:
        os.environ.update(rank_environment(os.environ))
        rank = int(os.environ.get("RANK", "0"))
        experiment = load_run(arguments.experiment, arguments.overrides)
        folder = run_folder(experiment)
        claim: AbstractContextManager[Claim | None] = claim_run(folder) if rank == 0 else nullcontext()
        output = RankOutput(folder, rank)
    except MegacharError as error:
        who = f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()}"
        print(f"{who}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return ExitCode.USER_ERROR
    with watch_rank(experiment, output) as watch, claim as claimed:  # the watch ends the process after an error
        if rank == 0:
            check_run_folder(experiment, arguments.resume)
        with no_collection(), waiting("importing torch and DeepSpeed", output.terminal.console):
            from megachar.training.loop import train

        train(experiment, arguments.resume, watch, output.terminal, claimed)
    output.close()
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
