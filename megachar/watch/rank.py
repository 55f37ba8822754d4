"""What every rank runs beside training: it tells the hub that it is well, and ends the rank when the run has to end."""

import contextlib
import faulthandler
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Protocol, TypeVar

from pydantic import BaseModel

from megachar.base.errors import PlatformError, Preempted
from megachar.base.exit_codes import ExitCode
from megachar.config.sections.training import FaultToleranceConfig
from megachar.watch import launchers
from megachar.watch.address import HubAddress, addresses_of_ranks
from megachar.watch.failure import Failure, communicates, failure_of, place_of
from megachar.watch.hub import SETTLE_SECONDS, SHARE, Hub, beat_interval
from megachar.watch.secret import Secret
from megachar.watch.wire import MESSAGE_BYTES, TRIES, Asked, Beat, Failed, Greeting, Left, Order, encode, greet, plain

LOOK_SECONDS = 0.5
"""Between two looks at the launchers."""
LEAVE_SECONDS = 8
"""A rank that has decided to end is killed by its alarm after this long, whatever it waits for."""
CONNECT_SECONDS = 5
"""An address of the hub has to answer within."""
PREEMPTION_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
Item = TypeVar("Item")


def machine_name() -> str:
    """Names the processes a process number belongs to: the booted machine and its process namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


class Output(Protocol):
    """Where a rank's words go: a log, and what the terminal shows of it."""

    def report_error(self, summary: str, rank: int) -> None:
        """Show an error of a rank on the terminal if no other was shown before."""

    def close(self) -> None:
        """Show on the terminal what was printed until now; whatever comes after stands in the log alone."""


