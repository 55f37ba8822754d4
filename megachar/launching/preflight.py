"""Ask all hosts at once whether the run can start there. Nothing is started, and all that is wrong is found."""

import asyncio
import json
import secrets
import shutil
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from megachar.base.errors import PlatformError
from megachar.base.files import json_text
from megachar.launching.calls import Call, call, settings_of, take_calls
from megachar.launching.checks import checkpoint_bytes, choose_addresses, compare_reports, reach_failures
from megachar.launching.hostfile import Host
from megachar.launching.plan import LaunchPlan
from megachar.launching.probe import MARK, Failure, Meeting, Question, Reach, Report, Verdict, serve
from megachar.launching.starting import launcher_of
from megachar.optimizers.schedules import trunk_end
from megachar.watch.secret import Secret
from megachar.watch.wire import TRIES

SSH_SECONDS = 10
CLOSE_SECONDS = 2


class Channel:
    """A line of talk with a host's probe."""

    def __init__(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, process: Process | None = None
    ) -> None:
        self.name, self._reader, self._writer, self._process = name, reader, writer, process

    async def ask(self, kind: str, message: Any) -> dict[str, Any]:
        """The answer to a message; raises EOFError where none comes any more."""
        await self.tell(kind, message)
        while line := (await self._reader.readline()).decode(errors="replace"):
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return answer
        raise EOFError

    async def tell(self, kind: str, message: Any) -> None:
        """Send a message that nothing answers."""
        with suppress(ConnectionError):  # then no answer comes either
            self._writer.write(f"{json_text({kind: asdict(message)})}\n".encode())
            await self._writer.drain()

    async def failure(self) -> Failure:
        """Why the probe ended before it answered."""
        if self._process is None:
            return Failure(self.name, "answer", "it hung up; see what the command says there")
        assert self._process.stderr is not None
        said = (await self._process.stderr.read()).decode(errors="replace").strip()
        last = said.splitlines()[-1] if said else "it said nothing"
        if await self._process.wait() == 255:
            return Failure(self.name, "ssh", f"{last}; `ssh {self.name}` must work without a password")
        mend = f"install the same megachar there, run by {sys.executable} in {Path.cwd()}"
        return Failure(self.name, "megachar", f"{last}; {mend}")

    async def close(self) -> None:
        """Hang up; a probe ends then."""
        self._writer.close()
        if self._process is None:
            with suppress(OSError):
                await self._writer.wait_closed()
        else:
            try:
                await asyncio.wait_for(self._process.wait(), CLOSE_SECONDS)
            except asyncio.TimeoutError:
                with suppress(ProcessLookupError):  # it has just ended
                    self._process.kill()
                await self._process.wait()


def examine(plan: LaunchPlan, timeout: float) -> tuple[LaunchPlan, list[Failure]]:
    """See that the run can start: the plan with the hosts' addresses, and what is wrong, on whichever host.

    Where the user starts every host, they call the first one, which examines them all; it gives up after `timeout`
    seconds, as on a host that does not answer.

    Raises:
        PlatformError: the hosts have too few slots, or the run folder cannot be written.
    """
    used = plan.used_hosts()
    if plan.node_rank >= len(used):
        names = ", ".join(host.name for host in used)
        own = plan.hosts[plan.node_rank].name
        raise PlatformError(f"{own} gets no ranks: all fit on {names}; start the run there alone")
    if plan.node_rank > 0:
        verdict = answer_first_host(plan, timeout)
    else:
        failures = _missing_programs(plan)
        verdict = Verdict(failures, {}) if failures else asyncio.run(_examine(plan, timeout))
    return replace(plan, addresses=verdict.addresses), verdict.failures


def probe_command(plan: LaunchPlan, host: Host, timeout: float) -> list[str]:
    """The command that starts a probe on a host."""
    return launcher_of(plan).probe(plan, host, [sys.executable, "-u", "-m", "megachar.launching.probe"], timeout)


