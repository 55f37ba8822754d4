"""The script that every launcher runs on every process of `megachar selftest`.

    torchrun --nproc_per_node 4 launcher/selftest.py small parallel.pipe=2 parallel.data=2

The first argument is a preset or a YAML file, the others are overrides. Rank 0 prints the report; what else the ranks
say is in the logs of the folder OUTPUT/NAME.
"""

import argparse
import os
import signal
import socket
import sys
import traceback
import warnings

from rich.console import Console

from megachar.base.errors import MegacharError
from megachar.base.exit_codes import ExitCode
from megachar.config.loading import load_experiment
from megachar.launching.output import RankOutput
from megachar.launching.ranks import rank_environment
from megachar.runs.folder import run_folder
from megachar.watch.rank import PREEMPTION_SIGNALS

WIDTH = 120
"""Of the report, where it does not go to a terminal."""


def main() -> int:
    """Test; returns DONE if nothing is wrong, else FAILED or USER_ERROR (`megachar.base.exit_codes`)."""
    parser = argparse.ArgumentParser(description="Test the processes of a launcher, and what lies between them.")
    parser.add_argument("experiment", help="a preset or a YAML file")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for every check")
    parser.add_argument("--slow-factor", type=float, default=5, help="how much slower than the fastest of its kind")
    parser.add_argument("--local_rank", type=int, help="given by deepspeed; LOCAL_RANK is read instead")
    arguments = parser.parse_intermixed_args()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PREEMPTION_SIGNALS)  # nothing is to be saved before it ends by them
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    try:
        os.environ.update(rank_environment(os.environ))
        experiment = load_experiment(arguments.experiment, arguments.overrides)
        rank = int(os.environ.get("RANK", "0"))
        output = RankOutput(run_folder(experiment), rank)
    except MegacharError as error:
        who = f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()}"
        print(f"{who}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return ExitCode.USER_ERROR
    try:
        from megachar.selftest.run import selftest

        terminal = output.terminal.console
        console = Console(file=terminal.file, width=None if terminal.is_terminal else WIDTH)
        return selftest(experiment, arguments.timeout, arguments.slow_factor, console)
    except Exception as error:
        traceback.print_exc()
        output.report_error(f"rank {rank} on {socket.gethostname()}: {type(error).__name__}: {error}", rank)
        return ExitCode.USER_ERROR if isinstance(error, MegacharError) else ExitCode.FAILED
    finally:
        output.close()


if __name__ == "__main__":
    sys.exit(main())
