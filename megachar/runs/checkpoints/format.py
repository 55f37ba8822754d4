"""Checkpoints that know no layout: whole fp32 tensors by layer, a manifest written last, one rename.

    checkpoints/step-00001000/
        manifest.json                    what it is, size and sha256 of every file, and the sha256 of all that
        weights/blocks.17.safetensors    parameter name -> tensor
        optimizer/blocks.17.safetensors  state key / parameter name -> tensor
        streams/000100.safetensors       recurrent models: what streams 100, 101, ... carry on, a row each
        vocabulary.model                 of a SentencePiece vocabulary; all others are in the manifest

A folder without a manifest is not a checkpoint. A step that is saved again, after a resume, lies in step-00001000.1
and is the one that counts; the one before is deleted once it does. Names that start with a dot are being written or
deleted. Nothing is ever unpickled: it is all JSON and safetensors. This file imports no torch.
"""

import errno
import json
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from megachar.base.errors import CheckpointError, ConfigError
from megachar.base.files import json_text, read_regular, reason
from megachar.base.strict_json import checksum, parse
from megachar.config.experiment import Experiment
from megachar.config.loading import parse_experiment
from megachar.data.digests import hash_file
from megachar.data.vocabulary import Unit
from megachar.data.vocabulary_card import VocabularyCard
from megachar.runs.checkpoints.contents import (
    check_loop_state,
    check_scaler,
    finite_or_none,
    model_of,
    problem_of_identity,
    problem_of_names,
)
from megachar.runs.folder import RunFolder