def answer_first_host(plan: LaunchPlan, timeout: float) -> Verdict:
    """Call the first host, answer what it asks, and return what it found."""
    first, own = plan.hosts[0].name, plan.hosts[plan.node_rank].name
    try:
        connection = _call_first_host(plan, timeout)
    except PlatformError as error:
        return Verdict([Failure(own, "call", str(error))], {})
    with connection, connection.makefile("r") as lines, connection.makefile("w") as out:
        verdict = serve(lines, out)
    return verdict or Verdict([Failure(own, "call", f"{first} hung up; see what the command says there")], {})


def _call_first_host(plan: LaunchPlan, timeout: float) -> socket.socket:
    """A connection on which both have shown that they have the run folder. `PlatformError` where there is none."""
    where, deadline, tries = f"{plan.master_address} port {plan.master_port}", time.monotonic() + timeout, TRIES
    while True:
        try:
            connection = socket.create_connection((plan.master_address, plan.master_port), SSH_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                raise PlatformError(f"{plan.hosts[0].name} does not answer at {where} within {timeout:g} s: {error}; "
                                    f"run the same command there") from error  # fmt: skip
            time.sleep(0.2)
            continue
        try:
            call(connection, plan)
        except PlatformError as error:
            connection.close()
            tries -= 1
            if not tries:
                raise PlatformError(f"{error}; see what listens at {where}") from error
        else:
            return connection


async def _examine(plan: LaunchPlan, timeout: float) -> Verdict:
    channels: list[Channel] = []
    with _probe_file(plan) as token:
        try:
            failures = await _connect(plan, channels, timeout)
            verdict = await _judge(plan, channels, token, timeout, failures)
            await asyncio.gather(*(channel.tell("verdict", verdict) for channel in channels))
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))
    return verdict


async def _judge(
    plan: LaunchPlan, channels: Sequence[Channel], token: str, timeout: float, failures: list[Failure]
) -> Verdict:
    """Question all hosts, compare what they say, and have them try the ways to each other."""
    hosts, one_by_one = plan.used_hosts(), launcher_of(plan).starts_one_host

    def question(channel: Channel) -> Question:
        return Question(
            experiment=plan.experiment.model_dump(mode="json"),
            hosts=[host.name for host in plan.hosts],
            folder=str(plan.folder.launch.absolute()),
            token=token,
            reads_data=plan.trains,
            programs=list(launcher_of(plan).programs_there),
            # Where hosts are started one by one, this very program listens there.
            master_port=plan.master_port if channel.name == hosts[0].name and not one_by_one else 0,
        )

    answers, silent = await _ask_all(channels, "question", question, timeout)
    failures = [*failures, *silent]
    reports = {host.name: Report(**answers[host.name]) for host in hosts if host.name in answers}
    addresses: dict[str, str] = {}
    if reports:
        kept = sum(1 for _ in plan.folder.checkpoints.glob("step-*"))
        trunk = trunk_end(plan.experiment.schedule, plan.experiment.training.total_steps) is not None
        being_added = plan.experiment.training.max_checkpoints + trunk - kept
        needed = max(1, being_added) * checkpoint_bytes(plan.experiment) if plan.trains else 0
        failures += compare_reports(reports, hosts, plan.experiment, needed)
        addresses, misnamed = choose_addresses(reports)
        failures += misnamed
    if plan.hosts and hosts[0].name in addresses:
        peers = {name: (address, reports[name].ports) for name, address in addresses.items()}
        meeting = Meeting(addresses[hosts[0].name], peers)
        ways, silent = await _ask_all(
            [channel for channel in channels if channel.name in reports], "meeting", lambda _: meeting, timeout
        )
        failures += [*silent, *reach_failures({name: Reach(**way) for name, way in ways.items()})]
    order = [host.name for host in hosts]
    return Verdict(sorted(failures, key=lambda failure: order.index(failure.host)), addresses)


