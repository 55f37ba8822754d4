"""A recurrent model's micro-batches: segments of streams."""

from collections.abc import Iterator

from megachar.config.experiment import Experiment
from megachar.data.blend import Blend
from megachar.data.reader import WindowReader
from megachar.data.sampler import window_numbers
from megachar.families.recurrent.corpus import open_readers
from megachar.layers.variational import SegmentKey
from megachar.parallel.mesh import Mesh
from megachar.parallel.stage import MicroBatch, Segment
from megachar.training.micro_batches import MicroBatchSource


def build_source(experiment: Experiment, blend: Blend, mesh: Mesh) -> MicroBatchSource:
    """See `training.micro_batches`."""
    return StreamSource(experiment, blend, mesh)


class StreamSource(MicroBatchSource):
    """Segments of a recurrent model's streams. Micro-batch i holds the same streams at every step."""

    def __init__(self, experiment: Experiment, blend: Blend, mesh: Mesh) -> None:
        super().__init__(experiment, blend, mesh)
        readers, num_streams = open_readers(experiment, blend), self.batch.global_size
        self._train, self._streams = readers["train"]
        self.description = f"{blend.description} in {num_streams:,} streams"
        self._valid: WindowReader | None = None
        self._validation_steps = 0
        if "valid" in readers:
            self._valid, streams = readers["valid"]
            wanted = -(-experiment.training.validation_windows // num_streams)
            self._validation_steps = min(wanted, streams.segments_per_epoch)
        self.validation_micro_batches = self._validation_steps * len(self.own(self.batch.num_micro_batches))

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
        for number in self.own(total):
            first = number * size
            key = SegmentKey(self.seed, step, tuple(range(first, first + size))) if draws_masks else None
            inputs, targets = self.read(reader, window_numbers(step, number, size, total))
            yield MicroBatch(inputs, targets, segment=Segment(first, epoch, key))
