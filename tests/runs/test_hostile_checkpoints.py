"""Checkpoints and exports that somebody else wrote, or damaged: refused in a sentence before anything is done."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megachar.base.errors import CheckpointError
from megachar.config.loading import load_experiment, preset_names
from megachar.families.parameters import layer_name, layer_names
from megachar.families.transformer.model import Transformer
from megachar.runs.checkpoints import format as checkpoint_format
from megachar.runs.checkpoints.exporting import export_checkpoint, import_file
from megachar.runs.checkpoints.format import find_checkpoint, read_checkpoint
from megachar.runs.checkpoints.reading import load_model, problems_of, weight_shapes
from megachar.runs.checkpoints.single_file import problem_of
from megachar.runs.checkpoints.sources import check_resumable, check_source, damaged_newest, find_source
from megachar.runs.folder import RunFolder
from tests.runs.checkpoints_by_hand import small, write_checkpoint

NEWEST = "step-00000100"
WEIGHTS, STATES = "weights/blocks.1.safetensors", "optimizer/blocks.1.safetensors"
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """An error after 20 seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("a hostile file held us up")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def change_manifest(folder: Path, change: Change) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))


def rewrite(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Other tensors, of which the manifest knows."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    record = checkpoint_format.fingerprint(folder / name).model_dump()
    change_manifest(folder, lambda values: values["files"].update({name: record}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(step=-5), "step: .*greater than or equal to 0"),
        (lambda m: m.update(step="100"), "step: .*integer"),
        (lambda m: m.update(step=20), "it is of step 20, and the folder is step-00000100"),
        (lambda m: m.update(optimizer_steps=1 << 70), "optimizer_steps"),
        (lambda m: m.update(precision="fp8"), "precision"),
        (lambda m: m.update(loss_scaler={"update_scale": 1.0}), "'update_scale' is nothing of a loss scaling's"),
        (lambda m: m.update(loss_scaler={"cur_scale": 0.0}), "cur_scale = 0"),
        (lambda m: m.update(loop_state={"skipped_batches": -1}), "skipped_batches = -1 is no count"),
        (lambda m: m.update(loop_state={"losses": ["a"]}), "losses = .* are no finite numbers"),
        (lambda m: m.update(loop_state={"lowest_validation": "a"}), "lowest_validation = 'a' is no finite number"),
        (lambda m: m.update(validation_bits=float("nan")), "NaN is no number of JSON's"),
        (lambda m: m.update(settings={"modle": {}}), "modle: unknown key"),
        (lambda m: m["settings"]["model"].update(num_layers=3), "has model.num_layers = 2, its settings 3"),
        (lambda m: m["experiment"].pop("model"), "its experiment has no model"),
        (lambda m: m["experiment"].update(optimizer="x"), "has the optimizer 'x'"),
        (lambda m: m["files"].pop(WEIGHTS), f"it leaves out {WEIGHTS}, which its model has"),
        (lambda m: m["files"].update({"../../secret": m["files"][WEIGHTS]}), "it names '../../secret'"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"][WEIGHTS]}), "it names '/etc/passwd'"),
        (lambda m: m["files"].update({"streams/000000.safetensors": m["files"][WEIGHTS]}), "it names 'streams/000000"),
        (lambda m: m["files"][WEIGHTS].update(bytes=-1), "bytes"),
        (lambda m: m["files"][WEIGHTS].update(sha256="xyz"), "sha256"),
    ],
)
def test_a_manifest_that_cannot_be(run: RunFolder, change: Change, message: str) -> None:
    """Also of an older megachar, which wrote no checksum."""
    change_manifest(run.checkpoints / NEWEST, change)
    with pytest.raises(CheckpointError, match=rf"manifest\.json is damaged.*{message}"):
        read_checkpoint(run.checkpoints / NEWEST)
    assert find_source(run.path, None).step == 20
    [problem] = check_source(run.path, None)
    assert "step-00000100/manifest.json is damaged" in problem


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '"\ud800"', "\x00", "null", "[]", "{}"])
def test_a_manifest_that_is_none(run: RunFolder, text: str) -> None:
    (run.checkpoints / NEWEST / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        read_checkpoint(run.checkpoints / NEWEST)


def test_a_vocabulary_that_is_not_the_models(run: RunFolder) -> None:
    card = {"name": "bytes", "size": 300}
    change_manifest(run.checkpoints / NEWEST, lambda manifest: manifest.update(vocabulary=card))
    with pytest.raises(CheckpointError, match="its vocabulary has 300 symbols, its model 256; delete"):
        check_source(run.path, None)


def test_the_checksum_of_a_manifest(run: RunFolder) -> None:
    """What could be, but was not written so, is found by it; another order of keys is none."""
    folder = run.checkpoints / NEWEST
    manifest = read_checkpoint(folder).manifest
    (folder / "manifest.json").write_bytes(manifest.to_json())
    assert read_checkpoint(folder).manifest == manifest
    change_manifest(folder, lambda values: values.update(step=values.pop("step")))
    assert read_checkpoint(folder).manifest == manifest
    change_manifest(folder, lambda values: values.update(optimizer_steps=98))
    with pytest.raises(CheckpointError, match="its sha256 is not the one it was written with"):
        read_checkpoint(folder)


@pytest.mark.parametrize("preset", preset_names())
def test_the_layers_of_a_model_are_known_without_it(preset: str) -> None:
    experiment = load_experiment(preset)
    names = weight_shapes(experiment, with_auxiliary=True)
    assert {layer_name(name) for name in names} == set(layer_names(experiment.model))


@pytest.mark.parametrize("kind", ["link", "pipe", "linked folder"])
def test_only_regular_files_of_its_own_are_opened(run: RunFolder, tmp_path: Path, kind: str) -> None:
    folder = run.checkpoints / NEWEST
    path = folder / WEIGHTS
    if kind == "linked folder":
        (folder / "weights").rename(tmp_path / "elsewhere")
        (folder / "weights").symlink_to(tmp_path / "elsewhere")
    elif kind == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
        os.mkfifo(path)
    for look in (lambda: load_model(run.path), lambda: find_source(folder, None), lambda: check_source(run.path, None)):
        with pytest.raises(CheckpointError, match=r"is no regular file in the checkpoint's own folder"):
            look()
    assert problems_of(read_checkpoint(folder))
    check_resumable(run)  # from the one before


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_manifest_that_is_no_regular_file(run: RunFolder, tmp_path: Path, kind: str) -> None:
    path = run.checkpoints / NEWEST / "manifest.json"
    path.rename(tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged: it is (a link|no regular file)"):
        read_checkpoint(path.parent)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (WEIGHTS, lambda t: t.popitem(), "weights, and its model has"),
        (WEIGHTS, lambda t: t.update({"head.more": torch.zeros(2)}), "'head.more' is none of its layer"),
        (WEIGHTS, lambda t: t.update({"blocks.1.more": torch.zeros(2)}), "weights, and its model has"),
        (STATES, lambda t: t.popitem(), "should have"),
        (STATES, lambda t: t.update({name: value[:1] for name, value in t.items()}), r"has shape \(1"),
        (STATES, lambda t: t.update({"exp_max/blocks.1.more": torch.zeros(2)}), "has shape .* should have none"),
        (STATES, lambda t: t.update({name: value.double() for name, value in t.items()}), "of type F64"),
    ],
)
def test_tensors_that_do_not_fit_are_seen_at_once(run: RunFolder, name: str, change: Any, message: str) -> None:
    """From the headers alone, and so before any process starts."""
    rewrite(run.checkpoints / NEWEST, name, change)
    with pytest.raises(CheckpointError, match=message):
        check_source(run.path, None)
    for step in (5, 20):
        rewrite(run.checkpoints / f"step-{step:08d}", name, change)
    with pytest.raises(CheckpointError, match=rf"(?s)has no whole checkpoint to resume from:.*{message}"):
        check_resumable(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [WEIGHTS, STATES])
