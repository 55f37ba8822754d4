"""Which checkpoint a run goes on from: the newest that is whole, the same on all ranks."""

import socket
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from megachar.base.errors import CheckpointError, ConfigError, DataError
from megachar.config.differences import differences
from megachar.config.experiment import Experiment
from megachar.config.loading import parse_experiment
from megachar.config.sections.section import Role
from megachar.data.vocabulary import Vocabulary
from megachar.data.vocabulary_card import VocabularyCard
from megachar.parallel.mesh import Mesh
from megachar.parallel.messages import gather
from megachar.parallel.state import EngineState
from megachar.runs.checkpoints.format import (
    MANIFEST,
    Checkpoint,
    DataRecord,
    FileRecord,
    checkpoint_folders,
    fingerprint,
    read_checkpoint,
)
from megachar.runs.checkpoints.reading import Position, problems_of, restore_checkpoint
from megachar.runs.checkpoints.sources import none_whole, problem_of_headers
from megachar.runs.folder import RunFolder

_ORDER = ("seed", "data.order", "data.windows", "data.blend")
"""Beginnings of the settings that decide which window is which part of the text."""


@dataclass(frozen=True)
class Damage:
    """A checkpoint that could not be used."""

    name: str
    """Of its folder."""
    reason: str
    """With the path of the first file that is missing or damaged."""


@dataclass(frozen=True)
class Resumption:
    """Where a run goes on, by default at its start."""

    position: Position = field(default_factory=lambda: Position(0, {}))
    damaged: tuple[Damage, ...] = ()
    """Newer checkpoints that were passed over."""
    changed: str = ""
    """In one line, the settings that are others than those it was saved with, and what they do to the text."""


def resume_run(
    folder: RunFolder, state: EngineState, experiment: Experiment, data: DataRecord, vocabulary: Vocabulary
) -> Resumption:
    """Restore the newest whole checkpoint; a run that was stopped before its first is at its start.

    Every rank must call it; every rank goes on from the same one, or raises the same error.

    Raises:
        CheckpointError: none is whole, or it is of another model or optimizer.
        DataError: it was trained on other data than `data`, and the experiment does not allow that; or its symbols
            are not those of `vocabulary`.
    """
    checkpoint, damaged = newest_whole(folder, state.mesh)
    if checkpoint is None:
        return Resumption()
    _check_data(checkpoint, data, experiment)
    check_vocabulary(checkpoint, vocabulary, data)
    position = restore_checkpoint(checkpoint, state, experiment)
    return Resumption(position, damaged, describe_changes(checkpoint, experiment, position.windows))


def newest_whole(folder: RunFolder, mesh: Mesh) -> tuple[Checkpoint | None, tuple[Damage, ...]]:
    """The newest checkpoint of which every file is what its manifest says, and the newer ones that were passed over.

    All ranks must call it and get the same; None where there is no checkpoint at all. Every rank reads a share of the
    files, so that a disk that one host does not see is noticed as well.

    Raises:
        CheckpointError: on every rank: there are checkpoints, and none of them is whole.
    """
    names = gather(_NAMES, [path.name for path in reversed(checkpoint_folders(folder))], mesh.control_group)[0]
    damaged: list[Damage] = []
    for name in names:
        everyone = gather(_FINDINGS, _examine(folder, name, mesh), mesh.control_group)
        reason = next((findings.problem for findings in everyone if findings.problem is not None), None)
        other = next((findings.host for findings in everyone if findings.manifest != everyone[0].manifest), None)
        if reason is None and other is not None:
            reason = f"{folder.checkpoints / name} on {other} is another than on {everyone[0].host}"
        if reason is None:
            return read_checkpoint(folder.checkpoints / name), tuple(damaged)
        damaged.append(Damage(name, reason))
    if damaged:
        raise none_whole(folder, [damage.reason for damage in damaged])
    return None, ()


def _check_data(checkpoint: Checkpoint, data: DataRecord, experiment: Experiment) -> None:
    """`DataError` where the checkpoint's run read another text and the experiment does not allow it."""
    saved = checkpoint.manifest.data
    if saved is None or saved.fingerprint == data.fingerprint or experiment.training.allow_other_data:
        return
    raise DataError(
        f"{checkpoint.path} was trained on {saved.description} ({saved.fingerprint}), and the data are now "
        f"{data.description} ({data.fingerprint}); put that corpus back, or continue with this one by "
        f"training.allow_other_data=true"
    )


def describe_changes(checkpoint: Checkpoint, experiment: Experiment, windows: int) -> str:
    """What is not as it was when the checkpoint was saved, after so many windows; empty where all is, or is unknown."""
    try:
        before = parse_experiment(checkpoint.manifest.settings, str(checkpoint.path))
    except ConfigError:
        return ""
    changed = differences(before, experiment, Role.NAMES)
    if not changed:
        return ""
    line = "changed since: " + ", ".join(f"{key} {old} -> {new}" for key, (old, new) in changed.items())
    if "batch.global_size" in changed:
        line += f"; the text continues at window {windows:,}"
    if any(key.startswith(_ORDER) for key in changed):
        line += "; windows are drawn in another order from here, so some text may be read twice and some not"
    return line


def check_vocabulary(checkpoint: Checkpoint, vocabulary: Vocabulary, data: DataRecord) -> None:
    """`DataError` where the checkpoint's symbols are others than those of `data`, even if they are as many."""
    saved, now = checkpoint.manifest.vocabulary, VocabularyCard(**vocabulary.card())
    if saved is not None and saved != now:
        raise DataError(
            f"{checkpoint.path} has the vocabulary {saved}, and {data.description} has "
            f"{'another ' if str(now) == str(saved) else ''}{now}; prepare that text with the checkpoint's "
            f"vocabulary, or start a new run"
        )


@dataclass(frozen=True)
class _Findings:
    """What one rank saw of a checkpoint."""

    host: str
    manifest: FileRecord | None = None
    problem: str | None = None


_NAMES = TypeAdapter(list[str])
_FINDINGS = TypeAdapter(_Findings)


def _examine(folder: RunFolder, name: str, mesh: Mesh) -> _Findings:
    """Read the manifest and this rank's share of the files."""
    host, path = socket.gethostname(), folder.checkpoints / name
    at = f" (rank {mesh.rank} on {host})" if mesh.topology.world_size > 1 else ""
    try:
        checkpoint = read_checkpoint(path)
        manifest = fingerprint(path / MANIFEST)
        share = sorted(checkpoint.manifest.files)[mesh.rank :: mesh.topology.world_size]
        problem = next(iter(problems_of(checkpoint, share)), None)
        if problem is None and mesh.is_main:
            problem = problem_of_headers(checkpoint)
    except (CheckpointError, OSError) as error:
        return _Findings(host, problem=f"{str(error).partition(';')[0]}{at}")
    return _Findings(host, manifest, None if problem is None else f"{problem}{at}")
