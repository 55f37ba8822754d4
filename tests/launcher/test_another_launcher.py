"""A launcher is one file: with it there, `megachar launch --launcher` knows it, and it starts the ranks."""

import sys
from pathlib import Path

from tests.launcher.commands import SMALL, losses, run

TORCHRUN = '''
"""torchrun, on this machine."""

import sys

from megachar.launching.launchers.launcher import Launcher


class Torchrun(Launcher):
    """Its agent starts the ranks."""

    name = "torchrun"

    def hosts(self, hostfile):
        return ()

    def command(self, plan, script):
        return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(plan.topology.world_size),
                "--master-port", str(plan.master_port), *script]
'''
MAIN = """
import sys
import megachar.launching.launchers

megachar.launching.launchers.__path__.append(sys.argv.pop(1))
from megachar.cli import main

main()
"""


def test_one_file_is_a_launcher(corpus: Path, tmp_path: Path) -> None:
    place = tmp_path / "launchers"
    place.mkdir()
    (place / "torchrun.py").write_text(TORCHRUN)
    launch = [sys.executable, "-c", MAIN, str(place), "launch"]
    settings = [*SMALL, "training.total_steps=2", f"data.path={corpus}", f"output={tmp_path}"]
    done = run([*launch, *settings, "--launcher", "torchrun"])
    assert done.returncode == 0, done.stderr
    assert "-m torch.distributed.run --nproc-per-node 2 " in done.stdout
    assert [step for step, _ in losses(tmp_path, "quickstart")] == [1, 2]
    refused = run([*launch, *settings, "name=another", "--launcher", "pdsh"])
    assert "--launcher pdsh is unknown; take one of local, no_ssh, openmpi, slurm, ssh, torchrun" in refused.stderr
