"""Which checkpoints go once a new one is whole."""

from pathlib import Path
from typing import Any

import pytest

from megachar.families.transformer.model import Transformer
from megachar.runs.checkpoints.format import Checkpoint, Manifest, list_checkpoints, new_folder
from megachar.runs.checkpoints.retention import best_of, delete_expired, delete_leftovers, expired
from megachar.runs.folder import RunFolder
from tests.runs.checkpoints_by_hand import small, write_checkpoint


def checkpoint(step: int, bits: float | None = None, name: str = "") -> Checkpoint:
    values: dict[str, Any] = {"step": step, "optimizer_steps": step, "loss_scaler": {}, "validation_bits": bits}
    manifest = Manifest(**values, format_version=1, experiment={}, files={})
    return Checkpoint(Path(name or f"step-{step:08d}"), manifest)


def names(found: list[Checkpoint]) -> list[str]:
    return [checkpoint.path.name for checkpoint in found]


BITS = {10: 3.0, 20: 2.0, 30: None, 40: 2.5, 50: 2.25}


@pytest.mark.parametrize(
    ("keep", "keep_best", "gone"),
    [
        (1, True, [10, 30, 40]),
        (1, False, [10, 20, 30, 40]),
        (2, True, [10, 30]),
        (3, True, [10]),
        (4, True, [10]),
        (5, True, []),
        (9, False, []),
    ],
)
def test_the_last_and_the_best_stay(keep: int, keep_best: bool, gone: list[int]) -> None:
    found = [checkpoint(step, bits) for step, bits in BITS.items()]
    assert [each.step for each in expired(found, found[-1], keep, keep_best)] == gone


@pytest.mark.parametrize("bits", [float("nan"), float("inf"), -float("inf")])
def test_the_newest_stays_whatever_its_validation_was(bits: float, run: RunFolder, model: Transformer) -> None:
    """In memory the figure is what the disk gives back; neither the newest nor what the newest cannot beat goes."""
    newest = checkpoint(120, bits, str(run.checkpoints / "step-00000120"))
    assert newest.manifest.validation_bits is None
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    path = write_checkpoint(run, 120, weights, small(), validation_bits=None)
    delete_expired(run, Checkpoint(path, newest.manifest), keep=1, keep_best=True)
    assert [each.step for each in list_checkpoints(run)] == [100, 120]


@pytest.mark.parametrize("keep", [1, 2, 9])
def test_what_was_saved_last_stays_and_what_the_run_went_back_behind_goes(keep: int) -> None:
    found = [checkpoint(step, bits) for step, bits in BITS.items()]
    gone = expired(found, found[2], keep, keep_best=True)
    assert {40, 50} <= {each.step for each in gone} <= {10, 40, 50}


def test_of_a_step_saved_again_the_first_goes() -> None:
    found = [checkpoint(10), checkpoint(20, 1.0), checkpoint(20, 2.0, "step-00000020.1")]
    assert names(expired(found, found[2], keep=2, keep_best=True)) == ["step-00000020"]
    found.append(checkpoint(30))
    assert names(expired(found, found[3], keep=2, keep_best=True)) == ["step-00000010", "step-00000020"]


def test_best() -> None:
    """The newest of equals; neither what was not validated nor NaN."""
    found = [
        checkpoint(10, 2.0),
        checkpoint(20, 2.0),
        checkpoint(30),
        checkpoint(40, float("nan")),
        checkpoint(50, 3.0),
    ]
    assert best_of(found) == found[1]
    assert best_of(found[2:4]) is None
    assert best_of([]) is None


def test_a_step_saved_again_counts_before_the_old_one(run: RunFolder, model: Transformer) -> None:
    """And both are there until the old one is deleted."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    for name in ("step-00000100.1", "step-00000100.2", "step-00000100.10"):
        assert new_folder(run, 100).name == (name if name != "step-00000100.10" else "step-00000100.3")
        write_checkpoint(run, 100, weights, small(), name)
    assert new_folder(run, 100).name == "step-00000100.11"
    found = list_checkpoints(run)
    assert [each.path.name for each in found][-2:] == ["step-00000100.2", "step-00000100.10"]
    delete_expired(run, found[-1], keep=1, keep_best=False)
    assert [each.path.name for each in list_checkpoints(run)] == ["step-00000100.10"]
    assert not list(run.checkpoints.glob(".*"))


def test_leftovers_are_removed(run: RunFolder) -> None:
    before = names(list_checkpoints(run))
    for name in (".step-00000120.part", ".step-00000005.deleted"):
        (run.checkpoints / name / "weights").mkdir(parents=True)
        (run.checkpoints / name / "weights" / "head.safetensors").write_bytes(b"half")
    delete_leftovers(run)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == sorted(before)
