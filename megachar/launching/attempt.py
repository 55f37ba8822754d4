"""One start of a run under a supervisor: from its command to its last process."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass

from megachar.exit_codes import ExitCode
from megachar.launching.plan import LaunchPlan
from megachar.launching.processes import kill_processes
from megachar.training.watching import HUB_VARIABLE
from megachar.watch.failure import Failure
from megachar.watch.hub import Hub, HubAddress

LOOK_SECONDS = 0.2
LEAVE_SECONDS = 45.0
"""Processes of a run that has ended are killed after this long. DeepSpeed's launcher gives its ranks 30 s."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    code: ExitCode
    cause: Failure | None
    """Why, where it was not the end of training or a request."""
    saved: int | None
    """Step of the newest checkpoint it has saved; None if it has saved none."""


class Attempt:
    """The command of a plan, the hub its ranks connect to, and what came of it."""

    def __init__(self, plan: LaunchPlan) -> None:
        self.plan = plan
        self.hub = Hub(plan.topology.world_size, plan.experiment.fault_tolerance)
        self.killed = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> Outcome:
        """Start it and wait for its end; no process of it is left afterwards, save on hosts that do not answer."""
        self.hub.start()
        address = HubAddress(own_addresses(self.plan), self.hub.port, self.hub.token)
        os.environ[HUB_VARIABLE] = str(address)  # which the plan hands to other hosts
        try:
            self.plan.prepare()
            self.plan.record_start()
            environment = {**os.environ, **self.plan.environment()}
            # Out of reach of the terminal's Ctrl-C: the ranks are asked to leave through the hub.
            self._process = subprocess.Popen(self.plan.command(), env=environment, start_new_session=True)
            self._wait()
        finally:
            del os.environ[HUB_VARIABLE]
            self._clear()
            self.hub.close()
        return self._outcome(self._process.returncode)

    def preempt(self, why: str) -> None:
        """Have the ranks save and leave."""
        self.hub.preempt(why)

    def kill(self) -> None:
        """End it at once."""
        self.killed = True

    def _wait(self) -> None:
        """Until the launcher has ended and no rank holds a connection any more, or their time to leave is over."""
        assert self._process is not None
        until: float | None = None
        while not self.killed and (until is None or time.monotonic() < until):
            ended = self._process.poll() is not None
            if ended and not self.hub.connected:
                return
            if ended and self.hub.running and self.hub.verdict is None:
                error = f"the launcher ended with status {self._process.returncode} while ranks were at work"
                self.hub.end(Failure("launcher", (), socket.gethostname(), self.hub.steps, error))
            if until is None and (ended or self.hub.verdict is not None or self.hub.complete):
                until = time.monotonic() + LEAVE_SECONDS
            time.sleep(LOOK_SECONDS)

    def _clear(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        remote = self.plan.launcher in ("ssh", "openmpi")
        kill_processes(self.hub.token, [host.name for host in self.plan.used_hosts()] if remote else [])

    def _outcome(self, status: int) -> Outcome:
        hub, cause = self.hub, self.hub.verdict
        left = [member.left for member in hub.members.values()]
        if cause is None and hub.complete and not any(left):
            return Outcome(ExitCode.DONE, None, hub.saved)
        if (cause is None and ExitCode.PREEMPTED in left) or (cause is not None and cause.kind == "preemption"):
            return Outcome(ExitCode.PREEMPTED, None, hub.saved)
        if cause is None:
            came = f"{len(left)} of {hub.world_size} ranks had come"
            cause = Failure("launcher", (), socket.gethostname(), hub.steps,
                            f"the launcher ended with status {status}; {came}")  # fmt: skip
        if cause.kind not in ("exception", "user_error"):  # the rank itself has recorded those
            with contextlib.suppress(OSError):
                cause.write(self.plan.folder.failures)
        wrong = cause.kind == "user_error" or (cause.kind == "launcher" and status == ExitCode.USER_ERROR)
        code = ExitCode.USER_ERROR if wrong else ExitCode.FAILED
        return Outcome(code, cause, hub.saved)


def own_addresses(plan: LaunchPlan) -> tuple[str, ...]:
    """This machine's addresses as the plan's hosts reach them; the loopback where all ranks run here."""
    if not plan.hosts:
        return ("127.0.0.1",)
    found: dict[str, None] = {}
    for host in plan.used_hosts():
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((plan.addresses.get(host.name, host.name), 1))  # sends nothing
            found[probe.getsockname()[0]] = None
    return tuple(found) or (socket.gethostname(),)
