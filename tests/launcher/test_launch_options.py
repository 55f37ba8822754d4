"""What `megachar launch` refuses before it looks at any host, and what it shows without starting anything."""

from pathlib import Path

import pytest

from megachar.base.errors import PlatformError
from megachar.cli.hosts import choose_hosts, choose_node_rank
from megachar.families.transformer.model import Transformer
from megachar.launching.hostfile import Host
from megachar.runs.folder import run_folder
from megachar.runs.preflight import load_run
from tests.launcher.commands import LAUNCH, SMALL, run
from tests.runs.checkpoints_by_hand import write_checkpoint

HOSTS = (Host("nowhere.invalid", 1), Host("localhost", 1))


def test_hosts_and_launchers_that_do_not_fit(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=1\n")
    assert choose_hosts(hostfile, None) == ((Host("a", 1),), "ssh")
    assert choose_hosts(None, None) == ((), "local")
    assert choose_hosts(None, "openmpi") == ((), "openmpi")
    with pytest.raises(PlatformError, match="hosts with --launcher local, which is this machine; leave one out"):
        choose_hosts(hostfile, "local")
    with pytest.raises(PlatformError, match="with --launcher slurm: Slurm names the hosts; leave it out"):
        choose_hosts(hostfile, "slurm")
    with pytest.raises(PlatformError, match="--launcher slurm needs an allocation of Slurm"):
        choose_hosts(None, "slurm")
    with pytest.raises(PlatformError, match="--launcher no_ssh needs the hosts of a hostfile; name it with --hostfile"):
        choose_hosts(None, "no_ssh")


def test_which_host_this_is() -> None:
    assert choose_node_rank(HOSTS, "ssh", None) == 0
    assert choose_node_rank(HOSTS, "no_ssh", None) == 1
    assert choose_node_rank(HOSTS, "no_ssh", 0) == 0
    with pytest.raises(PlatformError, match="--node-rank 1 belongs to --launcher no_ssh; leave it out"):
        choose_node_rank(HOSTS, "ssh", 1)
    with pytest.raises(PlatformError, match=r"is not one of nowhere.invalid by name; say which with --node-rank"):
        choose_node_rank(HOSTS[:1], "no_ssh", None)
    with pytest.raises(PlatformError, match="--node-rank 2: the hostfile's hosts have the numbers 0 to 1"):
        choose_node_rank(HOSTS, "no_ssh", 2)


def test_a_host_that_is_not_needed(corpus: Path, tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=2\nlocalhost slots=2\n")
    where = [f"data.path={corpus}", f"output={tmp_path / 'runs'}"]
    command = [*LAUNCH, *SMALL, *where, "--hostfile", str(hostfile), "--launcher", "no_ssh", "--dry-run"]
    result = run(command)
    assert result.returncode == 2
    assert "not needed: localhost" in result.stdout
    assert "localhost gets no ranks: all fit on a; start the run there alone" in result.stderr


@pytest.mark.parametrize(
    ("reached", "status", "told"),
    [(4, 0, "is finished already; a higher training.total_steps"), (5, 2, "a checkpoint of step 5, past its end at")],
)
def test_a_run_at_its_end_is_not_started(corpus: Path, tmp_path: Path, reached: int, status: int, told: str) -> None:
    """A job script that goes on while it is told to (75) comes to an end."""
    where = [f"data.path={corpus}", f"output={tmp_path}"]
    experiment = load_run(SMALL[0], [*SMALL[1:], *where])
    run_folder(experiment).record(experiment, {}, 0)
    weights = dict(Transformer(experiment.model, experiment.auxiliary).named_parameters())
    for step in (2, reached):
        write_checkpoint(run_folder(experiment), step, weights, experiment)
    result = run([*LAUNCH, *SMALL, *where, "--resume"])
    assert result.returncode == status, result.stderr
    assert told in result.stdout + result.stderr
    assert not (run_folder(experiment).path / "launch").exists()


def test_a_dry_run_shows_the_layout_and_the_command(corpus: Path, tmp_path: Path) -> None:
    command = [*LAUNCH, *SMALL, "model.num_layers=5", f"data.path={corpus}", f"output={tmp_path}", "--dry-run"]
    result = run(command, environment={"COLUMNS": "200"})
    assert result.returncode == 0, result.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert rows == [
        ["localhost", "cpu", "0", "0 of 1", "0 of 2", "0 of 1", "embedding, blocks 0-2"],
        ["localhost", "cpu", "1", "0 of 1", "1 of 2", "0 of 1", "blocks 3-4, head"],
    ]
    assert result.stdout.splitlines()[-1].endswith(f"launcher/train.py {tmp_path}/quickstart/launch/experiment.yaml")
    assert not (tmp_path / "quickstart").exists()
