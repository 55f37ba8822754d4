"""`megachar analyze ablation` and `sizes`, from records written by hand."""

import json
import math
from pathlib import Path

import pytest

from megachar.analysis.ablation import analyze_ablation, compare_with_full
from megachar.analysis.result import Analysis, read_analysis
from megachar.analysis.sizes import analyze_sizes
from megachar.analysis.sweeps import group_by_seed, read_runs
from megachar.base.errors import ConfigError, DataError
from megachar.config.loading import save_experiment
from megachar.families.counting import count_parameters
from megachar.runs.folder import RunFolder, run_folder
from megachar.runs.sweep_folder import find_runs, plan_file, record_plan
from megachar.sweeps.sweep import SweepRun, load_sweep, plan_runs
from tests.cli import test_commands
from tests.cli.test_commands import Call, refused
from tests.config.conftest import BASE
from tests.runs.test_plots import check_picture

call = test_commands.call
BITS = {"full": 2.2, "without-multiple-positions": 3.1, "without-intermediate-layers": 2.25,
        "without-multiple-targets": 2.19, "sinusoidal-positions": 2.3, "plain-sgd": 2.6}  # fmt: skip


def record(run: SweepRun, *bits: float) -> Path:
    """A run's folder with a validation every 100 steps, and 1,000 characters a second."""
    folder, experiment = run_folder(run.experiment), run.experiment
    folder.path.mkdir(parents=True)
    save_experiment(experiment, folder.experiment_file)
    lines = []
    for step, value in enumerate(bits, start=1):
        lines.append({"kind": "train", "step": 100 * step, "bits_per_character": value, "characters_per_second": 1e3})
        lines.append({"kind": "validation", "step": 100 * step, "bits_per_character": value})
    folder.metrics_file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder.path


def plan(folder: Path, sweep: str, *overrides: str) -> tuple[SweepRun, ...]:
    base = BASE if sweep == "ablation" else None
    return plan_runs(load_sweep(sweep), base, [f"output={folder}", "training.total_steps=400", *overrides])


@pytest.fixture
def ablation(tmp_path: Path) -> Path:
    """The folder of a finished ablation; every run was 0.1 better 100 steps before its end."""
    for run in plan(tmp_path, "ablation"):
        bits = BITS[run.name]
        record(run, bits + 1, bits + 0.5, bits - 0.1, bits)
    return tmp_path / "ablation"


def cells(analysis: Analysis, column: str) -> list[object]:
    table = analysis.details or analysis.table
    place = [found.name for found in table.columns].index(column)
    return [row[place] for row in table.rows]


def test_ablation(ablation: Path) -> None:
    """The full model, then the others by their bits; the paper's figures by what differs, not by names."""
    renamed = ablation / "x"
    (ablation / "sinusoidal-positions").rename(renamed)
    analysis = analyze_ablation(read_runs(find_runs([ablation])))
    assert cells(analysis, "run") == [
        "full", "without-multiple-targets", "without-intermediate-layers", "x", "plain-sgd",
        "without-multiple-positions"]  # fmt: skip
    assert cells(analysis, "final (bits)") == [2.2, 2.19, 2.25, 2.3, 2.6, 3.1]
    assert cells(analysis, "difference (bits)") == pytest.approx([0, -0.01, 0.05, 0.1, 0.4, 0.9])
    assert cells(analysis, "best (bits)") == pytest.approx([2.1, 2.09, 2.15, 2.2, 2.5, 3.0])
    assert cells(analysis, "paper (bits)") == [1.062, 1.068, 1.158, 1.069, 1.065, 2.482]
    above = cells(analysis, "paper: difference (bits)")
    assert above == pytest.approx([0, 0.006, 0.096, 0.007, 0.003, 1.42])
    assert cells(analysis, "what differs")[:4] == [
        "", "auxiliary.num_targets=1", "auxiliary.intermediate_layers=False", "model.positions=sinusoidal"]  # fmt: skip
    assert cells(analysis, "training (s)") == pytest.approx([400 * 32 * 64 / 1e3] * 6)
    full = plan(ablation, "ablation")[0].experiment
    parameters = sum(part.training for part in count_parameters(full.model, full.auxiliary))
    assert cells(analysis, "parameters")[0] == parameters
    assert "Not finished" not in analysis.how_to_read


