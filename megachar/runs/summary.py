"""What a run says at its end: what it took, what it reached, and what to do next. Imports no torch."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from megachar.base.bars import format_duration
from megachar.config.experiment import Experiment
from megachar.runs.checkpoints.format import list_checkpoints
from megachar.runs.folder import run_folder
from megachar.runs.metrics import read_metrics
from megachar.runs.records import validation_order


@dataclass(frozen=True)
class Ending:
    """How far this start of a run has come."""

    first_step: int
    """Where it began: 0, or the step it was resumed at."""
    step: int
    characters: int
    """Read by all starts so far."""
    seconds: float
    """Of this start."""
    finished: bool
    """All steps, or early stopping; if not, the run was asked to leave."""


def summarize(experiment: Experiment, ending: Ending) -> list[str]:
    """Lines of up to 80 characters, as far as names allow."""
    folder, step = run_folder(experiment), ending.step
    run = shlex.quote(str(_near(folder.path)))
    since = f" since step {ending.first_step:,}" if ending.first_step else ""
    rows = [
        ("time", f"{format_duration(ending.seconds)}{since}"),
        ("read", f"{ending.characters:,} characters in {step:,} of {experiment.training.total_steps:,} steps"),
    ]
    best = min(read_metrics(folder, "validation"), key=validation_order, default=None)
    if best is not None and math.isfinite(best["bits_per_character"]):
        bits = f"{best['bits_per_character']:.4f} bits per {best.get('unit', 'character')}"
        rows.append(("best", f"{bits} in validation, at step {best['step']:,}"))
    checkpoints = list_checkpoints(folder)
    if checkpoints:
        rows.append(("saved", str(_near(checkpoints[-1].path))))
    if not ending.finished:
        file = shlex.quote(str(_near(folder.experiment_file)))
        commands = [f"megachar launch {file} --resume"]
    elif checkpoints:
        # A prompt that any usual vocabulary has. A run on several corpora leaves open which one to evaluate on.
        data = f" --data {shlex.quote(experiment.data.blend[0].path)}" if experiment.data.blend else ""
        commands = [
            f"megachar evaluate {run}{data}",
            f'megachar generate {run} --prompt "the "',
            f"megachar plot {run}",
        ]
    else:
        commands = []
    rows += [("next" if number == 0 else "", command) for number, command in enumerate(commands)]
    return [f"{experiment.name} {'is finished' if ending.finished else 'was asked to leave'}",
            *(f"  {name:<7}{text}" for name, text in rows)]  # fmt: skip


def _near(path: Path) -> Path:
    """As it is called from here, where that is shorter."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
