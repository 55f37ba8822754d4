"""A rank without a model: takes steps of 20 ms under a watch, and fails as it is told.

    python rank_process.py RANK WORLD_SIZE FOLDER HUB FAULT

HUB is an address, `rank0` to have it in rank 0, or `none`. FAULT is KIND or KIND:STEP.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from megachar.base.errors import ConfigError, Preempted
from megachar.config.sections.training import FaultToleranceConfig
from megachar.watch.address import HubAddress
from megachar.watch.rank import RankWatch
from megachar.watch.secret import Secret


class Output:
    """What a rank shows on the terminal."""

    def report_error(self, summary: str, rank: int) -> None:
        print(f"shown of rank {rank}: {summary}", flush=True)

    def close(self) -> None:
        sys.stdout.flush()


def fail(kind: str) -> None:
    if kind == "raise":
        raise RuntimeError("the planted fault")
    if kind == "user_error":
        raise ConfigError("width=-1; set it to 1")
    if kind in ("die", "stop"):
        os.kill(os.getpid(), signal.SIGKILL if kind == "die" else signal.SIGSTOP)
    if kind == "hold":
        ctypes.PyDLL(None).sleep(1000)
    time.sleep(1000)


def main() -> None:
    rank, world_size, folder, hub, fault = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:]
    settings = FaultToleranceConfig(heartbeat_timeout_seconds=4, progress_timeout_seconds=8)
    kind, _, at = fault.partition(":")
    address = HubAddress.parse(hub) if hub not in ("rank0", "none") else None
    with RankWatch(rank, world_size, settings, folder / "failures", Output(), address, folder) as watch:
        (folder / f"ready-{rank}").touch()
        if kind == "wait":
            time.sleep(1000)
        if hub == "rank0":
            watch.connect(*meet(watch, rank, folder))
        (folder / f"joined-{rank}").touch()
        while len(list(folder.glob("joined-*"))) < world_size and kind != "alone":
            watch.progress()
            time.sleep(0.01)
        for step in range(1000):
            watch.progress(step)
            if kind and step == int(at or 10):
                fail(kind)
            for _ in watch.each(range(2)):
                time.sleep(0.01)
            if watch.preempt_asked:
                watch.saved(step)
                raise Preempted
            if (folder / "finish").exists():
                break


def meet(watch: RankWatch, rank: int, folder: Path) -> tuple[HubAddress, Secret]:
    """As the process group does: rank 0 tells the others."""
    if rank == 0:
        secret = Secret.new()
        secret.write(folder)
        served = watch.serve(secret)
        (folder / "part").write_text(f"{served}\n{served.machine}\n{served.pid}")
        (folder / "part").rename(folder / "hub")
    while not (folder / "hub").exists():
        time.sleep(0.01)
    text, machine, pid = (folder / "hub").read_text().split("\n")
    given = HubAddress.parse(text)
    address = HubAddress(given.addresses, given.port, given.attempt, machine, int(pid))
    return address, Secret.read(folder, given.attempt)


main()
