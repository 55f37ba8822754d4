"""Checkpoints out into a single file, and back. Every tensor of the checkpoint is in host memory meanwhile."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megachar.base.errors import CheckpointError, ConfigError
from megachar.base.files import atomic_write, json_text, reason
from megachar.config.experiment import Experiment
from megachar.config.loading import parse_experiment, save_experiment
from megachar.families.parameters import layer_name
from megachar.runs.checkpoints.files import fsync_file, publish, write_file, write_layer
from megachar.runs.checkpoints.format import (
    FORMAT_VERSION,
    Checkpoint,
    Manifest,
    TrainingState,
    fingerprint,
    identity,
    list_checkpoints,
    new_folder,
)
from megachar.runs.checkpoints.reading import LayerShapes, problem_of_values, read_layer, weight_shapes
from megachar.runs.checkpoints.single_file import Card, json_path, metadata_of, problem_of, read_card
from megachar.runs.checkpoints.sources import check_file, load_settings
from megachar.runs.checkpoints.tensors import (
    OPTIMIZER_PREFIX,
    STREAMS_PREFIX,
    Contents,
    difference,
    exported_name,
    optimizer_shapes,
    tensor_shapes,
)
from megachar.runs.checkpoints.vocabularies import carried_vocabulary
from megachar.runs.folder import RunFolder
from megachar.runs.ownership import OwnClaim


def check_output(output: Path) -> None:
    """`ConfigError` where an export cannot go to `output`."""
    if output.suffix != ".safetensors":
        raise ConfigError(f"--output {output}: the name must end in .safetensors; its JSON goes beside it")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: the folder {output.parent} does not exist; make it first")
    for path in (output, json_path(output)):
        if path.exists():
            raise ConfigError(f"{path} exists already; name another file, or delete it first")


def export_checkpoint(checkpoint: Checkpoint, output: Path, contents: Contents) -> None:
    """Write a checkpoint as `output` and the JSON beside it; neither has its name before it is whole.

    Raises:
        ConfigError: `output` exists or cannot be written.
        CheckpointError: the checkpoint is damaged.
    """
    check_output(output)
    experiment = load_settings(checkpoint.path)
    shapes, tensors = LayerShapes(experiment), dict[str, Tensor]()
    for kind in ("weights", "optimizer", "streams") if contents == "all" else ("weights",):
        for layer in checkpoint.layers(kind):
            found = read_layer(checkpoint, kind, layer, shapes.of(kind, layer))
            tensors |= {exported_name(kind, layer, name): tensor for name, tensor in found.items()}
    if contents == "inference":
        tensors = {name: tensors[name] for name in weight_shapes(experiment, with_auxiliary=False)}
    values = {name: getattr(checkpoint.manifest, name) for name in TrainingState.model_fields}
    card = Card(**{**values, "settings": experiment.model_dump(mode="json")}, contents=contents)
    vocabulary = carried_vocabulary(checkpoint.path)
    vocabulary_files = {} if vocabulary is None else vocabulary.files()
    try:
        with atomic_write(output) as part:
            save_file(tensors, part, metadata_of(card, vocabulary_files))
            fsync_file(part)  # or the fingerprint would be that of the page cache
            beside = {"file": fingerprint(part).model_dump(), **card.model_dump(mode="json")}
        with atomic_write(json_path(output)) as part:
            part.write_text(json_text(beside, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {reason(error)}") from error
    except SafetensorError as error:
        raise ConfigError(f"{output} cannot be written: {error}; free space, or name another folder") from error


def import_file(file: Path, run: Path) -> Checkpoint:
    """Make a checkpoint of an exported file in a run folder, made where there is none; training resumes from it.

    Raises:
        ConfigError: the folder is something else, has that step already, or cannot be written.
        CheckpointError: the file holds no optimizer state, is damaged, or is of another model than the run.
    """
    card, folder = read_card(file), RunFolder(run)
    if card.contents != "all":
        raise CheckpointError(f"{file} holds inference weights only, which cannot be trained further; export with "
                              f"--all (evaluate and generate take the file as it is)")  # fmt: skip
    settings = load_settings(file)
    placed = {**settings.model_dump(), "name": folder.path.name, "output": str(folder.path.parent)}
    wanted = parse_experiment(placed, str(run))
    _check_tensors(file, wanted)
    if json_path(file).is_file() and (problem := problem_of(file)) is not None:
        raise CheckpointError(f"{problem}; copy both again")
    tensors = load_file(file)
    if (problem := problem_of_values(tensors)) is not None:
        raise CheckpointError(f"{file} is damaged: {problem}; export it again")
    vocabulary = carried_vocabulary(file)
    _experiment_of(folder, wanted, card.step, file)  # before the folder is touched
    with OwnClaim(folder) as claim:
        experiment = _experiment_of(folder, wanted, card.step, file)
        with _cleared_up(folder, card.step, claim.token) as part:
            layers: dict[str, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                path, key = _place(name)
                layers.setdefault(path, {})[key] = tensor
            files = {path: write_layer(part / path, tensors) for path, tensors in layers.items()}
            if vocabulary is not None:
                files |= {name: write_file(part / name, content) for name, content in vocabulary.files().items()}
            manifest = Manifest(
                **{name: getattr(card, name) for name in TrainingState.model_fields},
                format_version=FORMAT_VERSION,
                experiment=identity(experiment),
                files=files,
            )
            checkpoint = publish(part, new_folder(folder, card.step), manifest)
            if not folder.experiment_file.exists():
                save_experiment(experiment, folder.experiment_file)
    return checkpoint


def _place(name: str) -> tuple[str, str]:
    """Of a tensor in a single file: its file in a checkpoint, and its name there."""
    if name.startswith(STREAMS_PREFIX):
        part, key = name.removeprefix(STREAMS_PREFIX).split("/")
        return f"streams/{part}.safetensors", key
    kind = "optimizer" if name.startswith(OPTIMIZER_PREFIX) else "weights"
    return f"{kind}/{layer_name(name.rpartition('/')[2])}.safetensors", name.removeprefix(OPTIMIZER_PREFIX)


def _experiment_of(folder: RunFolder, wanted: Experiment, step: int, file: Path) -> Experiment:
    """The experiment of the run a file goes into: its own, or `wanted` for a new one."""
    if not folder.experiment_file.exists():
        if folder.path.exists() and (not folder.path.is_dir() or set(folder.path.iterdir()) - {folder.owner_file}):
            raise ConfigError(f"{folder.path} is there and is no run folder; name one, or a folder to be made")
        return wanted
    there = folder.load_experiment()
    for key, value in identity(wanted).items():
        if identity(there)[key] != value:
            raise CheckpointError(f"{file} has {key} = {value}, the run {folder.path} has {key} = "
                                  f"{identity(there)[key]}; name another run folder")  # fmt: skip
    if any(checkpoint.step == step for checkpoint in list_checkpoints(folder)):
        raise ConfigError(f"{folder.path} has a checkpoint of step {step} already; delete it, or name another folder")
    return there


def _check_tensors(file: Path, experiment: Experiment) -> None:
    """`CheckpointError` unless the file holds exactly the weights and the optimizer state of the experiment."""
    weights = weight_shapes(experiment, with_auxiliary=True)
    states = optimizer_shapes(weights, experiment.optimizer.state_keys)
    expected = weights | {OPTIMIZER_PREFIX + name: shape for name, shape in states.items()}
    found = {name: shape for name, shape in tensor_shapes(file).items() if not name.startswith(STREAMS_PREFIX)}
    problem = difference(found, expected)
    if problem is not None:
        raise CheckpointError(f"{file} does not fit its own settings: {problem}; export it again")
    check_file(file)


@contextlib.contextmanager
def _cleared_up(folder: RunFolder, step: int, attempt: str) -> Iterator[Path]:
    """A folder to write a checkpoint in; what was made is removed if that fails."""
    part, made = folder.checkpoints / f".step-{step:08d}.{attempt}.part", not folder.checkpoints.exists()
    try:
        part.mkdir(parents=True)
        yield part
    except BaseException as error:
        shutil.rmtree(folder.checkpoints if made else part, ignore_errors=True)
        if isinstance(error, OSError):
            raise ConfigError(f"{folder.path} cannot be written: {error}; free space, or name another") from error
        raise
