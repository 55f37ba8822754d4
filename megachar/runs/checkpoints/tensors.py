"""Which tensors a model's files hold, from the headers of the files alone. Imports no torch."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from safetensors import SafetensorError, safe_open

from megachar.base.errors import CheckpointError
from megachar.config.experiment import Experiment
from megachar.families.counting import count_parameters
from megachar.families.parameters import layer_name, layer_names
from megachar.runs.checkpoints.format import Checkpoint, with_mend

Contents = Literal["inference", "all"]
"""`inference`: the weights of the model without auxiliary classifiers; `all`: what training goes on from."""
Shapes = dict[str, tuple[int, ...]]
"""Of tensors, by name."""
OPTIMIZER_PREFIX: Final = "optimizer/"
STREAMS_PREFIX: Final = "streams/"


def tensor_shapes(path: Path) -> Shapes:
    """Name and shape of every tensor of a safetensors file.

    Raises:
        CheckpointError: it is missing, damaged, or holds another type than fp32.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            types = {part.get_dtype() for part in slices.values()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    if types - {"F32"}:
        others = ", ".join(sorted(types - {"F32"}))
        raise CheckpointError(f"{path} holds tensors of type {others}; checkpoints are fp32: export it again")
    return shapes


def checkpoint_shapes(checkpoint: Checkpoint) -> Shapes:
    """Of all tensors of a checkpoint, by the names they have in an exported file.

    Raises:
        CheckpointError: a file is missing or damaged, or holds tensors of another layer.
    """
    shapes: Shapes = {}
    for name in sorted(checkpoint.manifest.files):
        if not name.endswith(".safetensors"):
            continue
        problem = checkpoint.quick_problem(name)
        if problem is not None:
            raise CheckpointError(with_mend(problem, checkpoint.mend))
        path = checkpoint.path / name
        kind, layer = path.parent.name, path.stem
        for tensor, shape in tensor_shapes(path).items():
            if kind != "streams" and layer_name(tensor.rpartition("/")[2]) != layer:
                raise CheckpointError(f"{path} is damaged: {tensor!r:.80} is none of its layer; {checkpoint.mend}")
            shapes[exported_name(kind, layer, tensor)] = shape
    return shapes


def exported_name(kind: str, layer: str, tensor: str) -> str:
    """The name in an exported file of a tensor in a checkpoint's file of a kind."""
    if kind == "streams":
        return f"{STREAMS_PREFIX}{layer}/{tensor}"
    return (OPTIMIZER_PREFIX if kind == "optimizer" else "") + tensor


def problem_of_shapes(shapes: Shapes, experiment: Experiment, contents: Contents) -> str | None:
    """What shows that tensors are not those of an experiment; None if nothing does.

    The number of weights is compared with the model's; their shapes, which only the model knows, where it is loaded.

    Args:
        shapes: by the names that the tensors have in an exported file.
        experiment: they should be of.
        contents: what they should be.
    """
    model, prefixes = experiment.model, (OPTIMIZER_PREFIX, STREAMS_PREFIX)
    weights = {name: shape for name, shape in shapes.items() if not name.startswith(prefixes)}
    missing = set(layer_names(model)) ^ {layer_name(name) for name in weights}
    if missing:
        return f"its layers are not its model's: {min(missing)!r:.80} is one too few or too many"
    trains = contents == "all" or model.folds
    parts = count_parameters(model, experiment.auxiliary)
    expected = sum(part.training if trains else part.inference for part in parts)
    found = sum(math.prod(shape) for shape in weights.values())
    if found != expected:
        return f"it holds {found:,} weights, and its model has {expected:,}"
    keys = experiment.optimizer.state_keys if contents == "all" else ()
    wanted = optimizer_shapes(weights, keys)
    states = {name: shape for name, shape in shapes.items() if name.startswith(OPTIMIZER_PREFIX)}
    problem = difference(states, {OPTIMIZER_PREFIX + name: shape for name, shape in wanted.items()})
    streams = {name: shape for name, shape in shapes.items() if name.startswith(STREAMS_PREFIX)}
    return problem or _problem_of_streams(streams, experiment)


def optimizer_shapes(weights: Shapes, keys: tuple[str, ...]) -> Shapes:
    """Of what an optimizer with these `keys` keeps of weights."""
    return {f"{key}/{name}": shape for key in keys for name, shape in weights.items()}


def difference(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str | None:
    """The first tensor that is not as expected, in words; None where all are."""
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            here, wanted = found.get(name, "none"), expected.get(name, "none")
            return f"{name:.200} has shape {here} and should have {wanted}"
    return None


def _problem_of_streams(shapes: Shapes, experiment: Experiment) -> str | None:
    """What is wrong with the parts that streams are kept in: they follow on each other, and are all or none."""
    carried, parts = experiment.model.carried_shapes(), dict[int, Shapes]()
    for name, shape in shapes.items():
        first, _, tensor = name.removeprefix(STREAMS_PREFIX).partition("/")
        if not carried or not (first.isascii() and first.isdigit() and len(first) < 13):
            return f"it holds {name!r:.80}, and its model has no such streams"
        parts.setdefault(int(first), {})[tensor] = shape
    following = 0
    for number in sorted(parts):
        rows = next(iter(parts[number].get("epoch", ())), 0)
        wanted = {name: (rows, *shape) for name, shape in carried.items()}
        problem = difference(parts[number], {**wanted, "epoch": (rows,)})
        if problem is not None or rows == 0 or number != following:
            return f"its streams from {number} on are damaged: {problem or f'{following} should follow'}"
        following += rows
    if parts and following != experiment.batch.global_size:
        return f"it holds {following} streams, and batch.global_size is {experiment.batch.global_size}"
    return None
