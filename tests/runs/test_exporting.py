"""Out into one file and back, bit for bit; and the forms a model is read from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from megachar.base.errors import CheckpointError, ConfigError
from megachar.config.loading import save_experiment
from megachar.families.transformer.model import Transformer
from megachar.runs.checkpoints import exporting, files
from megachar.runs.checkpoints.exporting import export_checkpoint, import_file
from megachar.runs.checkpoints.format import find_checkpoint, list_checkpoints
from megachar.runs.checkpoints.reading import load_model
from megachar.runs.checkpoints.single_file import problem_of, read_card
from megachar.runs.checkpoints.sources import load_settings, result_path
from megachar.runs.folder import RunFolder
from tests.runs.checkpoints_by_hand import ADAM_KEYS, optimizer_state, small

Change = Callable[[dict[str, torch.Tensor]], Any]


@pytest.fixture
def weights(run: RunFolder, tmp_path: Path) -> Path:
    """The weights of step 20 as a file."""
    export_checkpoint(find_checkpoint(run, 20), tmp_path / "weights.safetensors", "inference")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def everything(run: RunFolder, tmp_path: Path) -> Path:
    """All of step 20 as a file."""
    export_checkpoint(find_checkpoint(run, 20), tmp_path / "everything.safetensors", "all")
    return tmp_path / "everything.safetensors"


def test_weights_load_by_name(weights: Path, model: Transformer) -> None:
    """With safetensors alone, into the plain model."""
    plain = Transformer(small().model, None)
    plain.load_state_dict(load_file(weights), strict=True)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name] * 0.2), name


def test_everything_holds_every_tensor(everything: Path, model: Transformer) -> None:
    found = load_file(everything)
    for name, parameter in model.named_parameters():
        weight = parameter.detach() * 0.2
        assert torch.equal(found.pop(name), weight)
        for key in ADAM_KEYS:
            assert torch.equal(found.pop(f"optimizer/{key}/{name}"), optimizer_state(name, key, weight))
    assert not found


@pytest.mark.parametrize("name", ["weights", "everything"])
def test_settings_are_in_the_file_and_beside_it(name: str, run: RunFolder, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["megachar"])
        assert file.metadata()["format"] == "pt"
    beside = json.loads(path.with_suffix(".json").read_text())
    assert beside.pop("file")["bytes"] == path.stat().st_size
    assert beside == card
    assert card["settings"] == small().model_dump(mode="json")
    assert (card["step"], card["optimizer_steps"], card["loop_state"]) == (20, 19, {"skipped": 3})
    assert load_settings(path) == small()
    assert problem_of(path) is None


def test_there_and_back_bit_by_bit(run: RunFolder, everything: Path, tmp_path: Path) -> None:
    imported = import_file(everything, tmp_path / "runs" / "back")
    original = find_checkpoint(run, 20)
    assert imported.manifest == original.manifest
    assert imported.manifest.files  # of every file the sha256
    assert imported.problems() == []
    assert imported.path == tmp_path / "runs" / "back" / "checkpoints" / "step-00000020"
    experiment = RunFolder(tmp_path / "runs" / "back").load_experiment()
    assert (experiment.name, experiment.output) == ("back", str(tmp_path / "runs"))
    assert experiment.model_copy(update={"name": small().name, "output": small().output}) == small()


def test_into_a_run_that_is_there(run: RunFolder, everything: Path) -> None:
    before = run.experiment_file.read_text()
    shutil.rmtree(run.checkpoints / "step-00000020")
    import_file(everything, run.path)
    assert [checkpoint.step for checkpoint in list_checkpoints(run)] == [5, 20, 100]
    assert run.experiment_file.read_text() == before
    assert not list(run.checkpoints.glob(".*"))


def test_every_form_gives_the_same_model(
    run: RunFolder, weights: Path, everything: Path, model: Transformer, tmp_path: Path
) -> None:
    """Also a checkpoint that has left its run folder."""
    shutil.copytree(run.checkpoints / "step-00000020", tmp_path / "elsewhere")
    inputs = torch.randint(256, (2, 8))
    expected = load_model(run.path, 20).model(inputs)
    for source in (run.checkpoints / "step-00000020", tmp_path / "elsewhere", weights, everything):
        loaded = load_model(source)
        assert (loaded.step, loaded.experiment) == (20, small())
        assert torch.equal(loaded.model(inputs), expected)


def test_results_go_beside_what_they_are_about(run: RunFolder, weights: Path, tmp_path: Path) -> None:
    shutil.copytree(run.checkpoints / "step-00000020", tmp_path / "elsewhere")
    shutil.copytree(run.checkpoints / "step-00000020", run.path / "kept" / "mine")
    for source, expected in (
        (run.path, run.path / "a.json"),
        (run.path / "kept" / "mine", run.path / "kept" / "mine.a.json"),
        (run.checkpoints / "step-00000020", run.path / "a.json"),
        (tmp_path / "elsewhere", tmp_path / "elsewhere.a.json"),
        (weights, tmp_path / "weights.a.json"),
    ):
        assert result_path(source, "a.json") == expected


def test_a_step_of_what_has_only_one(run: RunFolder, weights: Path) -> None:
    for source in (run.checkpoints / "step-00000020", weights):
        with pytest.raises(ConfigError, match=r"--step 20: .* is one checkpoint and has no others; leave --step out"):
            load_model(source, 20)


def test_neither_run_nor_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        load_model(tmp_path)


def test_a_checkpoint_without_settings(run: RunFolder, tmp_path: Path) -> None:
    """As an older megachar saved it: the run folder around it says them, and nobody does elsewhere."""
    path = run.checkpoints / "step-00000020" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "settings": None}))
    assert load_model(path.parent).step == 20
    shutil.copytree(path.parent, tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="does not hold the experiment's settings: it was saved by an older"):
        load_model(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.safetensors", "weights.safetensors exists already; name another file, or delete it"),
        ("weights.bin", r"--output .*weights.bin: the name must end in .safetensors"),
        ("nowhere/weights.safetensors", "the folder .*nowhere does not exist; make it first"),
    ],
)
def test_an_output_that_cannot_be(run: RunFolder, weights: Path, tmp_path: Path, name: str, message: str) -> None:
    before = weights.read_bytes()
    with pytest.raises(ConfigError, match=message):
        export_checkpoint(find_checkpoint(run, 20), tmp_path / name, "inference")
    assert weights.read_bytes() == before


def test_a_json_that_is_there_already(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"new\.json exists already"):
        export_checkpoint(find_checkpoint(run), tmp_path / "new.safetensors", "all")
    assert (tmp_path / "new.json").read_text() == "mine"


def test_a_damaged_checkpoint_is_not_exported(run: RunFolder, tmp_path: Path) -> None:
    (run.checkpoints / "step-00000100" / "optimizer" / "head.safetensors").write_bytes(b"")
    export_checkpoint(find_checkpoint(run), tmp_path / "weights.safetensors", "inference")
    with pytest.raises(CheckpointError, match=r"optimizer/head\.safetensors is damaged"):
        export_checkpoint(find_checkpoint(run), tmp_path / "everything.safetensors", "all")
    assert not list(tmp_path.glob("*everything*"))


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def half(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    path.write_bytes(b"half of it")
    full()


def test_a_full_disk_leaves_no_export(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "save_file", half)
    with pytest.raises(ConfigError, match=r"new\.safetensors cannot be written: .*No space left on device; free space"):
        export_checkpoint(find_checkpoint(run), tmp_path / "new.safetensors", "all")
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_no_import(
    run: RunFolder, everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    shutil.rmtree(run.checkpoints / "step-00000020")
    monkeypatch.setattr(files, "write_durably", full)
    target = run.path if there else tmp_path / "new"
    with pytest.raises(ConfigError, match=r"cannot be written: .*No space left on device; free space"):
        import_file(everything, target)
    assert [checkpoint.step for checkpoint in list_checkpoints(run)] == [5, 100]
    assert not list(run.checkpoints.glob(".*"))
    assert target.exists() == there


def test_weights_alone_are_not_imported(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds inference weights only, which cannot be trained further; export"):
        import_file(weights, tmp_path / "new")


def test_a_step_that_is_there_is_not_replaced(run: RunFolder, everything: Path) -> None:
    with pytest.raises(ConfigError, match="has a checkpoint of step 20 already; delete it, or name another folder"):
        import_file(everything, run.path)


def test_a_folder_that_is_no_run(everything: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    for path in (tmp_path / "mine", tmp_path / "mine" / "file"):
        with pytest.raises(ConfigError, match="is there and is no run folder; name one, or a folder to be made"):
            import_file(everything, path)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_a_run_folder_that_is_no_name(everything: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name = 'a b'"):
        import_file(everything, tmp_path / "a b")


def test_a_run_of_another_model(run: RunFolder, everything: Path) -> None:
    save_experiment(small("model.feed_forward_width=16"), run.experiment_file)
    with pytest.raises(CheckpointError, match=r"has model = .*, the run .* has model = .*; name another run folder"):
        import_file(everything, run.path)


def test_a_file_with_a_flipped_bit(everything: Path, tmp_path: Path) -> None:
    """The JSON beside it knows; without the JSON nobody does."""
    data = bytearray(everything.read_bytes())
    data[-5] ^= 4
    everything.write_bytes(data)
    assert problem_of(everything) == f"{everything} is damaged: its size or sha256 is not the one in everything.json"
    with pytest.raises(CheckpointError, match=r"its size or sha256 is not the one in everything\.json; copy both"):
        import_file(everything, tmp_path / "new")


def test_no_readable_json_to_compare_with(everything: Path) -> None:
    for text in ("{", "[]", '{"file": {}}', '{"file": 3}', "{}"):
        everything.with_suffix(".json").write_text(text)
        with pytest.raises(CheckpointError, match=r"everything\.json is not the JSON of an export; copy it again"):
            problem_of(everything)
    everything.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"everything\.json is missing: it has the sha256 that"):
        problem_of(everything)


def rewrite(path: Path, change: Change) -> None:
    """Change the tensors of a file that has no JSON beside it."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    path.with_suffix(".json").unlink(missing_ok=True)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("head.norm.weight"), r"head\.norm\.weight has shape none and should have \(8,\)"),
        (lambda tensors: tensors.update({"head.norm.weight": torch.zeros(9)}), r"has shape \(9,\) and should have"),
        (lambda tensors: tensors.update({"head.norm.weight": torch.zeros(8).half()}), "holds tensors of type F16"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_its_settings(everything: Path, tmp_path: Path, change: Change, message: str) -> None:
    rewrite(everything, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(everything)
    with pytest.raises(CheckpointError, match=message):
        import_file(everything, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_optimizer_state_that_is_missing_or_too_much(everything: Path, tmp_path: Path) -> None:
    rewrite(everything, lambda tensors: tensors.update({"optimizer/x/../../../evil": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"optimizer/x/../../../evil has shape \(1,\) and should have none"):
        import_file(everything, tmp_path / "new")
    rewrite(
        everything, lambda tensors: [tensors.pop(name) for name in list(tensors) if "evil" in name or "_sq" in name]
    )
    with pytest.raises(CheckpointError, match=r"optimizer/exp_avg_sq/.* has shape none and should have"):
        import_file(everything, tmp_path / "new")


def test_files_that_are_no_exports(everything: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_card(other)
    other.write_bytes(b"pickle?")
    with pytest.raises(CheckpointError, match=r"cannot be read as safetensors: .*; export it again"):
        read_card(other)
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(CheckpointError, match="was not exported by megachar: its metadata have no 'megachar'"):
        load_model(other)
    save_file({"a": torch.zeros(1)}, other, {"megachar": json.dumps({"format_version": 2})})
    with pytest.raises(CheckpointError, match=r"metadata this megachar cannot read \(.*\); export it again"):
        load_model(other)
