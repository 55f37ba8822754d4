"""Trouble with files, streams and terminals is one sentence, in whichever command it comes up."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

MEGACHAR = [sys.executable, "-c", "import sys; from megachar.cli import main; sys.argv[0] = 'megachar'; main()"]


def shell(arguments: str, streams: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `megachar` in a shell, which redirects its streams."""
    command = f'"$@" {arguments} {streams}'
    environment = {**os.environ, "COLUMNS": "80", **variables}
    command_line = ["bash", "-c", command, "bash", *MEGACHAR]
    return subprocess.run(
        command_line, capture_output=True, text=True, errors="replace", env=environment, timeout=60, check=False
    )


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(streams: str, tmp_path: Path) -> None:
    """The figures are written to the file and to nothing else."""
    done = shell("count small", streams)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_with_all_streams_closed() -> None:
    assert shell("count nothing", "<&- >&- 2>&-").returncode == 2


@pytest.mark.parametrize("arguments", ["count small", "presets", "--help", "--version"])
def test_a_full_disk_behind_standard_output(arguments: str) -> None:
    done = shell(arguments, ">/dev/full")
    assert "No space left on device; free space, or write elsewhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_a_reader_that_has_had_enough() -> None:
    done = shell("presets", "| true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_that_show_no_utf8(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "ü…€.yaml"
    path.write_text("name: x\n")
    done = shell(f"count '{path}'", "", PYTHONIOENCODING=encoding, PYTHONUTF8="0", COLUMNS="20")
    assert "Traceback" not in done.stderr
    assert done.returncode == 0
    assert "~" in done.stdout


LONG = "a" * 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", f"{LONG}.yaml"], "File name too long; shorten it"),
        (["count", "small", f"data.path={LONG}"], "File name too long; shorten it"),
        (["count", "small", f"deepspeed={LONG}.json"], "File name too long; shorten it"),
        (["count", "small", f"name={LONG}"], "name = 'aaa"),
        (["count", "small", "model.local_offsets={a: b}"], "model.local_offsets = {'a': 'b'}: "),
        (["count", "small", "data.path=/x/\udcff"], "/x/\\xff is not UTF-8, as the files that name it are; rename"),
        (["corpus", "adopt", "--train=.", "--output=nowhere"], "DataError: "),
        (["report", "~nobody-here/x"], "~nobody-here/x: Could not determine home directory"),
        (["launch", "small", "--master-port", "99999"], "65535"),
        (["launch", "small", "--timeout", "1e300"], "86400"),
    ],
)
def test_messages_in_place_of_tracebacks(
    arguments: Sequence[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from megachar.cli import main

    monkeypatch.setattr(sys, "argv", ["megachar", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capfd.readouterr().err


def test_home_in_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave it as it is behind an option's equals sign."""
    from megachar.cli import main

    (tmp_path / "text").write_text("some text " * 99)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["megachar", "corpus", "prepare", "text", "--output=~/corpus"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "text"]
