"""Where all ranks of a run hold a connection: who falls silent is noticed, and everyone is told why the run ends.

The hub is a thread of the supervisor under `megachar launch`, else of rank 0. Messages are lines of JSON:

    rank -> hub   {"token", "rank", "host", "machine", "pid"}    first; then any of
                  {"step", "idle", "waits", "place", "saved"}    a heartbeat
                  {"failure"}  {"preempt"}  {"left"}             this rank fails; is asked to leave; ends with a status
    hub -> rank   {}                                             a heartbeat
                  {"verdict", "abort"}                           end now, and abort those processes of your machine
                  {"preempt"}  {"released"}                      save and leave; go on without the hub
"""

import asyncio
import contextlib
import json
import secrets
import socket
import threading
from dataclasses import dataclass, replace
from typing import Any

from megachar.config.schema import FaultToleranceConfig
from megachar.exit_codes import ExitCode
from megachar.watch.failure import Failure

SHARE = 0.8
"""Part of a timeout after which it counts as passed, so that everyone has ended when it has."""
SETTLE_SECONDS = 1.0
"""Wait for a better explanation after an error that another one may have caused."""
LIMIT_BYTES = 1 << 22


def beat_interval(settings: FaultToleranceConfig) -> float:
    """Seconds between two heartbeats."""
    return (
        min(5.0, *(value / 10 for value in vars(settings).values() if value)) if any(vars(settings).values()) else 5.0
    )


@dataclass(frozen=True)
class HubAddress:
    """Where to reach a hub."""

    addresses: tuple[str, ...]
    """Of its host; one of them answers."""
    port: int
    token: str
    """Shows that a connection belongs to this attempt of this run."""
    machine: str = ""
    """Where it is a rank's thread: `machine_name` of that rank."""
    pid: int | None = None
    """Where it is a rank's thread: that process."""

    def __str__(self) -> str:
        """For the environment of a supervised rank, in characters that no launcher has to quote."""
        return f"{','.join(self.addresses)}:{self.port}/{self.token}"

    @staticmethod
    def parse(text: str) -> "HubAddress":
        """The inverse of `str`."""
        addresses, _, rest = text.rpartition(":")
        port, _, token = rest.partition("/")
        return HubAddress(tuple(addresses.split(",")), int(port), token)


