"""Where all ranks of a run hold a connection: who falls silent is noticed, and everyone is told why the run ends.

The hub is a thread of the supervisor under `megachar launch`, else of rank 0. `megachar.watch.wire` has the messages.
"""

import asyncio
import contextlib
import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from megachar.base.exit_codes import ExitCode
from megachar.config.sections.training import FaultToleranceConfig
from megachar.watch.address import listen
from megachar.watch.failure import Failure
from megachar.watch.secret import Secret
from megachar.watch.wire import (
    FROM_RANK,
    MESSAGE_BYTES,
    STRANGER_BYTES,
    STRANGER_SECONDS,
    Asked,
    Beat,
    Failed,
    Greeting,
    Left,
    Lines,
    Opening,
    Order,
    Reply,
    Strangers,
    encode,
    plain,
)

SHARE = 0.8
"""Part of a timeout after which it counts as passed, so that everyone has ended when it has."""
SETTLE_SECONDS = 1.0
"""Wait for a better explanation after an error that another one may have caused."""
SAY_SECONDS = 60.0
"""Between two lines about strangers."""


def beat_interval(settings: FaultToleranceConfig) -> float:
    """Seconds between two heartbeats."""
    return min([5.0, *(value / 10 for value in vars(settings).values() if value)])


@dataclass
class Member:
    """What the hub knows of a rank."""

    rank: int
    host: str
    machine: str
    pid: int
    writer: asyncio.StreamWriter
    heard: float
    """When it was last heard of, by the loop's clock."""
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

    def tell(self, order: Order) -> None:
        """Send an order; one that cannot be delivered shows elsewhere."""
        if self.closed:
            return
        with contextlib.suppress(OSError, RuntimeError):
            self.writer.write(encode(order))


