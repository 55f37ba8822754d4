"""What the commands of analyses are given: models, a text, options; and what they check of it. Imports no torch."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

from megachar.analysis.models import AnalyzedModel, find_models
from megachar.base.errors import ConfigError, DataError
from megachar.cli.shared.corpora import Provenance, open_corpus, say_provenance
from megachar.cli.shared.given_model import check_model
from megachar.cli.shared.given_text import read_given
from megachar.cli.shared.groups import option
from megachar.cli.shared.options import Device, Threads, check_device
from megachar.data.corpus import Corpus
from megachar.data.vocabulary import Vocabulary
from megachar.evaluation.progress import Progress, show_progress
from megachar.evaluation.windows import check_stride
from megachar.runs.checkpoints.vocabularies import carried_card, load_vocabulary

if TYPE_CHECKING:
    from megachar.evaluation.predictor import Predictor

Runs = Annotated[list[Path], typer.Argument(help="Run folders, checkpoints' folders or exported files.")]
Data = Annotated[Path | None, typer.Option(help="Corpus folder; default: the one the first run was trained on.")]
MaxCharacters = Annotated[
    int | None, typer.Option(help="Only the first so many characters of the split; default: all.")
]
Stride = Annotated[
    int | None,
    typer.Option(help="Characters between a transformer's windows; 1 is exact. Default: an eighth of the context."),
]


@dataclass(frozen=True)
class GivenText:
    """A text, in an option or in a file."""

    text: str | None = option(None, "The text.")
    file: Path | None = option(None, "File with the text, its bytes as they are.")

    def read(self) -> bytes:
        """Its bytes; ConfigError unless one of the two gives some."""
        found = read_given(self.text, self.file, "--text", "--file")
        if not found:
            raise ConfigError("the text is empty; give one of some characters")
        return found


@dataclass(frozen=True)
class Computing:
    """How models compute."""

    batch_size: int = option(32, "Windows in one forward pass.")
    device: Device = "auto"
    threads: Threads = None

    def find(self, sources: list[Path], stride: int | None = 1) -> list[AnalyzedModel]:
        """What `find_models` gives, each checked; an older checkpoint that is taken for a damaged one is said.

        ConfigError also on what `AnalyzedModel.load` would refuse, before anything is loaded.
        """
        models = find_models(sources)
        for source in sources:
            check_model(source)
        check_device(self.device)
        if self.batch_size < 1:
            raise ConfigError(f"batch size = {self.batch_size}: a batch needs a window; set 1 or more, such as 32")
        for model in models:
            if stride is not None and model.context is not None:
                check_stride(stride, model.context)
        return models

    def predictors(
        self, models: list[AnalyzedModel], num_symbols: int, stride: int | None = 1
    ) -> Iterator[tuple[AnalyzedModel, "Predictor", Progress]]:
        """Each model, loaded, and what to tell how many of the `num_symbols` of all models it has done."""
        with show_progress(Console(stderr=True), num_symbols) as progress:
            for model in models:
                yield model, model.load(self.device, stride, self.batch_size, self.threads), progress


def open_common_corpus(models: list[AnalyzedModel], data: Path | None) -> Corpus:
    """The corpus in `data`, or the first run's; DataError where its vocabulary is not that of every run."""
    first, others = models[0], models[1:]
    corpus = open_corpus(first.experiment, carried_card(first.source), data)
    # A model of an older megachar carries no vocabulary, and where a corpus is named need not have its own.
    compared = others if data is None else [model for model in others if carried_card(model.source) is not None]
    _check_same_vocabulary(compared, corpus.vocabulary)
    return corpus


def identify(corpus: Corpus, models: list[AnalyzedModel]) -> dict[str, Any]:
    """Settings that say which corpus it is, and which models were trained on another; that is said as well."""
    others = []
    for model in models:
        provenance = Provenance.of(corpus, model.experiment, model.source)
        say_provenance(provenance)
        if provenance.is_training_corpus is False:
            others.append(model.subject.label)
    return {"corpus": corpus.fingerprint, **({"trained_on_another": others} if others else {})}


def common_vocabulary(models: list[AnalyzedModel]) -> Vocabulary:
    """The vocabulary of the first run; DataError where another's differs."""
    vocabulary = load_vocabulary(models[0].source)
    _check_same_vocabulary(models[1:], vocabulary)
    return vocabulary


def _check_same_vocabulary(models: list[AnalyzedModel], vocabulary: Vocabulary) -> None:
    for model in models:
        if load_vocabulary(model.source).card() != vocabulary.card():
            raise DataError(
                f"{model.subject.label} has a vocabulary of as many symbols as the first run, but others; "
                "name runs on the same vocabulary"
            )


def read_tokens(corpus: Corpus, split: str, max_characters: int | None) -> npt.NDArray[np.integer]:
    """The text (N,) of the split, or its first characters."""
    if max_characters is not None and max_characters < 2:
        raise ConfigError(f"--max-characters {max_characters}: nothing would be scored; set 2 or more, or leave it out")
    return corpus.split(split).tokens[:max_characters]


def sha256(text: bytes) -> str:
    """Names a text among the settings of a result."""
    return hashlib.sha256(text).hexdigest()
