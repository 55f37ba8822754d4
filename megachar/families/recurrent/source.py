"""A recurrent model's micro-batches: segments of streams."""

from collections.abc import Iterator, Mapping

from megachar.config.experiment import Experiment
from megachar.config.sections.layout import BatchConfig
from megachar.data.blend import Blend
from megachar.data.corpus import SplitName
from megachar.data.reader import WindowReader
from megachar.data.sampler import window_numbers
from megachar.data.streams import Streams
from megachar.families.recurrent.corpus import open_readers
from megachar.layers.variational import SegmentKey
from megachar.parallel.mesh import Mesh
from megachar.parallel.stage import MicroBatch, Segment
from megachar.training.micro_batches import MicroBatchSource


def build_source(experiment: Experiment, blend: Blend, mesh: Mesh) -> MicroBatchSource:
    """See `training.micro_batches`."""
    mask_seed = experiment.seed if experiment.model.drops_out else None
    readers, num_windows = open_readers(experiment, blend), experiment.training.validation_windows
    return StreamSource(readers, num_windows, blend, experiment.batch, mask_seed, mesh)


class StreamSource(MicroBatchSource):
    """Segments of a recurrent model's streams. Micro-batch i holds the same streams at every step."""

    def __init__(
        self,
        readers: Mapping[SplitName, tuple[WindowReader, Streams]],
        num_valid: int,
        blend: Blend,
        batch: BatchConfig,
        mask_seed: int | None,
        mesh: Mesh,
    ) -> None:
        """`num_valid`: segments of one validation, if there are so many to read; rounded up to whole steps."""
        super().__init__(blend, batch, mask_seed, mesh)
        self._train, self._streams = readers["train"]
        self.description = f"{blend.description} in {batch.global_size:,} streams"
        self._valid: WindowReader | None = None
        self._validation_steps = 0
        if "valid" in readers:
            self._valid, streams = readers["valid"]
            self._validation_steps = min(-(-num_valid // batch.global_size), streams.segments_per_epoch)
        self.validation_micro_batches = self._validation_steps * len(self.own(batch.num_micro_batches))

    def training(self, step: int) -> Iterator[MicroBatch]:
        """See `MicroBatchSource`."""
        return self._step(self._train, step, self._streams.epoch(step), self.mask_seed)

    def validation(self) -> Iterator[MicroBatch]:
        """The first segments of every stream of the valid split, one after the other."""
        assert self._valid is not None
        for step in range(self._validation_steps):
            yield from self._step(self._valid, step, 0, mask_seed=None)

    def _step(self, reader: WindowReader, step: int, epoch: int, mask_seed: int | None) -> Iterator[MicroBatch]:
        total, size = self.batch.num_micro_batches, self.batch.micro_size
        for number in self.own(total):
            first = number * size
            streams = tuple(range(first, first + size))
            key = SegmentKey(mask_seed, step, streams) if mask_seed is not None else None
            inputs, targets = self.read(reader, window_numbers(step, number, size, total))
            yield MicroBatch(inputs, targets, segment=Segment(first, epoch, key))
