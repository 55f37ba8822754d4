"""The commands as a user calls them: `main()` with its exit status, stdout and stderr."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from megachar.cli import main
from megachar.config.loading import load_experiment, preset_names, save_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.runs.folder import RunFolder
from tests.config.conftest import BASE


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


Call = Callable[..., Done]


def plain(text: str) -> str:
    """Without the colors that CI systems ask for."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs `megachar` with arguments in this process; a traceback would come through."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["megachar", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capfd.readouterr()
        return Done(int(stop.value.code or 0), plain(captured.out), plain(captured.err))

    return run


def refused(done: Done, message: str) -> None:
    """Status 2 and one message on stderr, without a traceback."""
    assert done.status == 2
    assert re.fullmatch(message, done.err.strip(), re.DOTALL), done.err
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "text").write_bytes(b"All happy families are alike.\n" * 100)
    prepare_corpus(cut_by_position(tmp_path / "text"), tmp_path / "corpus", ByteVocabulary())
    return tmp_path / "corpus"


@pytest.mark.parametrize("command", [[], ["count"], ["plot"], ["presets"], ["launch"], ["evaluate"], ["generate"]])
def test_help(command: list[str], call: Call) -> None:
    done = call(*command, "--help")
    assert done.status == 0
    assert "Usage: " in done.out
    assert all(name in done.out for name in command or ["count", "plot", "presets", "launch"])


def test_unknown_command(call: Call) -> None:
    done = call("trian")
    assert done.status == 2
    assert "No such command" in done.err


@pytest.mark.parametrize(
    ("arguments", "figures"),
    [
        (["t64"], ["235,340,800", "218,662,144", "16,777,216", "1,409,482,752"]),
        (["t12"], ["44,233,728", "41,213,184"]),
        (["t12", "model.num_layers=64"], ["235,340,800", "218,662,144"]),
        (["t64", "auxiliary.intermediate_layers=false", "auxiliary.num_targets=1"], ["218,662,144"]),
    ],
)
def test_count(arguments: list[str], figures: list[str], call: Call) -> None:
    done = call("count", *arguments)
    assert done.status == 0
    for figure in figures:
        assert figure in done.out
    total = next(line for line in done.out.splitlines() if "total" in line)
    assert figures[0] in total


def test_count_of_a_file(tmp_path: Path, call: Call) -> None:
    """Also where its name looks like markup."""
    path = tmp_path / "[bold]" / "x].yaml"
    path.parent.mkdir()
    save_experiment(load_experiment("t64"), path)
    done = call("count", str(path))
    assert "235,340,800" in done.out
    assert "[bold]/x].yaml" in re.sub(r"\s", "", done.out)


def test_count_with_a_corpus(corpus: Path, call: Call) -> None:
    """The preset's 205 symbols without one, those of the corpus with one: an input and an output weight a unit each."""

    def total(*overrides: str) -> int:
        done = call("count", "mlstm-20m", *overrides)
        line = next(line for line in done.out.splitlines() if "total" in line)
        return int(re.findall(r"[\d,]+", line)[0].replace(",", ""))

    per_symbol = total("model.vocabulary_size=206") - total()
    assert total(f"data.path={corpus}") - total() == (256 - 205) * per_symbol


def test_flops_of_switched_off_losses(call: Call) -> None:
    """Without intermediate layers one row of training is left; the last position alone costs a 512th."""

    def rows(*overrides: str) -> list[int]:
        done = call("count", "t12", *overrides)
        _, _, table = done.out.partition("floating-point operations")
        return [int(figure.replace(",", "")) for figure in re.findall(r" ([\d,]{5,}) ", table)]

    first, last, inference = rows()
    assert first - last == 11 * 2 * 3 * 2 * 512 * 256
    assert last - 3 * inference == 3 * 2 * 512 * 256
    assert rows("auxiliary.intermediate_layers=false") == [last, inference]
    first, last, _ = rows("auxiliary.multiple_positions=false")
    assert first - last == 11 * 2 * 3 * 2 * 256


def test_presets(call: Call) -> None:
    done = call("presets")
    assert done.status == 0
    for name in preset_names():
        assert re.search(rf"\s{name}\s", done.out)
    assert "235.3M" in done.out
    assert re.search(r"\sablation\s+│ What each auxiliary loss", done.out)
    assert "4M steps of 16 x 512" in done.out


@pytest.mark.parametrize("command", ["count", "launch"])
def test_unknown_preset(command: str, call: Call) -> None:
    done = call(command, "t13")
    refused(done, r"ConfigError: no preset is called 't13'; did you mean 't12'\? presets: [^\n]*")


def test_a_message_may_hold_brackets(call: Call) -> None:
    """They are no markup, and a long message is not wrapped."""
    refused(call("count", "t12", "[red]x" + "y" * 300), r"ConfigError: override '\[red\]xy{300}' is not of the form .*")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"ConfigError: data\.path is not set; [^\n]*megachar corpus prepare[^\n]*"),
        (["data.path=/nowhere"], r"DataError: no corpus at /nowhere: [^\n]*"),
        (["data.path={corpus}", "model.vocabulary_size=205"], r"ConfigError: model\.vocabulary_size = 205, but [^\n]*"),
        (["data.path={corpus}", "model.context=5000"], r"DataError: train split of [^\n]* one window needs 5,002.*"),
        (["data.path={corpus}", "deepspeed=fp32_zero3"], r"ConfigError: ZeRO stage 3 \(fp32_zero3\) does not[^\n]*"),
        (["data.path={corpus}", "deepspeed=fp64"], r"ConfigError: deepspeed=fp64: [^\n]* does not exist; [^\n]*"),
    ],
)
def test_launch_refuses(overrides: list[str], message: str, corpus: Path, call: Call) -> None:
    refused(call("launch", BASE, "--dry-run", *[text.format(corpus=corpus) for text in overrides]), message)


