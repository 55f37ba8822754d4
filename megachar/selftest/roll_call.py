"""Who is where: ranks say in a store which phase they are in, so that a collective that hangs can be reported.

A rank that hangs in a collective says nothing any more, and cannot be called back. So a thread of rank 0 follows the
store; when a phase takes too long it knows who came and who did not, reports, and has all processes end.
"""

import faulthandler
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from megachar.base.errors import PlatformError
from megachar.base.files import json_text
from megachar.parallel.store import stay_on_loopback

POLL_SECONDS = 0.1
GRACE_SECONDS = 3.0
"""What the other ranks still get once one has failed; they may be waiting for it."""
IN, OUT, FAILED = "in", "out", "failed"


@dataclass(frozen=True)
class Standstill:
    """A phase that did not end in time."""

    phase: int
    states: dict[int, str]
    """Rank -> whether it is in the phase, out of it, or failed in it; a rank that did not come is left out."""


class RollCall:
    """This rank's line to the store, and the thread that follows it."""

    def __init__(self, prefix: str, timeout_seconds: float) -> None:
        """Connect; RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT come from the environment.

        Args:
            prefix: of the keys in the store.
            timeout_seconds: longest duration of a phase, counted from the first rank's arrival.

        Raises:
            PlatformError: rank 0 does not answer.
        """
        self.rank, self.world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.timeout_seconds, self._prefix = timeout_seconds, prefix
        for name, value in (("RANK", "0"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "0")):
            os.environ.setdefault(name, value)
        _served = stay_on_loopback()  # held until there are the connections to it
        self._port = int(os.environ["MASTER_PORT"])
        self._store, self._reading = self._connect(serves=self.rank == 0), self._connect(serves=False)
        self._phase = -1
        self._ended = threading.Event()

    def watch(self, report: Callable[[Standstill], object]) -> None:
        """From now on end this process when the test stands still; on rank 0, call `report` first, in a thread."""
        store = self._connect(serves=False)
        work = (self._follow, (store, report)) if self.rank == 0 else (self._listen, (store,))
        threading.Thread(target=work[0], args=work[1], daemon=True).start()

    def enter(self) -> None:
        """This rank begins the next phase; it waits until all ranks are out of the one before."""
        if self._phase >= 0:
            self._store.wait([f"over/{self._phase}"], timedelta(days=1))
        self._phase += 1
        self._say(IN)

    def leave(self, findings: dict[str, Any], failed: bool) -> None:
        """This rank is through with the phase, or cannot go on in it; what it found is kept either way."""
        self._store.set(f"findings/{self._phase}/{self.rank}", json_text(findings))
        self._say(FAILED if failed else OUT)
        if not failed and self._store.add(f"out/{self._phase}", 1) == self.world_size:
            self._store.set(f"over/{self._phase}", "")

    def tell(self, key: str, value: Any) -> None:
        """Say something about this rank; what it said before under the key is gone."""
        self._store.set(f"{key}/{self.rank}", json_text(value))

    def gather(self, key: str) -> dict[int, Any]:
        """What all ranks have told so far under a key, by rank."""
        return _gather(self._reading, key, self.world_size)

    def found(self, phase: int) -> list[dict[str, Any]]:
        """What the ranks found in a phase, as far as they are through with it."""
        return list(self.gather(f"findings/{phase}").values())

    def finish(self, status: int) -> int:
        """All is done: on rank 0 end with `status`; on the others wait for it. Returns it on all."""
        self._ended.set()
        if self.rank == 0:
            self._store.set("end", str(status))
            deadline = time.monotonic() + GRACE_SECONDS  # the store lives as long as this process
            while self._store.add("seen", 0) < self.world_size - 1 and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            return status
        status = int(self._store.get("end"))
        self._store.add("seen", 1)
        return status

    def stand(self) -> None:
        """After a failure: wait for the end that rank 0 declares."""
        self._ended.wait()

    def _say(self, state: str) -> None:
        self._store.set(f"at/{self.rank}", json_text([self._phase, state]))

    def _connect(self, serves: bool) -> dist.Store:
        """A connection of its own: one that waits blocks its other users."""
        # torchrun serves the store from a process of its own.
        serves = serves and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        host, seconds = os.environ["MASTER_ADDR"], self.timeout_seconds
        options = {"is_master": serves, "wait_for_workers": False, "multi_tenant": True}
        try:
            store = dist.TCPStore(host, self._port, timeout=timedelta(seconds=seconds), **options)
        except dist.DistError as error:
            raise PlatformError(
                f"rank 0 does not answer rank {self.rank} on {socket.gethostname()} at {host} port {self._port} within "
                f"{seconds:g} s: {str(error).splitlines()[0]}; see what rank 0 says, and let the port through the "
                f"firewalls"
            ) from error
        self._port = store.port  # one process alone takes any
        return dist.PrefixStore(self._prefix, store)

    def _follow(self, store: dist.Store, report: Callable[[Standstill], object]) -> None:
        """Rank 0's thread: report the phase that stands still."""
        phase, deadline, failing = 0, time.monotonic() + self.timeout_seconds, False
        while not self._ended.wait(POLL_SECONDS):
            said = _gather(store, "at", self.world_size)
            latest = max((number for number, _ in said.values()), default=0)
            if latest != phase:
                phase, deadline, failing = latest, time.monotonic() + self.timeout_seconds, False
            states = {rank: state for rank, (number, state) in said.items() if number == phase}
            if len(states) == self.world_size and set(states.values()) == {OUT}:
                deadline = time.monotonic() + self.timeout_seconds  # all out, and on their way to the next
            if FAILED in states.values() and not failing:
                failing, deadline = True, min(deadline, time.monotonic() + GRACE_SECONDS)
            if time.monotonic() > deadline:
                report(Standstill(phase, states))
                store.set("end", "1")
                time.sleep(2 * POLL_SECONDS)
                os._exit(1)

    def _listen(self, store: dist.Store) -> None:
        """The other ranks' thread: end when rank 0 says so, or is gone."""
        while not self._ended.wait(POLL_SECONDS):
            try:
                ended = store.check(["end"])
            except dist.DistError:
                ended = True
            if ended and not self._ended.wait(GRACE_SECONDS):
                faulthandler.dump_traceback()  # into this rank's log: where it stands
                os._exit(1)


def _gather(store: dist.Store, key: str, world_size: int) -> dict[int, Any]:
    ranks = [rank for rank in range(world_size) if store.check([f"{key}/{rank}"])]
    values = store.multi_get([f"{key}/{rank}" for rank in ranks]) if ranks else []
    return {rank: json.loads(value) for rank, value in zip(ranks, values, strict=True)}