def test_ablation_over_seeds(tmp_path: Path) -> None:
    """Runs that differ in their seeds are one model: the mean, and its deviation."""
    for seed, shift in (("1", -0.1), ("2", 0.1)):
        for run in plan(tmp_path / seed, "ablation", f"seed={seed}")[:2]:
            record(run, 4.0, 3.5, 3.2, BITS[run.name] + shift)
    analysis = analyze_ablation(read_runs(find_runs([tmp_path / "1" / "ablation", tmp_path / "2" / "ablation"])))
    assert cells(analysis, "run") == ["full (2 seeds)", "without-multiple-positions (2 seeds)"]
    assert cells(analysis, "final (bits)") == pytest.approx([2.2, 3.1])
    assert cells(analysis, "+- (bits)") == pytest.approx([0.1 * math.sqrt(2)] * 2)
    assert "one standard deviation over the seeds" in analysis.how_to_read
    assert len(analysis.subjects) == 4


def test_the_full_model_is_known_by_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    variants = {"a": {"auxiliary.num_targets": 1}, "full-of-hope": {"model.positions": "sinusoidal"}, "z": {}}
    path.write_text(json.dumps({"name": "mine", "base": BASE, "variants": variants}))
    for run in plan_runs(load_sweep(str(path)), None, [f"output={tmp_path}"]):
        record(run, 2.0)
    compared = compare_with_full(read_runs(find_runs([tmp_path / "mine"])))
    assert [(ablation.variant.label, ablation.paper_bits) for ablation in compared] == [
        ("z", 1.062), ("a", 1.068), ("full-of-hope", 1.069)]  # fmt: skip


def test_a_part_of_ones_own(tmp_path: Path) -> None:
    """A variant that the paper does not have; that which is called full is the full one."""
    path = tmp_path / "mine.yaml"
    variants = {"dropout": {"model.dropout": 0.1}, "full": {}}
    path.write_text(json.dumps({"name": "mine", "base": BASE, "variants": variants}))
    for run in plan_runs(load_sweep(str(path)), None, [f"output={tmp_path}"]):
        record(run, 2.0)
    analysis = analyze_ablation(read_runs(find_runs([tmp_path / "mine"])))
    assert cells(analysis, "run") == ["full", "dropout"]
    assert cells(analysis, "paper (bits)") == [1.062, None]
    assert analysis.how_to_read.endswith(
        "Not finished, so not to be compared yet: dropout (step 100), full (step 100)."
    )


def test_sizes(tmp_path: Path) -> None:
    """One line per architecture, smallest first; the best validation counts."""
    for number, run in enumerate(reversed(plan(tmp_path, "sizes"))):
        record(run, 3.0, 2.0 + 0.05 * number, 2.5, 2.6)
    analysis = analyze_sizes(read_runs(find_runs([tmp_path / "sizes"])))
    assert cells(analysis, "architecture") == ["mLSTM"] * 4 + ["stacked LSTM (2 layers)"] * 4
    assert cells(analysis, "size") == [f"{size} hidden" for size in ("200", "400", "800", "1,900", "159", "294", "556",
                                                                   "1,270")]  # fmt: skip
    assert cells(analysis, "parameters")[:4] == [508000, 1416000, 4432000, 20976000]
    assert cells(analysis, "best validation (bits)") == pytest.approx([2.35, 2.25, 2.15, 2.05, 2.3, 2.2, 2.1, 2.0])
    assert cells(analysis, "final (bits)") == pytest.approx([2.6] * 8)
    assert cells(analysis, "training (s)")[0] == pytest.approx(400 * 100 * 200 / 1e3)


def test_sizes_of_transformers(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"name": "mine", "base": BASE, "grid": {"model.num_layers": [4, 2], "seed": [1, 2]}}))
    for number, run in enumerate(plan_runs(load_sweep(str(path)), None, [f"output={tmp_path}"])):
        record(run, 2.0 + number)
    analysis = analyze_sizes(read_runs(find_runs([tmp_path / "mine"])))
    assert cells(analysis, "architecture") == ["transformer"] * 2
    assert cells(analysis, "size") == ["2 layers of 64", "4 layers of 64"]
    assert cells(analysis, "best validation (bits)") == pytest.approx([4.5, 2.5])
    assert cells(analysis, "+- (bits)") == pytest.approx([math.sqrt(0.5)] * 2)


