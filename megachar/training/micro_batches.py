"""From corpora to this data rank's micro-batches: a function of (seed, step, micro-batch number) alone."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch

from megachar.base.errors import DataError
from megachar.config.experiment import Experiment
from megachar.config.sections.layout import BatchConfig
from megachar.data.blend import Blend
from megachar.data.reader import WindowReader
from megachar.data.sampler import Int64, UInt64
from megachar.parallel.mesh import Mesh, fail_together
from megachar.parallel.stage import MicroBatch


class MicroBatchSource(ABC):
    """The micro-batches of one data rank. Number i of a step belongs to data rank i % data ranks."""

    description: str
    """What is read, for people."""
    validation_micro_batches: int
    """Of one validation, on each data rank; 0 where the corpora have no valid split."""
    window_offset: int = 0
    """Step s reads windows from number s x `batch.global_size` + this on. Not 0 once a run has changed its batch."""

    def __init__(self, blend: Blend, batch: BatchConfig, mask_seed: int | None, mesh: Mesh) -> None:
        """`mask_seed`: of the dropout masks; None where none are drawn."""
        self._blend, self.batch, self.mask_seed, self.mesh = blend, batch, mask_seed, mesh
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

    def own(self, total: int) -> range:
        """The numbers of this data rank's micro-batches, of so many."""
        return range(self.mesh.at.data, total, self.mesh.topology.data_size)

    def read(self, reader: WindowReader, windows: UInt64) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (b, t) and targets (b, t, n) of windows (b,), on the device."""
        inputs, targets = reader.read(windows)
        return self._place(inputs), self._place(targets)

    def _place(self, symbols: Int64) -> torch.Tensor:
        """On the device, without waiting for what the device is doing."""
        tensor = torch.from_numpy(symbols)
        if self.mesh.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.mesh.device, non_blocking=True)


def build_source(experiment: Experiment, blend: Blend, mesh: Mesh) -> MicroBatchSource:
    """What the experiment's model reads.

    Raises:
        DataError: a corpus is too short.
    """
    source: MicroBatchSource = experiment.model.part("source").build_source(experiment, blend, mesh)
    return source
