"""The matrix of layouts: saved on x, resumed on y, with the largest difference in each cell.

    python -m tests.parallel.matrix                  # every layout with every other, in real processes over gloo
    python -m tests.parallel.matrix --optimizer sgd

Every layout trains a few steps, saves, and trains on: the run that never moved. Every checkpoint is resumed on every
layout. Its weights and optimizer state must be those of the checkpoint, element by element, and what follows is
compared with the run that never moved: losses of all layers, and all weights and optimizer state at the end. Layouts
differ in precision as well: what is saved is fp32 always, so the move itself is exact there too.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from megachar.config.deepspeed import load_engine_config
from megachar.config.experiment import DeepSpeedFile, Experiment
from megachar.data.vocabulary import ByteVocabulary
from megachar.parallel.engine import TrainingEngine
from megachar.parallel.mesh import start
from megachar.parallel.state import EngineState
from megachar.parallel.topology import Topology
from megachar.runs.checkpoints.format import DataRecord, find_checkpoint
from megachar.runs.checkpoints.reading import Position, read_layer
from megachar.runs.checkpoints.resuming import resume_run
from megachar.runs.checkpoints.saving import CheckpointSaver
from megachar.runs.folder import RunFolder, run_folder
from megachar.selftest.reference import micro_batch, weights_at
from megachar.training.setup import build_engine
from tests.parallel.cases import fp16_on_cpu, small_experiment
from tests.parallel.pool import RankPool

SAVED, TOTAL = 2, 5
LOOP_STATE = {"skipped": 2}
DATA = DataRecord(fingerprint="0", description="random symbols")
OPTIMIZERS = {
    "adamw": {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.1},
    "sgd": {"name": "sgd", "learning_rate": 0.5, "momentum": 0.9},
}


@dataclass(frozen=True)
class Layout:
    """Processes and what DeepSpeed does with them."""

    pipe: int = 1
    tensor: int = 1
    data: int = 1
    zero: int = 0
    precision: str = "fp32"

    def __str__(self) -> str:
        parts = [f"{letter}{size}" for letter, size in (("p", self.pipe), ("t", self.tensor), ("d", self.data))]
        precision = () if self.precision == "fp32" else (self.precision,)
        return " ".join((*(part for part in parts if part[1:] != "1"), f"z{self.zero}", *precision))

    @property
    def world_size(self) -> int:
        return self.pipe * self.tensor * self.data

    @property
    def engine(self) -> str | DeepSpeedFile:
        """The DeepSpeed JSON: one that ships, or fp16's with another stage, as a user might write it."""
        if self.precision == "fp16" and self.zero > 1:
            content = load_engine_config("fp16_zero1").raw | {"zero_optimization": {"stage": self.zero}}
            return DeepSpeedFile(path=f"fp16_zero{self.zero}.json", content=content)
        return self.precision if self.zero == 0 else f"{self.precision}_zero{self.zero}"

    def experiment(self, output: Path, optimizer: str) -> Experiment:
        return small_experiment(
            name=str(self).replace(" ", "-"),
            output=str(output),
            deepspeed=self.engine,
            parallel={"pipe": self.pipe, "tensor": self.tensor, "data": self.data},
            optimizer=OPTIMIZERS[optimizer],
        )


LAYOUTS = (
    Layout(),
    Layout(pipe=2),
    Layout(pipe=4, zero=1),
    Layout(tensor=2),
    Layout(data=2, zero=1),
    Layout(data=2, zero=3),
    Layout(data=4, zero=2),
    Layout(pipe=2, tensor=2),
    Layout(pipe=2, data=2, zero=1),
    Layout(tensor=2, data=2, zero=1),
    Layout(tensor=2, data=2, zero=3),
    Layout(data=2, zero=2, precision="bf16"),
    Layout(data=2, zero=3, precision="bf16"),
    Layout(pipe=2, tensor=2, zero=1, precision="bf16"),
    Layout(zero=1, precision="fp16"),
    Layout(pipe=2, data=2, zero=1, precision="fp16"),
    Layout(data=2, zero=2, precision="fp16"),
    Layout(data=2, zero=3, precision="fp16"),
)

Arrays = dict[str, np.ndarray]


