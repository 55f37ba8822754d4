"""Why a run ends: one record for the wire, for the run folder and for people."""

import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

from megachar.base.errors import MegacharError
from megachar.base.exit_codes import ExitCode
from megachar.base.files import atomic_write, json_text

KEPT_CHARACTERS = 20_000
"""Of an error, and of either end of its traceback: a record has to fit into a message."""
Kind = Literal["exception", "user_error", "death", "silence", "hang", "launcher", "preemption"]


@dataclass(frozen=True)
class Failure:
    """One thing that went wrong."""

    kind: Kind
    ranks: tuple[int, ...]
    """Where; none if it was no rank's doing."""
    host: str
    step: int | None
    """Steps the rank had taken; None before the first."""
    error: str
    """One line."""
    traceback: str = ""
    consequence: bool = False
    """An exception that communication raised: as a rule, because of what happened on another rank."""
    time: float = field(default_factory=time.time)
    """Seconds since 1970."""

    @property
    def exit_code(self) -> ExitCode:
        """Status of a rank that ends because of this, where it is not one of `ranks`."""
        codes = {"user_error": ExitCode.USER_ERROR, "preemption": ExitCode.PREEMPTED,
                 "launcher": ExitCode.LAUNCHER_LOST}  # fmt: skip
        return codes.get(self.kind, ExitCode.PEER_FAILED)

    def describe(self) -> str:
        """Where, when and what, with the traceback on lines of its own."""
        return self.line() + (f"\n{self.traceback.rstrip()}" if self.traceback else "")

    def line(self) -> str:
        """Where, when and what."""
        who = f"rank{'s' * (len(self.ranks) > 1)} {', '.join(map(str, self.ranks))} on " if self.ranks else ""
        when = f", step {self.step}" if self.step is not None else ""
        return f"{who}{self.host}{when}: {self.error}"

    def write(self, folder: Path) -> Path:
        """Record it in a folder, under a name that sorts by time."""
        folder.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self.time)) + f".{int(self.time % 1 * 1000):03d}"
        path = folder / f"{stamp}-{self.kind}-{'rank-' + str(self.ranks[0]) if self.ranks else 'run'}.json"
        with atomic_write(path) as part:
            part.write_text(json_text(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path


def failure_of(error: BaseException, rank: int, host: str, step: int | None) -> Failure:
    """The record of an exception that ends a rank."""
    line = _tellable(f"{type(error).__name__}: {error}")[:KEPT_CHARACTERS]
    if isinstance(error, MegacharError):
        return Failure("user_error", (rank,), host, step, line)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    text = _tellable("".join(traceback.format_exception(error)))
    if len(text) > 2 * KEPT_CHARACTERS:
        text = f"{text[:KEPT_CHARACTERS]}\n[...]\n{text[-KEPT_CHARACTERS:]}"
    return Failure("exception", (rank,), host, step, line, text, bool(frames) and communicates(frames[-1]))


def communicates(frame: FrameType) -> bool:
    """Whether a frame without Python callees waits for other ranks: it is torch.distributed's, or DeepSpeed's own."""
    path = frame.f_code.co_filename
    return "/torch/distributed/" in path or "/deepspeed/" in path


def place_of(frame: FrameType | None) -> str:
    """Function and line a thread is at, as `name (file:line)`."""
    if frame is None:
        return "nowhere"
    path = Path(frame.f_code.co_filename)
    return _tellable(f"{frame.f_code.co_name} ({'/'.join(path.parts[-2:])}:{frame.f_lineno})")


def _tellable(text: str) -> str:
    """Without what UTF-8, and so JSON, cannot say: a file's name may hold it."""
    return text.encode(errors="backslashreplace").decode()
