"""A transformer's micro-batches: windows."""

from collections.abc import Iterator

from megachar.config.experiment import Experiment
from megachar.config.sections.layout import BatchConfig
from megachar.data.blend import Blend
from megachar.data.reader import WindowReader
from megachar.data.sampler import window_numbers
from megachar.families.transformer.corpus import num_validation_windows, open_readers
from megachar.layers.dropout import DropoutKey
from megachar.parallel.mesh import Mesh
from megachar.parallel.stage import MicroBatch
from megachar.training.micro_batches import MicroBatchSource


def build_source(experiment: Experiment, blend: Blend, mesh: Mesh) -> MicroBatchSource:
    """See `training.micro_batches`."""
    mask_seed = experiment.seed if experiment.model.drops_out else None
    readers, num_valid = open_readers(experiment, blend), num_validation_windows(experiment)
    return WindowSource(readers["train"], readers.get("valid"), num_valid, blend, experiment.batch, mask_seed, mesh)


class WindowSource(MicroBatchSource):
    """Windows of a transformer, which have nothing to do with each other."""

    def __init__(
        self,
        train: WindowReader,
        valid: WindowReader | None,
        num_valid: int,
        blend: Blend,
        batch: BatchConfig,
        mask_seed: int | None,
        mesh: Mesh,
    ) -> None:
        """`num_valid`: windows of one validation, if there is any to read."""
        super().__init__(blend, batch, mask_seed, mesh)
        self._train, self._valid = train, valid
        self.description = "; ".join(filter(None, (blend.description, train.note)))
        self.validation_micro_batches = num_valid // (batch.micro_size * mesh.topology.data_size) if valid else 0

    def training(self, step: int) -> Iterator[MicroBatch]:
        """See `MicroBatchSource`."""
        total = self.batch.num_micro_batches
        for number in self.own(total):
            key = DropoutKey(self.mask_seed, step, number) if self.mask_seed is not None else None
            windows = window_numbers(step, number, self.batch.micro_size, total, self.window_offset)
            yield MicroBatch(*self.read(self._train, windows), key)

    def validation(self) -> Iterator[MicroBatch]:
        """Windows spread evenly over the valid split."""
        assert self._valid is not None
        total = self.validation_micro_batches * self.mesh.topology.data_size
        for number in self.own(total):
            yield MicroBatch(*self.read(self._valid, window_numbers(0, number, self.batch.micro_size, total)))