async def _ask_all(
    channels: Sequence[Channel], kind: str, message: Callable[[Channel], Any], timeout: float
) -> tuple[dict[str, dict[str, Any]], list[Failure]]:
    """Answers by host, and the hosts that gave none."""

    async def ask(channel: Channel) -> dict[str, Any] | Failure:
        try:
            return await asyncio.wait_for(channel.ask(kind, message(channel)), timeout)
        except asyncio.TimeoutError:
            return Failure(
                channel.name, "answer", f"no answer within {timeout:g} s; see whether it is overloaded or down"
            )
        except EOFError:
            return await channel.failure()

    answers = await asyncio.gather(*(ask(channel) for channel in channels))
    named = list(zip(channels, answers, strict=True))
    return (
        {channel.name: answer for channel, answer in named if not isinstance(answer, Failure)},
        [answer for answer in answers if isinstance(answer, Failure)],
    )


async def _connect(plan: LaunchPlan, channels: list[Channel], timeout: float) -> list[Failure]:
    """Open a channel to every host, into `channels`; returns what went wrong."""
    hosts = plan.used_hosts()
    called = hosts[1:] if launcher_of(plan).starts_one_host else ()

    async def start(host: Host) -> None:
        command = probe_command(plan, host, timeout)
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        channels.append(Channel(host.name, process.stdout, process.stdin, process))

    await asyncio.gather(*(start(host) for host in hosts if host not in called))
    return await _wait_for_calls(plan, called, channels, timeout) if called else []


async def _wait_for_calls(
    plan: LaunchPlan, hosts: Sequence[Host], channels: list[Channel], timeout: float
) -> list[Failure]:
    """Take the calls of the other hosts, which run this command too."""
    failures: list[Failure] = []
    waited_for = {host.name for host in hosts}
    complete = asyncio.Event()

    def take(found: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = plan.hosts[found.node_rank].name if found.node_rank < len(plan.hosts) else ""
        if name not in waited_for:
            problem = f"{found.host_name} calls itself host {found.node_rank} too; give each its own --node-rank"
            failures.append(Failure(name or plan.hosts[0].name, "call", problem))
            writer.close()
            return
        if found.settings != settings_of(plan):
            problem = "it was started with other settings or another hostfile; run the same command on every host"
            failures.append(Failure(name, "settings", problem))
        channels.append(Channel(name, reader, writer))
        waited_for.discard(name)
        if not waited_for:
            complete.set()

    secret = Secret.new()
    secret.write(plan.folder.launch)
    try:
        server = await take_calls(plan, secret, take)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(complete.wait(), timeout)
        server.close()
    except OSError as error:
        problem = f"port {plan.master_port} is taken: {error}; end what listens there, or take another --master-port"
        return [Failure(plan.hosts[0].name, "port", problem)]
    finally:
        secret.remove(plan.folder.launch)
    problem = f"it did not call within {timeout:g} s; run the same command there"
    return [*failures, *(Failure(name, "call", problem) for name in sorted(waited_for))]


def _missing_programs(plan: LaunchPlan) -> list[Failure]:
    """What keeps the launcher itself from starting, on the machine that launches."""
    here, launcher = socket.gethostname(), launcher_of(plan)
    missing = (name for name in launcher.programs if shutil.which(name) is None)
    return [
        *(Failure(here, "programs", f"{name} is not installed here; --launcher {launcher.name} needs it")
          for name in missing),
        *(Failure(here, check, problem) for check, problem in launcher.problems()),
    ]  # fmt: skip


@contextmanager
def _probe_file(plan: LaunchPlan) -> Iterator[str]:
    """The name of a new file in the run's launch folder; what was made for it is gone afterwards."""
    folder, token = plan.folder.launch, f".probe-{secrets.token_hex(8)}"
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / token).touch()
    except OSError as error:
        raise PlatformError(
            f"the run folder {plan.folder.path} cannot be written: {error}; set output=FOLDER"
        ) from error
    try:
        yield token
    finally:
        (folder / token).unlink(missing_ok=True)
        with suppress(OSError):  # unless something is in them by now
            for path in made:
                path.rmdir()