def test_lines_of_sizes_join_the_best_of_each(tmp_path: Path) -> None:
    """Two rates at three sizes, one of which is nearly that of another: no line goes back, or up and down a size."""
    path = tmp_path / "mine.yaml"
    grid = {"model.num_layers": [2, 4], "model.context": [64, 66], "optimizer.learning_rate": [0.001, 0.003]}
    path.write_text(json.dumps({"name": "mine", "base": BASE, "grid": grid}))
    for number, run in enumerate(plan_runs(load_sweep(str(path)), None, [f"output={tmp_path}"])):
        record(run, 3.0 - 0.1 * number)
    runs = read_runs(find_runs([tmp_path / "mine"]))
    analysis = analyze_sizes(runs)
    assert len({run.parameters for run in runs}) == 4
    (axes,) = analysis.figure.axes
    joined, others = axes.lines
    assert joined.get_ydata() == pytest.approx([2.7, 2.3])
    assert others.get_linestyle() == "None"
    assert sorted(others.get_ydata()) == pytest.approx([2.4, 2.5, 2.6, 2.8, 2.9, 3.0])
    assert "A line joins the best run of each size" in analysis.how_to_read
    same = [run for run in runs if run.experiment.model.num_layers == 2]
    with pytest.raises(DataError, match="no architecture is there at two sizes"):
        analyze_sizes(same)


def test_the_commands(ablation: Path, tmp_path: Path, call: Call) -> None:
    for run in plan(tmp_path, "sizes"):
        record(run, 3.0, 2.5)
    for name in ("ablation", "sizes"):
        done = call("analyze", name, str(tmp_path / name))
        assert done.status == 0, done.err
        assert "How to read it: " in done.out
        saved = read_analysis(next((tmp_path / name / "analyses").glob("*.json")))
        check_picture(saved.figure)
        assert len(saved.csv.read_text().splitlines()) == len(saved.table.rows) + 1
    chosen = [str(ablation / name) for name in ("full", "plain-sgd")]
    done = call("analyze", "ablation", *chosen, "--output", str(tmp_path / "here"))
    assert done.status == 0, done.err
    assert len(list((tmp_path / "here").iterdir())) == 3
    assert len(find_runs([ablation])) == 6  # the folder of the results is no run


def test_what_is_refused(ablation: Path, tmp_path: Path, call: Call) -> None:
    refused(
        call("analyze", "ablation", "/nowhere"), r"ConfigError: /nowhere is neither a run folder nor a folder of runs.*"
    )
    refused(call("analyze", "sizes", str(ablation / "full")), r"DataError: no architecture is there at two sizes; .*")
    runs = find_runs([ablation])
    with pytest.raises(ConfigError, match="is given twice"):
        read_runs([*runs, runs[0]])
    with pytest.raises(
        DataError, match="1 model cannot be compared; name the full run and one or more that lack a part"
    ):
        compare_with_full(read_runs(runs[:1]))
    with pytest.raises(
        DataError, match="which of plain-sgd, sinusoidal-positions is the full model is not clear; name"
    ):
        compare_with_full(read_runs(runs[1:3]))
    (ablation / "full" / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match=r"full has no validation yet; train until training.validation_interval"):
        read_runs([ablation / "full"])


def test_runs_of_one_seed_are_kept_apart_by_all_else(ablation: Path) -> None:
    assert [len(variant.runs) for variant in group_by_seed(read_runs(find_runs([ablation])))] == [1] * 6


GRID = {"optimizer.learning_rate": [0.003, 0.0004, 0.01], "seed": [1, 2]}
LEARNING_RATE_BITS = {0.003: 2.0, 0.0004: 3.0, 0.01: 4.0}


def variants_at_points(folder: Path, variants: dict[str, object], grid: dict[str, list[object]]) -> list[SweepRun]:
    """Every run, recorded: the bits are those of the learning rate, and half a bit more with one target."""
    path = folder / "rates.yaml"
    path.write_text(json.dumps({"name": "rates", "base": BASE, "variants": variants, "grid": grid}))
    sweep = load_sweep(str(path))
    runs = plan_runs(sweep, None, [f"output={folder}", "training.total_steps=100"])
    for run in runs:
        alone, seed = 0.5 * (run.experiment.auxiliary.num_targets == 1), run.experiment.seed
        record(run, LEARNING_RATE_BITS.get(run.experiment.optimizer.learning_rate, 2.0) + alone + 0.1 * seed)
    record_plan(folder / "rates", sweep.points, {run.name: run.own for run in runs})
    return list(runs)


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("full", ["full", "all"])
def test_variants_at_every_point_of_a_grid(tmp_path: Path, full: str, planned: bool) -> None:
    """Each against the full model of its own point; runs of an older version, without a plan, by the name `full`."""
    variants_at_points(tmp_path, {"one-target": {"auxiliary.num_targets": 1}, full: {}}, GRID)
    if not planned:
        plan_file(tmp_path / "rates").unlink()
    runs = read_runs(find_runs([tmp_path / "rates"]))
    if not planned and full == "all":
        with pytest.raises(DataError, match=r"which of all-learning_rate-0\.0004 .* is the full model is not clear"):
            analyze_ablation(runs)
        return
    analysis = analyze_ablation(runs)
    assert cells(analysis, "run") == [f"{name}-learning_rate-{rate} (2 seeds)" for rate in ("0.0004", "0.003", "0.01")
                                      for name in (full, "one-target")]  # fmt: skip
    assert cells(analysis, "point of the grid") == [f"learning_rate={rate}" for rate in (0.0004, 0.003, 0.01)
                                                    for _ in range(2)]  # fmt: skip
    assert cells(analysis, "final (bits)") == pytest.approx([3.15, 3.65, 2.15, 2.65, 4.15, 4.65])
    assert cells(analysis, "difference (bits)") == pytest.approx([0, 0.5] * 3)
    assert cells(analysis, "paper: difference (bits)") == pytest.approx([0, 0.006] * 3)
    assert cells(analysis, "what differs") == ["", "auxiliary.num_targets=1"] * 3
    assert "against the full model at the same point of the grid" in analysis.how_to_read
    assert [axes.get_title("left") for axes in analysis.figure.axes[::2]] == [
        "learning_rate=0.0004", "learning_rate=0.003", "learning_rate=0.01"]  # fmt: skip


