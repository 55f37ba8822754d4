"""What is shown fits 40, 80 and 200 columns, colors or none, any encoding: nothing that names something is cut."""

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.progress import Task, TaskID
from rich.table import Column, Table
from rich.text import Text

from megachar import cli
from megachar.base.bars import format_duration, share_done, time_left, waiting
from megachar.base.tables import print_table
from megachar.cli.lazy import COMMANDS, load_command
from megachar.cli.stages import Stages
from megachar.config.loading import preset_names
from megachar.evaluation.progress import show_progress
from megachar.training.display import Display, Report, Terminal

WIDTHS = (40, 80, 200)
SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Screen:
    """A console of some width and encoding, and what it was sent."""

    def __init__(self, width: int, encoding: str = "utf-8", terminal: bool = False) -> None:
        self.width, self._bytes = width, io.BytesIO()
        self._file = io.TextIOWrapper(self._bytes, encoding=encoding, write_through=True)
        self.console = Console(file=self._file, width=width, force_terminal=terminal, color_system=None)

    @property
    def sent(self) -> str:
        return self._bytes.getvalue().decode(self._file.encoding)

    @property
    def lines(self) -> list[str]:
        """Without what moves the cursor."""
        return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", self.sent).replace("\r", "\n").split("\n")

    @property
    def words(self) -> list[str]:
        return [word for line in self.lines for word in re.split(r"[\s│┃|]+", line)]


def train(screen: Screen, step: int, total: int) -> None:
    report = Report(step, 2.1234, 0.0025, 12345.6, 1.2e12, 0.41, 3 << 30, validation=2.0987)
    with Display(total, 0, True, Terminal(screen.console, lambda line: None)) as display:
        display.advance(step)
        display.report(report)


def score(screen: Screen) -> None:
    with show_progress(screen.console, 90_000_000, doing="collecting mean squares") as progress:
        progress(4_500_000)


def prepare(screen: Screen) -> None:
    with Stages(screen.console)("Preparing", 10**9) as progress:
        progress(5 * 10**7)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("show", "head"),
    [
        (lambda screen: train(screen, 320, 6400), "step 320/6400 5%"),
        (lambda screen: train(screen, 1_234_567, 4_000_000), "step 1234567/4000000 30%"),
        (score, "collecting mean squares 5%"),
        (prepare, "Preparing 5%"),
    ],
)
def test_a_bar_always_shows_what_is_done_its_share_and_the_time_left(
    show: Callable[[Screen], None], head: str, width: int, encoding: str
) -> None:
    screen = Screen(width, encoding, terminal=True)
    show(screen)
    shown = [line for line in screen.lines if re.match(re.escape(head) + r" \d+:\d\d:\d\d left", line)]
    assert shown
    assert all(len(line) <= width for line in screen.lines)
    if width == 200:
        assert re.search("(━─|#[.])", shown[-1])
        figures = (
            "2.1234 bits/char  valid 2.0987  12,346 chars/s",
            "4,500,000/90,000,000 characters",
            "50.0 MB/1.0 GB",
        )
        assert any(text in shown[-1] for text in figures)


def test_lines_of_a_log_say_how_much_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    train(Screen(80), 320, 6400)
    assert re.match(r"step 320/6400  5%  0:\d\d:\d\d left  2\.1234 bits/char  valid 2\.0987", capsys.readouterr().out)


