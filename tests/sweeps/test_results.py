"""The table of a sweep's results: what stands in it, in which order, how it is shown, and where it is written."""

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from megachar.base.errors import ConfigError
from megachar.cli.compare import show_results
from megachar.config.loading import save_experiment
from megachar.runs.folder import RunFolder, run_folder
from megachar.runs.ownership import OwnClaim
from megachar.runs.sweep_folder import find_runs, plan_file, read_plan, record_plan
from megachar.sweeps.results import End, Results, read_results, results_file
from megachar.sweeps.sweep import SweepRun, load_sweep, plan_runs
from megachar.watch.failure import Failure
from tests.cli import test_commands
from tests.cli.test_commands import Call, refused
from tests.config.conftest import BASE
from tests.sweeps.test_running import train
from tests.test_screens import WIDTHS, Screen

call = test_commands.call
RUNS = ("full-seed-1", "full-seed-2", "one-target-seed-1", "one-target-seed-2")


@pytest.fixture
def sweep(tmp_path: Path) -> dict[str, SweepRun]:
    """A sweep of four runs of 400 steps, planned, none begun."""
    path = tmp_path / "sweep.yaml"
    variants = {"full": {}, "one-target": {"auxiliary.num_targets": 1}}
    path.write_text(json.dumps({"name": "mine", "base": BASE, "variants": variants, "grid": {"seed": [1, 2]}}))
    loaded = load_sweep(str(path))
    runs = plan_runs(loaded, None, [f"output={tmp_path}"])
    record_plan(tmp_path / "mine", loaded.points, {run.name: run.own for run in runs})
    return {run.name: run for run in runs}


def begin(run: SweepRun, step: int, *bits: float, seconds: float | None = None, **more: Any) -> RunFolder:
    """Train to a checkpoint at `step`, with these validations up to there and 16,384 characters a second."""
    train(run, step)
    folder = run_folder(run.experiment)
    records = []
    for number, value in enumerate(bits, start=1):
        at = step * number // len(bits)
        values = {"step": at, "bits_per_character": value, "characters_per_second": 16384.0, **more}
        if seconds is not None:
            values |= {"seconds": seconds * number / len(bits), "characters": 1000 * at}
        records += [{"kind": "train", **values}, {"kind": "validation", **values}]
    folder.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def fail(folder: RunFolder, later: float) -> None:
    """Record a failure so many seconds after the last metrics."""
    path = Failure("death", (0,), "here", 3, "gone").write(folder.failures)
    os.utime(path, (at := folder.metrics_file.stat().st_mtime + later, at))


def rows(results: Results) -> list[tuple[str, str, float | None]]:
    return [(row.run, row.end.value, row.bits) for row in results.rows]


def test_finished_runs_by_their_best_validation_and_the_others_after_them(
    sweep: dict[str, SweepRun], tmp_path: Path
) -> None:
    """Of a record with its own figures of time and characters, those; of one without, those of its steps."""
    begin(sweep["full-seed-1"], 400, 2.5, 2.3, 2.4)
    begin(sweep["full-seed-2"], 400, 2.5, 2.2, seconds=7200)
    begin(sweep["one-target-seed-1"], 200, 1.5, float("nan"))
    results = read_results(tmp_path / "mine")
    assert rows(results) == [("full-seed-2", "finished", 2.2), ("full-seed-1", "finished", 2.3),
                             ("one-target-seed-1", "stopped", 1.5),
                             ("one-target-seed-2", "not begun", None)]  # fmt: skip
    assert [row.own for row in results.rows] == [("seed=2",), ("seed=1",), ("num_targets=1", "seed=1"),
                                                 ("num_targets=1", "seed=2")]  # fmt: skip
    figures = [(row.outcome.characters, row.outcome.seconds) for row in results.rows if row.outcome is not None]
    assert figures == [(400_000, 7200), (400 * 2048, pytest.approx(50)), (200 * 2048, pytest.approx(25))]
    assert results.remarks == ()


