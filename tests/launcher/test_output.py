"""Output by rank: logs that hold everything, and a terminal that shows megachar's lines and the first error."""

import subprocess
import sys
from pathlib import Path

import pytest

from megachar.base.errors import PlatformError
from megachar.launching.output import RankOutput
from megachar.runs.folder import RunFolder
from tests.launcher.commands import ROOT, run

TALK = """
import os, subprocess, sys
from pathlib import Path
from megachar.launching.output import RankOutput
from megachar.runs.folder import RunFolder
rank, folder = int(sys.argv[1]), RunFolder(Path(sys.argv[2]))
output = RankOutput(folder, rank)
print("from python")
os.write(1, b"from a library\\n")
subprocess.run(["sh", "-c", "echo from a child; echo from its error >&2"])
{more}
output.close()
"""


def talk(
    rank: int, folder: Path, more: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-c", TALK.format(more=more), str(rank), str(folder)], environment=environment)


def test_everything_a_rank_prints_is_in_its_log(tmp_path: Path) -> None:
    """The terminal shows nothing of it, also of rank 0, but what megachar has to say there."""
    said = ["from python", "from a library", "from a child", "from its error"]
    assert talk(3, tmp_path).stdout == ""
    assert (tmp_path / "logs" / "rank-0003.log").read_text().splitlines()[1:] == said
    shown = talk(0, tmp_path, "output.terminal.show('step 1'); output.terminal.show('step 2')")
    assert shown.stdout.splitlines() == ["step 1", "step 2"]
    assert talk(0, tmp_path).stdout == ""  # a resumed run appends
    log = (tmp_path / "logs" / "rank-0000.log").read_text()
    assert log.count("from a library") == 2
    assert log.startswith("--- 2")
    assert " rank 0, process " in log


def test_what_the_terminal_cannot_show_is_escaped_there_alone(tmp_path: Path) -> None:
    both = r"print('donn\xe9es'); output.terminal.show('donn\xe9es')"
    assert talk(0, tmp_path, both, {"PYTHONIOENCODING": "ascii"}).stdout == "donn\\xe9es\n"
    assert (tmp_path / "logs" / "rank-0000.log").read_text(encoding="utf-8").splitlines()[-1] == "donn\xe9es"


def test_a_terminal_that_has_stopped_or_gone_holds_nobody_up(tmp_path: Path) -> None:
    """More than a pipe takes; whoever should read does not."""
    many = "[output.terminal.show('x' * 1000) for _ in range(1000)]; print('went on'); os._exit(0)"
    command = [sys.executable, "-c", TALK.format(more=many), "0", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.wait(60) == 0
    assert (tmp_path / "logs" / "rank-0000.log").read_text().endswith("went on\n")


def test_what_is_led_aside_comes_to_the_log_alone(tmp_path: Path) -> None:
    code = (
        "import os, subprocess; from pathlib import Path; from megachar.launching.output import led_aside\n"
        "print('before')\n"
        f"with led_aside(Path({str(tmp_path)!r}) / 'logs' / 'launcher.log'):\n"
        "    print('warning'); os.system('echo of a child >&2')\n"
        "print('after')"
    )
    for times in (1, 2):
        done = run([sys.executable, "-c", code])
        assert (done.stdout, done.stderr) == ("before\nafter\n", "")
        assert (tmp_path / "logs" / "launcher.log").read_text() == "warning\nof a child\n" * times


def test_a_crash_is_in_the_log(tmp_path: Path) -> None:
    crash = "import faulthandler; faulthandler.enable(); import ctypes; ctypes.string_at(0)"
    assert talk(1, tmp_path, crash).returncode == -11
    assert "Segmentation fault" in (tmp_path / "logs" / "rank-0001.log").read_text()


def test_only_the_first_error_is_shown(tmp_path: Path) -> None:
    failing = "output.report_error('rank %d on a host: ValueError: of rank %d' % (rank, rank), rank)"
    assert "ValueError" not in talk(0, tmp_path).stderr
    first = talk(2, tmp_path, failing)
    assert first.stderr.splitlines()[0].endswith(": ValueError: of rank 2")
    assert first.stderr.splitlines()[0].startswith("rank 2 on ")
    assert first.stderr.splitlines()[1] == f"its output: {tmp_path}/logs/rank-0002.log"
    assert talk(1, tmp_path, failing).stderr == ""
    # The next start has a first error of its own.
    assert talk(0, tmp_path, failing).stderr.splitlines()[0].endswith("ValueError: of rank 0")


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(PlatformError, match=r"rank-0000.log cannot be written: .*; free space, or set output=FOLDER"):
        RankOutput(RunFolder(tmp_path), 0)
