"""Every preset loads under its name, says what it is, and has the size and recipe of its paper."""

import pytest

from megachar.config.loading import PRESETS, load_experiment, preset_names
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.counting import count_parameters
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.families.transformer.settings import TransformerConfig
from megachar.optimizers.schedules import ScheduleConfig, learning_rate
from megachar.optimizers.sgd import SgdConfig


def test_names() -> None:
    assert preset_names() == sorted(preset_names())
    assert {"t12", "t12-modern", "t64", "t64-modern"} < set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_under_its_own_name(name: str) -> None:
    assert load_experiment(name).name == name


@pytest.mark.parametrize("name", preset_names())
def test_presets_use_gpus_where_there_are_some(name: str) -> None:
    """All but the quickstart, which is to take the same two minutes anywhere."""
    assert load_experiment(name).device == ("cpu" if name == "quickstart" else "auto")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_opens_with_what_it_is(name: str) -> None:
    first = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


@pytest.mark.parametrize(("name", "num_layers"), [("t12", 12), ("t64", 64)])
def test_the_papers_recipe(name: str, num_layers: int) -> None:
    """Al-Rfou et al. (2019): momentum 0.99, rate 0.003 constant, dropout 0.55, 4M steps of 16 x 512."""
    experiment = load_experiment(name)
    assert experiment.model == TransformerConfig(
        num_layers=num_layers, width=512, num_heads=2, feed_forward_width=2048, context=512, vocabulary_size=256,
        positions="learned", dropout=0.55,
    )  # fmt: skip
    assert experiment.optimizer == SgdConfig(learning_rate=0.003, momentum=0.99, weight_decay=0.0)
    assert experiment.schedule == ScheduleConfig(shape="constant", warmup_steps=0)
    assert (experiment.batch.micro_size, experiment.batch.global_size) == (16, 16)
    assert experiment.training.total_steps == 4_000_000
    assert experiment.training.gradient_clipping == 0.0
    assert experiment.data.order == "random"
    assert experiment.deepspeed.startswith("fp32")
    assert experiment.auxiliary == AuxiliaryConfig(
        multiple_positions=True, intermediate_layers=True, decay="drop", interval_steps=None, num_targets=2,
        extra_target_weight=0.5, reduction="sum",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["t12-modern", "t64-modern"])
def test_modern_presets_keep_the_papers_model(name: str) -> None:
    paper, modern = load_experiment(name.removesuffix("-modern")).model, load_experiment(name).model
    assert modern.model_copy(update={"num_heads": 2, "dropout": 0.55}) == paper


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mlstm-20m-rmsprop", 20_394_600),
        ("mlstm-20m", 20_394_600),
        ("mlstm-22m", 22_348_305),
        ("mlstm-22m-dropout", 22_348_305),
        ("mlstm-46m", 45_495_405),
        ("mlstm-46m-text8", 44_925_627),
        ("mlstm-450-text8", 1_087_227),
        ("lstm-512-text8", 1_119_771),
    ],
)
def test_the_recurrent_papers_counts(name: str, count: int) -> None:
    experiment = load_experiment(name)
    assert sum(part.training for part in count_parameters(experiment.model, experiment.auxiliary)) == count


@pytest.mark.parametrize(("name", "other"), [("stacked-lstm-20m", "mlstm-20m"), ("milstm-22m", "mlstm-22m")])
def test_controls_are_as_large(name: str, other: str) -> None:
    of = [load_experiment(preset) for preset in (name, other)]
    counts = [sum(part.training for part in count_parameters(one.model, one.auxiliary)) for one in of]
    assert counts[0] == pytest.approx(counts[1], rel=1e-3)


def test_the_recurrent_papers_recipes() -> None:
    """Krause et al. (2016): updates of length 10, x 0.9999 each, at least 0.01, 100 streams of 100 steps, 4 epochs; and
    Adam from 1e-3 to 7e-5 over 200 steps of truncated back-propagation, variational dropout by model."""
    early, adam = load_experiment("mlstm-20m-rmsprop"), load_experiment("mlstm-20m")
    assert early.training.total_steps * early.batch.global_size * early.model.window_length == 4 * 95_000_000
    rates = [learning_rate(early.schedule, early.optimizer.learning_rate, 10**6, step) for step in (0, 1, 10**6)]
    assert rates == [10.0, pytest.approx(9.999), pytest.approx(0.01)]
    stacked = load_experiment("stacked-lstm-20m")
    rates = [learning_rate(stacked.schedule, stacked.optimizer.learning_rate, 10**6, step) for step in (0, 10**6)]
    assert rates == [2.0, pytest.approx(0.01)]
    steps = adam.training.total_steps
    rates = [learning_rate(adam.schedule, adam.optimizer.learning_rate, steps, step) for step in (0, steps - 1)]
    assert rates == [pytest.approx(1e-3), pytest.approx(7e-5)]
    assert (adam.batch.global_size, adam.model.window_length) == (100, 200)
    assert isinstance(adam.model, RecurrentConfig)
    assert (adam.model.orthogonal_scale, adam.model.forget_bias) == (0.7, 3.0)
    for name, hidden, embedding in (("mlstm-22m", 0.0, 0.0), ("mlstm-22m-dropout", 0.2, 0.2), ("mlstm-46m", 0.2, 0.5),
                                    ("mlstm-46m-wikitext2", 0.5, 0.5)):  # fmt: skip
        experiment = load_experiment(name)
        assert isinstance(experiment.model, RecurrentConfig)
        assert (experiment.model.hidden_dropout, experiment.model.embedding_dropout) == (hidden, embedding)
        assert bool(experiment.training.early_stopping_patience) == (hidden == 0.0)


def test_a_preset_on_a_preset() -> None:
    """t64-modern changes some of t12-modern and keeps the rest."""
    base, derived = load_experiment("t12-modern"), load_experiment("t64-modern")
    assert derived.model.num_layers == 64
    assert derived.optimizer.learning_rate == 0.0003
    assert derived.optimizer.model_dump(exclude={"learning_rate"}) == base.optimizer.model_dump(
        exclude={"learning_rate"}
    )
    assert derived.parallel.pipe == 2
