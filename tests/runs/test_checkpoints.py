"""Reading checkpoints; saving them needs ranks and is tested in tests/parallel."""

import errno
import hashlib
import json
import os
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import megachar
from megachar.base.errors import CheckpointError, ConfigError
from megachar.config.loading import save_experiment
from megachar.families.transformer.model import Transformer
from megachar.runs.checkpoints import format, reading
from megachar.runs.checkpoints.format import find_checkpoint, list_checkpoints, read_checkpoint
from megachar.runs.checkpoints.reading import Position, load_model, read_layer, restore_checkpoint
from megachar.runs.checkpoints.tensors import checkpoint_shapes
from megachar.runs.folder import RunFolder
from tests.runs.checkpoints_by_hand import layer_of, optimizer_state, small

FILE = "weights/blocks.1.safetensors"


def test_listed_in_order(run: RunFolder) -> None:
    assert [checkpoint.step for checkpoint in list_checkpoints(run)] == [5, 20, 100]
    assert find_checkpoint(run).step == 100
    assert find_checkpoint(run, 20).path == run.checkpoints / "step-00000020"


def test_what_is_not_whole_is_no_checkpoint(run: RunFolder) -> None:
    """No manifest, half a manifest, a format of another day, a temporary name, a file."""

    def spoil(step: int, text: str | None) -> None:
        folder = run.checkpoints / f"step-{step:08d}"
        folder.mkdir()
        if text is not None:
            (folder / "manifest.json").write_text(text)

    manifest = json.loads((run.checkpoints / "step-00000100" / "manifest.json").read_text())
    spoil(200, None)
    spoil(300, json.dumps(manifest)[:40])
    spoil(400, json.dumps({**manifest, "format_version": 2, "step": 400}))
    spoil(500, "[]")
    (run.checkpoints / "step-00000600").write_text("a file")
    (run.checkpoints / "step-00000100").rename(run.checkpoints / ".step-00000100.part")
    assert [checkpoint.step for checkpoint in list_checkpoints(run)] == [5, 20]


