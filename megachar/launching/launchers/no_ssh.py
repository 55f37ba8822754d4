"""DeepSpeed's runner, given by the user on every host."""

from megachar.launching.launchers.launcher import Launcher
from megachar.launching.launchers.ssh import deepspeed_runner
from megachar.launching.plan import LaunchPlan


class NoSsh(Launcher):
    """The hosts call the first one, which examines them all, and each starts its own ranks."""

    name = "no_ssh"
    starts_one_host = True

    def command(self, plan: LaunchPlan, script: list[str]) -> list[str]:
        """See `Launcher`."""
        return [*deepspeed_runner(plan), "--no_ssh", "--node_rank", str(plan.node_rank), *script]
