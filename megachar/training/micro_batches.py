"""From corpora to this data rank's micro-batches: a function of (seed, step, micro-batch number) alone."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch

from megachar.config.recurrent import RecurrentConfig
from megachar.config.schema import Experiment
from megachar.data.blend import Blend
from megachar.data.reader import WindowReader, stream_reader, training_reader, validation_reader
from megachar.data.sampler import Int64, UInt64, window_numbers
from megachar.errors import DataError
from megachar.layers.dropout import DropoutKey
from megachar.layers.variational import SegmentKey
from megachar.parallel.mesh import Mesh, fail_together
from megachar.parallel.stage import MicroBatch, Segment


class MicroBatchSource(ABC):
    """The micro-batches of one data rank. Number i of a step belongs to data rank i % data ranks."""

    description: str
    """What is read, for people."""
    validation_micro_batches: int
    """Of one validation, on each data rank; 0 where the corpora have no valid split."""
    window_offset: int = 0
    """Step s reads windows from number s x `batch.global_size` + this on. Not 0 once a run has changed its batch."""

    def __init__(self, experiment: Experiment, blend: Blend, mesh: Mesh) -> None:
        self.seed, self.batch, self.mesh, self._blend = experiment.seed, experiment.batch, mesh, blend
        self.draws_masks = experiment.model.drops_out
        self.text_size = sum(corpus.split("train").tokens.size for corpus in blend.corpora)
        """Symbols of the training text, of all corpora."""

    def windows_before(self, step: int) -> int:
        """Windows that the training steps before `step` have read, or gone past."""
        return step * self.batch.global_size + self.window_offset

    def continue_at(self, step: int, windows: int) -> None:
        """Have `step` be the one after so many windows."""
        self.window_offset = windows - step * self.batch.global_size

    @abstractmethod
    def training(self, step: int) -> Iterator[MicroBatch]:
        """The micro-batches of a step."""

    @abstractmethod
    def validation(self) -> Iterator[MicroBatch]:
        """`validation_micro_batches` micro-batches, the same every time."""

    def check_unchanged(self) -> None:
        """Raise `DataError` on every rank if any of them sees other files than those it opened. All must call it."""
        error: DataError | None = None
        try:
            self._blend.check_unchanged()
        except DataError as failure:
            error = failure
        fail_together(self.mesh, error)

    def _own(self, total: int) -> range:
        """This data rank's of so many micro-batches."""
        return range(self.mesh.at.data, total, self.mesh.topology.data_size)

    def _read(self, reader: WindowReader, windows: UInt64) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = reader.read(windows)
        return self._place(inputs), self._place(targets)

    def _place(self, symbols: Int64) -> torch.Tensor:
        """On the device, without waiting for what the device is doing."""
        tensor = torch.from_numpy(symbols)
        if self.mesh.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.mesh.device, non_blocking=True)


class WindowSource(MicroBatchSource):
    """Windows of a transformer, which have nothing to do with each other."""

    def __init__(self, experiment: Experiment, blend: Blend, mesh: Mesh) -> None:
        super().__init__(experiment, blend, mesh)
        data, context, num_targets = experiment.data, experiment.model.window_length, experiment.auxiliary.num_targets
        self._train = training_reader(blend, data, context, num_targets, experiment.seed)
        self.description = "; ".join(filter(None, (blend.description, self._train.note)))
        self._valid: WindowReader | None = None
        self.validation_micro_batches = 0
        if "valid" in blend.split_names:
            # Whole steps' worth: the same windows for any number of data ranks and any size of micro-batches.
            count = -(-experiment.training.validation_windows // self.batch.global_size) * self.batch.global_size
            self.validation_micro_batches = count // (self.batch.micro_size * mesh.topology.data_size)
            self._valid = validation_reader(blend, data, context, num_targets, count)

    def training(self, step: int) -> Iterator[MicroBatch]:
        """See `MicroBatchSource`."""
        total = self.batch.num_micro_batches
        for number in self._own(total):
            key = DropoutKey(self.seed, step, number) if self.draws_masks else None
            windows = window_numbers(step, number, self.batch.micro_size, total, self.window_offset)
            yield MicroBatch(*self._read(self._train, windows), key)

    def validation(self) -> Iterator[MicroBatch]:
        """Windows spread evenly over the valid split."""
        assert self._valid is not None
        total = self.validation_micro_batches * self.mesh.topology.data_size
        for number in self._own(total):
            yield MicroBatch(*self._read(self._valid, window_numbers(0, number, self.batch.micro_size, total)))


class StreamSource(MicroBatchSource):
    """Segments of a recurrent model's streams. Micro-batch i holds the same streams at every step."""

    def __init__(self, experiment: Experiment, blend: Blend, mesh: Mesh) -> None:
        super().__init__(experiment, blend, mesh)
        num_streams, length = self.batch.global_size, experiment.model.window_length
        self._train, self._streams = stream_reader(blend, "train", num_streams, length)
        self.description = f"{blend.description} in {num_streams:,} streams"
        self._valid: WindowReader | None = None
        self._validation_steps = 0
        if "valid" in blend.split_names:
            self._valid, streams = stream_reader(blend, "valid", num_streams, length)
            wanted = -(-experiment.training.validation_windows // num_streams)
            self._validation_steps = min(wanted, streams.segments_per_epoch)
        self.validation_micro_batches = self._validation_steps * len(self._own(self.batch.num_micro_batches))

    def training(self, step: int) -> Iterator[MicroBatch]:
        """See `MicroBatchSource`."""
        return self._step(self._train, step, self._streams.epoch(step), self.draws_masks)

    def validation(self) -> Iterator[MicroBatch]:
        """The first segments of every stream of the valid split, one after the other."""
        assert self._valid is not None
        for step in range(self._validation_steps):
            yield from self._step(self._valid, step, 0, draws_masks=False)

    def _step(self, reader: WindowReader, step: int, epoch: int, draws_masks: bool) -> Iterator[MicroBatch]:
        total, size = self.batch.num_micro_batches, self.batch.micro_size
        for number in self._own(total):
            first = number * size
            key = SegmentKey(self.seed, step, tuple(range(first, first + size))) if draws_masks else None
            inputs, targets = self._read(reader, window_numbers(step, number, size, total))
            yield MicroBatch(inputs, targets, segment=Segment(first, epoch, key))


def build_source(experiment: Experiment, blend: Blend, mesh: Mesh) -> MicroBatchSource:
    """What the experiment's model reads.

    Raises:
        DataError: a corpus is too short.
    """
    kind = StreamSource if isinstance(experiment.model, RecurrentConfig) else WindowSource
    return kind(experiment, blend, mesh)
