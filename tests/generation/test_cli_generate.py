"""`megachar generate` as a user calls it: text, raw bytes, prompts, terminals of any encoding, and refusals."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from megachar.base.errors import ConfigError
from megachar.cli.generate import generate, show_text
from megachar.generation.decoding import TerminalDecoder
from megachar.generation.generator import generate as continue_text
from megachar.generation.sampling import Sampler
from megachar.generation.settings import SamplingSettings
from megachar.runs.checkpoints import reading


def invoke(*arguments: Any, **options: Any) -> Any:
    """Run the command; its error is raised."""
    app = typer.Typer()
    app.command()(generate)
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments], **options)
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome


def expected(run: Path, prompt: bytes, count: int, settings: SamplingSettings, slide: int | None = None) -> bytes:
    model = reading.load_model(run).model
    return bytes(continue_text(model, list(prompt), count, Sampler(settings, 256), slide))


def as_shown(text: bytes) -> str:
    decoder = TerminalDecoder()
    return decoder.feed(text) + decoder.finish()


def test_text_and_raw_bytes(run: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    options = ["--temperature", 1.5, "--top-k", 200, "--top-p", 0.99, "--seed", 5, "--slide", 3]
    result = invoke(run, "--prompt", "né", "--characters", 80, *options, "--raw-output", raw)
    text = expected(run, "né".encode(), 80, SamplingSettings(1.5, 200, 0.99, seed=5), 3)
    assert raw.read_bytes() == text
    assert result.stdout == as_shown("né".encode() + text) + "\n"
    assert "80 characters, " in result.stderr
    assert "seed 5" in result.stderr


def test_greedy(run: Path) -> None:
    result = invoke(run, "--prompt", "a", "--characters", 20, "--greedy", "--device", "cpu", "--step", 3)
    assert result.stdout == as_shown(b"a" + expected(run, b"a", 20, SamplingSettings(greedy=True))) + "\n"
    assert result.stderr.rstrip().endswith("greedy")


def test_recurrent_model(recurrent_run: Path) -> None:
    options = ["--temperature", 1.5, "--top-k", 200, "--seed", 5]
    result = invoke(recurrent_run, "--prompt", "some", "--characters", 30, *options)
    text = expected(recurrent_run, b"some", 30, SamplingSettings(1.5, 200, seed=5))
    assert result.stdout == as_shown(b"some" + text) + "\n"
    with pytest.raises(ConfigError, match=r"slide = 4 has no effect with a recurrent model.*leave out --slide"):
        invoke(recurrent_run, "--prompt", "some", "--slide", 4)


def test_prompt_file_keeps_its_bytes(run: Path, tmp_path: Path) -> None:
    prompt = b"\xff\xe2\x82 a\x1b[1m\n"
    (tmp_path / "prompt").write_bytes(prompt)
    result = invoke(run, "--prompt-file", tmp_path / "prompt", "--characters", 20, "--greedy")
    text = as_shown(prompt + expected(run, prompt, 20, SamplingSettings(greedy=True)))
    assert text.startswith(r"\xff\xe2\x82 a\x1b[1m")
    assert result.stdout == text + "\n"


def test_command_line_bytes_that_are_no_utf8(run: Path) -> None:
    result = invoke(run, "--prompt", os.fsdecode(b"a\xff"), "--characters", 5, "--greedy")
    assert result.stdout == as_shown(b"a\xff" + expected(run, b"a\xff", 5, SamplingSettings(greedy=True))) + "\n"


def test_a_fresh_seed_is_told(run: Path) -> None:
    first = invoke(run, "--prompt", "a", "--characters", 30)
    seed = first.stderr.rstrip().rpartition("seed ")[2]
    assert invoke(run, "--prompt", "a", "--characters", 30, "--seed", seed).stdout == first.stdout


def test_prompt_is_bold_on_a_terminal_only(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = invoke(run, "--prompt", "abc", "--characters", 5, "--greedy", color=True).stdout
    assert terminal.startswith("\x1b[1mabc\x1b[0m")
    assert terminal.count("\x1b") == 2
    show_text(b"abc", [b"d", b"\xc3", b"\xa9"], None)
    assert capsys.readouterr().out == "abcdé\n"


def test_a_stdout_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="ascii"))
    show_text("é".encode(), ["€".encode()], None)
    assert data.getvalue() == rb"\xe9\u20ac" + b"\n"


def test_pieces_are_printed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    raw = io.BytesIO()
    states = []

    def pieces() -> Any:
        for piece in (b"x", b"y"):
            states.append((screen.getvalue(), raw.getvalue()))
            yield piece

    show_text(b"p", pieces(), raw)
    assert states == [("p", b""), ("px", b"x")]
    assert raw.getvalue() == b"xy"


@pytest.mark.parametrize(("options", "message"), [
    (["--prompt", ""], r"prompt is empty.*no start symbol"),
    ([], r"give --prompt TEXT or --prompt-file FILE; neither"),
    (["--prompt", "a", "--prompt-file", "b"], r"give --prompt TEXT or --prompt-file FILE; both"),
    (["--prompt-file", "/absent"], r"--prompt-file /absent cannot be read: No such file"),
    (["--prompt", "a", "--characters", 0], r"characters = 0"),
    (["--prompt", "a", "--temperature", 0], r"temperature = 0\.0 is not .*--greedy"),
    (["--prompt", "a", "--greedy", "--seed", 1], r"seed = 1 has no effect with greedy"),
    (["--prompt", "a", "--slide", 33], r"slide = 33 is not from 1 to the model's context of 32"),
    (["--prompt", "a", "--device", "tpu"], r"device = 'tpu' is unknown; set one of auto, cpu, cuda"),
    (["--prompt", "a", "--raw-output", "/absent/x"], r"--raw-output /absent/x: the folder /absent does not exist"),
    (["--prompt", "a", "--raw-output", "/"], r"--raw-output / cannot be written: Is a directory"),
])  # fmt: skip
def test_errors(run: Path, options: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        invoke(run, *options)


def test_empty_prompt_file(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match=r"prompt is empty"):
        invoke(run, "--prompt-file", tmp_path / "empty")


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run folder"):
        invoke(tmp_path, "--prompt", "a")


def test_vocabulary_of_another_size(run: Path, tmp_path: Path, make_corpus: Callable[[], Path]) -> None:
    config = run / "resolved.yaml"
    text = config.read_text().replace("vocabulary_size: 256", "vocabulary_size: 27")
    config.write_text(text.replace("path: ''", f"path: {make_corpus()}"))
    with pytest.raises(ConfigError, match=r"the model has 27 symbols, but the vocabulary of .*corpus has 256"):
        invoke(run, "--prompt", "a")


def test_errors_come_before_torch(run: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from megachar.cli.generate import generate
try:
    generate(Path({str(run)!r}), prompt="a", temperature=0.0)
except Exception as error:
    print(type(error).__name__, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ConfigError", "False"], done.stderr