@dataclass
class Continued:
    """A run from the saved step to the end."""

    moved: float = 0.0
    """Largest difference of any element from the checkpoint's, right after the move; infinite if one is missing."""
    nats: list[np.ndarray] = field(default_factory=list)
    """Per step: sums of nats (layers, n)."""
    state: Arrays = field(default_factory=dict)
    """Weights and optimizer state at the end."""

    def difference(self, other: "Continued") -> float:
        """The largest difference of any loss, weight or optimizer state, relative to the largest of its tensor."""
        assert self.state.keys() == other.state.keys()
        pairs = [*zip(self.nats, other.nats, strict=True), *((self.state[key], other.state[key]) for key in self.state)]
        return max(largest_difference(mine, its) / float(np.abs(its).max() or 1.0) for mine, its in pairs)


def largest_difference(mine: np.ndarray, its: np.ndarray) -> float:
    difference = float(np.abs(mine.astype(np.float64) - its).max()) if mine.shape == its.shape else float("inf")
    return difference if np.isfinite(difference) else float("inf")


def save_case(values: dict[str, Any]) -> Continued:
    """On a rank: train, save, and train on."""
    experiment = Experiment.model_validate(values)
    with _able(experiment):
        return _save_and_go_on(experiment)


def _save_and_go_on(experiment: Experiment) -> Continued:
    engine, state = _build(experiment)
    _train(experiment, engine, range(SAVED))
    saver = CheckpointSaver(run_folder(experiment), state, experiment, DATA, ByteVocabulary(), lambda saved: None)
    saver.save(SAVED, loop_state=LOOP_STATE)
    continued = Continued()
    for step in range(SAVED, TOTAL):
        continued.nats += _train(experiment, engine, range(step, step + 1))
        saver.poll()
    saver.finish()
    continued.state = _whole_state(state)
    return continued


def resume_case(values: dict[str, Any], sources: Sequence[Path]) -> list[Continued]:
    """On a rank: resume each of these runs and train to the end, all in one engine."""
    experiment = Experiment.model_validate(values)
    with _able(experiment):
        return _resume_all(experiment, sources)


def _resume_all(experiment: Experiment, sources: Sequence[Path]) -> list[Continued]:
    engine, state = _build(experiment)
    first_scaling, found = state.loss_scaler, []
    for source in sources:
        resumed = resume_run(RunFolder(source), state, experiment, DATA, ByteVocabulary())
        assert resumed.position == Position(SAVED, LOOP_STATE, SAVED * experiment.batch.global_size)
        moved = _difference_from_checkpoint(state, RunFolder(source))
        saved_scaling = find_checkpoint(RunFolder(source)).manifest.loss_scaler
        assert state.loss_scaler == (first_scaling and (saved_scaling or first_scaling))
        nats = _train(experiment, engine, range(SAVED, TOTAL))
        found.append(Continued(moved, nats, _whole_state(state)))
    return found


def merged(outcomes: list[Continued]) -> Continued:
    """Rank 0's losses, the state that all ranks hold between them, the largest difference any of them saw."""
    whole: Arrays = {}
    for outcome in outcomes:
        whole |= outcome.state
    return Continued(max(outcome.moved for outcome in outcomes), outcomes[0].nats, whole)


def _able(experiment: Experiment) -> AbstractContextManager[None]:
    return fp16_on_cpu() if load_engine_config(experiment.deepspeed).precision == "fp16" else nullcontext()


def _build(experiment: Experiment) -> tuple[TrainingEngine, EngineState]:
    parallel = experiment.parallel
    mesh = start(Topology(parallel.pipe, parallel.data, parallel.tensor), torch.device("cpu"))
    engine = build_engine(experiment, mesh)
    return engine, EngineState(engine, experiment.optimizer.state_keys)


def _train(experiment: Experiment, engine: TrainingEngine, steps: range) -> list[np.ndarray]:
    mesh = engine.mesh
    mine = range(mesh.at.data, experiment.batch.num_micro_batches, mesh.topology.data_size)
    nats = []
    for step in steps:
        batches = [micro_batch(experiment, step, number) for number in mine]
        engine.train_step(batches, weights_at(experiment, step), experiment.optimizer.learning_rate)
        nats.append(engine.gather_losses().nats)
    return nats


def _whole_state(state: EngineState) -> Arrays:
    return {
        name: tensor.numpy().copy()
        for _, weights, states in state.export()
        for name, tensor in (weights | states).items()
    }


