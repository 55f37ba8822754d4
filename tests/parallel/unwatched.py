"""A watch for ranks of a pool, which has an eye on them itself."""

from pathlib import Path

from megachar.config.schema import FaultToleranceConfig
from megachar.watch.rank import RankWatch


class NoTerminal:
    """Shows nothing."""

    def show_error(self, summary: str) -> None:
        raise AssertionError(summary)

    def close(self) -> None:
        pass


def unwatched() -> RankWatch:
    settings = FaultToleranceConfig(heartbeat_timeout_seconds=0, progress_timeout_seconds=0)
    watch = RankWatch(0, 1, settings, Path("nowhere"), NoTerminal())
    watch.connected = True
    return watch