def test_launch_refuses_a_run_that_exists(corpus: Path, tmp_path: Path, call: Call) -> None:
    overrides = [f"data.path={corpus}", f"output={tmp_path}/runs"]
    refused(
        call("launch", BASE, *overrides, "--resume", "--dry-run"),
        r"ConfigError: there is no run [^\n]*/runs/base to resume; start it without --resume",
    )
    run = RunFolder(tmp_path / "runs" / "base")
    run.path.mkdir(parents=True)
    save_experiment(load_experiment(BASE, overrides), run.experiment_file)
    refused(call("launch", BASE, *overrides, "--dry-run"), r"ConfigError: run [^\n]*/runs/base exists already; [^\n]*")
    assert call("launch", BASE, *overrides, "--resume", "--dry-run").out.strip().endswith("--resume")


def command_of(done: Done) -> list[str]:
    """The last line that --dry-run prints, after the table of the layout, without the variables it sets."""
    assert done.status == 0, done.err
    words = shlex.split(done.out.splitlines()[-1])
    return words[words.index(sys.executable) :]


def test_dry_run(corpus: Path, tmp_path: Path, call: Call) -> None:
    """The layout and the whole command are printed, and nothing is written, not even a folder."""
    overrides = [f"data.path={corpus}", f"output={tmp_path}/my runs", "parallel.data=2", "parallel.tensor=2"]
    done = call("launch", BASE, *overrides, "--dry-run")
    assert "pipe 2 x tensor 2 x data 2" in done.out
    command = command_of(done)
    assert command[:4] == [sys.executable, "-u", "-m", "megachar.launching.local"]
    script = next(index for index, word in enumerate(command) if word.endswith("launcher/train.py"))
    assert Path(command[script]).is_file()
    assert command[script + 1 :] == [f"{tmp_path}/my runs/base/launch/experiment.yaml"]
    options = command[4:script]
    assert options[options.index("--ranks") + 1] == "8"  # pipe 2 x tensor 2 x data 2
    assert 1024 <= int(options[options.index("--port") + 1]) < 65536
    assert options[options.index("--device") + 1] == "auto"
    assert not (tmp_path / "my runs").exists()


def test_dry_run_with_a_hostfile(corpus: Path, tmp_path: Path, call: Call) -> None:
    hosts = tmp_path / "hosts"
    given = ["launch", BASE, f"data.path={corpus}", f"output={tmp_path}/runs", "--hostfile", str(hosts), "--dry-run"]
    refused(call(*given), r"PlatformError: hostfile [^\n]* cannot be read: [^\n]*; each line [^\n]*HOST slots=GPUS")
    hosts.write_text("localhost slots=2\n")
    command = command_of(call(*given, "--launcher", "no_ssh", "--node-rank", "0"))
    assert command[command.index("--hostfile") + 1] == f"{tmp_path}/runs/base/launch/hostfile"
    assert "--num_gpus" not in command


def test_plot(tmp_path: Path, call: Call) -> None:
    refused(call("plot", str(tmp_path)), r"ConfigError: [^\n]* is neither a run folder nor a folder of runs: [^\n]*")
    run = RunFolder(tmp_path)
    save_experiment(load_experiment(BASE), run.experiment_file)
    refused(call("plot", str(tmp_path)), r"DataError: [^\n]*metrics\.jsonl holds no training record yet; [^\n]*")
    values = {"bits_per_character": 5.0, "learning_rate": 1e-3, "layers": [[6.0, 7.0]] * 12}
    run.metrics_file.write_text(json.dumps({"kind": "train", "step": 10, **values}) + "\n")
    refused(call("plot", str(tmp_path), "--format", "gif"), r".*'gif' is not one of 'png', 'pdf', 'svg'.*")
    done = call("plot", str(tmp_path))
    assert done.status == 0
    assert done.out.split() == [f"{tmp_path}/plots/loss.png", f"{tmp_path}/plots/layers.png"]
    assert all(Path(path).is_file() for path in done.out.split())
    message = r"DataError: [^\n]*: no record says seconds of training, as it was written by an earlier [^\n]*"
    refused(call("plot", str(tmp_path), "--x", "time"), message)
    with run.metrics_file.open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 20, "flops": 2e12, **values}) + "\n")
    done = call("plot", str(tmp_path), "--x", "flops")
    assert done.out.split() == [f"{tmp_path}/plots/{name}-over-flops.png" for name in ("loss", "layers")]
    assert all(Path(path).is_file() for path in done.out.split())


def test_plots_of_a_sweep(tmp_path: Path, call: Call) -> None:
    """Those of each of its runs; a run without records, and damaged lines of any kind, are told."""
    runs = [RunFolder(tmp_path / name) for name in ("a", "b", "c")]
    for run in runs:
        run.path.mkdir()
        save_experiment(load_experiment(BASE), run.experiment_file)
    values = {"bits_per_character": 5.0, "learning_rate": 1e-3}
    lines = [{"kind": "train", "step": step, **values} for step in (10, 20)]
    odd = {"kind": "train", "step": 30, **values, "layers": [[1.0]]}
    runs[0].metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs[2].metrics_file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, odd]) + "{\n")
    done = call("plot", str(tmp_path))
    assert done.status == 0, done.err
    assert done.out.split() == [f"{tmp_path}/a/plots/loss.png", f"{tmp_path}/c/plots/loss.png"]
    assert done.err.splitlines() == [
        f"left out: {tmp_path}/b/metrics.jsonl holds no training record yet",
        f"{tmp_path}/c/metrics.jsonl: 2 lines are damaged or cut off and left out",
    ]