class RankWatch:
    """A context manager around everything a rank does.

    Its thread ends the process (`os._exit`, with every thread's stack in the log) when the hub says so or falls silent,
    or when a launcher is gone. A rank that holds the interpreter's lock for good is ended by a timer of faulthandler.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        settings: FaultToleranceConfig,
        failures: Path,
        output: Output,
        supervisor: HubAddress | None = None,
        launch: Path | None = None,
    ) -> None:
        """With a supervisor, its secret is in the folder `launch`."""
        self._supervisor, self._launch, self._output = supervisor, launch, output
        self.rank, self.world_size, self.settings, self.failures = rank, world_size, settings, failures
        self.host = socket.gethostname()
        self.preempt_asked = False
        self._step: int | None = None
        self._saved: int | None = None
        self._progress = self._armed = time.monotonic()
        self._hub: Hub | None = None
        self._hub_pid: int | None = None
        """Process of the hub where it is a rank on this machine, which has to be aborted if it is stuck."""
        self._hub_name = ""
        self._socket: socket.socket | None = None
        self.connected = False
        self._heard = 0.0
        self._received = b""
        self._lock = threading.Lock()
        self._verdict: Failure | None = None
        self._decided = threading.Event()
        self._finished = self._failed = self._ending = False
        self._main = threading.main_thread().ident
        self._signals, self._wakeup = socket.socketpair()

    def __enter__(self) -> "RankWatch":
        faulthandler.enable()
        self._launchers = launchers.find_launchers()
        for end in (self._signals, self._wakeup):
            end.setblocking(False)
        for number in PREEMPTION_SIGNALS:
            signal.signal(number, lambda *_: None)
        # C code writes the number there at once, also while the main thread waits in a collective.
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._arm()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        if self._supervisor is not None and self._launch is not None:
            try:
                self.connect(self._supervisor, Secret.read(self._launch, self._supervisor.attempt))
            except PlatformError as error:
                self._fail(error)
        # A launcher may have held them back until the hub can be told.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PREEMPTION_SIGNALS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an error, end the process with the status of it; else wait, where the hub is here, for the others."""
        if error is not None and not isinstance(error, Preempted):
            self._fail(error)
        code = ExitCode.DONE if error is None else ExitCode.PREEMPTED
        self._leave(code)
        while self._hub is not None and self._hub.running and self._hub.verdict is None:
            time.sleep(0.05)
        if error is not None:
            self._end(code)
        if self._hub is not None:
            self._hub.close()
        faulthandler.cancel_dump_traceback_later()
        for number in PREEMPTION_SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def serve(self, secret: Secret) -> HubAddress:
        """Start the hub in this process, for those who have the secret."""
        addresses = addresses_of_ranks()
        self._hub = Hub(self.world_size, self.settings, secret)
        self._hub.start(addresses)
        return HubAddress(addresses, self._hub.port, secret.name, machine_name(), os.getpid())

    def connect(self, hub: HubAddress, secret: Secret) -> None:
        """Join the hub.

        Raises:
            PlatformError: it answers at none of its addresses, with the proof that it has the secret.
        """
        connection = self._reach(hub, secret)
        connection.settimeout(LEAVE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hub.machine == machine_name():
            self._hub_pid = hub.pid
        self._hub_name = "megachar launch" if hub.pid is None else "rank 0"
        self._heard = time.monotonic()
        # Not before: the thread beats on this socket as soon as it is there, and the hub must hear who we are first.
        self._socket, self.connected = connection, True
        self._beat()
        self._wakeup.send(b"\0")

    def _reach(self, hub: HubAddress, secret: Secret) -> socket.socket:
        errors: dict[str, None] = {}
        who = Greeting(rank=self.rank, host=self.host, machine=machine_name(), pid=os.getpid())
        for _ in range(TRIES):
            answered = False
            for address in hub.addresses:
                try:
                    connection = socket.create_connection((address, hub.port), CONNECT_SECONDS)
                except OSError as error:
                    errors[f"{address}:{hub.port}: {error}"] = None
                    continue
                try:
                    greet(connection, who, secret)
                    return connection
                except (OSError, ValueError) as error:
                    connection.close()
                    errors[f"{address}:{hub.port}: {plain(error)}"] = None
                    answered = True
            if not answered:
                break
        raise PlatformError(f"rank {self.rank} on {self.host} cannot reach what watches over the run "
                            f"({'; '.join(errors)}); let hosts connect to each other, or start the run on one of its "
                            f"own hosts")  # fmt: skip

    def progress(self, step: int | None = None) -> None:
        """This rank is getting on; `step` steps are done."""
        self._progress = time.monotonic()
        if step is not None:
            self._step = step
        if self._progress - self._armed > 1:
            self._arm()
            self._beat()

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; taking one is progress."""
        for item in items:
            self.progress()
            yield item

    def saved(self, step: int) -> None:
        """A whole checkpoint of `step` is on disk."""
        self._saved = step
        self.progress()
        self._beat()

    def _fail(self, error: BaseException) -> NoReturn:
        """End this rank because of an exception, and with it all others, once the hub knows."""
        if self._ending:  # the other thread is at it, and this error comes of what it does
            time.sleep(LEAVE_SECONDS)
        failure = failure_of(error, self.rank, self.host, self._step)
        wrong = failure.kind == "user_error"
        self._failed = True
        self._send(Failed(failure=failure))
        if self.connected:
            self._decided.wait(SETTLE_SECONDS + 2)
        cause = self._verdict or failure
        own = "" if self.rank in cause.ranks else f"\nThis rank met: {failure.describe()}"
        if not wrong and not (failure.consequence and self._verdict is not None and own):
            self._record(failure)
        code = ExitCode.USER_ERROR if wrong else ExitCode.FAILED
        self._end(code, cause, f"{cause.describe()}{own}", stacks=not wrong)

    def _leave(self, code: ExitCode) -> None:
        """This rank ends on its own account, and nobody is to mind."""
        self._finished = True
        self._send(Left(left=int(code)))

    # From here on: the thread.

    def _watch(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._signals, selectors.EVENT_READ, self._take_signals)
        next_look = next_beat = last = time.monotonic()
        listening = False
        while not self._finished:
            if self._socket is not None and not listening:
                selector.register(self._socket, selectors.EVENT_READ, self._take_messages)
                listening = True
            for key, _ in selector.select(max(0.0, min(next_look, next_beat) - time.monotonic())):
                key.data()
            now = time.monotonic()
            if now - last > LOOK_SECONDS + beat_interval(self.settings):
                self._heard += now - last  # this machine has slept, and perhaps the hub's
            last = now
            if now >= next_look:
                next_look = now + LOOK_SECONDS
                self._look_at_launchers()
            if now >= next_beat:
                next_beat = now + beat_interval(self.settings)
                self._beat()
                self._look_at_hub(now)

    def _take_signals(self) -> None:
        for number in self._signals.recv(64):
            if number in PREEMPTION_SIGNALS:
                why = f"{signal.Signals(number).name} to rank {self.rank} on {self.host}"
                self._send(Asked(preempt=why))
                self._preempt(why)

    def _take_messages(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data and not self._finished:
            self._lose_hub("is gone")
        self._heard = time.monotonic()
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > MESSAGE_BYTES:
            self._lose_hub("says something that does not end")
        try:
            orders = [Order.model_validate_json(line) for line in lines]
        except ValueError as error:
            self._lose_hub(f"said what a rank does not understand ({plain(error)})")
        for order in orders:
            if order.refused is not None:
                self._lose_hub(f"does not take this rank: {order.refused}")
            elif order.verdict is not None:
                self._obey(order.verdict, order.abort)
            elif order.preempt is not None:
                self._preempt(order.preempt)
            elif order.released:
                self._finished = True

    def _preempt(self, why: str) -> None:
        if not self.preempt_asked:
            self.preempt_asked = True
            self._log(f"{why}: leaving" + (" with a checkpoint" if self._step is not None else ""))
        if self._step is None:  # nothing is there to save
            self._leave(ExitCode.PREEMPTED)
            self._end(ExitCode.PREEMPTED)

    def _obey(self, verdict: Failure, abort: Iterable[int]) -> None:
        if self._hub is not None and verdict.kind in ("death", "silence", "hang"):
            self._record(verdict)
        self._verdict = verdict
        self._decided.set()
        if not self._failed:  # else the main thread is ending the process
            code = ExitCode.FAILED if self.rank in verdict.ranks else verdict.exit_code
            stacks = verdict.kind not in ("user_error", "preemption")
            self._end(code, verdict, verdict.describe(), stacks, abort)

    def _record(self, failure: Failure) -> None:
        with contextlib.suppress(OSError):  # the log has it
            failure.write(self.failures)

    def _look_at_hub(self, now: float) -> None:
        limit = self.settings.heartbeat_timeout_seconds * SHARE
        if limit and self._socket is not None and now - self._heard > limit:
            self._lose_hub(f"was not heard of for {now - self._heard:.0f} s")

    def _lose_hub(self, how: str) -> NoReturn:
        if self._failed:  # the main thread ends this process for a reason of its own; the hub knew, and has ended first
            self._decided.set()
            time.sleep(LEAVE_SECONDS)
        in_rank_0 = self._hub_name == "rank 0"
        loss = Failure("death" if in_rank_0 else "launcher", (0,) if in_rank_0 else (),
                       "its host" if in_rank_0 else self.host, self._step,
                       f"{self._hub_name}, which watches over the run, {how}")  # fmt: skip
        if self.rank == 1:
            self._record(loss)
        self.connected = False
        self._end(loss.exit_code, loss, loss.line(), True, [self._hub_pid] if self._hub_pid is not None else [])

    def _look_at_launchers(self) -> None:
        for process in self._launchers:
            if launchers.is_gone(process):
                loss = Failure("launcher", (), self.host, self._step, f"{launchers.describe(process)} is gone")
                self._launchers = []
                if not self.connected:
                    self._end(loss.exit_code, loss, loss.line(), True)
                self._send(Failed(failure=loss))
                return  # until the hub has told everyone

    def _beat(self) -> None:
        frame = sys._current_frames().get(self._main or 0)
        self._send(Beat(step=self._step, saved=self._saved, idle=max(0.0, time.monotonic() - self._progress),
                        waits=frame is not None and communicates(frame), place=place_of(frame)[:1000]))  # fmt: skip

    def _send(self, message: BaseModel) -> None:
        if self._socket is not None:
            with self._lock, contextlib.suppress(OSError):  # that the hub is gone shows when it is read
                self._socket.sendall(encode(message))

    def _arm(self) -> None:
        self._armed = time.monotonic()
        if self.settings.progress_timeout_seconds:
            faulthandler.dump_traceback_later(self.settings.progress_timeout_seconds, exit=True)

    def _log(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"rank {self.rank} on {self.host}: {text}\n")
            sys.stderr.flush()

    def _end(
        self, code: int, cause: Failure | None = None, why: str = "", stacks: bool = False, abort: Iterable[int] = ()
    ) -> NoReturn:
        """End the process, even if its log cannot be written; first abort processes that cannot end themselves."""
        self._ending = True
        signal.setitimer(signal.ITIMER_REAL, LEAVE_SECONDS)
        closing = threading.Thread(target=self._output.close, daemon=True)
        closing.start()
        closing.join(LEAVE_SECONDS / 4)  # a terminal may have stopped to take what is shown
        if cause is not None:
            self._log(f"ends: {why}")
            if not (self._supervisor is not None and self.connected):  # which shows it
                self._output.report_error(cause.line(), min(cause.ranks, default=self.rank))
        launchers.abort(abort)
        if stacks:
            with contextlib.suppress(OSError, ValueError):
                faulthandler.dump_traceback(all_threads=True)
        os._exit(code)
