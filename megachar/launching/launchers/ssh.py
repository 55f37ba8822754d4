"""DeepSpeed's runner, over pdsh and ssh."""

import re
import sys
from pathlib import Path

from megachar.base.errors import PlatformError
from megachar.launching.launchers.launcher import Launcher
from megachar.launching.plan import LaunchPlan


class Ssh(Launcher):
    """One command on the first host, or on any machine from which ssh leads to all of them."""

    name = "ssh"
    programs = ("ssh", "pdsh")
    over_ssh = True

    def command(self, plan: LaunchPlan, script: list[str]) -> list[str]:
        """See `Launcher`.

        Raises:
            PlatformError: a path cannot be passed to another host.
        """
        for path in (sys.executable, *script, str(Path.cwd())):
            if not re.fullmatch(r"[\w@+=:,./-]+", path):  # the runner writes it into a shell command as it stands
                raise PlatformError(
                    f"{path!r} holds characters that DeepSpeed's runner cannot pass to another host; move it"
                )
        # Forced, or a single host in the hostfile is taken for this machine.
        return [*deepspeed_runner(plan), "--force_multi", *script]

    def environment(self, plan: LaunchPlan) -> dict[str, str]:
        """An absolute path here keeps DeepSpeed's runner from looking for .deepspeed_env in the user's home."""
        return {"DS_ENV_FILE": str(plan.environment_file)}


def deepspeed_runner(plan: LaunchPlan) -> list[str]:
    """The beginning of a command of DeepSpeed's own launcher."""
    return [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "error",
            "--master_port", str(plan.master_port), "--hostfile", str(plan.hostfile),
            "--master_addr", plan.master_address]  # fmt: skip
