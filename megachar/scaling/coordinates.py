"""The coordinate check: whether an update changes hidden states and logits as much in wide and deep models as in small.

Yang et al. (2022), appendix D.1: with sound rules for width and depth the size of an update does not depend on them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np
import torch
from torch import Tensor

from megachar.base import mpl
from megachar.base.errors import ConfigError
from megachar.base.pictures import legend, series, style
from megachar.config.checks import check_experiment
from megachar.config.experiment import Experiment
from megachar.data.blend import Blend
from megachar.data.sampler import window_numbers
from megachar.families.transformer.initialization import initialize
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig
from megachar.losses.auxiliary import layer_weights
from megachar.training.optimizer import build_optimizer

Direction = Literal["width", "depth"]
What = Literal["hidden", "logits"]
DIRECTIONS: Final[tuple[Direction, ...]] = ("width", "depth")
WHATS: Final[tuple[What, ...]] = ("hidden", "logits")


@dataclass(frozen=True)
class Sizes:
    """What the first steps of one model changed, on text that is not trained on: root mean squares over its entries."""

    direction: Direction
    size: int
    """Width or number of layers."""
    rules: bool
    """Whether the rules for width and depth are on."""
    hidden: float
    """Of the change of the hidden states after the last block."""
    logits: float
    """Of the change of the logits of the first target."""


def sized(experiment: Experiment, direction: Direction, size: int, base: int, rules: bool) -> Experiment:
    """The experiment with a model of another width or depth, whose base is of size `base` if there are rules.

    Heads keep their width, and the feed-forward layer its ratio to the width.

    Raises:
        ConfigError: its model is no transformer, or cannot have this size.
    """
    if not experiment.model.has_rules_of_scale:
        raise ConfigError(
            f"model.family = {experiment.model.family} has no rules for width and depth; take a transformer"
        )
    model = cast(TransformerConfig, experiment.model)
    head_width = model.width // model.num_heads
    changes: dict[str, object] = {"base_width": None, "base_layers": None, "base_head_width": None}
    if direction == "width":
        if size % head_width or size * model.feed_forward_width % model.width:
            raise ConfigError(f"a width of {size} is no multiple of {head_width}, which one head has; take another")
        changes |= {"width": size, "num_heads": size // head_width, "base_width": base if rules else None,
                    "feed_forward_width": size * model.feed_forward_width // model.width}  # fmt: skip
    else:
        changes |= {"num_layers": size, "base_layers": base if rules else None}
    one_rank = experiment.parallel.model_copy(update={"pipe": 1, "tensor": 1, "data": 1})
    found = experiment.model_copy(update={"model": model.model_copy(update=changes), "parallel": one_rank})
    check_experiment(found)
    return found


def check_coordinates(
    experiment: Experiment,
    sizes: Mapping[Direction, Sequence[int]],
    num_steps: int,
) -> list[Sizes]:
    """Train models of all sizes for some steps, with and without the rules; the smallest size is the base.

    Args:
        experiment: a transformer with its data, rates and batch.
        sizes: widths, depths, or both.
        num_steps: steps of each model.

    Raises:
        ConfigError: a size does not fit the experiment.
    """
    blend = Blend.open(experiment.data)
    todo = [(direction, size, rules, sized(experiment, direction, size, min(every), rules))
            for direction, every in sizes.items() for size in every for rules in (False, True)]  # fmt: skip
    found = []
    for direction, size, rules, one in todo:
        hidden, logits = _updates(one, blend, num_steps)
        found.append(Sizes(direction, size, rules, hidden, logits))
    return found


def slope(found: Sequence[Sizes], direction: Direction, rules: bool, what: What) -> float:
    """Slope of the log of the update's size on the log of width or depth; 0: the update does not depend on it."""
    points = [(one.size, getattr(one, what)) for one in found if (one.direction, one.rules) == (direction, rules)]
    sizes, values = np.log(np.array(points, dtype=np.float64)).T
    return float(np.polyfit(sizes, values, 1)[0])


def _updates(experiment: Experiment, blend: Blend, num_steps: int) -> tuple[float, float]:
    """Sizes of what the steps changed: hidden states, logits."""
    model = initialize(Transformer(experiment.model, experiment.auxiliary), experiment.seed)  # type: ignore[arg-type]
    optimizer = build_optimizer(experiment.optimizer, experiment.model, model.named_parameters())
    weights = layer_weights(experiment.auxiliary, experiment.model.num_layers, num_steps, 0)
    first, *others = _batches(experiment, blend, num_steps + 1)
    before = _outputs(model, first[0])
    for inputs, targets in others:
        optimizer.zero_grad()
        loss, _ = model.losses(inputs, targets, experiment.auxiliary, weights)
        loss.backward()
        optimizer.step()
    changes = [after - earlier for after, earlier in zip(_outputs(model, first[0]), before, strict=True)]
    hidden, logits = (float(change.square().mean().sqrt()) for change in changes)
    return hidden, logits


@torch.no_grad()
def _outputs(model: Transformer, inputs: Tensor) -> tuple[Tensor, Tensor]:
    hidden = model.hidden(inputs)
    return hidden, model.head(hidden)


def _batches(experiment: Experiment, blend: Blend, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (b, t) and targets (b, t, n) of the first steps of a run."""
    reader = experiment.model.part("corpus").open_readers(experiment, blend)["train"]
    for step in range(count):
        inputs, targets = reader.read(window_numbers(step, 0, experiment.batch.global_size, 1))
        yield torch.from_numpy(inputs), torch.from_numpy(targets)


@style()
def draw_coordinates(found: Sequence[Sizes]) -> "mpl.figure.Figure":
    """Sizes of updates over width and over depth, of hidden states and of logits, with the rules and without."""
    directions = [direction for direction in DIRECTIONS if any(one.direction == direction for one in found)]
    figure = mpl.figure.Figure(figsize=(4.5 * len(directions), 6.5), layout="constrained")
    panels = figure.subplots(2, len(directions), squeeze=False, sharey="row")
    for row, what in zip(panels, WHATS, strict=True):
        for axes, direction in zip(row, directions, strict=True):
            for number, rules in enumerate((True, False)):
                own = [one for one in found if (one.direction, one.rules) == (direction, rules)]
                label = f"{'with' if rules else 'without'} rules, slope {slope(found, direction, rules, what):.2f}"
                values = [getattr(one, what) for one in own]
                axes.plot([one.size for one in own], values, label=label, **series(number).line())
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.margins(y=0.25)  # for the legend
            axes.xaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
            axes.set_xlabel("width" if direction == "width" else "layers")
            axes.set_ylabel(f"update of {'hidden states' if what == 'hidden' else 'logits'}")
            legend(axes)
    figure.suptitle("Coordinate check")
    return figure
