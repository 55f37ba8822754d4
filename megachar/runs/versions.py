"""versions.json of a run: on which code, libraries and machines each of its starts trained."""

import platform
import re
import socket
import subprocess
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import TypeAdapter

import megachar
from megachar.base.files import atomic_write, json_text, read_regular
from megachar.base.strict_json import parse_object
from megachar.parallel.mesh import Mesh
from megachar.parallel.messages import gather
from megachar.runs.folder import RunFolder, starts_of

PACKAGES: Final = ("megachar", "torch", "deepspeed", "numpy")
_MOST_BYTES: Final = 1 << 24
_MOST_NAMED: Final = 3
_RANK: TypeAdapter[tuple[str, str, str]] = TypeAdapter(tuple[str, str, str])
"""Host, name of the device, version of its driver."""


def describe_versions(mesh: Mesh) -> dict[str, Any]:
    """What training depends on beside its settings. Every rank must call it; what does not apply is left out."""
    own = (socket.gethostname(), _device_name(mesh.device), _driver_version() if mesh.device.type == "cuda" else "")
    hosts, devices, drivers = zip(*gather(_RANK, own, mesh.control_group), strict=True)
    on_gpus = mesh.device.type == "cuda"
    found = {
        "commit": _commit() if mesh.is_main else None,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if on_gpus else None,
        "driver": ", ".join(sorted(set(filter(None, drivers)))),
        "devices": [f"{count} x {name}" for name, count in Counter(devices).items()],
        "hosts": list(dict.fromkeys(hosts)),
    }
    return {name: value for name, value in found.items() if value}


def record_versions(folder: RunFolder, versions: dict[str, Any], step: int) -> str:
    """Add what a start at `step` depends on, unless it is what the one before did.

    Returns:
        In one line, what is no longer as it was; empty where nothing is, or nothing was before.

    Raises:
        OSError: the file cannot be written.
    """
    starts: list[dict[str, Any]] = []
    remark = ""
    if folder.versions_file.exists():
        try:
            values = parse_object(read_regular(folder.versions_file, _MOST_BYTES))
        except (OSError, ValueError) as error:
            remark = f"{folder.versions_file} is started over, as it could not be read: {error}"
        else:
            starts = starts_of(values)
    if starts:
        before = {name: value for name, value in starts[-1].items() if name != "from_step"}
        if before == versions:
            return ""
        changed = [f"{name} {_words(value)} -> {_words(versions.get(name))}" for name, value in before.items()
                   if value != versions.get(name)]  # fmt: skip
        remark = f"changed since the last start: {', '.join(changed)}" if changed else ""
    starts.append({"from_step": step, **versions})
    with atomic_write(folder.versions_file) as part:
        part.write_text(json_text({"starts": starts}, indent=2) + "\n", encoding="utf-8")
    return remark


def _words(value: Any) -> str:
    if isinstance(value, list):
        more = f" and {len(value) - _MOST_NAMED} more" if len(value) > _MOST_NAMED else ""
        return ", ".join(map(str, value[:_MOST_NAMED])) + more
    return "(none)" if value is None else f"{value!s:.80}"


def _commit() -> str | None:
    """Of the checkout that this megachar runs from, with -dirty where its files are others; None where it is none."""
    checkout = Path(megachar.__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _device_name(device: torch.device) -> str:
    """Of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _driver_version() -> str:
    """Of NVIDIA's kernel module; empty where it does not say."""
    found = re.search(r"Kernel Module.*?\s(\d+\.\d[\d.]*)\s", _read(Path("/proc/driver/nvidia/version")))
    return found[1] if found else ""


def _read(path: Path) -> str:
    """The text of one of the kernel's files; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
