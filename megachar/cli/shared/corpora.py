"""The corpus that a model is to read. Imports no torch."""

from pathlib import Path

from megachar.base.errors import ConfigError, DataError
from megachar.config.experiment import Experiment
from megachar.data.corpus import Corpus
from megachar.data.vocabulary_card import VocabularyCard


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