def _difference_from_checkpoint(state: EngineState, folder: RunFolder) -> float:
    checkpoint, largest = find_checkpoint(folder), 0.0
    if state.optimizer_steps != checkpoint.manifest.optimizer_steps:
        return float("inf")
    for layer, *exported in state.export():
        for kind, tensors in zip(("weights", "optimizer"), exported, strict=True):
            saved = read_layer(checkpoint, kind, layer) if tensors else {}
            if tensors.keys() != saved.keys():
                return float("inf")
            for name, tensor in tensors.items():
                largest = max(largest, largest_difference(tensor.numpy(), saved[name].numpy()))
    return largest


def run_matrix(
    layouts: Sequence[Layout], pairs: Sequence[tuple[Layout, Layout]], output: Path, optimizer: str,
    ranks: Callable[[int], RankPool],
) -> dict[tuple[Layout, Layout], tuple[float, float]]:  # fmt: skip
    """For each pair saved on, resumed on: the difference right after the move, and that of what follows."""
    original: dict[Layout, Continued] = {}
    for layout in layouts:
        if any(saved == layout for saved, _ in pairs):
            values = layout.experiment(output, optimizer).model_dump()
            original[layout] = merged(ranks(layout.world_size).run(save_case, values))
    cells = {}
    for layout in layouts:
        saved_on = [saved for saved, resumed in pairs if resumed == layout]
        if not saved_on:
            continue
        sources = [run_folder(saved.experiment(output, optimizer)).path for saved in saved_on]
        values = layout.experiment(output, optimizer).model_dump()
        by_rank = ranks(layout.world_size).run(resume_case, values, sources)
        for saved, outcomes in zip(saved_on, zip(*by_rank, strict=True), strict=True):
            continued = merged(list(outcomes))
            cells[saved, layout] = continued.moved, continued.difference(original[saved])
    return cells


def main() -> int:
    """Print the matrix; 1 if a cell is beyond what is promised."""
    parser = argparse.ArgumentParser(description="Save on every layout, resume on every other.")
    parser.add_argument("--optimizer", choices=sorted(OPTIMIZERS), default="adamw")
    arguments = parser.parse_args()
    pairs = [(saved, resumed) for saved in LAYOUTS for resumed in LAYOUTS]
    with tempfile.TemporaryDirectory() as folder:
        cells = run_matrix(LAYOUTS, pairs, Path(folder), arguments.optimizer, RankPool)
    table = Table("saved on \\ resumed on", *map(str, LAYOUTS))
    for saved in LAYOUTS:
        row = (cells[saved, resumed] for resumed in LAYOUTS)
        table.add_row(str(saved), *(f"[red]{moved:.0e}[/red]" if moved else _figure(after) for moved, after in row))
    console = Console(width=160)
    console.print("p pipe, t tensor, d data, z ZeRO stage; each cell: the largest difference of any loss, weight or "
                  "optimizer state from the run that never moved, relative to the largest of its tensor; 0: none at "
                  "all", table)  # fmt: skip
    wrong = [pair for pair, values in cells.items() if values[0] or values[1] > allowed(*pair)]
    equal = sum(moved == 0 for moved, _ in cells.values())
    console.print(
        f"{arguments.optimizer}: {equal} of {len(cells)} pairs equal the checkpoint element by element after the move; "
        f"{len(cells) - len(wrong)} go on as promised; {sum(after == 0 for _, after in cells.values())} bit by bit"
    )
    for saved, resumed in wrong:
        console.print(f"beyond what is promised: {saved} -> {resumed}: {cells[saved, resumed]}", style="red")
    return int(bool(wrong))


def allowed(saved: Layout, resumed: Layout) -> float:
    """The relative difference that may be: none where only the pipe size is another."""
    keys = [(layout.precision, layout.tensor, layout.data, layout.zero) for layout in (saved, resumed)]
    if keys[0] == keys[1]:
        return 0.0
    # Of 16 bits, steps are rounded otherwise, which Adam makes the most of; that nothing was lost shows before them.
    return {"fp32": 1e-5, "fp16": 0.2, "bf16": 0.4}[min(saved.precision, resumed.precision)]  # "bf16" is the first


def _figure(difference: float) -> str:
    return f"{difference:.0e}" if difference else "0"


if __name__ == "__main__":
    sys.exit(main())
