"""`megachar report` as a user calls it: of one run or several, with models or without, and what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from megachar.base.errors import ConfigError, DataError
from megachar.cli.report import report
from megachar.runs.sweep_folder import record_plan
from tests.report.runs import make_corpus, make_experiment, make_run

TEXT = b"Some words, and some more of them. " * 10


def invoke(*arguments: Any) -> Any:
    """Run the command; its error is raised."""
    app = typer.Typer()
    app.command()(report)
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome


@pytest.fixture
def run(tmp_path: Path, seed: int) -> Path:
    corpus = make_corpus(tmp_path / "corpus", TEXT)
    return make_run(tmp_path / "runs" / "small", make_experiment(corpus)).path


def test_one_run(run: Path) -> None:
    result = invoke(run, "--text-characters", 30, "--text-start", 5, "--characters", 20, "--device", "cpu")
    assert result.stdout == f"saved {run / 'report.html'}\n"
    page = (run / "report.html").read_text()
    assert 'id="surprise"' in page
    assert 'id="samples"' in page
    assert page.count(" bits\n") == 30
    assert "from character 5 on" in page
    invoke(run, "--text-characters", 0, "--characters", 20)  # made anew
    page = (run / "report.html").read_text()
    assert 'id="surprise"' not in page
    assert 'id="samples"' in page


def test_several_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = make_run(tmp_path / "runs" / "other", make_experiment(tmp_path / "corpus", "recurrent")).path
    result = invoke(run, other, "--text-characters", 10, "--characters", 5)
    assert result.stdout == "saved report.html\n"
    assert (tmp_path / "report.html").read_text().count("card text colored") == 2


def test_a_sweep(run: Path, tmp_path: Path) -> None:
    """Its folder stands for its runs, of which those that have not begun are named; the page goes into it."""
    make_run(tmp_path / "runs" / "other", make_experiment(tmp_path / "corpus"))
    record_plan(run.parent, [], {"small": ["seed=1"], "other": ["seed=2"], "later": ["seed=3"]})
    result = invoke(run.parent, "--text-characters", 0, "--characters", 0)
    assert result.stdout == f"saved {run.parent / 'report.html'}\n"
    page = (run.parent / "report.html").read_text()
    assert "2 runs compared" in page
    assert f"{run.parent} has runs that have not begun: later" in page
    assert "not shown: " in result.stderr


def test_without_the_models(run: Path) -> None:
    (run / "checkpoints").rename(run / "gone")
    result = invoke(run, "--text-characters", 0, "--characters", 0)
    assert "not shown" not in result.stderr
    assert 'id="samples"' not in (run / "report.html").read_text()


def test_no_checkpoint_and_no_corpus_are_told(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints").rename(run / "gone")
    result = invoke(run)
    assert "not shown: small, text: " in result.stderr
    assert "has no whole checkpoint yet" in result.stderr
    assert "has no whole checkpoint yet" in (run / "report.html").read_text()
    (tmp_path / "corpus").rename(tmp_path / "elsewhere")
    result = invoke(run)
    assert "not shown: small, text: no corpus at" in result.stderr
    (run / "gone").rename(run / "checkpoints")
    result = invoke(run, "--data", tmp_path / "elsewhere", "--characters", 5, "--text-characters", 5)
    assert "not shown" not in result.stderr


@pytest.mark.parametrize(("options", "message"), [
    (["--characters", -1], r"--characters -1 is below 0"),
    (["--device", "tpu"], r"device = 'tpu' is unknown"),
    (["--output", "/absent/x.html"], r"--output /absent/x.html: the folder /absent does not exist"),
    (["--text-start", 1000], r"--text-start 1000: the valid split of .* has 350 characters; set at most 349"),
    (["--seed", -1], r"seed = -1 is not from 0"),
])  # fmt: skip
def test_errors(run: Path, options: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        invoke(run, *options)
    assert not (run / "report.html").exists()


def test_a_run_is_needed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is neither a run folder nor a folder of runs"):
        invoke(run, tmp_path)
    with pytest.raises(ConfigError, match=r"is given twice"):
        invoke(run, run)


def test_a_corpus_that_was_asked_for_is_needed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no corpus at /absent"):
        invoke(run, "--data", "/absent")
    with pytest.raises(DataError, match=r"has no split 'test'"):
        invoke(run, "--data", tmp_path / "corpus", "--split", "test")
    assert "has no split 'test'" in invoke(run, "--split", "test").stderr


def test_errors_come_before_torch(run: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from megachar.cli.report import report
try:
    report([Path({str(run)!r})], start=1000)
except Exception as error:
    print(type(error).__name__, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ConfigError", "False"], done.stderr