@pytest.mark.parametrize("make", [True, False])
def test_no_checkpoint_yet(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    for step in (None, 1):
        with pytest.raises(CheckpointError, match=r"has no whole checkpoint yet; train until training\.checkpoint_int"):
            find_checkpoint(RunFolder(tmp_path), step)


def test_no_checkpoint_of_that_step(run: RunFolder) -> None:
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 21; it has those of step 5, 20, 100$"):
        find_checkpoint(run, 21)


def test_tensors_are_read_as_they_were(run: RunFolder, model: Transformer) -> None:
    for layer in ("embedding", "blocks.0", "blocks.1", "head"):
        expected = {name: value for name, value in model.named_parameters() if layer_of(name) == layer}
        found = read_layer(find_checkpoint(run), "weights", layer)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def damaged(run: RunFolder, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"step-00000100/{FILE} {message}.*; delete .*step-00000100 to continue"):
        read_layer(find_checkpoint(run), "weights", "blocks.1")
    read_layer(find_checkpoint(run), "weights", "blocks.0")
    read_layer(find_checkpoint(run, 20), "weights", "blocks.1")


def test_a_flipped_bit(run: RunFolder, seed: int) -> None:
    path, draw = run.checkpoints / "step-00000100" / FILE, random.Random(seed)
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    damaged(run, "is damaged: its size or sha256 is not the manifest's")


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_truncated_file(run: RunFolder, kept: int) -> None:
    path = run.checkpoints / "step-00000100" / FILE
    path.write_bytes(path.read_bytes()[:kept])
    damaged(run, "is damaged")


def test_a_missing_file(run: RunFolder) -> None:
    (run.checkpoints / "step-00000100" / FILE).unlink()
    damaged(run, "is missing")


def change_manifest(run: RunFolder, change: Any) -> None:
    path = run.checkpoints / "step-00000100" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_file_the_manifest_does_not_name(run: RunFolder) -> None:
    change_manifest(run, lambda manifest: manifest["files"].pop(FILE))
    with pytest.raises(CheckpointError, match=rf"manifest\.json is damaged: it leaves out {FILE}, which its model has"):
        read_checkpoint(run.checkpoints / "step-00000100")


def test_a_file_that_is_no_safetensors(run: RunFolder) -> None:
    path = run.checkpoints / "step-00000100" / FILE
    path.write_bytes(b"\xff" * 99)
    value = {"bytes": 99, "sha256": hashlib.sha256(b"\xff" * 99).hexdigest()}
    change_manifest(run, lambda manifest: manifest["files"].update({FILE: value}))
    damaged(run, "is damaged: ")


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EACCES, "Permission denied; change its permissions"), (errno.EIO, "Input/output error; look at the disk"),
     (errno.ESTALE, "Stale file handle; look at the mount"), (errno.EMFILE, "Too many open files; raise the limit")],
)  # fmt: skip
@pytest.mark.parametrize("place", ["manifest", "header", "layer"])
def test_trouble_of_the_machine(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int, said: str, place: str
) -> None:
    """It is said as such; nobody is told to delete a checkpoint that may be whole."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    checkpoint = read_checkpoint(run.checkpoints / "step-00000100")
    function, look = {
        "manifest": ("read_regular", lambda: read_checkpoint(checkpoint.path)),
        "header": ("is_plain", lambda: checkpoint_shapes(checkpoint)),
        "layer": ("hash_file", lambda: read_layer(checkpoint, "weights", "blocks.1")),
    }[place]
    monkeypatch.setattr(format, function, fail)
    with pytest.raises(CheckpointError) as caught:
        look()
    assert f" cannot be read: {said}" in str(caught.value)
    assert "delete" not in str(caught.value)


def test_a_run_whose_name_is_no_utf8(run: RunFolder, tmp_path: Path) -> None:
    moved = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    shutil.copytree(run.path, moved)
    with pytest.raises(CheckpointError, match=r"/\\xff/.* takes no name that is not UTF-8; rename the folder$"):
        load_model(moved)


def test_load_model(run: RunFolder, model: Transformer) -> None:
    """At inference: no auxiliary classifiers, evaluation mode, the same logits."""
    inputs = torch.randint(256, (2, 8))
    loaded = load_model(run.path)
    assert loaded.step == 100
    assert loaded.experiment == small()
    assert not loaded.model.training
    assert not [name for name, _ in loaded.model.named_parameters() if "auxiliary" in name or "classifiers.1" in name]
    assert torch.equal(loaded.model(inputs), model.eval()(inputs))
    assert load_model(run.path, 20).step == 20
    assert not torch.equal(load_model(run.path, 20).model(inputs), model(inputs))


def test_load_model_errors(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder of runs, and one of them is needed here"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="has no checkpoint of step 7"):
        load_model(run.path, 7)
    (run.checkpoints / "step-00000100" / FILE).write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"{FILE} is damaged"):
        load_model(run.path)


def test_load_model_of_an_edited_run(run: RunFolder) -> None:
    """resolved.yaml says another width than the checkpoint has."""
    save_experiment(small("model.feed_forward_width=16"), run.experiment_file)
    with pytest.raises(CheckpointError, match="model"):
        load_model(run.path)


def test_a_checkpoint_of_the_same_model_is_restored(
    run: RunFolder, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another learning rate, number of steps and layout: they are no part of what has to fit."""
    monkeypatch.setattr(reading, "fail_together", lambda mesh, error: None)  # there are no other ranks
    read: dict[str, Any] = {}
    streams: list[Any] = []
    state: Any = SimpleNamespace(
        mesh=None, restore=lambda layer: read.update(zip(("weights", "optimizer"), layer("head"), strict=True)),
        engine=SimpleNamespace(stage=SimpleNamespace(restore_streams=streams.append)),
    )  # fmt: skip
    resumed = small("optimizer.learning_rate=1", "training.total_steps=7000", "parallel.data=2", "seed=3")
    assert restore_checkpoint(find_checkpoint(run, 20), state, resumed) == Position(20, {"skipped": 3}, 20 * 32)
    assert state.optimizer_steps == 19
    assert state.loss_scaler == {}
    assert streams == [{}]  # a transformer carries nothing on
    weight = model.head.norm.weight.detach() * 0.2
    assert torch.equal(read["weights"]["head.norm.weight"], weight)
    expected = optimizer_state("head.norm.weight", "exp_avg_sq", weight)
    assert torch.equal(read["optimizer"]["exp_avg_sq/head.norm.weight"], expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width=16", r"step-00000100 was saved with model = .*'width': 8,.* now has model = .*'width': 16,"),
        ("model.positions=sinusoidal", r"was saved with model = "),
        ("auxiliary.num_targets=3", r"was saved with auxiliary = .*'num_targets': 2.*'num_targets': 3"),
        ("auxiliary.intermediate_layers=false", r"was saved with auxiliary = "),
        ("optimizer.name=sgd", r"was saved with optimizer = adamw, the experiment now has .* = sgd; set it back"),
    ],
)
def test_a_checkpoint_of_another_model_is_not_restored(run: RunFolder, override: str, message: str) -> None:
    state: Any = None  # refused before it is touched
    with pytest.raises(CheckpointError, match=message):
        restore_checkpoint(find_checkpoint(run), state, small(override))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"manifest\.json is damaged: it is no JSON \(.*\); delete .*step-00000100 to continue"),
        ("[]", r"manifest\.json is damaged \(the whole of it: .*\); delete "),
        ('{"format_version": 2}', r"manifest\.json is of format version 2; this megachar reads 1$"),
        ('{"format_version": 1}', r"manifest\.json is damaged \(step: Field required\); delete "),
        (None, r"manifest\.json is missing; delete "),
    ],
)
def test_a_damaged_manifest(run: RunFolder, text: str | None, message: str) -> None:
    path = run.checkpoints / "step-00000100" / "manifest.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path.parent)
    assert find_checkpoint(run).step == 20


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('{"update_scale": 1.0}', r"loss_scaler: .*'update_scale' is nothing of a loss scaling's"),  # a method of it
        ('{"cur_scale": NaN}', r"NaN is no number of JSON's"),
        ('{"cur_scale": 0.0}', r"loss_scaler: .*cur_scale = 0\.0 is no state of a loss scaling"),
        ('{"cur_iter": -2}', r"loss_scaler: .*cur_iter = -2\.0 is no state of a loss scaling"),
    ],
)
def test_a_state_of_the_loss_scaling_that_none_can_be(run: RunFolder, entry: str, message: str) -> None:
    path = run.checkpoints / "step-00000100" / "manifest.json"
    path.write_text(path.read_text().replace('"loss_scaler": {}', f'"loss_scaler": {entry}'))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path.parent)


def test_a_manifest_that_cannot_be_read(run: RunFolder) -> None:
    path = run.checkpoints / "step-00000100" / "manifest.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged: it is no regular file; delete "):
        read_checkpoint(path.parent)


@pytest.mark.parametrize("package", ["parallel", "evaluation", "generation", "training", "cli"])
def test_nothing_is_unpickled(package: str) -> None:
    """Whatever reads checkpoints calls neither torch.load nor pickle, with or without weights_only."""
    for path in (Path(megachar.__file__).parent / package).rglob("*.py"):
        found = re.findall(
            r"torch\.load\(|\bpickle\.|import pickle|allow_pickle|joblib", path.read_text(encoding="utf-8")
        )
        assert not found, f"{path}: {found}"
