"""The whole training loop on ranks of a test, which has an eye on them itself."""

from pathlib import Path

from megachar.config.experiment import Experiment
from megachar.config.sections.training import FaultToleranceConfig
from megachar.training import loop, run_log
from megachar.watch.rank import RankWatch


def train(experiment: Experiment, resume: bool, pictures: bool = False) -> None:
    """On a rank: train without a watch, and without drawing at the end, which takes longer than a small run."""
    settings = FaultToleranceConfig(heartbeat_timeout_seconds=0, progress_timeout_seconds=0)
    watch = RankWatch(0, 1, settings, Path("nowhere"), output=None)  # type: ignore[arg-type]
    watch.connected = True
    if not pictures:
        run_log.plot_run = lambda folder: []
    loop.train(experiment, resume, watch)
