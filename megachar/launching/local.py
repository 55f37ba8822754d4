"""Starts the ranks of a run on this machine, and ends when they have.

    python -m megachar.launching.local --ranks 2 --port 29500 launcher/train.py small data.path=data/corpus

On CPUs it imports torch, DeepSpeed and the training loop once, which takes seconds, and forks the ranks, which takes
none. Where there are GPUs every rank is a new process: what importing torch may do there does not survive a fork.
"""

import argparse
import contextlib
import ctypes
import os
import runpy
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from megachar.base.bars import waiting
from megachar.base.errors import MegacharError
from megachar.base.exit_codes import ExitCode
from megachar.config.deepspeed import load_engine_config, render_deepspeed_config
from megachar.config.loading import load_experiment
from megachar.launching.gpus import count_gpus
from megachar.launching.output import led_aside
from megachar.runs.folder import RunFolder
from megachar.training.garbage import no_collection

LEAVE_SECONDS = 30.0
"""The ranks that are left are killed as long after the first failure; the watch over them needs a few seconds."""
PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
AWAITED = (*PASSED_ON, signal.SIGCHLD)
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


def main() -> int:
    """Start the ranks and wait for them; in each of those that are forked, run the script."""
    parser = argparse.ArgumentParser(description="Run a script as the ranks of a run on this machine.")
    parser.add_argument("--ranks", type=int, required=True, help="how many")
    parser.add_argument("--port", type=int, required=True, help="at which they meet")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="what they compute on")
    parser.add_argument("--settings", type=Path, help="the experiment, whose DeepSpeed settings are tried first")
    parser.add_argument("script", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    given = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)  # first: a thread that did not block them would take them
    try:
        forked = make_ready(given.device, given.settings)
    except MegacharError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    ranks: set[int] = set()
    for rank in range(given.ranks):
        launcher, process = os.getpid(), os.fork()
        if process == 0:
            become(rank, launcher, environment_of(rank, given.ranks, given.port))
            run(given.script, given.arguments, forked)
        ranks.add(process)
    return status_of(wait_for(ranks))


def make_ready(device: str, experiment: Path | None) -> bool:
    """Do once what all ranks would; whether they can be forked.

    What libraries say meanwhile stands in launcher.log, beside the logs of the run in whose folder the experiment is.

    Raises:
        ConfigError: DeepSpeed refuses its settings.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(waiting("importing torch and DeepSpeed", Console()))
        if experiment is not None:
            stack.enter_context(led_aside(RunFolder(experiment.parent.parent).logs / "launcher.log"))
        forked = is_cpu(device) and import_once()
        if forked and experiment is not None:
            check_engine(experiment)
        return forked


def is_cpu(device: str) -> bool:
    """Whether the ranks will compute on CPUs. torch is asked only where no GPU is listed, so that it touches none."""
    if device == "auto" and count_gpus() == 0:
        from megachar.base.device import choose_device

        return choose_device(device).type == "cpu"
    return device == "cpu"


def import_once() -> bool:
    """Import what all ranks are going to; whether they can be forked, which copies no thread but the one that forks."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # or numpy has threads from its import on; nothing here uses them
    with no_collection():
        import megachar.training.loop  # noqa: F401
        from megachar.parallel.library import load_deepspeed

        load_deepspeed()
    return len(list(Path("/proc/self/task").iterdir())) == 1


def check_engine(experiment: Path) -> None:
    """Have DeepSpeed look at its settings before there are ranks: what it does not accept is one message.

    Raises:
        ConfigError: it refuses them.
    """
    from megachar.parallel.library import check_engine_settings

    loaded = load_experiment(str(experiment))
    check_engine_settings(render_deepspeed_config(loaded, load_engine_config(loaded.deepspeed)))


def environment_of(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """The variables that say which rank a process is, and how it meets the others."""
    own, number = str(rank), str(num_ranks)
    return {"RANK": own, "LOCAL_RANK": own, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip


def become(rank: int, launcher: int, environment: dict[str, str]) -> None:
    """Make this new process a rank, which ends when the launcher does, however that may end.

    SIGTERM and SIGUSR1 wait until its script is ready for them and unblocks them.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_NAME, f"rank {rank}".encode())  # as `ps` and `top` show it
    if os.getppid() != launcher:  # it has ended already
        os._exit(ExitCode.LAUNCHER_LOST)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGCHLD))
    os.environ.update(environment)


def run(script: Path, arguments: list[str], here: bool) -> None:
    """Run a script, in this process or in a new one in its place; comes back only from one that does not exit."""
    sys.argv = [str(script), *arguments]
    if not here:
        os.execv(sys.executable, [sys.executable, "-u", *sys.argv])
    runpy.run_path(str(script), run_name="__main__")
    raise SystemExit


def wait_for(ranks: set[int]) -> list[int]:
    """Statuses of processes as they end; signals are passed on, and those that outlive a failure too long killed."""
    left, statuses = set(ranks), list[int]()
    until: float | None = None
    while left:
        seconds = 3600.0 if until is None else max(0.0, until - time.monotonic())
        came = signal.sigtimedwait(AWAITED, seconds)
        if came is not None and came.si_signo in PASSED_ON:
            signal_all(left, came.si_signo)
        if came is None and until is not None:
            signal_all(left, signal.SIGKILL)
        for process in list(left):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                left.discard(process)
                statuses.append(os.waitstatus_to_exitcode(status))
        if until is None and any(status not in (ExitCode.DONE, ExitCode.PREEMPTED) for status in statuses):
            until = time.monotonic() + LEAVE_SECONDS
    return statuses


def signal_all(processes: set[int], number: int) -> None:
    """To processes that are not yet waited for, and so cannot be others by now."""
    for process in processes:
        os.kill(process, number)


def status_of(statuses: list[int]) -> int:
    """Of the run, from those of its ranks in the order of their ends: the first failure that is a rank's own."""
    failures = [status for status in statuses if status not in (ExitCode.DONE, ExitCode.PREEMPTED)]
    own = [status for status in failures if status not in (ExitCode.PEER_FAILED, ExitCode.LAUNCHER_LOST)]
    for status in (*own, *failures):
        return status if status > 0 else 128 - status
    return ExitCode.PREEMPTED if ExitCode.PREEMPTED in statuses else ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
