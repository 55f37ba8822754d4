"""What a transformer reads of corpora: windows, which have nothing to do with each other. Imports no torch."""

from megachar.config.experiment import Experiment
from megachar.data.blend import Blend
from megachar.data.corpus import SplitName
from megachar.data.reader import WindowReader, training_reader, validation_reader


def open_readers(experiment: Experiment, blend: Blend) -> dict[SplitName, WindowReader]:
    """The readers of the splits that training reads; `DataError` where one is too short for them."""
    data, context = experiment.data, experiment.model.window_length
    window = context + experiment.auxiliary.num_targets
    readers: dict[SplitName, WindowReader] = {"train": training_reader(blend, data, context, window, experiment.seed)}
    if "valid" in blend.split_names:
        readers["valid"] = validation_reader(blend, data, context, window, num_validation_windows(experiment))
    return readers


def num_validation_windows(experiment: Experiment) -> int:
    """Whole steps' worth: the same windows for any number of data ranks and any size of micro-batches."""
    size = experiment.batch.global_size
    return -(-experiment.training.validation_windows // size) * size
