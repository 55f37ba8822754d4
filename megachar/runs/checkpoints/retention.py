"""Which checkpoints of a run stay: the last few, and the best by validation. This file imports no torch."""

import math
import shutil
from collections.abc import Sequence

from megachar.runs.checkpoints.format import Checkpoint, list_checkpoints
from megachar.runs.folder import RunFolder


def expired(
    found: Sequence[Checkpoint], newest: Checkpoint, keep: int, keep_best: bool, trunk: int | None = None
) -> list[Checkpoint]:
    """Those of `found` (oldest first) that may go now that `newest`, one of them, is known to be whole.

    That of step `trunk` stays: longer runs go on from it.
    Checkpoints of later steps go too: the run went back behind them because they were damaged or led nowhere.
    """
    current: dict[int, Checkpoint] = {}
    for checkpoint in found:
        if checkpoint.step < newest.step:
            current[checkpoint.step] = checkpoint  # of a step saved twice, the later one
    current[newest.step] = newest
    kept = {*sorted(current)[-keep:], *(step for step in current if step == trunk)}
    best = best_of(list(current.values()))
    if keep_best and best is not None:
        kept.add(best.step)
    stay = {current[step].path.name for step in kept}  # by name: what is in them is no identity, for NaN equals nothing
    return [checkpoint for checkpoint in found if checkpoint.path.name not in stay]


def best_of(found: Sequence[Checkpoint]) -> Checkpoint | None:
    """The one with the lowest validation bits, the newest of equals; None where none was validated at its step."""
    best, lowest = None, math.inf
    for checkpoint in found:
        bits = checkpoint.manifest.validation_bits
        if bits is not None and math.isfinite(bits) and bits <= lowest:
            best, lowest = checkpoint, bits
    return best


def delete_expired(folder: RunFolder, newest: Checkpoint, keep: int, keep_best: bool, trunk: int | None = None) -> None:
    """Delete what `expired` names. OSError where that fails; no name is left that looks like a whole checkpoint."""
    for checkpoint in expired(list_checkpoints(folder), newest, keep, keep_best, trunk):
        hidden = checkpoint.path.with_name(f".{checkpoint.path.name}.deleted")
        checkpoint.path.rename(hidden)
        shutil.rmtree(hidden)


def delete_leftovers(folder: RunFolder) -> None:
    """Remove what a run that was killed had not finished writing or deleting."""
    for pattern in (".step-*.part", ".step-*.deleted"):
        for path in folder.checkpoints.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
