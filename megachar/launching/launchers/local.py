"""Our own program, on this machine."""

import sys
from pathlib import Path

from megachar.base.errors import PlatformError
from megachar.launching.hostfile import Host
from megachar.launching.launchers.launcher import Launcher
from megachar.launching.plan import LaunchPlan


class Local(Launcher):
    """Forks the ranks from one process that has imported what all need."""

    name = "local"
    holds_signals = True

    def hosts(self, hostfile: Path | None) -> tuple[Host, ...]:
        """None; see `Launcher`."""
        if hostfile is not None:
            raise PlatformError(f"--hostfile {hostfile} with --launcher local, which is this machine; leave one out")
        return ()

    def command(self, plan: LaunchPlan, script: list[str]) -> list[str]:
        """See `Launcher`."""
        return [sys.executable, "-u", "-m", "megachar.launching.local", "--ranks", str(plan.topology.world_size),
                "--port", str(plan.master_port), "--device", plan.experiment.device,
                "--settings", str(plan.experiment_file), *script]  # fmt: skip