class Hub:
    """Listens in a thread of its own from `start` to `close`."""

    def __init__(self, world_size: int, settings: FaultToleranceConfig, secret: Secret) -> None:
        self.world_size, self.settings, self.secret = world_size, settings, secret
        self.port = 0
        self.members: dict[int, Member] = {}
        self.verdict: Failure | None = None
        self.decided, self.preempted = threading.Event(), threading.Event()
        self._signs: list[Failure] = []
        self._why = ""
        self._decision: asyncio.TimerHandle | None = None
        self._stop = asyncio.Event()
        self._strangers = Strangers(world_size)
        self._turned_away, self._say_again = 0, 0.0
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None

    def start(self, addresses: Sequence[str] = ("127.0.0.1",)) -> None:
        """Begin to listen at these addresses of this machine, and no others; `port` is known afterwards.

        Raises:
            PlatformError: it cannot.
        """
        sockets = listen(addresses)
        self.port = int(sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._run, args=(sockets,), name="hub", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let go of all ranks, and stop."""
        if self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def preempt(self, why: str) -> None:
        """Have all ranks save and leave, also those yet to come. Any thread may call it, and a signal's handler."""
        with contextlib.suppress(RuntimeError):  # it is closed
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
        """Whether a rank's connection is open, other than of those that the verdict says cannot be heard."""
        mute = self.verdict.ranks if self.verdict is not None and self.verdict.kind == "silence" else ()
        return any(not member.closed and member.rank not in mute for member in list(self.members.values()))

    @property
    def complete(self) -> bool:
        """Whether all ranks have come and announced their end."""
        return len(self.members) == self.world_size and not self.running

    def _run(self, sockets: list[socket.socket]) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._fail)
        try:
            self._loop.run_until_complete(self._serve(sockets))
        except Exception as error:
            if not self._stop.is_set():
                self._sign(self._own_failure(error))
                self._decide()
        finally:
            self._loop.close()

    async def _serve(self, sockets: list[socket.socket]) -> None:
        servers = [await asyncio.start_server(self._attend, sock=one, limit=STRANGER_BYTES) for one in sockets]
        beats = asyncio.create_task(self._watch())
        await self._stop.wait()
        beats.cancel()
        self._tell_all(Order(released=True))
        for server in servers:
            server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for member in self.members.values():
            member.writer.close()
        await asyncio.sleep(0)

    def _fail(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something went wrong in the hub itself: ranks that nobody watches end. A broken connection is not that."""
        error = context.get("exception") or RuntimeError(context["message"])
        if not isinstance(error, OSError):
            self._sign(self._own_failure(error))

    def _own_failure(self, error: BaseException) -> Failure:
        what = f"the watch over the run failed: {type(error).__name__}: {error}"
        return Failure("launcher", (), socket.gethostname(), self.steps, what)

    async def _watch(self) -> None:
        try:
            await self._beat()
        except Exception as error:
            self._sign(self._own_failure(error))

    async def _beat(self) -> None:
        interval, last = beat_interval(self.settings), self._loop.time()
        while True:
            await asyncio.sleep(interval)
            now = self._loop.time()
            if now - last > 2 * interval:  # this machine has slept: what came meanwhile is yet to be read
                for member in self.members.values():
                    member.heard += now - last
            last = now
            self._tell_all(Order())
            self._look_for_silence(now)
            self._look_for_hang()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first message to its end."""
        lines = Lines(reader)
        try:
            member = await self._admit(lines, writer)
            if member is not None:
                await self._listen(member, lines)
        except asyncio.CancelledError:
            pass  # the hub is closed
        except Exception as error:
            self._sign(self._own_failure(error))
        finally:
            writer.close()

    async def _admit(self, lines: Lines, writer: asyncio.StreamWriter) -> Member | None:
        """The rank at the other end; None if it is none of ours, or is here already."""
        try:
            with self._strangers.with_one(writer):
                greeting = await asyncio.wait_for(self._greeting(lines, writer), STRANGER_SECONDS)
        except Exception as error:  # whatever it may be: a stranger ends no run
            self._turn_away(writer, plain(error) if str(error) else "it kept silent")
            return None
        if greeting.rank >= self.world_size or greeting.rank in self.members:
            what = "is here already" if greeting.rank in self.members else "is none of this run"
            writer.write(encode(Order(refused=f"rank {greeting.rank} {what}")))
            self._turn_away(writer, f"rank {greeting.rank} {what}")
            return None
        member = Member(greeting.rank, greeting.host, greeting.machine, greeting.pid, writer, self._loop.time())
        self.members[member.rank] = member
        if self.verdict is not None:
            member.tell(self._verdict_for(member, self.verdict))
        elif self.preempted.is_set():
            member.tell(Order(preempt=self._why))
        return member

    async def _greeting(self, lines: Lines, writer: asyncio.StreamWriter) -> Greeting:
        """Who connects, once both have shown that they have the secret; `ValueError` if it does not."""
        opening = Opening.model_validate_json(await lines.next(STRANGER_BYTES))
        nonces = (opening.nonce, secrets.token_hex(16))
        writer.write(encode(Reply(nonce=nonces[1], proof=self.secret.proof("hub", *nonces))))
        greeting = Greeting.model_validate_json(await lines.next(STRANGER_BYTES))
        if not greeting.is_true(self.secret, nonces):
            raise ValueError("it does not have the secret of the run")
        return greeting

    def _turn_away(self, writer: asyncio.StreamWriter, why: str) -> None:
        """Say so, now and then."""
        self._turned_away += 1
        if self._loop.time() >= self._say_again:
            self._say_again = self._loop.time() + SAY_SECONDS
            came = f"{self._turned_away} connection{'s' * (self._turned_away > 1)}"
            where = (writer.get_extra_info("peername") or ["nowhere"])[0]
            with contextlib.suppress(OSError, ValueError):
                print(f"megachar: turned away {came} that did not belong to the run, the last from {where}: {why}",
                      file=sys.stderr, flush=True)  # fmt: skip
            self._turned_away = 0

    async def _listen(self, member: Member, lines: Lines) -> None:
        """To a rank, until its connection ends."""
        end = "ended without a word, as if killed"
        try:
            while line := await lines.next(MESSAGE_BYTES):
                member.heard = self._loop.time()
                self._take(member, FROM_RANK.validate_json(line))
        except OSError:
            pass  # a broken connection
        except ValueError as error:
            end = f"said what its hub does not understand ({plain(error)})"
        member.closed = True
        if member.left is None:
            self._sign(self._about("death", member, end))

    def _take(self, member: Member, message: Beat | Failed | Asked | Left) -> None:
        if isinstance(message, Beat):
            member.step, member.saved, member.idle = message.step, message.saved, message.idle
            member.waits, member.place = message.waits, message.place
        elif isinstance(message, Failed):
            failure = replace(message.failure, host=member.host, ranks=(member.rank,) * bool(message.failure.ranks))
            member.step = failure.step if failure.step is not None else member.step
            self._sign(failure)
        elif isinstance(message, Asked):
            self._preempt(message.preempt)
        else:
            member.left = message.left
            if member.left == ExitCode.PREEMPTED and member.step is None:  # others would wait for it
                self._sign(self._about("preemption", member, "was asked to leave before training began"))

    def _preempt(self, why: str) -> None:
        if not self.preempted.is_set():
            self._why = why
            self.preempted.set()
            self._tell_all(Order(preempt=why))

    def _look_for_silence(self, now: float) -> None:
        limit = self.settings.heartbeat_timeout_seconds * SHARE
        for member in self.members.values() if limit and self.verdict is None else ():
            if member.left is None and not member.closed and now - member.heard > limit:
                self._sign(self._about("silence", member, f"was not heard of for {limit:.0f} s; its process is "
                                                          f"stopped, or its host is gone"))  # fmt: skip

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

    def _verdict_for(self, member: Member, verdict: Failure) -> Order:
        """With the processes that this rank has to abort, as the first healthy one of its machine."""
        on_machine = sorted(other.rank for other in self.members.values()
                            if other.machine == member.machine and other.left is None)  # fmt: skip
        healthy = [rank for rank in on_machine if rank not in verdict.ranks]
        first = bool(healthy) and healthy[0] == member.rank
        stuck = [rank for rank in on_machine if rank in verdict.ranks] if verdict.kind in ("silence", "hang") else []
        return Order(verdict=verdict, abort=tuple(self.members[rank].pid for rank in stuck) if first else ())

    def _tell_all(self, order: Order) -> None:
        for member in self.members.values():
            if member.left is None:
                member.tell(order)
