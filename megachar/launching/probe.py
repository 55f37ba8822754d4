"""What a host says of itself before a run: the far end of the preflight, which ssh starts on every host.

    python -m megachar.launching.probe

It speaks in lines of JSON over standard input and output: a `Question` comes, a `Report` goes; a `Meeting` comes, a
`Reach` goes; then comes a `Verdict`. Each comes under its name, as in {"meeting": {...}}.
"""

import hashlib
import json
import os
import platform
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import megachar
from megachar.base.errors import ConfigError, MegacharError, PlatformError
from megachar.base.files import json_text
from megachar.base.resources import resource_folder
from megachar.base.strict_json import checksum
from megachar.config.deepspeed import load_engine_config, render_deepspeed_config
from megachar.config.loading import parse_experiment
from megachar.launching.gpus import count_gpus
from megachar.launching.network import interface_addresses, interface_to, resolve
from megachar.runs.preflight import check_data
from megachar.watch.secret import appears

MARK = "megachar-probe "
"""Begins every line of a probe, among whatever a shell's start-up files print."""
PACKAGES = ("torch", "deepspeed", "numpy")
FP16_CPUS = {"avx512_fp16", "fphp"}
"""What Linux calls the instructions, on x86 and on ARM, with which torch multiplies fp16 matrices."""
SECONDS_TO_CONNECT = 5.0
SECONDS_TO_SEE = 3.0


@dataclass(frozen=True)
class Question:
    """What a host is asked."""

    experiment: dict[str, Any]
    """The resolved experiment."""
    hosts: list[str]
    """Names of all hosts."""
    folder: str
    """A folder in the run folder, absolute."""
    token: str
    """Name of a file in it."""
    programs: list[str]
    """Programs the launcher needs on every host."""
    reads_data: bool
    """Whether the corpora must be there."""
    master_port: int
    """On the first host: the port that must be free there; else 0."""


@dataclass(frozen=True)
class Report:
    """What a host answers."""

    host_name: str
    versions: dict[str, str]
    """Python and packages; "" for one that is not installed."""
    source: str
    """Hash of megachar's own files."""
    engine: str
    """Hash of the DeepSpeed JSON."""
    data: str
    """Hash of the corpora."""
    num_gpus: int
    addresses: dict[str, str]
    """Each host's name -> its address as this host knows it; those it does not know are left out."""
    own_addresses: list[str]
    reached_at: str
    """The address ssh came to; "" without ssh."""
    folder_seen: bool
    free_bytes: int
    """Of the run folder's disk."""
    missing_programs: list[str]
    ports: list[int]
    """Ports that it listens on until the end, for the others to try: the master port is among them."""
    errors: dict[str, str] = field(default_factory=dict)
    """Name of a check -> why it failed already here."""


@dataclass(frozen=True)
class Meeting:
    """Where the other hosts are."""

    master: str
    """Address of the first host."""
    peers: dict[str, tuple[str, list[int]]]
    """Name of a host -> its address and the ports it listens on."""


@dataclass(frozen=True)
class Failure:
    """Why the run cannot start."""

    host: str
    check: str
    problem: str
    """What is wrong, with the values, and the mend."""


@dataclass(frozen=True)
class Verdict:
    """What came of it all."""

    failures: list[Failure]
    addresses: dict[str, str]
    """Name of a host -> the address the others reach it at."""


@dataclass(frozen=True)
class Reach:
    """What a host reached."""

    interface: str
    """The interface that leads to the master; "" if none does."""
    errors: dict[str, str]
    """Name of a check -> why it failed."""


def serve(lines: TextIO, out: TextIO) -> Verdict | None:
    """Answer what comes; returns the verdict, or None where the other side hangs up before."""

    def say(answer: Report | Reach) -> None:
        out.write(f"{MARK}{json_text(asdict(answer))}\n")
        out.flush()

    with ExitStack() as sockets:
        while line := lines.readline():
            ((kind, body),) = json.loads(line).items()
            if kind == "question":
                say(report(Question(**body), sockets))
            elif kind == "meeting":
                say(reach(Meeting(**body)))
            else:
                return Verdict([Failure(**failure) for failure in body["failures"]], body["addresses"])
    return None