def test_a_finished_run_without_a_validation_is_the_last_of_them(sweep: dict[str, SweepRun], tmp_path: Path) -> None:
    begin(sweep["full-seed-1"], 400, float("nan"))
    begin(sweep["one-target-seed-2"], 400, 2.5)
    found = [(row.run, row.bits) for row in read_results(tmp_path / "mine").rows]
    assert found == [("one-target-seed-2", 2.5), ("full-seed-1", None), ("full-seed-2", None),
                     ("one-target-seed-1", None)]  # fmt: skip


def test_how_runs_stand(sweep: dict[str, SweepRun], tmp_path: Path) -> None:
    """A failure counts until the run has gone on: has newer records and a checkpoint. A run that is being trained is
    neither stopped nor failed."""
    fail(begin(sweep["full-seed-1"], 100, 2.5), 1)
    fail(begin(sweep["full-seed-2"], 200, 2.5), -1)
    at_work = begin(sweep["one-target-seed-1"], 100, 2.5)
    fail(at_work, 1)
    with OwnClaim(at_work):
        ends = [row.end for row in read_results(tmp_path / "mine", ["one-target-seed-2"]).rows]
    assert ends == [End.FAILED, End.STOPPED, End.AT_WORK, End.FAILED]
    assert [row.end for row in read_results(tmp_path / "mine").rows] == [
        End.FAILED, End.STOPPED, End.FAILED, End.NOT_BEGUN]  # fmt: skip


def test_a_folder_without_a_plan(sweep: dict[str, SweepRun], tmp_path: Path, call: Call) -> None:
    """Of an older version, or put together by hand: its runs, by what is not the same in most of them."""
    for name in RUNS[:3]:
        begin(sweep[name], 400, 2.5)
    plan_file(tmp_path / "mine").unlink()
    assert [(row.run, row.own) for row in read_results(tmp_path / "mine").rows] == [
        ("full-seed-1", ()), ("full-seed-2", ("seed=2",)), ("one-target-seed-1", ("num_targets=1",))]  # fmt: skip
    done = call("compare", str(tmp_path / "mine"))
    assert done.status == 0, done.err
    assert f"saved {tmp_path}/mine/results.csv" in done.out


def test_what_cannot_be_read_is_told_and_costs_no_other_row(
    sweep: dict[str, SweepRun], tmp_path: Path, call: Call
) -> None:
    damaged, broken = begin(sweep["full-seed-1"], 400, 2.5), begin(sweep["full-seed-2"], 400, 2.4)
    with damaged.metrics_file.open("a") as file:
        file.write("no record\n")
    broken.experiment_file.write_text("[")
    plan_file(tmp_path / "mine").write_text('{"points": [], "runs": {"../..": []}}')
    assert rows(read_results(tmp_path / "mine")) == [
        ("full-seed-1", "finished", 2.5),
        ("full-seed-2", "unreadable", None),
    ]
    done = call("compare", str(tmp_path / "mine"))
    assert done.status == 0
    for part in ("sweep.json is damaged (runs...", "metrics.jsonl: 1 line is damaged", "full-seed-2/resolved.yaml"):
        assert part in done.err, done.err


def test_what_a_stranger_wrote_moves_no_cursor(sweep: dict[str, SweepRun], tmp_path: Path, call: Call) -> None:
    """Nor is it taken for markup."""
    begin(sweep["full-seed-1"], 400, 2.5, unit="[b]\x1b[2J")
    record_plan(tmp_path / "mine", [], {"full-seed-1": ["seed=[red]\x1b[31m"]})
    done = call("compare", str(tmp_path / "mine"))
    assert done.status == 0
    assert r"seed=[red]\x1b[31m" in done.out
    assert r"bits per [b]\x1b[2J" in done.out
    assert "\x1b" not in done.out + (tmp_path / "mine" / "results.csv").read_text()


