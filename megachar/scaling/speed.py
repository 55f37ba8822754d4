"""How fast the models of a ladder train on this machine, and how long the ladder takes."""

import time
from collections.abc import Sequence

import torch

from megachar.config.experiment import Experiment
from megachar.families.transformer.initialization import initialize
from megachar.families.transformer.model import Transformer
from megachar.losses.auxiliary import layer_weights, target_weights
from megachar.optimizers.schedules import trunk_end
from megachar.scaling.ladder import LadderRun, shares_trunks
from megachar.training.optimizer import build_optimizer

SECONDS = 0.5
"""That each size is timed for."""


def characters_per_second(experiment: Experiment) -> float:
    """Of one process with the threads that torch has, on the CPU, after a step of warm-up; all layers predict."""
    model = initialize(Transformer(experiment.model, experiment.auxiliary), experiment.seed)  # type: ignore[arg-type]
    optimizer = build_optimizer(experiment.optimizer, experiment.model, model.named_parameters())
    weights = layer_weights(experiment.auxiliary, experiment.model.num_layers, experiment.training.total_steps, 0)
    rows, context = experiment.batch.micro_size, experiment.model.window_length
    symbols = experiment.model.vocabulary_size
    inputs = torch.randint(symbols, (rows, context))
    targets = torch.randint(symbols, (rows, context, len(target_weights(experiment.auxiliary))))
    steps, since = -1, time.perf_counter()
    while steps < 1 or time.perf_counter() - since < SECONDS:
        if steps == 0:
            since = time.perf_counter()
        optimizer.zero_grad()
        model.losses(inputs, targets, experiment.auxiliary, weights)[0].backward()
        optimizer.step()
        steps += 1
    return steps * rows * context / (time.perf_counter() - since)


def trained_characters(runs: Sequence[LadderRun]) -> dict[str, int]:
    """Name of a run -> characters that it trains on itself: without those of the run that it goes on from."""
    shared, found = shares_trunks(runs) is None, dict[str, int]()
    begun: dict[str, int] = {}
    for run in runs:
        experiment, characters = run.run.experiment, run.account.characters
        found[run.name] = characters - begun.get(run.trunk, 0)
        steps = trunk_end(experiment.schedule, experiment.training.total_steps)
        if shared and steps is not None:
            begun[run.trunk] = steps * characters // experiment.training.total_steps
    return found
