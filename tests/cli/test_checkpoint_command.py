"""`megachar checkpoint` as a user calls it, and the forms that `evaluate` and `generate` take."""

import json
import secrets
import shutil
from pathlib import Path

import pytest

from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.families.transformer.initialization import initialize
from megachar.families.transformer.model import Transformer
from megachar.runs.folder import RunFolder
from tests.cli import test_commands
from tests.cli.test_commands import Call, refused
from tests.runs.checkpoints_by_hand import small, write_run

call = test_commands.call


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of steps 5, 20 and 100 with a corpus."""
    (tmp_path / "text").write_bytes(b"some words " * 50)
    prepare_corpus(cut_by_position(tmp_path / "text", "60,20,20"), tmp_path / "corpus", ByteVocabulary())
    experiment = small(f"data.path={tmp_path / 'corpus'}")
    model = initialize(Transformer(experiment.model, experiment.auxiliary), secrets.randbits(31))
    return write_run(RunFolder(tmp_path / "runs" / "small"), dict(model.named_parameters()), experiment)


def test_inspect(call: Call, run: RunFolder) -> None:
    done = call("checkpoint", "inspect", str(run.path))
    assert done.status == 0, done.err
    lines = [line.strip(" │┃") for line in done.out.splitlines()]
    assert any("step-00000005" in line and "3.2500" in line for line in lines)
    assert [line.split()[0] for line in lines if line.endswith("best")] == ["step-00000100"]
    count = sum(parameter.numel() for parameter in Transformer(small().model, small().auxiliary).parameters())
    for part in (
        "100 of ", "(optimizer: 99)", "2 layers of 8", f"{count:,} numbers in", f"{2 * count:,} numbers in", "adamw",
        "bf16", "2.5000 bits per character", "some text (abcd)", "skipped", "whole fp32 tensors",
    ):  # fmt: skip
        assert part in done.out, part
    older = call("checkpoint", "inspect", str(run.path), "--step", "20")
    assert "20 of " in older.out
    alone = call("checkpoint", "inspect", str(run.checkpoints / "step-00000020"))
    assert "step-00000005" not in alone.out
    assert "20 of " in alone.out


def test_verify(call: Call, run: RunFolder) -> None:
    done = call("checkpoint", "verify", str(run.path))
    assert done.status == 0, done.err
    assert done.out.count(": whole") == 3
    assert call("checkpoint", "verify", str(run.checkpoints / "step-00000020")).out.count(": whole") == 1
    damaged, missing = run.checkpoints / "step-00000005", run.checkpoints / "step-00000020"
    (damaged / "manifest.json").write_text("{")
    (missing / "weights" / "blocks.1.safetensors").unlink()
    (missing / "optimizer" / "head.safetensors").write_bytes(b"")
    done = call("checkpoint", "verify", str(run.path))
    assert done.status == 2
    assert done.out.count("damaged") == 2
    assert done.out.count("whole") == 1
    assert "CheckpointError: missing or damaged files (3):" in done.err
    assert f"{damaged}/manifest.json is damaged: it is no JSON" in done.err
    assert f"{missing}/weights/blocks.1.safetensors is missing" in done.err
    assert f"{missing}/optimizer/head.safetensors is damaged: its size or sha256" in done.err
    assert call("checkpoint", "verify", str(run.path), "--step", "100").status == 0


def test_the_folder_of_a_sweep_stands_for_its_runs(call: Call, run: RunFolder) -> None:
    """Every checkpoint of every run, the damaged ones too; a step is of one run."""
    runs = run.path.parent
    shutil.copytree(run.path, runs / "other")
    (runs / "new").mkdir()
    shutil.copy(run.experiment_file, runs / "new")
    (runs / "other" / "checkpoints" / "step-00000020" / "manifest.json").write_text("{")
    done = call("checkpoint", "inspect", str(runs))
    assert done.status == 0, done.err
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.out.splitlines() if "│" in line]
    assert [line[:3] for line in lines] == [
        ["new", "none yet", "-"],
        ["other", "step-00000005", "3.2500 bits per character"], ["other", "step-00000020", "-"],
        ["other", "step-00000100", "2.5000 bits per character"],
        ["small", "step-00000005", "3.2500 bits per character"], ["small", "step-00000020", lines[-2][2]],
        ["small", "step-00000100", "2.5000 bits per character"],
    ]  # fmt: skip
    assert [line[0] for line in lines if line[4] == "best"] == ["other", "small"]
    assert [line[:2] for line in lines if line[4] == "damaged"] == [["other", "step-00000020"]]
    assert "left out: " in done.err
    assert "other/checkpoints/step-00000020/manifest.json is damaged" in done.err
    done = call("checkpoint", "verify", str(runs))
    assert done.status == 2
    assert (done.out.count(": whole"), done.out.count(": damaged")) == (5, 1)
    message = r"ConfigError: --step 5: \S+ is a folder of runs; leave --step out, or name one, such as \S+/new"
    for command in ("inspect", "verify"):
        refused(call("checkpoint", command, str(runs), "--step", "5"), message)
    for path in (runs / "small", runs / "other"):
        shutil.rmtree(path)
    refused(call("checkpoint", "verify", str(runs)), r"CheckpointError: no run in \S+ has a checkpoint yet; train .*")


def test_an_older_checkpoint_is_not_taken_without_a_word(call: Call, run: RunFolder, tmp_path: Path) -> None:
    (run.checkpoints / "step-00000100" / "manifest.json").write_text("{")
    output, data = str(tmp_path / "a.safetensors"), ["--split", "test", "--device", "cpu"]
    for command in (
        ["checkpoint", "inspect", str(run.path)],
        ["checkpoint", "export", str(run.path), "--output", output],
        ["evaluate", str(run.path), *data],
        ["generate", str(run.path), "--prompt", "so", "--characters", "3"],
        ["analyze", "context", str(run.path), "--lengths", "4", *data],
        ["report", str(run.path), "--text-characters", "0", "--characters", "5", "--device", "cpu"],
    ):
        done = call(*command)
        assert done.status == 0, done.err
        assert "step-00000100/manifest.json is damaged: it is no JSON" in done.err, command


def test_out_and_back(call: Call, run: RunFolder, tmp_path: Path) -> None:
    file = tmp_path / "all.safetensors"
    done = call("checkpoint", "export", str(run.path), "--output", str(file), "--all", "--step", "20")
    assert done.status == 0, done.err
    assert "step 20" in done.out
    assert call("checkpoint", "verify", str(file)).out == f"{file}: whole\n"
    assert "20 of " in call("checkpoint", "inspect", str(file)).out
    done = call("checkpoint", "import", str(file), str(tmp_path / "runs" / "new"))
    assert done.status == 0, done.err
    resolved = tmp_path / "runs" / "new" / "resolved.yaml"
    assert f"megachar launch {resolved} --resume" in done.out
    # The command it names passes every check, and would start processes.
    done = call("launch", str(resolved), "--resume", "--dry-run")
    assert done.status == 0, done.err
    file.write_bytes(file.read_bytes()[:-1])
    assert "is damaged: its size or sha256 is not the one in all.json" in call("checkpoint", "verify", str(file)).err


def test_evaluate_and_generate_take_every_form(call: Call, run: RunFolder, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    assert call("checkpoint", "export", str(run.path), "--output", str(file), "--step", "20").status == 0
    checkpoint = run.checkpoints / "step-00000020"
    scores, texts = [], []
    for source, options in ((run.path, ["--step", "20"]), (checkpoint, []), (file, [])):
        result = tmp_path / "result.json"
        done = call("evaluate", str(source), "--split", "test", "--json", str(result), "--device", "cpu", *options)
        assert done.status == 0, done.err
        scores.append(json.loads(result.read_text())["nats"])
        done = call("generate", str(source), "--prompt", "so", "--seed", "1", "--characters", "9", *options)
        assert done.status == 0, done.err
        texts.append(done.out)
    assert len(set(scores)) == len(set(texts)) == 1
    assert len(list(run.path.glob("evaluation-test-*-step20.json"))) == 1
    assert len(list(tmp_path.glob("small.evaluation-test-*-step20.json"))) == 1


def test_what_cannot_be(call: Call, run: RunFolder, tmp_path: Path) -> None:
    for command in ("inspect", "verify"):
        refused(call("checkpoint", command, str(tmp_path / "nowhere")), r"ConfigError: .*nowhere is .*run folder.*")
        refused(
            call("checkpoint", command, str(run.checkpoints / "step-00000020"), "--step", "20"),
            r"ConfigError: --step 20: .* is one checkpoint and has no others; .*",
        )
    refused(
        call("checkpoint", "export", str(tmp_path / "text"), "--output", str(tmp_path / "a.safetensors")),
        r"ConfigError: .*text is a file already; name a run folder or a checkpoint's folder",
    )
    refused(
        call("checkpoint", "export", str(tmp_path), "--output", str(tmp_path / "a.safetensors")),
        r"ConfigError: .* is neither a run folder nor a checkpoint: it has no manifest\.json and no resolved\.yaml",
    )
    refused(call("evaluate", str(tmp_path / "text")), r"CheckpointError: .*text cannot be read as safetensors: .*")
    shutil.rmtree(run.checkpoints)
    refused(call("checkpoint", "verify", str(run.path)), r"CheckpointError: .* has no whole checkpoint yet; .*")