@dataclass
class Member:
    """What the hub knows of a rank."""

    rank: int
    host: str
    machine: str
    pid: int
    writer: asyncio.StreamWriter
    step: int | None = None
    saved: int | None = None
    idle: float = 0.0
    """Seconds without progress at the last heartbeat."""
    waits: bool = False
    """Whether it waited for other ranks then."""
    place: str = ""
    left: int | None = None
    """Its exit status, once it has announced it."""
    closed: bool = False
    """Whether its process has ended, or its connection broken."""

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message; one that cannot be delivered shows elsewhere."""
        with contextlib.suppress(OSError, RuntimeError):
            self.writer.write(json.dumps(message).encode() + b"\n")


class Hub:
    """Listens in a thread of its own from `start` to `close`."""

    def __init__(self, world_size: int, settings: FaultToleranceConfig) -> None:
        self.world_size, self.settings = world_size, settings
        self.token = secrets.token_hex(8)
        self.port = 0
        self.members: dict[int, Member] = {}
        self.verdict: Failure | None = None
        self.decided, self.preempted = threading.Event(), threading.Event()
        self._signs: list[Failure] = []
        self._decision: asyncio.TimerHandle | None = None
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)

    def start(self) -> None:
        """Begin to listen, on every interface; `port` is known afterwards."""
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """Let go of all ranks, and stop."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def preempt(self, why: str) -> None:
        """Have all ranks save and leave, also those yet to come. Any thread may call it, and a signal's handler."""
        self._loop.call_soon_threadsafe(self._preempt, why)

    def end(self, failure: Failure) -> None:
        """Have all ranks end because of something the hub itself cannot see. Any thread may call it."""
        self._loop.call_soon_threadsafe(self._sign, failure)

    @property
    def steps(self) -> int | None:
        """Steps rank 0 had taken when last heard of; None before it began."""
        return self.members[0].step if 0 in self.members else None

    @property
    def saved(self) -> int | None:
        """Step of the newest checkpoint rank 0 told of in this attempt."""
        return self.members[0].saved if 0 in self.members else None

    @property
    def running(self) -> bool:
        """Whether a rank has come that has not announced its end."""
        return any(member.left is None for member in list(self.members.values()))

    @property
    def connected(self) -> bool:
        """Whether a rank's connection is open."""
        return any(not member.closed for member in list(self.members.values()))

    @property
    def complete(self) -> bool:
        """Whether all ranks have come and announced their end."""
        return len(self.members) == self.world_size and not self.running

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._attend, host=None, port=self.port, limit=LIMIT_BYTES,
                                            family=socket.AF_INET)  # fmt: skip
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        beats = asyncio.create_task(self._beat())
        await self._stop.wait()
        beats.cancel()
        self._tell_all({"released": True})
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for member in self.members.values():
            member.writer.close()
        await asyncio.sleep(0)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(beat_interval(self.settings))
            self._tell_all({})
            self._look_for_hang()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One rank's connection, from its first message to its end."""
        limit = self.settings.heartbeat_timeout_seconds * SHARE or None
        member: Member | None = None
        try:
            hello = json.loads(await asyncio.wait_for(reader.readline(), limit))
            if hello.pop("token") == self.token:
                member = self.members[hello["rank"]] = Member(**hello, writer=writer)
                if self.verdict is not None:
                    member.tell(self._verdict_for(member, self.verdict))
                elif self.preempted.is_set():
                    member.tell({"preempt": True})
                while line := await asyncio.wait_for(reader.readline(), limit):
                    self._take(member, json.loads(line))
        except asyncio.TimeoutError:
            if member is not None and member.left is None:
                self._sign(self._about("silence", member, f"was not heard of for {limit:.0f} s; its process is "
                                                          f"stopped, or its host is gone"))  # fmt: skip
                return  # with the connection open: closing it would tell the rank nothing
        except asyncio.CancelledError:
            return  # the hub is closed
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a broken connection, or not one of ours
        if member is not None:
            member.closed = True
        if member is not None and member.left is None:
            self._sign(self._about("death", member, "ended without a word, as if killed"))
        writer.close()

    def _take(self, member: Member, message: dict[str, Any]) -> None:
        if "idle" in message:
            member.step, member.saved, member.idle = message["step"], message["saved"], message["idle"]
            member.waits, member.place = message["waits"], message["place"]
        elif "failure" in message:
            failure = Failure.from_json(message["failure"])
            member.step = failure.step if failure.step is not None else member.step
            self._sign(failure)
        elif "preempt" in message:
            self._preempt(message["preempt"])
        elif "left" in message:
            member.left = message["left"]
            if member.left == ExitCode.PREEMPTED and member.step is None:  # others would wait for it
                self._sign(self._about("preemption", member, "was asked to leave before training began"))

    def _preempt(self, why: str) -> None:
        if not self.preempted.is_set():
            self.preempted.set()
            self._tell_all({"preempt": why})

    def _look_for_hang(self) -> None:
        limit = self.settings.progress_timeout_seconds * SHARE
        staying = [member for member in self.members.values() if member.left is None]
        if limit and self.verdict is None and any(member.idle >= limit for member in staying):
            self._sign(self._hang(staying, limit))

    def _hang(self, staying: list[Member], limit: float) -> Failure:
        """Who keeps the others waiting: who never came, else who does not wait itself, else who is behind."""
        missing = tuple(sorted(set(range(self.world_size)) - set(self.members)))
        if missing:
            return Failure("hang", missing, "any host", None, f"did not come within {limit:.0f} s")
        stuck = [member for member in staying if member.idle >= limit / 2]
        busy = [member for member in stuck if not member.waits]
        behind = min(-1 if member.step is None else member.step for member in stuck)
        culprits = busy or [member for member in stuck if (-1 if member.step is None else member.step) == behind]
        what = "has made" if busy else "waits for other ranks, which wait as well, and has made"
        first = min(culprits, key=lambda member: member.rank)
        text = f"{what} no progress for {first.idle:.0f} s, at {first.place}"
        return replace(self._about("hang", first, text), ranks=tuple(sorted(member.rank for member in culprits)))

    def _about(self, kind: Any, member: Member, error: str) -> Failure:
        return Failure(kind, (member.rank,), member.host, member.step, error)

    def _sign(self, failure: Failure) -> None:
        """Something went wrong; decide soon what it was."""
        if self.verdict is not None or self._stop.is_set():
            return
        self._signs.append(failure)
        delay = SETTLE_SECONDS if failure.consequence or failure.kind == "silence" else 0.1
        if self._decision is None or self._loop.time() + delay < self._decision.when():
            if self._decision is not None:
                self._decision.cancel()
            self._decision = self._loop.call_later(delay, self._decide)

    def _decide(self) -> None:
        """The earliest sign that nothing else explains is the cause; the same on one host at once is one failure."""
        cause = min(self._signs, key=lambda sign: (sign.consequence, sign.kind == "launcher", sign.time))
        same = [
            sign for sign in self._signs if (sign.kind, sign.host, sign.error) == (cause.kind, cause.host, cause.error)
        ]
        self.verdict = replace(cause, ranks=tuple(sorted({rank for sign in same for rank in sign.ranks})))
        # The hub may be a thread of rank 0, which ends on its verdict: it is told last.
        for member in sorted(self.members.values(), key=lambda member: -member.rank):
            member.tell(self._verdict_for(member, self.verdict))
        self.decided.set()

    def _verdict_for(self, member: Member, verdict: Failure) -> dict[str, Any]:
        """With the processes that this rank has to abort, as the first healthy one of its machine."""
        on_machine = sorted(other.rank for other in self.members.values()
                            if other.machine == member.machine and other.left is None)  # fmt: skip
        healthy = [rank for rank in on_machine if rank not in verdict.ranks]
        first = bool(healthy) and healthy[0] == member.rank
        stuck = [rank for rank in on_machine if rank in verdict.ranks] if verdict.kind in ("silence", "hang") else []
        return {"verdict": verdict.as_json(), "abort": [self.members[rank].pid for rank in stuck] if first else []}

    def _tell_all(self, message: dict[str, Any]) -> None:
        for member in self.members.values():
            if member.left is None:
                member.tell(message)
