"""The corpus that a model is to read, and how it stands to the one that it was trained on. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from megachar.base.errors import ConfigError, DataError, MegacharError
from megachar.base.files import shown
from megachar.config.experiment import Experiment
from megachar.data.blend import Blend
from megachar.data.corpus import Corpus
from megachar.data.vocabulary_card import VocabularyCard
from megachar.runs.checkpoints.format import DataRecord
from megachar.runs.checkpoints.vocabularies import carried_data


def open_corpus(experiment: Experiment, vocabulary: VocabularyCard | None, data: Path | None) -> Corpus:
    """The corpus in `data`, or the one the experiment was trained on.

    Args:
        experiment: the model's.
        vocabulary: what the model carries; None: an older megachar saved it, and only the size can be compared.
        data: folder of a corpus, if one was named.

    Raises:
        ConfigError: no corpus is named.
        DataError: there is none, or its vocabulary is not the model's.
    """
    if data is None and experiment.data.blend:
        folders = ", ".join(part.path for part in experiment.data.blend)
        raise ConfigError(f"the run was trained on several corpora ({folders}); name one with --data FOLDER")
    if data is None and not experiment.data.path:
        raise ConfigError("the run names no corpus (data.path is empty); name one with --data FOLDER")
    if data is None and not Path(experiment.data.path).is_dir():
        raise DataError(f"the corpus that the model was trained on is not there: no folder {experiment.data.path}; put "
                        f"it back, or name its text with --data FOLDER")  # fmt: skip
    corpus = Corpus.open(data or Path(experiment.data.path))
    found, size = corpus.card.vocabulary, experiment.model.vocabulary_size
    if found.size != size:
        raise DataError(
            f"the corpus {corpus.folder} has {found.size} symbols, the model {size}; name a corpus of the model's "
            f"vocabulary with --data FOLDER"
        )
    if vocabulary is not None and found != vocabulary:
        raise DataError(
            f"the corpus {corpus.folder} has the vocabulary {found}, the model {vocabulary}, whose symbols are others; "
            f"name a corpus of the model's vocabulary with --data FOLDER"
        )
    return corpus


@dataclass(frozen=True)
class Provenance:
    """Text that was trained on is predicted too well, and a corpus that is cut anew may hold it in any split."""

    corpus: Corpus
    trained_on: DataRecord | None
    """None: an older megachar did not record it."""
    is_training_corpus: bool | None
    """Whether it is the one trained on, or one of a blend; None: that cannot be told any more."""

    @staticmethod
    def of(corpus: Corpus, experiment: Experiment, source: Path, step: int | None = None) -> "Provenance":
        """Of a corpus that the experiment's model at `source` is to predict; CheckpointError where it is damaged."""
        trained_on = carried_data(source, step)
        return Provenance(corpus, trained_on, _is_training_corpus(corpus, experiment, trained_on))

    @property
    def warning(self) -> str | None:
        """What to say of it before it is scored."""
        if self.is_training_corpus is not False or self.trained_on is None:
            return None
        return (
            f"note: the corpus {shown(self.corpus.folder)} ({self.corpus.fingerprint}) is not what the model was "
            f"trained on, {shown(self.trained_on.description)} ({self.trained_on.fingerprint}); if it holds the same "
            "text in other splits, some of what is scored was trained on"
        )

    def label(self, split: str, named: bool) -> str:
        """What tells its results from those of other corpora in file names; `named`: by the user."""
        if self.is_training_corpus or (self.is_training_corpus is None and not named):
            return split
        return f"{split}-of-{self.corpus.folder.resolve().name}-{self.corpus.fingerprint[:8]}"

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "corpus": self.corpus.fingerprint,
            "corpus_folder": shown(self.corpus.folder),
            "trained_on": None if self.trained_on is None else self.trained_on.model_dump(),
            "is_training_corpus": self.is_training_corpus,
        }


def say_provenance(provenance: Provenance) -> None:
    """The warning, if there is one, on stderr."""
    if provenance.warning is not None:
        typer.echo(provenance.warning, err=True)


def _is_training_corpus(corpus: Corpus, experiment: Experiment, trained_on: DataRecord | None) -> bool | None:
    if trained_on is None or corpus.fingerprint == trained_on.fingerprint:
        return None if trained_on is None else True
    if not experiment.data.blend:
        return False
    try:
        blend = Blend.open(experiment.data)
    except MegacharError:
        return None
    if blend.fingerprint != trained_on.fingerprint:
        return None
    return any(part.fingerprint == corpus.fingerprint for part in blend.corpora)
