"""One start of a run under a supervisor: from its command to its last process."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from megachar.base.exit_codes import ExitCode
from megachar.launching.local import PASSED_ON
from megachar.launching.network import interface_addresses, is_loopback, own_address_to
from megachar.launching.plan import LaunchPlan
from megachar.launching.processes import end_command, signal_ranks
from megachar.launching.starting import command_of, launcher_of, prepare, record_start
from megachar.runs.checkpoints.format import checkpoint_folders, step_of
from megachar.runs.folder import run_folder
from megachar.training.early_stopping import is_finished
from megachar.training.watching import HUB_VARIABLE
from megachar.watch.address import HubAddress
from megachar.watch.failure import Failure
from megachar.watch.hub import Hub
from megachar.watch.secret import Secret

TOKEN_VARIABLE = "MEGACHAR_ATTEMPT"
"""Marks the processes of an attempt whose ranks do not connect to its hub."""
LOOK_SECONDS = 0.2
LEAVE_SECONDS = 45.0
"""Processes of a run that has ended are killed after this long. The launchers give their ranks 30 s."""
FOLLOW_SECONDS = 5.0
"""And the launcher this long after the last rank. pdsh, for one, waits for a host that has vanished."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    code: ExitCode
    cause: Failure | None
    """Why, where it was not the end of training or a request."""
    saved: int | None
    """Step of the newest checkpoint it has saved; None if it has saved none."""


class Attempt:
    """The command of a plan, the hub its ranks connect to, and what came of it.

    Without ssh every host has a supervisor, and none of them hears of the ranks of the others: there rank 0 has the
    hub, and a supervisor goes by the status of its own host's launcher.
    """

    def __init__(self, plan: LaunchPlan) -> None:
        self.plan = plan
        self.secret = Secret.new()
        self.hub = Hub(plan.topology.world_size, plan.experiment.fault_tolerance, self.secret)
        self.killed = False
        self.launcher_ended_by: signal.Signals | None = None
        """What the launcher was killed by, where it did not end by itself."""
        self._has_hub = not launcher_of(plan).starts_one_host
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> Outcome:
        """Start it and wait for its end; no process of it is left afterwards, save on hosts that do not answer."""
        addresses = own_addresses(self.plan)
        self.hub.start(addresses)
        address = HubAddress(addresses, self.hub.port, self.secret.name)
        variable = HUB_VARIABLE if self._has_hub else TOKEN_VARIABLE
        os.environ[variable] = str(address)  # which the plan hands to other hosts
        try:
            prepare(self.plan)
            record_start(self.plan)
            self.secret.write(self.plan.folder.launch)
            environment = {**os.environ, **launcher_of(self.plan).variables(self.plan)}
            # Out of reach of the terminal's Ctrl-C: the ranks are asked to leave through the hub.
            before = newest_step(self.plan)
            with signals_held(PASSED_ON if launcher_of(self.plan).holds_signals else ()):
                self._process = subprocess.Popen(command_of(self.plan), env=environment, start_new_session=True)
            self._wait()
        finally:
            del os.environ[variable]
            if self._process is not None:
                end_command(self._process, self.secret.name, self.plan)
            self.hub.close()
            self.secret.remove(self.plan.folder.launch)
        if self._has_hub:
            return self._outcome(self._process.returncode)
        after = newest_step(self.plan)
        finished = is_finished(run_folder(self.plan.experiment), self.plan.experiment)
        return outcome_of_status(self._process.returncode, after if after != before else None, finished)

    def preempt(self, why: str) -> None:
        """Have the ranks save and leave."""
        self.hub.preempt(why)
        if not self._has_hub:
            signal_ranks(self.secret.name, signal.SIGUSR1)

    def kill(self) -> None:
        """End it at once."""
        self.killed = True

    def _wait(self) -> None:
        """Until the launcher has ended and no rank holds a connection any more, or their time to leave is over."""
        assert self._process is not None
        until: float | None = None
        while not self.killed and (until is None or time.monotonic() < until):
            status = self._process.poll()
            ended = status is not None
            if status is not None and status < 0:
                self.launcher_ended_by = signal.Signals(-status)
            if ended and not self.hub.connected:
                return
            if ended and self.hub.running and self.hub.verdict is None:
                error = f"the launcher ended with status {self._process.returncode} while ranks were at work"
                self.hub.end(Failure("launcher", (), socket.gethostname(), self.hub.steps, error))
            if until is None and (ended or self.hub.verdict is not None or self.hub.complete):
                until = time.monotonic() + LEAVE_SECONDS
            if until is not None and self.hub.verdict is not None and not self.hub.connected:
                until = min(until, time.monotonic() + FOLLOW_SECONDS)
            time.sleep(LOOK_SECONDS)

    def _outcome(self, status: int) -> Outcome:
        hub, cause = self.hub, self.hub.verdict
        left = [member.left for member in hub.members.values()]
        if cause is None and hub.complete and not any(left):
            return Outcome(ExitCode.DONE, None, hub.saved)
        if (cause is None and ExitCode.PREEMPTED in left) or (cause is not None and cause.kind == "preemption"):
            return Outcome(ExitCode.PREEMPTED, None, hub.saved)
        if self.launcher_ended_by is not None and (cause is None or cause.kind == "death"):
            error = f"{self.launcher_ended_by.name} ended the launcher, and the ranks with it"
            cause = Failure("launcher", (), socket.gethostname(), hub.steps, error)
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


@contextlib.contextmanager
def signals_held(signals: Collection[signal.Signals]) -> Iterator[None]:
    """What is started in the block has these signals blocked: none is lost until it takes them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outcome_of_status(status: int, saved: int | None, finished: bool) -> Outcome:
    """How an attempt ended by the status of its launcher alone. DeepSpeed's says 0 also where it was killed."""
    if status == ExitCode.PREEMPTED or (status == ExitCode.DONE and finished):
        return Outcome(ExitCode(status), None, saved)
    code = ExitCode.USER_ERROR if status == ExitCode.USER_ERROR else ExitCode.FAILED
    error = f"the launcher ended with status {status}; the ranks' logs say why"
    return Outcome(code, Failure("launcher", (), socket.gethostname(), saved, error), saved)


def newest_step(plan: LaunchPlan) -> int | None:
    """The step of the run's newest checkpoint, by the names of their folders."""
    return max(map(step_of, checkpoint_folders(plan.folder)), default=None)


def own_addresses(plan: LaunchPlan) -> tuple[str, ...]:
    """This machine's addresses as the plan's hosts reach them; the loopback alone where nobody elsewhere has to.

    A host's address in the plan is as other hosts of the run see it; where it is alone, that is its own loopback. Where
    no route tells, those of all interfaces are given.
    """
    if not plan.hosts or launcher_of(plan).starts_one_host:  # there, rank 0 has the hub of the ranks
        return ("127.0.0.1",)
    found: dict[str, None] = {}
    for host in plan.used_hosts():
        for target in (host.name, plan.addresses.get(host.name, host.name)):
            with contextlib.suppress(OSError):
                found[own_address_to(target)] = None
    if all(map(is_loopback, found)):
        found |= {address: None for own in interface_addresses().values() for address in own if ":" not in address}
    return tuple(sorted(found, key=is_loopback))