FORMAT_VERSION: Final = 1
MANIFEST = "manifest.json"
_MOST_MANIFEST_BYTES: Final = 1 << 26
_MOST: Final = 1 << 62  # of anything that is counted
_CHECKSUM: Final = "sha256"
"""The manifest's key for the checksum of the rest of it; older megachars wrote none."""
_FOLDER_NAME = re.compile(r"step-(\d+)(?:\.(\d+))?")
UNREADABLE = " cannot be read: "
"""Between the name of a file and the machine's trouble with it, which says nothing against the file."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class FileRecord(_Record):
    """What a file must be."""

    bytes: int = Field(ge=0, le=_MOST)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class DataRecord(_Record):
    """Which text a run reads."""

    fingerprint: str = Field(min_length=1, max_length=1_000)
    description: str


class TrainingState(_Record):
    """All that a checkpoint keeps beside tensors."""

    step: int = Field(ge=0, le=_MOST)
    """Steps taken when it was saved."""
    optimizer_steps: int = Field(ge=0, le=_MOST)
    """Updates the optimizer has counted; fewer than `step` where some were skipped."""
    loss_scaler: Annotated[dict[str, float], AfterValidator(check_scaler)]
    """State of the fp16 loss scaling; empty in other precisions."""
    loop_state: Annotated[dict[str, Any], AfterValidator(check_loop_state)] = {}
    """Small state of the training loop's own, of JSON's types."""
    validation_bits: Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(finite_or_none)] = None
    """Bits, of whatever the `unit` is, of the validation after this very step; None where there was none, or it was not
    finite."""
    precision: Literal["", "fp32", "bf16", "fp16"] = ""
    """In which it was trained: fp32, bf16 or fp16. What is saved is fp32 always."""
    data: DataRecord | None = None
    """What it was trained on."""
    vocabulary: VocabularyCard | None = None
    """What its symbols are; None: an older megachar saved it, and the corpus has to say."""
    settings: dict[str, Any] | None = None
    """The whole experiment, resolved."""

    @property
    def unit(self) -> Unit:
        """What its bits are of."""
        return "character" if self.vocabulary is None else self.vocabulary.unit


class Manifest(TrainingState):
    """`manifest.json`: all that is known of a checkpoint without reading its tensors."""

    format_version: Literal[1]
    experiment: dict[str, Any]
    """What must be the same for the checkpoint to fit (`identity`)."""
    files: dict[str, FileRecord]
    """Of every file, by its path inside the folder."""

    def to_json(self) -> bytes:
        """The text of `manifest.json`: the values, and the sha256 of them all."""
        values = json.loads(self.model_dump_json())
        return (json_text({**values, _CHECKSUM: checksum(values)}, indent=1) + "\n").encode()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose manifest is whole."""

    path: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Steps taken when it was saved."""
        return self.manifest.step

    @property
    def num_bytes(self) -> int:
        """Of all its files."""
        return sum(record.bytes for record in self.manifest.files.values())

    def quick_problem(self, name: str) -> str | None:
        """Compare one file with the manifest by its size: what is wrong with it, None if nothing is."""
        path, expected = self.path / name, self.manifest.files.get(name)
        try:
            if expected is None or not (path.exists() or path.is_symlink()):
                return f"{path} is missing"
            if not is_plain(path):
                return f"{path} is no regular file in the checkpoint's own folder, but a link or the like"
            if path.stat().st_size != expected.bytes:
                return f"{path} is damaged: its size or sha256 is not the manifest's"
        except OSError as error:
            return problem_of_reading(path, error)
        return None

    def problem(self, name: str) -> str | None:
        """Compare one file with the manifest by its content: what is wrong with it, None if nothing is."""
        problem, path = self.quick_problem(name), self.path / name
        try:
            if problem is None and fingerprint(path) != self.manifest.files[name]:
                return f"{path} is damaged: its size or sha256 is not the manifest's"
        except OSError as error:
            return problem_of_reading(path, error)
        return problem

    def problems(self, names: Iterable[str] | None = None) -> list[str]:
        """What is wrong with these files, by default with any: empty for a whole checkpoint."""
        chosen = sorted(self.manifest.files) if names is None else names
        return [problem for name in chosen if (problem := self.problem(name)) is not None]

    def layers(self, kind: str) -> list[str]:
        """What it has of a kind, by name and sorted: "weights" and "optimizer" of layers, "streams" by number."""
        names = (Path(name) for name in self.manifest.files)
        return sorted(name.name.removesuffix(".safetensors") for name in names if name.parent.name == kind)

    @property
    def mend(self) -> str:
        """What to do about a checkpoint that is damaged."""
        return f"delete {self.path} to continue from an older checkpoint"


def problem_of_reading(path: Path, error: OSError) -> str:
    """What is wrong with a file of a checkpoint that cannot be read: the file, or the machine."""
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EFBIG):
        return f"{path} is damaged: {error.strerror}"
    return f"{path}{UNREADABLE}{reason(error)}"


def with_mend(problem: str, mend: str) -> str:
    """A problem and what to do about a damaged checkpoint, unless the machine has it: that costs no checkpoint."""
    return problem if UNREADABLE in problem else f"{problem}; {mend}"


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in the folder `path`, none of its tensors looked at.

    `CheckpointError` naming the manifest if that is missing, damaged, or names other files than its model has.
    """
    file, mend = path / MANIFEST, f"delete {path} to continue from an older checkpoint"
    try:
        data = read_regular(file, _MOST_MANIFEST_BYTES, links=False)
        values = parse(data)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; {mend}") from None
    except OSError as error:
        raise CheckpointError(with_mend(problem_of_reading(file, error), mend)) from error
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: it is no JSON ({error}); {mend}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise CheckpointError(f"{file} is of format version {version}; this megachar reads {FORMAT_VERSION}")
    try:
        manifest = Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole of it"
        raise CheckpointError(f"{file} is damaged ({where}: {error.errors()[0]['msg']}); {mend}") from error
    problem = _problem_of_manifest(path, manifest, values)
    if problem is not None:
        raise CheckpointError(f"{file} is damaged: {problem}; {mend}")
    return Checkpoint(path, manifest)


def _problem_of_manifest(path: Path, manifest: Manifest, values: dict[str, Any]) -> str | None:
    """What its own fields, each of which is possible, say against each other or against the folder's name."""
    written = values.pop(_CHECKSUM, None)
    if written is not None and written != checksum(values):
        return "its sha256 is not the one it was written with"
    named = _FOLDER_NAME.fullmatch(path.name)
    if named is not None and int(named[1]) != manifest.step:
        return f"it is of step {manifest.step}, and the folder is {path.name}"
    try:
        experiment = None if manifest.settings is None else parse_experiment(manifest.settings, "settings")
        now = None if experiment is None else identity(experiment)
        problem = problem_of_identity(manifest.experiment, now)
        if problem is not None:
            return problem
        model = model_of(manifest.experiment) if experiment is None else experiment.model
    except (ConfigError, ValueError) as error:
        return " ".join(str(error).split())
    return problem_of_names(manifest.files.keys(), model, experiment, manifest.vocabulary)


