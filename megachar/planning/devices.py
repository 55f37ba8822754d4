"""What devices and links can do: figures from a small file of data, over which a user's own is laid."""

import difflib
import os
from pathlib import Path
from typing import Any, Final, Literal

from omegaconf import OmegaConf
from pydantic import Field, ValidationError

from megachar.base.errors import ConfigError
from megachar.base.files import atomic_write, expanded
from megachar.config.loading import read_yaml
from megachar.config.sections.section import MAX_RANKS, Section

SHIPPED: Final = Path(__file__).with_name("devices.yaml")
Precision = Literal["fp32", "fp16", "bf16"]
_MOST = 1e30
"""Far beyond what any device can do."""


class Link(Section):
    """What connects two devices, in one direction."""

    bytes_per_second: float = Field(gt=0, le=_MOST)
    seconds: float = Field(ge=0, le=1)
    """Before the first byte arrives."""


class Device(Section):
    """One kind of device, such as a GPU or a core, and the machines it sits in."""

    description: str
    cpu: bool = False
    """Whether it is a processor core: operations are then computed one after the other as they are asked for."""
    per_node: int = Field(ge=1, le=MAX_RANKS)
    """Devices of one machine."""
    memory_bytes: float = Field(gt=0, le=_MOST)
    reserved_bytes: float = Field(default=0.0, ge=0, le=_MOST)
    """Of it, what contexts, libraries and fragments take."""
    peak_flops: dict[Precision, float] = Field(default_factory=dict)
    """Dense operations per second by the data sheet; without them no share of the peak is given."""
    product_flops: dict[Precision, float]
    """Operations per second that matrix products of this model's size attain."""
    moved_bytes_per_second: float = Field(gt=0, le=_MOST)
    """Bytes that operations without products read and write in a second."""
    kernel_seconds: float = Field(ge=0, le=1)
    """To start one operation."""
    step_seconds: float = Field(ge=0, le=1)
    """What a step takes whatever the model: the engine, the guard, the loop."""
    micro_batch_seconds: float = Field(ge=0, le=1)
    """Likewise a micro-batch."""
    exchange_seconds: float = Field(ge=0, le=1)
    """Likewise to hand a tensor to a neighboring stage, beside what the link takes."""
    link: Link
    """Between devices of one machine."""
    network: Link
    """Between machines, for each device."""
    host: Link
    """To the memory of the host, for offload."""
    host_moved_bytes_per_second: float = Field(gt=0, le=_MOST)
    """Bytes that an update on the host reads and writes in a second, for each device."""


def own_devices_file() -> Path:
    """Where `--calibrate` writes unless told otherwise, and what is read where it exists."""
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return expanded(Path(folder)) / "megachar" / "devices.yaml"


def load_device(name: str, own: Path | None = None) -> Device:
    """The device of a name.

    Args:
        name: in the files.
        own: a file that is laid over that which ships; None: `own_devices_file`, where there is one.

    Raises:
        ConfigError: a file is wrong, or the name is in none.
    """
    known = _read(SHIPPED)
    path = own or own_devices_file()
    if own is not None or path.is_file():
        known = {**known, **_read(path)}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"no device is called {name!r}; {hint}devices: {', '.join(known)}; measure this machine with "
            f"`megachar plan EXPERIMENT --calibrate`, or describe another in a file: --devices-file"
        )
    return known[name]


def save_device(name: str, device: Device, path: Path) -> None:
    """Put a device into a file, beside what is there; `ConfigError` where that is no file of devices."""
    devices = {**(_read(path) if path.exists() else {}), name: device}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = OmegaConf.to_yaml(OmegaConf.create({key: value.model_dump() for key, value in devices.items()}))
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def _read(path: Path) -> dict[str, Device]:
    values = read_yaml(path, lambda key: key[-1] == "description")
    return {str(name): _device(name, facts, path) for name, facts in values.items()}


def _device(name: str, facts: Any, path: Path) -> Device:
    try:
        return Device.model_validate(facts)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, (name, *problem['loc'])))}: {problem['msg']}" for problem in error.errors()
        )
        raise ConfigError(f"{path} does not describe devices: {problems}; see {SHIPPED} for the form") from error
