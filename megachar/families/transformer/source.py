"""A transformer's micro-batches: windows."""

from collections.abc import Iterator

from megachar.config.experiment import Experiment
from megachar.data.blend import Blend
from megachar.data.sampler import window_numbers
from megachar.families.transformer.corpus import num_validation_windows, open_readers
from megachar.layers.dropout import DropoutKey
from megachar.parallel.mesh import Mesh
from megachar.parallel.stage import MicroBatch
from megachar.training.micro_batches import MicroBatchSource


def build_source(experiment: Experiment, blend: Blend, mesh: Mesh) -> MicroBatchSource:
    """See `training.micro_batches`."""
    return WindowSource(experiment, blend, mesh)


class WindowSource(MicroBatchSource):
    """Windows of a transformer, which have nothing to do with each other."""

    def __init__(self, experiment: Experiment, blend: Blend, mesh: Mesh) -> None:
        super().__init__(experiment, blend, mesh)
        readers = open_readers(experiment, blend)
        self._train, self._valid = readers["train"], readers.get("valid")
        self.description = "; ".join(filter(None, (blend.description, self._train.note)))
        count = num_validation_windows(experiment) if self._valid is not None else 0
        self.validation_micro_batches = count // (self.batch.micro_size * mesh.topology.data_size)

    def training(self, step: int) -> Iterator[MicroBatch]:
        """See `MicroBatchSource`."""
        total = self.batch.num_micro_batches
        for number in self.own(total):
            key = DropoutKey(self.seed, step, number) if self.draws_masks else None
            windows = window_numbers(step, number, self.batch.micro_size, total, self.window_offset)
            yield MicroBatch(*self.read(self._train, windows), key)

    def validation(self) -> Iterator[MicroBatch]:
        """Windows spread evenly over the valid split."""
        assert self._valid is not None
        total = self.validation_micro_batches * self.mesh.topology.data_size
        for number in self.own(total):
            yield MicroBatch(*self.read(self._valid, window_numbers(0, number, self.batch.micro_size, total)))
