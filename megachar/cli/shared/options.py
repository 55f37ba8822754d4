"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from megachar.base.errors import ConfigError
from megachar.base.pictures import PictureFormat
from megachar.evaluation.settings import DEVICES

Run = Annotated[Path, typer.Argument(help="Run folder such as runs/small, a checkpoint's, or an exported file.")]
Step = Annotated[int | None, typer.Option(help="Checkpoint of a run; default: the newest.")]
Split = Annotated[str, typer.Option(metavar="<valid|test|train>", help="Which text.")]
Device = Annotated[str, typer.Option(metavar=f"<{'|'.join(DEVICES)}>", help="auto: a GPU where there is one.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Of this process on a CPU; default: OMP_NUM_THREADS, or what suits the model.")
]
Format = Annotated[
    PictureFormat, typer.Option("--format", help="Of the picture; pdf and svg, for print, keep text and lines as such.")
]


def check_device(device: str) -> None:
    """ConfigError on an unknown device."""
    if device not in DEVICES:
        raise ConfigError(f"device = {device!r} is unknown; set one of {', '.join(DEVICES)}")


def check_folder_of(file: Path | None, option: str) -> None:
    """ConfigError where the file that `option` names, if it does, would be written into a folder that is not there."""
    if file is not None and not file.parent.is_dir():
        raise ConfigError(f"{option} {file}: the folder {file.parent} does not exist; make it first")
