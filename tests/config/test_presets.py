import pytest

from megachar.config.loading import PRESETS, load_experiment, preset_names
from megachar.config.schema import AuxiliaryConfig, ScheduleConfig, SgdConfig, TransformerConfig


def test_names() -> None:
    assert preset_names() == sorted(preset_names())
    assert {"t12", "t12-modern", "t64", "t64-modern"} < set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_under_its_own_name(name: str) -> None:
    assert load_experiment(name).name == name


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


def test_a_preset_on_a_preset() -> None:
    """t64-modern changes some of t12-modern and keeps the rest."""
    base, derived = load_experiment("t12-modern"), load_experiment("t64-modern")
    assert derived.model.num_layers == 64
    assert derived.optimizer.learning_rate == 0.0003
    assert derived.optimizer.model_dump(exclude={"learning_rate"}) == base.optimizer.model_dump(
        exclude={"learning_rate"}
    )
    assert derived.parallel.pipe == 2
