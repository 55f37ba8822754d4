"""All layouts are tried, and those are legal that an experiment may have."""

import random

import pytest

from megachar.base.errors import ConfigError
from megachar.config.checks import check_experiment
from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment, parse_experiment
from megachar.planning.layouts import all_layouts, refusal
from tests.planning.layouts import layout_of

ENGINES = ("bf16_zero1", "bf16_zero2", "bf16_zero2_offload", "bf16_zero3", "fp32", "fp32_zero1", "fp32_zero3")


@pytest.mark.parametrize("preset", ["t64-modern", "small", "mlstm-20m", "mlstm-20m-rmsprop"])
def test_a_layout_is_refused_as_an_experiment_with_its_settings_is(preset: str, draw: random.Random) -> None:
    experiment = load_experiment(preset)
    verdicts = set()
    for _ in range(60):
        sizes = [draw.choice([1, 1, 2, 3, 4, 8, 64, 65]) for _ in range(3)]
        layout = layout_of(experiment, *sizes, draw.choice([1, 2, 4, 5, 16]), draw.choice(ENGINES),
                           draw.choice([0, 0, 1, 7]))  # fmt: skip
        values = experiment.model_dump()
        values["parallel"] = layout.parallel.model_dump()
        values["batch"]["micro_size"], values["deepspeed"] = layout.micro_size, layout.deepspeed
        expected = None
        try:
            check_experiment(parse_experiment(values, "drawn"))
        except ConfigError as error:
            expected = str(error)
        assert refusal(experiment, layout) == expected
        verdicts.add(expected is None)
    assert False in verdicts


def test_all_layouts_on_six_devices_are_tried() -> None:
    experiment = load_experiment("small", ["batch.global_size=12", "batch.micro_size=3"])
    found = [layout for layout, _ in all_layouts(experiment, 6)]
    grids = {layout.grid for layout in found}
    assert {grid for grid in grids if grid[0] * grid[1] * grid[2] == 6} == {
        (p, t, d) for p in (1, 2, 3, 6) for t in (1, 2, 3, 6) for d in (1, 2, 3, 6) if p * t * d == 6
    }
    assert {p * t * d for p, t, d in grids} == {1, 2, 3, 6}
    assert {layout.micro_size for layout in found} == {1, 2, 3, 4, 6, 12}
    assert {str(layout.deepspeed) for layout in found} == {
        "bf16_zero1", "bf16_zero2", "bf16_zero2_offload", "bf16_zero3", "bf16_zero3_offload",
    }  # fmt: skip
    assert {layout.parallel.activation_checkpoint_interval for layout in found} == {0, 1, 4}
    assert len(set(map(repr, found))) == len(found)


def test_what_is_given_stays() -> None:
    experiment = load_experiment("t64", ["parallel.pipe=4", "batch.micro_size=2"])
    found = [layout for layout, _ in all_layouts(experiment, 8, ["parallel.pipe", "batch.micro_size", "deepspeed"])]
    assert {(layout.grid[0], layout.micro_size, layout.deepspeed) for layout in found} == {(4, 2, "fp32_zero1")}
    assert {layout.grid[1:] for layout in found} == {(1, 1), (1, 2), (2, 1)}


def test_an_applied_layout_is_what_was_tried(t64: Experiment) -> None:
    applied = layout_of(t64, 4, 2, 8, 2, "bf16_zero1", 4).applied_to(t64)
    assert (applied.parallel.pipe, applied.batch.micro_size, applied.deepspeed) == (4, 2, "bf16_zero1")
    assert applied.model == t64.model