def test_a_point_without_its_full_model_is_left_out_and_said(tmp_path: Path) -> None:
    """Also where another model there has every part, and could be taken for it."""
    variants: dict[str, object] = {"full": {}, "dropout": {"model.dropout": 0.1}}
    for run in variants_at_points(tmp_path, variants, {"optimizer.learning_rate": [0.003, 0.01]}):
        if run.name == "full-learning_rate-0.01":
            (run_folder(run.experiment).metrics_file).unlink()
    analysis = analyze_ablation(read_runs(find_runs([tmp_path / "rates"])))
    assert cells(analysis, "run") == ["full-learning_rate-0.003", "dropout-learning_rate-0.003"]
    assert ("Left out, for there is no full model at the same point of the grid: dropout-learning_rate-0.01."
            in analysis.how_to_read)  # fmt: skip


def test_a_grid_over_a_part_of_the_model(tmp_path: Path) -> None:
    """At one point the full model lacks a part: there it is the one called so. A grid alone has no points."""
    grid: dict[str, list[object]] = {"auxiliary.num_targets": [2, 1]}
    variants_at_points(tmp_path, {"full": {}, "sinusoidal": {"model.positions": "sinusoidal"}}, grid)
    analysis = analyze_ablation(read_runs(find_runs([tmp_path / "rates"])))
    assert cells(analysis, "run") == ["full-num_targets-1", "sinusoidal-num_targets-1",
                                      "full-num_targets-2", "sinusoidal-num_targets-2"]  # fmt: skip
    assert cells(analysis, "paper (bits)") == [None, None, 1.062, 1.069]
    (tmp_path / "alone").mkdir()
    variants_at_points(tmp_path / "alone", {}, grid)
    alone = analyze_ablation(read_runs(find_runs([tmp_path / "alone" / "rates"])))
    assert cells(alone, "run") == ["num_targets-2", "num_targets-1"]


def test_a_grid_of_full_models_alone_is_no_ablation(tmp_path: Path) -> None:
    variants_at_points(tmp_path, {"full": {}}, {"optimizer.learning_rate": [0.003, 0.01]})
    with pytest.raises(DataError, match=r"at no point of the grid \(optimizer.learning_rate\) is there a model that"):
        analyze_ablation(read_runs(find_runs([tmp_path / "rates"])))


@pytest.mark.parametrize("name", ["ablation", "sizes"])
def test_what_is_left_out_is_said(ablation: Path, tmp_path: Path, call: Call, name: str) -> None:
    """Runs that have not begun, or have no validation yet, and damaged lines."""
    if name == "sizes":
        for run in plan(tmp_path, "sizes"):
            record(run, 3.0, 2.5)
    second, first, *_ = find_runs([tmp_path / name])
    record_plan(tmp_path / name, [], {"later": ["seed=7"]})
    RunFolder(first).metrics_file.write_text("")
    with RunFolder(second).metrics_file.open("a") as file:
        file.write("no record\n{}\n")
    done = call("analyze", name, str(tmp_path / name))
    assert done.status == 0, done.err
    assert f"{tmp_path / name} has runs that have not begun: later" in done.err
    assert f"left out: {first} has no validation yet" in done.err
    assert f"{second}/metrics.jsonl: 2 lines are damaged or cut off and left out." in " ".join(done.out.split())
