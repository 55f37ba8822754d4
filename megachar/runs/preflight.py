"""An experiment settled with, and checked against, what is on the disk, before any process starts. Imports no torch."""

from collections.abc import Callable, Sequence
from pathlib import Path

from megachar.base.errors import ConfigError
from megachar.config.checks import check_experiment
from megachar.config.deepspeed import with_deepspeed_content
from megachar.config.experiment import Experiment
from megachar.config.loading import read_experiment
from megachar.config.paths import with_absolute_paths
from megachar.data.blend import Blend
from megachar.data.corpus import Corpus
from megachar.runs.checkpoints.format import list_checkpoints
from megachar.runs.checkpoints.sources import check_resumable
from megachar.runs.folder import run_folder


def load_run(source: str, *groups: Sequence[str], open_corpus: Callable[[Path], Corpus] = Corpus.open) -> Experiment:
    """The experiment of a run that is to start: read as by `load_experiment`, and settled.

    Its paths are absolute, so that neither the working folder nor the place of the run folder matters later, and it
    holds what a DeepSpeed JSON of the user's own says. Where a corpus is named, `model.vocabulary_size` is that of its
    vocabulary, unless the user gives it: then it stays, and `check_data` compares the two. Whoever loads many runs has
    `open_corpus` remember what it has opened.

    Raises:
        ConfigError: as `load_experiment`.
        DataError: the corpus is missing or damaged.
    """
    experiment = read_run(source, *groups, open_corpus=open_corpus)
    check_experiment(experiment)
    return experiment


def read_run(source: str, *groups: Sequence[str], open_corpus: Callable[[Path], Corpus] = Corpus.open) -> Experiment:
    """As `load_run`, but leave `check_experiment` to the caller."""
    read = read_experiment(source, *groups)
    experiment = with_deepspeed_content(with_absolute_paths(read.experiment))
    if experiment.data.parts and not read.vocabulary_size_is_given:
        corpus = open_corpus(Path(experiment.data.parts[0].path))  # those of a blend must share their vocabulary
        model = experiment.model.model_copy(update={"vocabulary_size": corpus.vocabulary.size})
        experiment = experiment.model_copy(update={"model": model})
    return experiment


def check_data(experiment: Experiment, opened: Blend | None = None) -> Blend:
    """Open the corpora, unless they are `opened`, and see that they fit the model and each other.

    Raises:
        ConfigError: no corpus is given, or the vocabulary is not the model's.
        DataError: a corpus is missing, damaged or too short.
    """
    blend = opened or Blend.open(experiment.data)
    size, expected = blend.vocabulary.size, experiment.model.vocabulary_size
    if size != expected:
        raise ConfigError(
            f"model.vocabulary_size = {expected}, but {blend.corpora[0].folder} has the {blend.vocabulary.name} "
            f"vocabulary of {size}; set model.vocabulary_size={size}"
        )
    experiment.model.part("corpus").open_readers(experiment, blend)
    return blend


def check_run_folder(experiment: Experiment, resume: bool) -> None:
    """See that a new run overwrites nothing, and that a resumed one is there whole and not past its end.

    Raises:
        ConfigError: the run exists and is not to be resumed, or the other way round; its settings are cut off; or it
            has taken more steps than it is to take.
        CheckpointError: it has checkpoints, and none is whole, as far as that shows without reading all of it.
    """
    folder = run_folder(experiment)
    exists = folder.experiment_file.exists()
    if exists and not resume:
        raise ConfigError(f"run {folder.path} exists already; continue it with --resume, or set name=ANOTHER")
    if resume and not (exists or folder.launch.exists()):  # it may have been asked to leave before it was recorded
        raise ConfigError(f"there is no run {folder.path} to resume; start it without --resume")
    if exists:
        folder.load_experiment()
    if resume:
        check_resumable(folder)
    steps = [checkpoint.step for checkpoint in list_checkpoints(folder)[-1:]] if resume else []
    check_steps(experiment, max(steps, default=0))


def check_steps(experiment: Experiment, step: int) -> None:
    """`ConfigError` where a run that goes on after `step` steps was to end before."""
    total = experiment.training.total_steps
    if step > total:
        raise ConfigError(f"run {run_folder(experiment).path} has a checkpoint of step {step}, past its end at "
                          f"training.total_steps={total}; set that to {step} or more, or delete the checkpoints after "
                          f"step {total}")  # fmt: skip
