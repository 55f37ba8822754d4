"""The manual is true: its commands work, in order; its YAML loads; its links lead somewhere; README stays a door."""

import shutil
from pathlib import Path

import pytest

from megachar.config.loading import load_experiment
from megachar.scaling.ladder import load_ladder, plan_ladder
from megachar.sweeps.sweep import load_sweep, plan_runs
from tests.docs.blocks import LANGUAGES, PAGES, ROOT, anchors_of, find_blocks, find_commands, links_of
from tests.docs.rules import attempt_of
from tests.docs.sandbox import make_sandbox

MAX_README_LINES = 150


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sandbox that every page gets a copy of."""
    folder = tmp_path_factory.mktemp("manual") / "made"
    folder.mkdir()
    make_sandbox(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_work(page: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of a page does what it should, one after another in one folder, at tiny size."""
    folder = tmp_path / "sandbox"
    shutil.copytree(made, folder, symlinks=True)
    monkeypatch.chdir(folder)
    failures = []
    for block in (block for block in find_blocks(page) if block.language == "bash"):
        for command in find_commands(block):
            try:
                attempt_of(command.text)(command.text)
            except (Exception, SystemExit) as error:  # whatever it is, the other commands are tried as well
                failures.append(f"{page.name}:{command.line}: {command.text}\n{error}")
    assert not failures, "\n\n".join(failures)


@pytest.mark.parametrize(
    "nonsense",
    [
        "megachar evaluate runs/small --strde 3",
        "megachar launch smal data.path=data/enwik8",
        "megachar launch t64-modern data.path=/shared/enwik8 --hostfile hosts parallel.pip=8",
        "megachar corpus fetch enwik9",
        "cat novel.txt | megachar corpus prepar - --output data/never",
        "torchrun --nproc_per_node 4 launcher/train.py t64-modern data.path=/shared/enwik8 parallel.pipe=8",
        "sbatch --nodes=8 launcher/slurm.sh t64-moder data.path=/shared/enwik8",
        "python tools/benchmark.py engin small",
        "pip install '.[mpy]'",
        "make install",
    ],
)
def test_nonsense_fails(nonsense: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with a slip in it, or one that no rule covers, does not pass."""
    monkeypatch.chdir(made)
    with pytest.raises((Exception, SystemExit)):
        attempt_of(nonsense)(nonsense)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_loads(page: Path, tmp_path: Path) -> None:
    """Every block of YAML is an experiment, a sweep, or a ladder."""
    for block in (block for block in find_blocks(page) if block.language == "yaml"):
        file = tmp_path / f"line-{block.line}.yaml"
        file.write_text(block.text)
        if "variants:" in block.text or "grid:" in block.text:
            assert plan_runs(load_sweep(str(file)), None, [])
        elif "sizes:" in block.text:
            assert plan_ladder(load_ladder(file), None, ["data.path="])
        else:
            load_experiment(str(file), [])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_say_what_they_are(page: Path) -> None:
    """A block without a language would be neither tried nor loaded."""
    for block in find_blocks(page):
        assert block.language in LANGUAGES, f"{page.name}:{block.line}: say one of {', '.join(LANGUAGES)} after ```"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Links lead to files of the repository, and to headings that are there."""
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        assert not anchor or anchor in anchors_of(target), f"{page.name} links to {link}, a heading that is not there"


def test_every_page_is_found_from_the_readme() -> None:
    """README links to every page of the manual."""
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links_of(ROOT / "README.md")}
    assert set(PAGES) - {ROOT / "README.md"} <= linked


def test_readme_is_a_door() -> None:
    """README is read in a few minutes; what takes longer is a page of docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) < MAX_README_LINES
