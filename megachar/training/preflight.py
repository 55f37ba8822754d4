"""Checks of an experiment against the disk, before any process starts. Imports no torch."""

from megachar.config.recurrent import RecurrentConfig
from megachar.config.schema import Experiment
from megachar.data.blend import Blend
from megachar.data.reader import stream_reader, training_reader, validation_reader
from megachar.errors import ConfigError
from megachar.training.run_folder import run_folder


def check_data(experiment: Experiment) -> Blend:
    """Open the corpora and see that they fit the model and each other.

    Raises:
        ConfigError: no corpus is given, or the vocabulary is not the model's.
        DataError: a corpus is missing, damaged or too short.
    """
    blend, data = Blend.open(experiment.data), experiment.data
    size, expected = blend.vocabulary.size, experiment.model.vocabulary_size
    if size != expected:
        raise ConfigError(
            f"model.vocabulary_size = {expected}, but {blend.corpora[0].folder} has the {blend.vocabulary.name} "
            f"vocabulary of {size}; set model.vocabulary_size={size}"
        )
    if isinstance(experiment.model, RecurrentConfig):
        for split in ("train", "valid"):
            if split == "train" or split in blend.split_names:
                stream_reader(blend, split, experiment.batch.global_size, experiment.model.segment_length)
        return blend
    context, num_targets = experiment.model.context, experiment.auxiliary.num_targets
    training_reader(blend, data, context, num_targets, experiment.seed)
    if "valid" in blend.split_names:
        validation_reader(blend, data, context, num_targets, experiment.training.validation_windows)
    return blend


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
