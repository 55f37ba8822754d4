"""The vocabulary of a model in any of its forms, and the text that it was trained on. Imports no torch."""

from functools import partial
from pathlib import Path

from megachar.base.errors import CheckpointError, ConfigError, DataError
from megachar.base.files import read_regular
from megachar.config.experiment import Experiment
from megachar.data.corpus import Corpus
from megachar.data.pieces import MOST_MODEL_BYTES
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from megachar.data.vocabulary_card import VocabularyCard, vocabulary_of
from megachar.runs.checkpoints.format import DataRecord, TrainingState, list_checkpoints, read_checkpoint
from megachar.runs.checkpoints.single_file import read_card, read_vocabulary_file
from megachar.runs.checkpoints.sources import is_checkpoint, load_settings
from megachar.runs.folder import RunFolder


def load_vocabulary(path: Path, step: int | None = None) -> Vocabulary:
    """What the symbols of a run folder's checkpoint, of a checkpoint or of an exported file are.

    One that an older megachar saved carries no vocabulary: 256 symbols are bytes then, others those of the corpus.

    Raises:
        CheckpointError: it is damaged.
        ConfigError, DataError: there is no corpus that says.
    """
    vocabulary = carried_vocabulary(path, step)
    return _vocabulary_of_corpus(load_settings(path)) if vocabulary is None else vocabulary


def carried_card(path: Path, step: int | None = None) -> VocabularyCard | None:
    """The card of the vocabulary that a model carries; None where it carries none, or a run has no such checkpoint."""
    return _vocabulary_card(_carried(path, step)[0])


def carried_data(path: Path, step: int | None = None) -> DataRecord | None:
    """Which text a model was trained on; None as of `carried_card`."""
    state, _ = _carried(path, step)
    return None if state is None else state.data


def carried_vocabulary(path: Path, step: int | None = None) -> Vocabulary | None:
    """The vocabulary of `carried_card`; `CheckpointError` where it is damaged."""
    state, holder = _carried(path, step)
    card = _vocabulary_card(state)
    try:
        return None if card is None else vocabulary_of(card, partial(_read_file, holder))
    except DataError as error:
        raise CheckpointError(f"{holder}: {error}; copy it again, or name another checkpoint") from None


def _carried(path: Path, step: int | None) -> tuple[TrainingState | None, Path]:
    """What a model carries of its training, and the checkpoint's folder or the exported file that carries it.

    A run that has no such checkpoint (yet) carries nothing: whoever loads the model reports that.
    """
    if path.is_file():
        return read_card(path), path
    if is_checkpoint(path):
        return read_checkpoint(path).manifest, path
    found = [checkpoint for checkpoint in list_checkpoints(RunFolder(path)) if step in (None, checkpoint.step)]
    return (found[-1].manifest, found[-1].path) if found else (None, path)


def _vocabulary_card(state: TrainingState | None) -> VocabularyCard | None:
    return None if state is None else state.vocabulary


def _read_file(holder: Path, name: str) -> bytes:
    """A file of the vocabulary, by its name."""
    if holder.is_file():
        return read_vocabulary_file(holder, name)
    return read_regular(holder / name, MOST_MODEL_BYTES, links=False)


def _vocabulary_of_corpus(experiment: Experiment) -> Vocabulary:
    size = experiment.model.vocabulary_size
    if size == ByteVocabulary.size:
        return ByteVocabulary()
    if not experiment.data.parts:
        raise ConfigError(f"an older megachar saved the model without saying what its {size} symbols are, and its "
                          f"settings name no corpus (data.path is empty); resume the run for a step and take "
                          f"that checkpoint")  # fmt: skip
    path = Path(experiment.data.parts[0].path)
    vocabulary = Corpus.open(path).vocabulary  # the corpora of a blend share theirs
    if vocabulary.size != size:
        raise ConfigError(
            f"the model has {size} symbols, but the vocabulary of {path} has {vocabulary.size}; put back the corpus "
            f"the run was trained on"
        )
    return vocabulary
