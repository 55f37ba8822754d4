"""A checkpoint as one safetensors file: every tensor under the single-device model's name, the rest as JSON.

    NAME.safetensors     weights by parameter name; with all of it, also optimizer/STATE KEY/parameter name
                         and, of recurrent models, streams/FIRST STREAM/hidden, cell and epoch
    NAME.json            the JSON of its metadata under `megachar`, and the file's size and sha256

The metadata also hold, under `megachar/vocabulary.model`, the model of a SentencePiece vocabulary, in base64.

`safetensors.torch.load_file(NAME.safetensors)` gives the weights to anyone. This file imports no torch.
"""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from megachar.base.errors import CheckpointError, ConfigError
from megachar.base.files import open_regular, read_regular, reason
from megachar.base.strict_json import parse
from megachar.config.loading import parse_experiment
from megachar.runs.checkpoints.format import FileRecord, TrainingState, fingerprint
from megachar.runs.checkpoints.tensors import Contents

METADATA_KEY = "megachar"
_MOST_JSON_BYTES: Final = 1 << 26


class Card(TrainingState):
    """What a single file says of itself."""

    format_version: Literal[1] = 1
    contents: Contents


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
        parse(text.encode())
        card = Card.model_validate_json(text, strict=True)
        if card.settings is not None:
            parse_experiment(card.settings, "settings")
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the whole of it"
        raise CheckpointError(f"{path} has metadata this megachar cannot read ({where}: {problem['msg']}); export it "
                              f"again") from error  # fmt: skip
    except (ConfigError, ValueError) as error:
        said = " ".join(str(error).split())
        raise CheckpointError(f"{path} has metadata this megachar cannot read ({said}); export it again") from error
    return card


def _read_metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}; export it again") from error


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
        # An older megachar wrote NaN here, where the card has null.
        values = parse(read_regular(beside, _MOST_JSON_BYTES), constant=lambda _: None)
        expected = FileRecord.model_validate(values.pop("file"))
    except FileNotFoundError:
        raise CheckpointError(f"{beside} is missing: it has the sha256 that {path.name} is compared with; copy it "
                              f"beside the file, or export again") from None  # fmt: skip
    except OSError as error:
        raise CheckpointError(f"{beside} cannot be read: {reason(error)}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{beside} is not the JSON of an export; copy it again, or export again") from error
    try:
        open_regular(path).close()  # the hash would wait for a pipe
        found = fingerprint(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; copy it again, or export again") from error
    if found != expected:
        return f"{path} is damaged: its size or sha256 is not the one in {beside.name}"
    if values != read_card(path).model_dump(mode="json"):
        return f"{beside} is damaged: it says something else than {path.name} says of itself"
    return None