def test_csv_is_whole_or_not_at_all(
    sweep: dict[str, SweepRun], tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it cannot be written, the table is shown all the same, and the file of before stays."""
    begin(sweep["full-seed-1"], 400, 2.25, seconds=10)
    begin(sweep["one-target-seed-1"], 100, 2.5, seconds=2.5)
    folder = tmp_path / "mine"
    assert call("compare", str(folder)).status == 0
    with results_file(folder).open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["run", "what differs", "best validation (bits)", "unit", "characters", "time (s)", "step", "state"],
            ["full-seed-1", "seed=1", "2.25", "character", "400000", "10.000", "400", "finished"],
            ["full-seed-2", "seed=2", "", "", "", "", "", "not begun"],
            ["one-target-seed-1", "num_targets=1 seed=1", "2.5", "character", "100000", "2.500", "100", "stopped"],
            ["one-target-seed-2", "num_targets=1 seed=2", "", "", "", "", "", "not begun"],
        ]
    before = results_file(folder).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("megachar.base.files.fsync_path", full)
    done = call("compare", str(folder))
    assert done.status == 0
    assert "2.2500" in done.out
    assert "results.csv is not written: No space left on device; free space" in done.err
    assert results_file(folder).read_bytes() == before
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_that_names_something_is_cut(
    sweep: dict[str, SweepRun], tmp_path: Path, width: int, terminal: bool
) -> None:
    begin(sweep["full-seed-1"], 400, 2.25, seconds=4_000_000)
    begin(sweep["one-target-seed-1"], 100, 2.5, unit="token")
    screen = Screen(width, "utf-8", terminal)
    show_results(read_results(tmp_path / "mine"), tmp_path / "mine", screen.console)
    for word in (*RUNS, "num_targets=1", "seed=1", "2.2500", "2.5000", "token", "400,000", "46d", "finished",
                 "stopped,", "100", "begun"):  # fmt: skip
        assert word in screen.words, word
    assert all(len(line) <= width for line in screen.lines)


def test_what_differs_stands_below_the_name_where_that_makes_a_table_of_it(
    sweep: dict[str, SweepRun], tmp_path: Path
) -> None:
    screen = Screen(72)
    show_results(read_results(tmp_path / "mine"), tmp_path / "mine", screen.console)
    place = next(number for number, line in enumerate(screen.lines) if "│ one-target-seed-1 " in line)
    assert "│ num_targets=1 " in screen.lines[place + 1]


def test_a_plan_keeps_runs_of_an_earlier_one_that_have_begun(sweep: dict[str, SweepRun], tmp_path: Path) -> None:
    begin(sweep["full-seed-2"], 400, 2.5)
    record_plan(tmp_path / "mine", [], {"full-seed-1": ["seed=1"], "full-seed-3": ["seed=3"]})
    plan = read_plan(tmp_path / "mine")
    assert plan is not None
    assert list(plan.runs) == ["full-seed-1", "full-seed-3", "full-seed-2"]
    at = plan_file(tmp_path / "mine").stat().st_mtime_ns
    time.sleep(0.01)
    record_plan(tmp_path / "mine", [], plan.runs)
    assert plan_file(tmp_path / "mine").stat().st_mtime_ns == at


def test_what_a_path_means(sweep: dict[str, SweepRun], tmp_path: Path, call: Call) -> None:
    """A run is itself, a folder of runs stands for them; anything else is refused by name, with the mend."""
    first, second = begin(sweep["full-seed-1"], 400, 2.5).path, begin(sweep["full-seed-2"], 400, 2.5).path
    (tmp_path / "mine" / ".trash").mkdir()
    save_experiment(sweep["full-seed-1"].experiment, tmp_path / "mine" / ".trash" / "resolved.yaml")
    assert find_runs([second, tmp_path / "mine"]) == [second, first, second]
    for path in (tmp_path, tmp_path / "absent", tmp_path / "sweep.yaml"):
        message = (
            rf"ConfigError: {path} is neither a run folder nor a folder of runs: [^\n]*; name one such as runs/small"
        )
        for command in ("compare", "report", "plot", "analyze ablation", "analyze sizes"):
            refused(call(*command.split(), str(path)), rf"{message} or runs/ablation")
    with pytest.raises(
        ConfigError, match=r"mine is a folder of runs, and one of them is needed here; name it, such as .*full-"
    ):
        RunFolder(tmp_path / "mine").load_experiment()
    refused(
        call("compare", str(first)), r"ConfigError: \S+ is a run folder; name the folder of a sweep, such as \S+/mine"
    )


def test_a_sweep_none_of_whose_runs_has_begun_has_a_table(
    sweep: dict[str, SweepRun], tmp_path: Path, call: Call
) -> None:
    done = call("compare", str(tmp_path / "mine"))
    assert done.status == 0, done.err
    assert done.out.count("not begun") == len(sweep)
