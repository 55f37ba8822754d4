"""Start a run, and start it again from its newest checkpoint when it fails, on the hosts that still answer."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

from megachar.base.errors import PlatformError
from megachar.base.exit_codes import ExitCode
from megachar.launching.attempt import Attempt
from megachar.launching.plan import LaunchPlan
from megachar.runs.ownership import OwnClaim
from megachar.watch.failure import Failure

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 60.0

Examine = Callable[[LaunchPlan], tuple[LaunchPlan, dict[str, str]]]
"""A plan -> the plan with its hosts' addresses, and what is wrong by host."""


class Supervisor:
    """A loop of attempts.

    An error of the user's making, and leaving on request, are not failures: nothing is started again after them.
    """

    def __init__(self, plan: LaunchPlan, max_restarts: int, examine: Examine, claim: OwnClaim | None = None) -> None:
        """Get ready.

        Args:
            plan: what to start. Its hosts have been examined.
            max_restarts: failures in a row, without a new checkpoint between them, after which to start again; 0 is
                off.
            examine: finds the hosts that can be used for the next start.
            claim: of this process on the run folder; None where that is another's to have.
        """
        self.plan, self.max_restarts, self.examine, self.claim = plan, max_restarts, examine, claim
        self._attempt: Attempt | None = None
        self._signals: list[int] = []
        self._causes: list[Failure] = []
        """Of the failures since the last new checkpoint."""

    @property
    def asked_to_leave(self) -> bool:
        """Whether a signal came, however the run has ended."""
        return bool(self._signals)

    def run(self) -> int:
        """Run the plan to its end; returns an `ExitCode`, or 128 + the signal that ended it at once."""
        plan = self.plan
        with self._signals_taken():
            while True:
                self._say(f"starting {plan.starting}")
                if self.claim is not None:
                    self.claim.hand_down()
                self._attempt = Attempt(plan)
                for number in self._signals:  # that came between two attempts
                    self._attempt.preempt(signal.Signals(number).name)
                outcome = self._attempt.run()
                self._attempt = None
                if outcome.saved is not None:
                    self._causes.clear()
                if outcome.cause is not None:
                    self._causes.append(outcome.cause)
                if len(self._signals) > 1:
                    return 128 + self._signals[-1]
                if outcome.code != ExitCode.FAILED or self._signals:
                    self._tell_end(outcome.code)
                    return outcome.code
                again = self._next_plan()
                if again is None:
                    self._tell_end(ExitCode.FAILED)
                    return ExitCode.PREEMPTED if self._signals else ExitCode.FAILED
                plan = again

    def _next_plan(self) -> LaunchPlan | None:
        """The plan of the next start, once there is one that can start; None to give up."""
        while len(self._causes) <= self.max_restarts and not self._signals:
            number = len(self._causes)
            pause = 0.0 if number == 1 else min(FIRST_PAUSE_SECONDS * 2 ** (number - 2), LONGEST_PAUSE_SECONDS)
            self._say(self._causes[-1].describe())
            when = f", in {pause:.0f} s" if pause else ""
            self._say(f"restart {number} of {self.max_restarts} before the next checkpoint{when}")
            self._pause(pause)
            try:
                return self._plan_that_starts()
            except PlatformError as error:
                self._causes.append(Failure("launcher", (), "no host", None, str(error)))
        return None

    def _plan_that_starts(self) -> LaunchPlan:
        """The run on those of its hosts that can be used, all of them if possible.

        Raises:
            PlatformError: they do not suffice.
        """
        # A run that failed before it was recorded starts anew.
        plan = replace(self.plan, resume=self.plan.resume or self.plan.folder.experiment_file.exists())
        while plan.hosts:
            plan, wrong = self.examine(plan)
            if not wrong:
                break
            for host, problem in wrong.items():
                self._say(f"continuing without {host}: {problem}")
            plan = without(plan, set(wrong))
        return plan

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._signals:
            time.sleep(0.1)

    def _tell_end(self, code: ExitCode) -> None:
        if code == ExitCode.PREEMPTED:
            self._say("the run has left on request; continue with --resume")
        elif self._causes:
            count = len(self._causes)
            often = f"{count} failures in a row without a new checkpoint" if count > 1 else "the run has failed"
            self._say(f"{often}. First cause: {self._causes[0].describe()}")
            for cause in self._causes[1:]:
                self._say(f"then: {cause.line()}")

    def _say(self, text: str) -> None:
        print(f"megachar launch: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def _signals_taken(self) -> Iterator[None]:
        """The first signal asks the ranks to save and leave, a second one ends them at once."""

        def take(number: int, _: FrameType | None) -> None:
            self._signals.append(number)
            if self._attempt is not None:
                if len(self._signals) == 1:
                    self._say(f"{signal.Signals(number).name}: leaving with a checkpoint; once more to end at once")
                    self._attempt.preempt(f"{signal.Signals(number).name} to megachar launch")
                else:
                    self._attempt.kill()

        before: dict[int, Any] = {number: signal.signal(number, take) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def without(plan: LaunchPlan, names: set[str]) -> LaunchPlan:
    """The plan on its other hosts, with fewer replicas where they have too few slots.

    Raises:
        PlatformError: the layout does not fit on them, or this host is one of those left out.
    """
    remaining = tuple(host for host in plan.hosts if host.name not in names)
    smaller = plan.on_hosts(remaining)
    if plan.launcher != "no_ssh":
        return smaller
    own = plan.hosts[plan.node_rank]
    if own not in remaining:
        raise PlatformError(f"the other hosts continue without {own.name}; mend it and start the run again everywhere")
    return replace(smaller, node_rank=remaining.index(own))
