"""Output by rank: logs that hold everything, and a terminal that shows rank 0 and the first error."""

import subprocess
import sys
from pathlib import Path

import pytest

from megachar.errors import PlatformError
from megachar.launching.output import RankOutput
from megachar.training.run_folder import RunFolder
from tests.launcher.commands import run

TALK = """
import os, subprocess, sys
from pathlib import Path
from megachar.launching.output import RankOutput
from megachar.training.run_folder import RunFolder
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
    said = ["from python", "from a library", "from a child", "from its error"]
    shown = talk(0, tmp_path, "sys.stdout.write('no end of line')")
    assert shown.stdout.splitlines() == [*said, "no end of line"]
    assert talk(3, tmp_path).stdout == ""
    assert (tmp_path / "logs" / "rank-0003.log").read_text().splitlines()[1:] == said
    # A resumed run appends, and shows only what is new.
    assert talk(0, tmp_path).stdout.splitlines() == said
    log = (tmp_path / "logs" / "rank-0000.log").read_text()
    assert log.count("from a library") == 2
    assert log.startswith("--- 2")
    assert " rank 0, process " in log


def test_what_the_terminal_cannot_show_is_escaped_there_alone(tmp_path: Path) -> None:
    shown = talk(0, tmp_path, r"print('donn\xe9es')", {"PYTHONIOENCODING": "ascii"})
    assert shown.stdout.splitlines()[-1] == r"donn\xe9es"
    assert (tmp_path / "logs" / "rank-0000.log").read_text(encoding="utf-8").splitlines()[-1] == "donn\xe9es"


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
