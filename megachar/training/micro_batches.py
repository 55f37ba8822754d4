"""From corpora to this data rank's micro-batches: a function of (seed, step, micro-batch number) alone."""

from collections.abc import Iterator

import torch

from megachar.config.schema import Experiment
from megachar.data.blend import Blend
from megachar.data.reader import WindowReader, training_reader, validation_reader
from megachar.data.sampler import Int64, UInt64, window_numbers
from megachar.errors import DataError
from megachar.layers.dropout import DropoutKey
from megachar.parallel.mesh import Mesh, fail_together
from megachar.parallel.stage import MicroBatch


class MicroBatchSource:
    """The micro-batches of one data rank. Number i of a step belongs to data rank i % data ranks."""

    def __init__(self, experiment: Experiment, blend: Blend, mesh: Mesh) -> None:
        self.seed, self.batch, self.mesh, self._blend = experiment.seed, experiment.batch, mesh, blend
        self.draws_masks = experiment.model.dropout > 0
        data, context, num_targets = experiment.data, experiment.model.context, experiment.auxiliary.num_targets
        self._train = training_reader(blend, data, context, num_targets, experiment.seed)
        self.description = "; ".join(filter(None, (blend.description, self._train.note)))
        """What is read, for people."""
        self._valid: WindowReader | None = None
        self.validation_micro_batches = 0
        if "valid" in blend.split_names:
            unit = self.batch.micro_size * mesh.topology.data_size
            count = -(-experiment.training.validation_windows // unit) * unit
            self.validation_micro_batches = count // unit
            self._valid = validation_reader(blend, data, context, num_targets, count)

    def training(self, step: int) -> Iterator[MicroBatch]:
        """The micro-batches of a step."""
        total = self.batch.num_micro_batches
        for number in range(self.mesh.at.data, total, self.mesh.topology.data_size):
            key = DropoutKey(self.seed, step, number) if self.draws_masks else None
            yield self._read(self._train, window_numbers(step, number, self.batch.micro_size, total), key)

    def validation(self) -> Iterator[MicroBatch]:
        """`validation_micro_batches` micro-batches: the same windows every time, spread evenly over the valid split."""
        assert self._valid is not None
        ranks = self.mesh.topology.data_size
        total = self.validation_micro_batches * ranks
        for number in range(self.mesh.at.data, total, ranks):
            yield self._read(self._valid, window_numbers(0, number, self.batch.micro_size, total), None)

    def check_unchanged(self) -> None:
        """Raise `DataError` on every rank if any of them sees other files than those it opened. All must call it."""
        error: DataError | None = None
        try:
            self._blend.check_unchanged()
        except DataError as failure:
            error = failure
        fail_together(self.mesh, error)

    def _read(self, reader: WindowReader, windows: UInt64, key: DropoutKey | None) -> MicroBatch:
        inputs, targets = reader.read(windows)
        return MicroBatch(self._place(inputs), self._place(targets), key)

    def _place(self, symbols: Int64) -> torch.Tensor:
        """On the device, without waiting for what the device is doing."""
        tensor = torch.from_numpy(symbols)
        if self.mesh.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.mesh.device, non_blocking=True)