def test_the_time_left_is_of_the_steps_of_this_process() -> None:
    """Resumed at step 10, 20 steps in a minute, and 70 to come."""
    task = Task(TaskID(0), "", 100, 30, _get_time=lambda: 60.0, fields={"first": 10})
    task.start_time = 0.0
    assert (share_done(task), time_left(task)) == ("30%", "0:03:30")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (359_999, "99:59:59"), (360_000, "4d 4h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_waited_for_is_shown_on_a_terminal_and_leaves_nothing(width: int) -> None:
    """Within one line, for of two only the last would be taken away; and nothing at all where it is piped."""
    screen, piped = Screen(width, terminal=True), Screen(width)
    for shown in (screen, piped):
        with waiting("importing torch, DeepSpeed and all that they import", shown.console):
            pass
    assert len(screen.lines) == 2
    assert 0 < len(screen.lines[0]) < width
    assert screen.sent.endswith("\r\x1b[2K")
    assert piped.sent == ""


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_of_a_table_is_cut_or_broken(width: int, encoding: str, terminal: bool) -> None:
    names = preset_names()
    table = Table("preset", "what it is", Column("bytes", justify="right"), "sha256", title="/a/long/" + "path" * 20,
                  caption="The hashes are the publishers'.")  # fmt: skip
    for name in names:
        table.add_row(Text(name), f"the model {name} of a paper, described here at length", "1,000,000", SHA256)
    screen = Screen(width, encoding, terminal)
    print_table(table, screen.console)
    words = screen.words
    assert words.count(SHA256) == len(names)
    assert all(words.count(name) == 2 for name in names)
    assert {"/a/long/" + "path" * 20, "publishers'.", "1,000,000"} <= set(words)
    assert all(len(line) <= width or " " not in line.strip() for line in screen.lines if SHA256 not in line)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_that_fits_stays_one(width: int) -> None:
    """Columns are as wide as their longest words at least, and the rest goes to those that fold most."""
    table = Table("preset", "what it is", Column("no wrap of these", no_wrap=True), show_footer=True)
    table.columns[0].footer = "total"
    table.add_row("mlstm-20m-rmsprop", "a few words", "a b c")
    screen = Screen(width)
    print_table(table, screen.console)
    if width == 40:
        assert screen.lines[:5] == ["preset: mlstm-20m-rmsprop", "what it is: a few words", "no wrap of these: a b c",
                                    "", "preset: total"]  # fmt: skip
    else:
        assert "│ mlstm-20m-rmsprop │ a few words │ a b c            │" in screen.lines


def test_an_empty_table_shows_its_head() -> None:
    screen = Screen(40)
    print_table(Table("run", "state"), screen.console)
    assert "┃ run ┃ state ┃" in screen.lines


def test_a_name_that_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    monkeypatch.setattr(cli, "app", lambda: print("corpus donn\u00e9es"))
    cli.main()
    assert shown.getvalue() == b"corpus donn\\xe9es\n"


@pytest.mark.parametrize("width", WIDTHS)
def test_help_fits_and_breaks_no_word(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor at the hyphens of options; examples can be copied, and are the same at any width."""
    monkeypatch.setenv("COLUMNS", str(width))
    for name in COMMANDS:
        called = load_command(name)
        for command in [called, *getattr(called, "commands", {}).values()]:
            lines = command.get_help(command.make_context(name, [], resilient_parsing=True)).splitlines()
            assert all(len(line) <= width or "|" in line for line in lines), name
            assert not [line for line in lines if line.endswith("-")], name
    prepare = load_command("corpus").commands["prepare"]
    shown = prepare.get_help(prepare.make_context("prepare", [], resilient_parsing=True))
    text = re.sub(r" \\\n +", " ", shown)
    assert "\n    megachar corpus prepare enwik8.zip --vocabulary used-bytes --output data/enwik8-205\n" in text


@pytest.mark.parametrize("head", [True, False])
def test_names_and_what_they_are_become_lines(head: bool) -> None:
    """Not blocks of two lines each, as rows of more columns do."""
    table = Table("protocol", "static", show_header=head)
    table.add_row("split", "valid")
    table.add_row("corpus", "/a/long/path/to/the/corpus/of/this/run")
    screen = Screen(40)
    print_table(table, screen.console)
    lines = ["split: valid", "corpus:", "  /a/long/path/to/the/corpus/of/this/run", ""]
    assert screen.lines == ["protocol: static", *lines] if head else lines