def report(question: Question, sockets: ExitStack) -> Report:
    """This host's state; the ports it opens are closed with `sockets`."""
    errors: dict[str, str] = {}

    def attempt(check: str, work: Callable[[], str]) -> str:
        try:
            return work()
        except (MegacharError, OSError) as error:
            errors[check] = str(error)
            return ""

    folder = Path(question.folder)
    seen = appears(folder / question.token, SECONDS_TO_SEE)
    if seen:
        attempt("run folder", lambda: _try_writing(folder))
    where = "" if question.hosts else "127.0.0.1"
    ports = [_listen(where, 0, sockets)]
    try:
        ports += [_listen(where, question.master_port, sockets)] if question.master_port else []
    except PlatformError as error:
        errors["port"] = str(error)
    addresses, num_gpus = {}, count_gpus()
    for name in question.hosts:
        with suppress(PlatformError):
            addresses[name] = resolve(name)
    device = question.experiment.get("device")
    if not errors and (device == "cpu" or (device == "auto" and not num_gpus)):
        attempt("device", lambda: check_cpu(question.experiment))
    return Report(
        host_name=socket.gethostname(),
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        source=source_hash(),
        engine=attempt("DeepSpeed JSON", lambda: _engine_hash(question.experiment)),
        data=attempt("data", lambda: _data_hash(question.experiment)) if question.reads_data else "",
        num_gpus=num_gpus,
        addresses=addresses,
        own_addresses=[address for found in interface_addresses().values() for address in found],
        reached_at=[*os.environ.get("SSH_CONNECTION", "").split(), "", "", ""][2],
        folder_seen=seen,
        free_bytes=shutil.disk_usage(folder).free if seen else 0,
        missing_programs=[name for name in question.programs if shutil.which(name) is None],
        ports=ports,
        errors=errors,
    )


def reach(meeting: Meeting) -> Reach:
    """Try the ways to the other hosts."""
    errors: dict[str, str] = {}
    interface = ""
    try:
        interface = interface_to(meeting.master)
    except PlatformError as error:
        errors["network interface"] = str(error)
    for name, (address, ports) in meeting.peers.items():
        for port in ports:
            try:
                socket.create_connection((address, port), SECONDS_TO_CONNECT).close()
            except OSError as error:
                errors.setdefault(f"way to {name}", f"{address} port {port}: {error}")
    return Reach(interface, errors)


def source_hash() -> str:
    """16 hex digits of the hash of megachar's own files: two checkouts of one version may differ.

    An installed megachar and a checkout of the same files have the same.
    """
    package, launcher = Path(megachar.__file__).parent, resource_folder("launcher")
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    files |= {f"launcher/{path.name}": path for path in launcher.glob("*.py")}  # in a checkout beside the package
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _engine_hash(values: dict[str, Any]) -> str:
    experiment = parse_experiment(values, "the experiment")
    rendered = render_deepspeed_config(experiment)
    return checksum(rendered)[:16]


def check_cpu(values: dict[str, Any], description: Path = Path("/proc/cpuinfo")) -> str:
    """Refuse what this host's CPU cannot do; `description` is Linux' file on it. `ConfigError` names what it is."""
    name = parse_experiment(values, "the experiment").deepspeed
    engine = load_engine_config(name)
    if engine.needs_gpu:
        raise ConfigError(f"{', '.join(engine.needs_gpu)} ({name}) works on GPUs only, and this would run on CPUs")
    words = description.read_text(encoding="utf-8", errors="replace").split()
    if engine.precision == "fp16" and not FP16_CPUS.intersection(words):
        raise ConfigError(f"fp16 ({name}) on a CPU that cannot compute in it")
    return ""


def _data_hash(values: dict[str, Any]) -> str:
    return check_data(parse_experiment(values, "the experiment")).fingerprint


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _try_writing(folder: Path) -> str:
    path = folder / f".{socket.gethostname()}-{secrets.token_hex(4)}"
    path.write_bytes(b"?")
    path.unlink()
    return ""


def _listen(address: str, port: int, sockets: ExitStack) -> int:
    try:
        listener = sockets.enter_context(socket.create_server((address, port), backlog=128))
    except OSError as error:
        raise PlatformError(f"port {port} is taken: {error}") from error
    return int(listener.getsockname()[1])


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
