"""A prepared corpus: a folder of indexed datasets, one per split, and `dataset.json`, the card that describes them."""

from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megachar.base.errors import DataError
from megachar.base.files import describe, read_regular
from megachar.base.strict_json import checksum, parse
from megachar.data.indexed_dataset import IndexedDataset, idx_path
from megachar.data.pieces import MOST_MODEL_BYTES
from megachar.data.vocabulary import Vocabulary
from megachar.data.vocabulary_card import VocabularyCard, vocabulary_of

CARD_NAME = "dataset.json"
FORMAT_VERSION: Final = 1

SplitName = Literal["train", "valid", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "valid", "test")

PREPARE = "megachar corpus prepare TEXT --output"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceCard(_Section):
    """A file that the corpus was made from."""

    name: str
    """File name without its folder, so that hosts with other paths get the same card."""
    num_bytes: int = Field(gt=0)
    sha256: str


class SplitCard(_Section):
    """The sizes of one split. Words serve word perplexity (`megachar.base.units.word_perplexity`)."""

    num_tokens: int = Field(gt=0)
    num_documents: int = Field(gt=0)
    num_bytes: int = Field(gt=0)
    """Bytes of the text, whatever the vocabulary."""
    num_words: int = Field(ge=0)
    """Whitespace-separated tokens plus line ends."""
    sha256: str
    """Of the `.bin` file."""


class CorpusCard(_Section):
    """`dataset.json`: all that is known of a corpus without reading its data."""

    format_version: Literal[1]
    vocabulary: VocabularyCard
    dtype: str
    """NumPy name of the token type on disk, "uint8" for bytes."""
    documents: Literal["line", "record"] | None = None
    """What one document is; None: a file."""
    num_skipped_lines: int | None = None
    """Lines of JSON that were left out because they hold no text; None: none were."""
    sources: tuple[SourceCard, ...]
    splits: dict[SplitName, SplitCard] = Field(min_length=1)

    def to_json(self) -> str:
        """The text of `dataset.json`."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


class Corpus:
    """A corpus opened for reading; `Corpus.open` is the way in."""

    def __init__(self, folder: Path, card: CorpusCard, vocabulary: Vocabulary) -> None:
        self.folder = folder
        self.card = card
        self.vocabulary = vocabulary
        self._opened: dict[SplitName, IndexedDataset] = {}

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Read the card of the corpus in `folder`. The data are neither read nor hashed.

        DataError where the folder or the card is missing, damaged or unreadable, or names a vocabulary unknown here.
        """
        try:
            return cls._open(Path(folder))
        except OSError as error:  # as of a name that is too long
            raise DataError(describe(error)) from error

    @classmethod
    def _open(cls, folder: Path) -> "Corpus":
        path = folder / CARD_NAME
        if not folder.is_dir():
            if idx_path(folder).is_file():
                raise DataError(f"{folder} is a dataset without a {CARD_NAME}; make a corpus of it: {_adopt(folder)}")
            raise DataError(f"no corpus at {folder}: the folder does not exist; prepare it: {PREPARE} {folder}")
        if not path.is_file():
            datasets = sorted(entry for entry in folder.iterdir() if entry.suffix == ".idx")
            if datasets:
                raise DataError(
                    f"{folder} holds datasets but no {CARD_NAME}; make a corpus of them: "
                    f"{_adopt(datasets[0].with_suffix(''))}"
                )
            inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            raise DataError(
                f"{folder} is no prepared corpus: it has no {CARD_NAME} (it holds: {inside}). "
                f"Name the folder that was given to --output, or prepare one: {PREPARE} FOLDER"
            )
        card = _read_card(path)
        try:
            vocabulary = vocabulary_of(card.vocabulary, lambda name: read_regular(folder / name, MOST_MODEL_BYTES))
        except DataError as error:
            again = f"copy the whole folder again, or prepare the corpus again: {PREPARE} {folder} --overwrite"
            raise DataError(f"{path}: {error}; {again}") from None
        return cls(folder, card, vocabulary)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the card's hash: equal on two hosts exactly when their cards say the same.

        The card holds the sha256 of every split, so this tells data apart without reading them.
        """
        return checksum(self.card.model_dump(mode="json", exclude_none=True))[:16]

    @property
    def split_names(self) -> tuple[SplitName, ...]:
        """The splits that this corpus has, in the order train, valid, test."""
        return tuple(name for name in SPLIT_NAMES if name in self.card.splits)

    def split(self, name: str) -> IndexedDataset:
        """The dataset of the split `name`, opened once; DataError where it is absent or does not fit the card."""
        for known in self.split_names:
            if known == name:
                if known not in self._opened:
                    self._opened[known] = self._open_split(known)
                return self._opened[known]
        raise DataError(
            f"the corpus {self.folder} has no split '{name}'; it has: {', '.join(self.split_names)}. "
            f"Prepare one with that split: {PREPARE} FOLDER --split 90,5,5"
        )

    def check_unchanged(self) -> None:
        """`DataError` where a file of an opened split is not the one that was opened."""
        for dataset in self._opened.values():
            dataset.check_unchanged()

    def _open_split(self, name: SplitName) -> IndexedDataset:
        dataset, card = IndexedDataset(self.folder / name), self.card.splits[name]
        for what, found, wanted in (
            ("dtype", dataset.dtype.name, np.dtype(self.card.dtype).name),
            ("tokens", dataset.num_tokens, card.num_tokens),
            ("documents", dataset.num_documents, card.num_documents),
        ):
            if found != wanted:
                raise DataError(
                    f"{dataset.prefix} does not fit {CARD_NAME}: {what} {found} on disk, {wanted} in the card; "
                    f"copy the whole folder again or prepare it again: {PREPARE} {self.folder} --overwrite"
                )
        return dataset


def _adopt(prefix: Path) -> str:
    return f"megachar corpus adopt --train {prefix} --output FOLDER"


def _read_card(path: Path) -> CorpusCard:
    mend = f"copy the file again or prepare the corpus again: {PREPARE} {path.parent} --overwrite"
    try:
        raw = parse(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); {mend}") from None
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version is not None and version != FORMAT_VERSION:
        raise DataError(f"{path} has format version {version}; this megachar reads version {FORMAT_VERSION}; {mend}")
    try:
        card = CorpusCard.model_validate(raw)
        np.dtype(card.dtype)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors())
        raise DataError(f"{path} is no corpus card ({problems}); {mend}") from None
    except (TypeError, ValueError, SyntaxError):  # NumPy reads some of them as Python
        raise DataError(f"{path} names the unknown dtype {card.dtype!r}; {mend}") from None
    return card