def is_plain(path: Path) -> bool:
    """Whether a file of a checkpoint is a regular one, not reached through a link. OSError where it is missing."""
    return stat.S_ISREG(path.lstat().st_mode) and not path.parent.is_symlink()


def checkpoint_folders(folder: RunFolder) -> list[Path]:
    """Folders of a run that are checkpoints by their names, whole or not, oldest first."""
    if not folder.checkpoints.is_dir():
        return []
    found = [path for path in folder.checkpoints.iterdir() if _FOLDER_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_place)


def step_of(path: Path) -> int:
    """The step that the name of a checkpoint's folder is of."""
    return _place(path)[0]


def new_folder(folder: RunFolder, step: int) -> Path:
    """The path for a checkpoint of `step`: one that counts before all of that step that are there."""
    there = [_place(path)[1] for path in checkpoint_folders(folder) if _place(path)[0] == step]
    return folder.checkpoints / (f"step-{step:08d}.{max(there) + 1}" if there else f"step-{step:08d}")


def find_checkpoint(folder: RunFolder, step: int | None = None) -> Checkpoint:
    """The newest checkpoint of a run whose manifest is whole, or the one of `step`; `CheckpointError` if none is."""
    found = list_checkpoints(folder)
    if not found:
        raise CheckpointError(f"{folder.path} has no whole checkpoint yet; train until training.checkpoint_interval")
    if step is None:
        return found[-1]
    for checkpoint in reversed(found):
        if checkpoint.step == step:
            return checkpoint
    steps = ", ".join(str(checkpoint.step) for checkpoint in found)
    raise CheckpointError(f"{folder.path} has no checkpoint of step {step}; it has those of step {steps}")


def list_checkpoints(folder: RunFolder) -> list[Checkpoint]:
    """All checkpoints of a run whose manifests are whole, oldest first."""
    found = []
    for path in checkpoint_folders(folder):
        try:
            found.append(read_checkpoint(path))
        except CheckpointError:
            continue
    return found


def check_identity(checkpoint: Checkpoint, experiment: Experiment, *keys: str) -> None:
    """Raise `CheckpointError` unless the checkpoint fits the experiment in these `keys` of `identity`."""
    saved, now = dict(checkpoint.manifest.experiment), identity(experiment)
    if isinstance(saved.get("model"), dict):
        # An older megachar may have counted settings in that it did not know to be none of a model's shape.
        fields = type(experiment.model).model_fields
        kept = now["model"].keys() | (saved["model"].keys() - fields.keys())
        saved["model"] = {name: value for name, value in saved["model"].items() if name in kept}
        # And it did not have those settings that have come since, which are off by default.
        saved["model"] = {name: fields[name].default for name in now["model"]} | saved["model"]
    for key in keys:
        if saved.get(key) != now[key]:
            raise CheckpointError(f"{checkpoint.path} was saved with {key} = {saved.get(key)}, the experiment now has "
                                  f"{key} = {now[key]}; set it back, or start a new run")  # fmt: skip


def identity(experiment: Experiment) -> dict[str, Any]:
    """What must be the same for a checkpoint to fit: the model's shapes, its classifiers and the optimizer's kind.

    A segment's length says where a recurrent model's streams are at a step, and so belongs to them.
    """
    return {
        "model": experiment.model.shapes(),
        "auxiliary": experiment.auxiliary.shapes(),
        "optimizer": experiment.optimizer.name,
    }


def fingerprint(path: Path) -> FileRecord:
    """Size and sha256 of a file."""
    return FileRecord(bytes=path.stat().st_size, sha256=hash_file(path, "sha256"))


def _place(path: Path) -> tuple[int, int]:
    """Step, and how often that step had been saved before: what orders the folders."""
    match = _FOLDER_NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)