def test_numbers_that_are_not_finite(run: RunFolder, tmp_path: Path, name: str, value: float) -> None:
    folder = run.checkpoints / NEWEST
    rewrite(folder, name, lambda tensors: next(iter(tensors.values())).view(-1)[-1:].fill_(value))
    checkpoint = find_checkpoint(run)
    [problem] = problems_of(checkpoint)
    assert f"{NEWEST}/{name} is damaged: " in problem
    assert "not finite" in problem
    with pytest.raises(CheckpointError, match="not finite"):
        export_checkpoint(checkpoint, tmp_path / "a.safetensors", "all")
    if name == WEIGHTS:
        with pytest.raises(CheckpointError, match="not finite"):
            load_model(run.path)


def test_shapes_of_the_same_size_are_compared_on_load(run: RunFolder) -> None:
    def turn(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
        tensors[name] = tensors[name].reshape(1, -1)

    rewrite(run.checkpoints / NEWEST, WEIGHTS, turn)
    rewrite(run.checkpoints / NEWEST, STATES, lambda t: t.update({n: v.clone() for n, v in t.items()}))
    with pytest.raises(CheckpointError, match="should have"):
        load_model(run.path)


@pytest.fixture
def everything(run: RunFolder, tmp_path: Path) -> Path:
    export_checkpoint(find_checkpoint(run, 20), tmp_path / "all.safetensors", "all")
    return tmp_path / "all.safetensors"


def change_export(file: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]) -> None:
    """Other tensors or another card, and no JSON beside it."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors, card = load_file(file), json.loads(metadata["megachar"])
    change(tensors, card)
    save_file(tensors, file, {**metadata, "megachar": json.dumps(card)})
    file.with_suffix(".json").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, card: card.update(step=-1), "step"),
        (lambda tensors, card: card.update(settings={"x": 1}), "x: unknown key"),
        (lambda tensors, card: tensors.popitem(), "head"),
        (lambda tensors, card: card.update(loss_scaler={"x": 1.0}), "loss scaling"),
        (lambda tensors, card: tensors.update({"streams/0/hidden": torch.zeros(1)}), "has no such streams"),
        (lambda tensors, card: tensors.update({"optimizer/more": torch.zeros(1)}), "optimizer/more has shape"),
        (lambda tensors, card: tensors["head.norm.weight"].fill_(float("nan")), "not finite"),
    ],
)
def test_an_export_that_cannot_be(everything: Path, tmp_path: Path, change: Any, message: str) -> None:
    change_export(everything, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(everything)
    with pytest.raises(CheckpointError, match=message):
        import_file(everything, tmp_path / "new")


def test_the_json_beside_an_export_is_compared(everything: Path) -> None:
    beside = everything.with_suffix(".json")
    values = json.loads(beside.read_text())
    assert values["validation_bits"] is None
    beside.write_text(json.dumps({**values, "validation_bits": float("nan")}))  # as an older megachar wrote it
    assert problem_of(everything) is None
    beside.write_text(json.dumps({**values, "step": 21}))
    assert "says something else than all.safetensors says of itself" in str(problem_of(everything))
    beside.write_text(json.dumps({**values, "file": {**values["file"], "bytes": 1}}))
    with pytest.raises(CheckpointError, match="is damaged: its size or sha256"):
        load_model(everything)


@pytest.mark.parametrize("kind", ["pipe", "empty", "folder", "missing"])
def test_what_lies_in_the_place_of_an_export(everything: Path, kind: str) -> None:
    everything.unlink()
    if kind == "pipe":
        os.mkfifo(everything)
    elif kind == "folder":
        everything.mkdir()
    elif kind == "empty":
        everything.touch()
    with pytest.raises(CheckpointError, match="cannot be read") if kind != "empty" else contextlib.nullcontext():
        assert "is damaged" in str(problem_of(everything))


def test_which_newer_checkpoints_are_passed_over_is_said(run: RunFolder, model: Transformer) -> None:
    assert damaged_newest(run) == []
    (run.checkpoints / NEWEST / "manifest.json").unlink()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    write_checkpoint(run, 200, weights, small(), settings=[])
    first, second = damaged_newest(run)
    assert "step-00000200/manifest.json is damaged" in first
    assert "step-00000100/manifest.json is missing" in second
    assert check_source(run.path, 5) == []
