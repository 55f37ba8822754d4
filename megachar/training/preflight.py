"""Checks of an experiment against the disk, before any process starts. Imports no torch."""

from pathlib import Path

from megachar.config.schema import Experiment
from megachar.data.corpus import Corpus
from megachar.data.sampler import check_holds_window
from megachar.errors import ConfigError, DataError
from megachar.training.run_folder import run_folder


def check_data(experiment: Experiment) -> Corpus:
    """Open the corpus and see that it fits the model.

    Raises:
        ConfigError: no path is given, or the vocabulary is not the model's.
        DataError: the corpus is missing, damaged or too short.
    """
    if not experiment.data.path:
        raise ConfigError("data.path is not set; name the folder of a prepared corpus, such as data.path=data/enwik8 "
                          "(python tools/preprocess_data.py TEXT --output FOLDER makes one)")  # fmt: skip
    corpus = Corpus.open(Path(experiment.data.path))
    size, expected = corpus.vocabulary.size, experiment.model.vocabulary_size
    if size != expected:
        raise ConfigError(f"model.vocabulary_size = {expected}, but {corpus.folder} has the {corpus.vocabulary.name} "
                          f"vocabulary of {size}; set model.vocabulary_size={size}")  # fmt: skip
    window = experiment.model.context + experiment.auxiliary.num_targets
    for name in ("train", "valid"):
        if name == "train" or name in corpus.split_names:
            try:
                check_holds_window(corpus.split(name).num_tokens, window)
            except DataError as error:
                raise DataError(f"{name} split of {corpus.folder}: {error}") from error
    return corpus


def check_run_folder(experiment: Experiment, resume: bool) -> None:
    """See that a new run overwrites nothing and that a resumed one exists.

    Raises:
        ConfigError: the run exists and is not to be resumed, or the other way round.
    """
    folder = run_folder(experiment)
    exists = folder.experiment_file.exists()
    if exists and not resume:
        raise ConfigError(f"run {folder.path} exists already; go on with it by --resume, or set name=ANOTHER")
    if resume and not exists:
        raise ConfigError(f"there is no run {folder.path} to resume; start it without --resume")
