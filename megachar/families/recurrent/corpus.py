"""What a recurrent model reads of corpora: contiguous streams. Imports no torch."""

from megachar.config.experiment import Experiment
from megachar.data.blend import Blend
from megachar.data.corpus import SplitName
from megachar.data.reader import WindowReader, stream_reader
from megachar.data.streams import Streams


def open_readers(experiment: Experiment, blend: Blend) -> dict[SplitName, tuple[WindowReader, Streams]]:
    """The readers of the splits that training reads; `DataError` where one is too short for them."""
    splits = [split for split in ("train", "valid") if split == "train" or split in blend.split_names]
    num_streams, length = experiment.batch.global_size, experiment.model.window_length
    return {split: stream_reader(blend, split, num_streams, length) for split in splits}
