"""An installed megachar does everything without the checkout. `pytest -s` shows what it says."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from megachar.base.resources import resource_folder
from megachar.launching.probe import source_hash

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"build", "data", "dist", "runs"}
TINY = ["quickstart", "data.path=corpus", "model.num_layers=2", "model.width=32", "model.num_heads=2",
        "model.feed_forward_width=64", "model.local_offsets=[]", "schedule.warmup_steps=1", "training.total_steps=2",
        "training.log_interval=1", "training.validation_windows=4"]  # fmt: skip


@dataclass(frozen=True)
class Installed:
    """A new environment with megachar's wheel, and an empty folder to work in."""

    environment: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> str:
        """What one of its programs prints, which must succeed."""
        done = run([self.environment / "bin" / program, *arguments], self.folder)
        print(f"$ {program} {' '.join(arguments)}\n{done}")
        return done


def run(command: Sequence[str | Path], folder: Path) -> str:
    """What a command prints, which must succeed. Nothing of the checkout, or of this process, is on its path."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables |= {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run(
        command, cwd=folder, env=variables, text=True, timeout=300, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def build_wheel(folder: Path) -> Path:
    """A wheel built from an sdist, which is built from a copy of the checkout: nothing is left behind there."""

    def skipped(place: str, names: list[str]) -> set[str]:
        top = Path(place) == ROOT
        return {name for name in names if name == "__pycache__" or (top and (name[0] == "." or name in GENERATED))}

    source = shutil.copytree(ROOT, folder / "source", ignore=skipped)
    shutil.rmtree(source / "megachar.egg-info", ignore_errors=True)  # an old one lists files for the sdist
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    run([sys.executable, "-c", build], source)
    shutil.rmtree(source)
    (sdist,) = folder.glob("megachar-*.tar.gz")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    run([sys.executable, "-m", "pip", "wheel", *options, sdist], folder)
    (wheel,) = folder.glob("megachar-*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a new environment, which borrows the packages of others from this one.

    They are borrowed by a line in a .pth file, which does not read those of the other environment: an editable megachar
    there stays there.
    """
    folder = tmp_path_factory.mktemp("package")
    environment = Installed(folder / "environment", folder / "empty")
    environment.folder.mkdir()
    venv.create(environment.environment, symlinks=True)
    wheel = build_wheel(folder)
    pip = [sys.executable, "-m", "pip", "--python", environment.environment / "bin" / "python"]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", wheel], folder)
    (packages,) = environment.environment.glob("lib/python*/site-packages")
    borrowed = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    return environment


def test_a_checkout_finds_its_folders() -> None:
    """In a checkout the JSONs and the scripts lie beside the package."""
    assert resource_folder("ds_configs") == ROOT / "ds_configs"
    assert resource_folder("launcher") == ROOT / "launcher"


def test_the_wheel_is_whole(installed: Installed) -> None:
    """Its own files and no others are used, and they are those of the checkout."""
    code = "import megachar; from megachar.launching.probe import source_hash; print(megachar.__file__, source_hash())"
    place, fingerprint = installed.run("python", "-c", code).split()
    assert Path(place).is_relative_to(installed.environment)
    assert fingerprint == source_hash()
    script = Path(installed.run("megachar", "launch", "--slurm-script").strip())
    assert script.read_bytes() == (ROOT / "launcher" / "slurm.sh").read_bytes()
    assert script.is_relative_to(installed.environment)


def test_an_installed_megachar_trains(installed: Installed) -> None:
    """From an empty folder: presets, counts, a corpus, two steps over two stages, an evaluation, a sample, a sweep."""
    assert "t64-modern" in installed.run("megachar", "presets")
    assert "235,340,800" in installed.run("megachar", "count", "t64")
    (installed.folder / "text").write_text("the cat sat on the mat, and the dog lay on the log\n" * 200)
    assert "train" in installed.run("megachar", "corpus", "prepare", "text", "--output", "corpus")
    assert "step 2: saved" in installed.run("megachar", "launch", *TINY)
    assert "bits" in installed.run("megachar", "evaluate", "runs/quickstart", "--stride", "64")
    assert "the" in installed.run("megachar", "generate", "runs/quickstart", "--prompt", "the", "--characters", "20")
    assert "full" in installed.run("megachar", "sweep", "ablation", "data.path=corpus", "--dry-run")
