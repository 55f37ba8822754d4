"""Training speed of recurrent models against plain loops. Contenders take turns in one run; ratios are of pairs.

    python tools/benchmark_recurrent.py                                    # all cells, 256 and 512 units, one thread
    python tools/benchmark_recurrent.py --cell mlstm --hidden-size 1900 --embedding-size 400 --device cuda

A turn is one segment forward and backward, embedding, classifier and loss included. Contenders: megachar's model; the
same equations character by character in Python under autograd; and for the LSTM torch.nn.LSTM. Text is random symbols.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from megachar.families.recurrent.initialization import initialize
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.settings import RecurrentConfig

CELLS = ("mlstm", "lstm", "milstm")
Nats = Callable[[Tensor, Tensor], Tensor]
"""From inputs and targets (b, t) to their sum of nats."""


def main(
    cell: Annotated[list[str] | None, typer.Option(help="mlstm, lstm, milstm; all without")] = None,
    hidden_size: Annotated[list[int] | None, typer.Option(help="units; 256 and 512 without")] = None,
    embedding_size: Annotated[int, typer.Option(help="0: one-hot inputs")] = 0,
    vocabulary_size: int = 205,
    streams: int = 100,
    segment_length: int = 100,
    threads: int = 1,
    rounds: Annotated[int, typer.Option(min=1, help="turns of every contender")] = 5,
    device: str = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
) -> None:
    """Print characters/s of every contender and the ratio to each of megachar's, turn by turn."""
    torch.set_num_threads(threads)
    table = Table("cell", "units", "contender", "characters/s: lowest", "median", "highest", "megachar's / its: median")
    for size in hidden_size or (256, 512):
        for name in cell or CELLS:
            config = RecurrentConfig.model_validate(
                {"cell": name, "hidden_size": size, "embedding_size": embedding_size,
                 "vocabulary_size": vocabulary_size, "segment_length": segment_length, "orthogonal_scale": 0.7}
            )  # fmt: skip
            rates = compare(config, streams, rounds, torch.device(device), precision)
            own = rates["megachar"]
            for contender, column in rates.items():
                ratio = statistics.median(mine / its for mine, its in zip(own, column, strict=True))
                spread = (min(column), statistics.median(column), max(column))
                table.add_row(name, str(size), contender, *(f"{rate:,.0f}" for rate in spread), f"{ratio:.2f}")
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {threads} threads"
    Console().print(table, f"{where}, {precision}, {streams} streams x {segment_length} characters", sep="\n")


def compare(
    config: RecurrentConfig, streams: int, rounds: int, device: torch.device, precision: str
) -> dict[str, list[float]]:
    """Characters/s of every turn of every contender, after one turn of warm-up."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = initialize(RecurrentModel(config), seed=1).to(device, dtype)
    contenders: dict[str, tuple[nn.Module, Nats]] = {
        "megachar": (model, lambda inputs, targets: model.nats(inputs, targets, model.new_state(streams))[0]),
        "Python loop": (model, lambda inputs, targets: python_loop(model, inputs, targets)),
    }
    if config.cell == "lstm":
        theirs = TorchLstm(config).to(device, dtype)
        contenders["torch.nn.LSTM"] = (theirs, theirs)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        text = torch.randint(config.vocabulary_size, (streams, config.segment_length + 1), device=device)
        for name, (module, nats) in contenders.items():
            module.zero_grad()
            _wait_for(device)
            since = time.perf_counter()
            nats(text[:, :-1], text[:, 1:]).backward()
            _wait_for(device)
            if turn:
                rates[name].append(streams * config.segment_length / (time.perf_counter() - since))
    return rates


def python_loop(model: RecurrentModel, inputs: Tensor, targets: Tensor) -> Tensor:
    """The equations of a model of one layer, one character after another."""
    layer: Any = model.layers[0]
    n = model.config.hidden_size
    hidden = cell = model.classifier.weight.new_zeros(inputs.shape[0], n)
    reads = []
    for symbols in inputs.t():
        if model.embedding is None:
            x = F.embedding(symbols, layer.input.weight.t())
        else:
            x = model.embedding(symbols) @ layer.input.weight.t()
        if layer.cell == "mlstm":
            h = (x[:, 4 * n :] * (hidden @ layer.factor.weight.t())) @ layer.recurrent.weight.t()
        else:
            h = hidden @ layer.recurrent.weight.t()
        gates = x[:, : 4 * n] + h
        if layer.cell == "milstm":
            gates = layer.alpha * x * h + layer.beta_input * x + layer.beta_hidden * h
        i, f, o, u = (gates + layer.bias).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * u.tanh()
        hidden = cell.tanh() * o.sigmoid()
        reads.append(hidden)
    return model.loss(model.classifier(torch.stack(reads)), targets.t())


class TorchLstm(nn.Module):
    """torch.nn.LSTM between the same embedding and classifier."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.model = RecurrentModel(config)
        self.lstm = nn.LSTM(config.embedding_size or config.vocabulary_size, config.hidden_size)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of nats."""
        reads, _ = self.lstm(F.embedding(inputs.t(), self.model.table()))
        return self.model.loss(self.model.classifier(reads), targets.t())


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    typer.run(main)
