"""What a sweep file means: its runs, their names and settings, and every refusal."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from megachar.base.errors import ConfigError
from megachar.config.differences import differences, flatten
from megachar.config.loading import load_experiment
from megachar.config.sections.section import Role
from megachar.config.text import parse_override
from megachar.families.counting import count_parameters
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.runs.preflight import load_run
from megachar.sweeps.sweep import SWEEPS, SweepRun, _override, load_sweep, plan_runs, sweep_names
from tests.config.conftest import BASE

VARIANTS = {"full": None, "small": {"model": {"width": 32}}, "slow": {"optimizer.learning_rate": 0.001}}


def write(folder: Path, **values: Any) -> str:
    """A sweep file with these values."""
    path = folder / "sweep.yaml"
    path.write_text(json.dumps({"name": "mine", "base": BASE, **values}))
    return str(path)


def runs_of(folder: Path, *overrides: str, **values: Any) -> tuple[SweepRun, ...]:
    return plan_runs(load_sweep(write(folder, **values)), None, overrides)


def test_variants(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, variants=VARIANTS)
    base = load_experiment(BASE)
    assert [run.name for run in runs] == ["full", "small", "slow"]
    own = [differences(base, run.experiment, Role.NAMES) for run in runs]
    assert own == [{}, {"model.width": (64, 32)}, {"optimizer.learning_rate": (0.004, 0.001)}]
    output = str(Path("runs/mine").absolute())
    assert [(run.experiment.output, run.experiment.name) for run in runs] == [(output, run.name) for run in runs]
    assert [run.own for run in runs] == [(), ("model.width=32",), ("optimizer.learning_rate=0.001",)]


def test_a_run_is_what_its_overrides_make(tmp_path: Path) -> None:
    """What is recorded of a run leads to the same experiment."""
    for run in runs_of(tmp_path, "seed=7", shared={"training.total_steps": 99}, variants=VARIANTS):
        assert load_run(run.source, run.overrides) == run.experiment


def test_what_is_laid_over_what(tmp_path: Path) -> None:
    """The base, what is shared, the command line, the variant."""
    shared = {"schedule": {"warmup_steps": 5}, "training.total_steps": 50, "model.width": 128}
    runs = runs_of(tmp_path, "training.total_steps=60", "model.width=96", shared=shared, variants=VARIANTS)
    assert {run.experiment.schedule.warmup_steps for run in runs} == {5}
    assert {run.experiment.training.total_steps for run in runs} == {60}
    assert [run.experiment.model.width for run in runs] == [96, 32, 96]  # type: ignore[union-attr]


def test_a_variant_with_another_optimizer_drops_the_settings_of_the_one_before(tmp_path: Path) -> None:
    variants = {"full": {}, "sgd": {"optimizer": {"name": "sgd", "momentum": 0.5}}}
    adamw, sgd = runs_of(tmp_path, "optimizer.beta1=0.8", variants=variants)
    assert adamw.experiment.optimizer.model_dump()["beta1"] == 0.8
    assert sgd.experiment.optimizer.model_dump() == {
        "name": "sgd", "momentum": 0.5, "learning_rate": 0.003, "weight_decay": 0.0}  # fmt: skip


def test_a_grid(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, grid={"optimizer.learning_rate": [1e-3, 3e-5], "seed": [1, 2]})
    assert [run.name for run in runs] == [
        "learning_rate-0.001-seed-1", "learning_rate-0.001-seed-2", "learning_rate-3e-05-seed-1",
        "learning_rate-3e-05-seed-2"]  # fmt: skip
    assert [(run.experiment.optimizer.learning_rate, run.experiment.seed) for run in runs] == [
        (0.001, 1), (0.001, 2), (3e-5, 1), (3e-5, 2)]  # fmt: skip


def test_every_variant_at_every_point(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, variants={"full": {}, "one-target": {"auxiliary.num_targets": 1}}, grid={"seed": [3, 4]})
    assert [(run.name, run.experiment.auxiliary.num_targets, run.experiment.seed) for run in runs] == [
        ("full-seed-3", 2, 3), ("full-seed-4", 2, 4),
        ("one-target-seed-3", 1, 3), ("one-target-seed-4", 1, 4)]  # fmt: skip


def test_names_of_settings_that_end_alike(tmp_path: Path) -> None:
    grid = {"model.dropout": [0.1], "schedule.shape": ["linear"], "model.local_offsets": [[[1, 2]], []]}
    names = [run.name for run in runs_of(tmp_path, grid=grid)]
    assert names == ["dropout-0.1-shape-linear-local_offsets-1-2", "dropout-0.1-shape-linear-local_offsets-none"]
    shared = {"optimizer.name": "normalized_rmsprop", "parallel.pipe": 1}
    grid = {"optimizer.decay": [0.5], "auxiliary.decay": ["linear"], "seed": [1]}
    assert runs_of(tmp_path, shared=shared, grid=grid)[0].name == "optimizer.decay-0.5-auxiliary.decay-linear-seed-1"


def test_a_sweep_with_another_base_and_name(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, base="", variants=VARIANTS))
    runs = plan_runs(sweep, "small", ["name=other", "output=/results", "model.local_offsets=[]", "model.num_heads=2"])
    assert {run.source for run in runs} == {"small"}
    assert [run.experiment.output for run in runs] == ["/results/other"] * 3


def test_values_survive_as_overrides(draw: random.Random) -> None:
    words = ["true", "null", "1e-3", "0x1", "a b", "", "1_000", "yes", "a=b", "a,b", "[1]", "t12", "a/x.yaml", "#", "é"]
    values: list[Any] = [*words, True, None, 3, 1e-7, 0.1, [[1, 2], []], [{"path": "a", "weight": 0.5}]]
    values += [draw.uniform(-1, 1) * 10 ** draw.randint(-9, 9) for _ in range(20)]
    for value in values:
        assert parse_override(_override("section.key", value)) == {"section": {"key": value}}
        if isinstance(value, str):
            assert parse_override(_override("data.path", value)) == {"data": {"path": value}}
    assert _override("model.positions", "sinusoidal") == "model.positions=sinusoidal"


def test_text_in_a_sweep_stays_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"name: 007\nbase: {BASE}\nshared: {{output: 1.10, data.path: 1e3}}\n"
        "variants: {1: {seed: 2}, 1.0: {seed: 3}, 0x10: }\ngrid: {deepspeed: [fp32, fp32_zero1]}\n"
    )
    sweep = load_sweep(str(path))
    assert sweep.name == "007"
    assert list(sweep.variants) == ["1", "1.0", "0x10"]
    assert sweep.shared == {"output": "1.10", "data.path": "1e3"}
    path.write_text(f"name: 007\nbase: {BASE}\nvariants: {{1: {{seed: 2}}, 1.0: {{seed: 3}}, 2024_11_27: }}\n")
    runs = plan_runs(load_sweep(str(path)), None, ["output=/data/exp #3"])
    assert [run.name for run in runs] == ["1", "1.0", "2024_11_27"]
    assert {run.experiment.output for run in runs} == {"/data/exp #3/007"}


def test_text_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path = null is no text; write one, or leave the setting out"):
        runs_of(tmp_path, shared={"data.path": None}, variants=VARIANTS)


@pytest.mark.parametrize("name", sweep_names())
def test_every_sweep_that_ships_opens_with_what_it_is(name: str) -> None:
    first = (SWEEPS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20
    assert load_sweep(name).name == name


@pytest.mark.parametrize("base", ["small", "quickstart", "t12", "t64", "t64-modern", BASE])
def test_the_ablation(base: str) -> None:
    """From any base, each variant lacks one part of the full model and nothing else."""
    full, *others = plan_runs(load_sweep("ablation"), base, [])
    auxiliary = full.experiment.auxiliary
    assert (auxiliary.multiple_positions, auxiliary.intermediate_layers, auxiliary.num_targets) == (True, True, 2)
    lacks = {run.name: differences(full.experiment, run.experiment, Role.NAMES) for run in others}
    optimizer = {key.partition(".")[0] for key in lacks.pop("plain-sgd")}
    assert optimizer == {"optimizer"}
    assert lacks == {
        "without-multiple-positions": {"auxiliary.multiple_positions": (True, False)},
        "without-intermediate-layers": {"auxiliary.intermediate_layers": (True, False)},
        "without-multiple-targets": {"auxiliary.num_targets": (2, 1)},
        "sinusoidal-positions": {"model.positions": ("learned", "sinusoidal")},
    }
    assert others[-1].experiment.optimizer.model_dump()["momentum"] == 0


def test_the_families_are_as_large_as_each_other() -> None:
    runs = plan_runs(load_sweep("families"), None, [])
    counts = [
        sum(part.training for part in count_parameters(run.experiment.model, run.experiment.auxiliary)) for run in runs
    ]
    assert [run.name for run in runs] == ["mlstm", "lstm", "stacked-lstm", "transformer"]
    assert max(counts) < 1.01 * min(counts)


def test_the_sizes_match_in_pairs() -> None:
    runs = plan_runs(load_sweep("sizes"), None, [])
    models = [run.experiment.model for run in runs]
    counts = [sum(part.training for part in count_parameters(run.experiment.model, run.experiment.auxiliary))
              for run in runs]  # fmt: skip
    assert len(runs) == 8
    for i in range(0, len(runs), 2):
        mlstm, stacked = models[i : i + 2]
        assert isinstance(mlstm, RecurrentConfig)
        assert isinstance(stacked, RecurrentConfig)
        assert (mlstm.cell, mlstm.num_layers, stacked.cell, stacked.num_layers) == ("mlstm", 1, "lstm", 2)
        assert counts[i + 1] == pytest.approx(counts[i], rel=0.01)
        assert runs[i].name == f"mlstm-{mlstm.hidden_size}"
        assert runs[i + 1].name == f"stacked-lstm-{stacked.hidden_size}"
    kept = [differences(runs[0].experiment, run.experiment, Role.NAMES) for run in runs]
    assert set().union(*kept) == {"model.cell", "model.num_layers", "model.hidden_size"}


def test_flatten() -> None:
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": None}}, "f.g": 3, "h": {}}) == {
        "a": 1, "b.c": [2], "b.d.e": None, "f.g": 3}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"sweep.yaml has no runs; give it `variants:` or `grid:`"),
        ({"variant": {"a": {}}}, r"does not make a valid sweep:\n  variant: unknown key; did you mean 'variants'\?"),
        ({"zzz": 1}, r"zzz: unknown key; known here: name, base, shared, variants, grid"),
        ({"name": "a/b", "variants": VARIANTS}, r"name = 'a/b': String should match pattern"),
        ({"variants": {"a/b": {}}}, r"variants.a/b.\[key\] = 'a/b': String should match pattern"),
        ({"variants": {"a": 3}}, r"variants.a = 3: Input should be a valid dictionary"),
        ({"grid": {"seed": []}}, r"grid.seed = \[\]: List should have at least 1 item"),
        ({"grid": {"seed": 3}}, r"grid.seed = 3: Input should be a valid list"),
        ({"variants": {"a": {"output": "b"}}}, r"sets output, which the sweep gives each of its runs; set "),
        ({"grid": {"name": ["a"]}}, r"sets name, which the sweep gives each of its runs"),
        ({"shared": {"name": "a"}, "variants": VARIANTS}, r"sets name, which the sweep gives each of its runs"),
    ],
)  # fmt: skip
def test_files_that_are_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep(write(tmp_path, **values))


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        ({"base": "", "variants": VARIANTS}, [], r"the sweep mine names no base; give it a preset .* with --base"),
        ({"base": "t13", "variants": VARIANTS}, [], r"run full of the sweep mine: no preset is called 't13'"),
        ({"variants": {"a": {}, "b": {"model.width": 63}}}, [],
         r"run b of the sweep mine: model.width = 63 is not divisible by model.num_heads = 2"),
        ({"variants": {"a": {"modle.width": 64}}}, [], r"run a of the sweep mine: .*modle: unknown key"),
        ({"variants": VARIANTS}, ["seed"], r"override 'seed' is not of the form key=value"),
        ({"variants": VARIANTS}, ["name=a/b"], r"name = 'a/b': String should match pattern"),
        ({"grid": {"seed": [1, 2]}}, ["seed=3"],
         r"seed=3 reaches no run: every run of the sweep mine sets seed for itself; leave it out, or change a copy"),
        ({"variants": {"a": {"model.width": 32}, "b": {"model.width": 16}}}, ["model.width=64"], "reaches no run"),
        ({"variants": {"a": {}, "b": {"seed": 3}}}, ["seed=3"], r"the runs a and b have the same settings; leave out"),
        ({"grid": {"seed": [1, 1]}}, [], r"two runs of the sweep mine would be called seed-1: .*; make them variants"),
        ({"variants": {"a": {"seed": 3}}, "grid": {"seed": [1]}}, [],
         r"the grid and the variant a of the sweep mine both set seed; leave one out"),
    ],
)  # fmt: skip
def test_runs_that_are_refused(values: dict[str, Any], overrides: list[str], message: str, tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, **values))
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        plan_runs(sweep, None, overrides)


def test_sweeps_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no sweep is called 'abaltion'; did you mean 'ablation'\? sweeps: ablation"):
        load_sweep("abaltion")
    with pytest.raises(
        ConfigError, match=r"sweep file .*/none.yaml does not exist; write one or name a sweep: ablation"
    ):
        load_sweep(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(ConfigError, match=r"bad.yaml is not readable YAML"):
        load_sweep(str(tmp_path / "bad.yaml"))
