"""A checkpoint as one safetensors file: every tensor under the single-device model's name, the rest as JSON.

    NAME.safetensors     weights by parameter name; with all of it, also optimizer/STATE KEY/parameter name
                         and, of recurrent models, streams/FIRST STREAM/hidden, cell and epoch
    NAME.json            the JSON of its metadata under `megachar`, and the file's size and sha256

The metadata also hold, under `megachar/vocabulary.model`, the model of a SentencePiece vocabulary, in base64.

`safetensors.torch.load_file(NAME.safetensors)` gives the weights to anyone. This file imports no torch.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from megachar.errors import CheckpointError
from megachar.files import reason
from megachar.training.checkpoints.format import FileRecord, TrainingState, fingerprint

METADATA_KEY = "megachar"
OPTIMIZER_PREFIX = "optimizer/"
STREAMS_PREFIX = "streams/"


class Card(TrainingState):
    """What a single file says of itself."""

    format_version: Literal[1] = 1
    contents: Literal["inference", "all"]
    """`inference`: the weights of the model without auxiliary classifiers; `all`: what training goes on from."""


def metadata_of(card: Card, vocabulary_files: Mapping[str, bytes]) -> dict[str, str]:
    """The metadata of an exported file; `vocabulary_files` are those that its vocabulary is made of, by name."""
    encoded = {f"{METADATA_KEY}/{name}": base64.b64encode(data).decode() for name, data in vocabulary_files.items()}
    return {"format": "pt", METADATA_KEY: card.model_dump_json(), **encoded}


def read_vocabulary_file(path: Path, name: str) -> bytes:
    """A file of an exported file's vocabulary, by its name; `CheckpointError` where it is missing or damaged."""
    try:
        return base64.b64decode(_read_metadata(path)[f"{METADATA_KEY}/{name}"], validate=True)
    except (KeyError, binascii.Error):
        raise CheckpointError(f"{path} lacks the {name} of its vocabulary, or it is damaged; export it again") from None


def read_card(path: Path) -> Card:
    """The card of an exported file; `CheckpointError` where it is none, or damaged."""
    text = _read_metadata(path).get(METADATA_KEY)
    if text is None:
        raise CheckpointError(f"{path} was not exported by megachar: its metadata have no {METADATA_KEY!r}; name a "
                              f"file of `megachar checkpoint export`")  # fmt: skip
    try:
        return Card.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the whole of it"
        raise CheckpointError(f"{path} has metadata this megachar cannot read ({where}: {problem['msg']}); export it "
                              f"again") from error  # fmt: skip


def _read_metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}; export it again") from error


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a safetensors file, from its header alone.

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


def json_path(path: Path) -> Path:
    """The JSON beside an exported file."""
    return path.with_suffix(".json")


def problem_of(path: Path) -> str | None:
    """Compare an exported file with the JSON beside it: what is wrong, None if nothing is.

    Raises:
        CheckpointError: there is no readable JSON to compare with.
    """
    beside = json_path(path)
    try:
        expected = FileRecord.model_validate(json.loads(beside.read_text(encoding="utf-8"))["file"])
    except FileNotFoundError:
        raise CheckpointError(f"{beside} is missing: it has the sha256 that {path.name} is compared with; copy it "
                              f"beside the file, or export again") from None  # fmt: skip
    except OSError as error:
        raise CheckpointError(f"{beside} cannot be read: {reason(error)}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{beside} is not the JSON of an export; copy it again, or export again") from error
    if fingerprint(path) != expected:
        return f"{path} is damaged: its size or sha256 is not the one in {beside.name}"
    return None
