"""How a corpus that is scored stands to the one that the model was trained on. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from megachar.base.errors import MegacharError
from megachar.base.files import shown
from megachar.config.experiment import Experiment
from megachar.data.blend import Blend
from megachar.data.corpus import Corpus
from megachar.runs.checkpoints.format import DataRecord
from megachar.runs.checkpoints.vocabularies import carried_data


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
