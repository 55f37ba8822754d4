"""Training through real launchers on one machine: `megachar launch`, deepspeed, torchrun, mpirun; a rank that fails."""

import os
import shutil
import sys
import time
from pathlib import Path

from tests.launcher.commands import AS_ROOT, LAUNCH, ROOT, SMALL, TRAIN, losses, run


def left_over(marker: str) -> list[str]:
    """Command lines of processes that still hold the marker."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marker in line:
            found.append(line)
    return found


def test_every_launcher_trains_the_same(corpus: Path, tmp_path: Path) -> None:
    """Over two stages under every launcher, and in one plain process: the same bits."""
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", os.devnull, "--num_gpus", "2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    commands = {
        "plain": [sys.executable, TRAIN, *SMALL, "parallel.pipe=1"],
        "launch": [*LAUNCH, *SMALL],
        "deepspeed": [*runner, "--master_port", "29537", TRAIN, *SMALL],
        "torchrun": [*torchrun, TRAIN, *SMALL],
    }
    if shutil.which("mpirun"):
        mpirun = ["mpirun", "-n", "2", "--host", "localhost:2", "--bind-to", "none"]
        commands["mpirun"] = [*mpirun, sys.executable, TRAIN, *SMALL]
    for name, command in commands.items():
        where = [f"data.path={corpus}", f"output={tmp_path}", f"name={name}"]
        result = run([*command, *where], environment=AS_ROOT)
        assert result.returncode == 0, result.stderr
        assert "step 4: saved" in result.stdout
        assert "step 4: saved" in (tmp_path / name / "logs" / "rank-0000.log").read_text()
        assert (tmp_path / name / "logs" / "rank-0001.log").exists() == (name != "plain")
        assert losses(tmp_path, name) == losses(tmp_path, "plain")
    assert len(losses(tmp_path, "plain")) == 4


def test_a_failing_rank_ends_all(corpus: Path, tmp_path: Path) -> None:
    marker = f"output={tmp_path}"
    script = str(ROOT / "tests" / "launcher" / "failing_train.py")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", os.devnull, "--num_gpus", "2",
               "--master_port", "29533", script, *SMALL, f"data.path={corpus}", marker]  # fmt: skip
    since = time.monotonic()
    result = run(command)
    assert result.returncode != 0
    # The terminal shows the error that was first, and no other; its traceback stands in its rank's log.
    shown = [line for line in result.stderr.splitlines() if line.startswith("rank ")]
    assert len(shown) == 1
    assert shown[0].startswith("rank 1 on ")
    assert shown[0].endswith("RuntimeError: the planted fault")
    assert "Traceback" in (tmp_path / "quickstart" / "logs" / "rank-0001.log").read_text()
    assert time.monotonic() - since < 90
    assert left_over(marker) == []


def test_a_wrong_number_of_processes_is_refused(corpus: Path, tmp_path: Path) -> None:
    train = str(ROOT / "launcher" / "train.py")
    result = run([sys.executable, train, *SMALL, f"data.path={corpus}", f"output={tmp_path}"])
    assert result.returncode == 2
    assert "1 processes were started, but the layout needs pipe 2 x tensor 1 x data 1 = 2" in result.stderr
    assert "Traceback" not in result.stderr
