"""From a corpus to this data rank's micro-batches: a function of (seed, step, micro-batch number) alone."""

from collections.abc import Iterator

import numpy as np
import torch

from megachar.config.schema import Experiment
from megachar.data.batches import evenly_spaced_starts, read_windows
from megachar.data.corpus import Corpus
from megachar.data.sampler import WindowSampler
from megachar.layers.dropout import DropoutKey
from megachar.parallel.mesh import Mesh
from megachar.parallel.stage import MicroBatch


class MicroBatchSource:
    """The micro-batches of one data rank. Number i of a step belongs to data rank i % data ranks."""

    def __init__(self, experiment: Experiment, corpus: Corpus, mesh: Mesh) -> None:
        self.seed, self.batch, self.mesh = experiment.seed, experiment.batch, mesh
        self.context, self.num_targets = experiment.model.context, experiment.auxiliary.num_targets
        self.draws_masks = experiment.model.dropout > 0
        self._train = corpus.split("train").tokens
        window = self.context + self.num_targets
        order = experiment.data.order
        self._sampler = WindowSampler(len(self._train), window, self.context, experiment.seed, order)
        self._valid: np.ndarray | None = None
        self.validation_micro_batches = 0
        if "valid" in corpus.split_names:
            self._valid = corpus.split("valid").tokens
            unit = self.batch.micro_size * mesh.topology.data_size
            count = -(-experiment.training.validation_windows // unit) * unit
            self.validation_micro_batches = count // unit
            self._valid_starts = evenly_spaced_starts(len(self._valid), window, count)

    def training(self, step: int) -> Iterator[MicroBatch]:
        """The micro-batches of a step."""
        total = self.batch.num_micro_batches
        for number in range(self.mesh.at.data, total, self.mesh.topology.data_size):
            starts = self._sampler.starts(step, number, self.batch.micro_size, total)
            key = DropoutKey(self.seed, step, number) if self.draws_masks else None
            yield self._read(self._train, starts, key)

    def validation(self) -> Iterator[MicroBatch]:
        """`validation_micro_batches` micro-batches: the same windows every time, spread evenly over the valid split."""
        assert self._valid is not None
        size, ranks = self.batch.micro_size, self.mesh.topology.data_size
        for number in range(self.mesh.at.data, self.validation_micro_batches * ranks, ranks):
            yield self._read(self._valid, self._valid_starts[number * size : (number + 1) * size], None)

    def _read(self, tokens: np.ndarray, starts: np.ndarray, key: DropoutKey | None) -> MicroBatch:
        inputs, targets = read_windows(tokens, starts, self.context, self.num_targets)
        return MicroBatch(self._place(inputs), self._place(targets), key)

    def _place(self, symbols: np.ndarray) -> torch.Tensor:
        """On the device, without waiting for what the device is doing."""
        tensor = torch.from_numpy(symbols)
        if self.mesh.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.mesh.device, non_blocking=True)
