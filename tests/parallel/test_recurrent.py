"""Recurrent models in the training loop, on any number of data ranks, against a plain loop over the same streams."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from megachar.config.checks import check_experiment
from megachar.config.experiment import Experiment
from megachar.config.loading import parse_experiment, save_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.corpus import Corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.families.recurrent.initialization import initialize
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.stage import RecurrentStage
from megachar.layers.variational import SegmentKey
from megachar.optimizers.updates.normalized_rmsprop import NormalizedRMSprop
from megachar.parallel.engine import StepFigures
from megachar.parallel.mesh import start
from megachar.parallel.topology import Topology
from megachar.runs.checkpoints.exporting import export_checkpoint, import_file
from megachar.runs.checkpoints.format import find_checkpoint, list_checkpoints
from megachar.runs.checkpoints.reading import load_model
from megachar.runs.folder import RunFolder, run_folder
from megachar.runs.metrics import read_metrics
from megachar.runs.preflight import check_data
from megachar.training.guard import Guard
from megachar.training.micro_batches import build_source
from megachar.training.setup import build_engine
from tests.parallel.cases import fp16_on_cpu
from tests.parallel.pool import RankError, RankPool
from tests.parallel.whole_run import train

Ranks = Callable[[int], RankPool]
TOTAL, STOP, STREAMS, LENGTH = 8, 3, 8, 10
SGD = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.9}
RMSPROP = {"name": "normalized_rmsprop", "learning_rate": 0.5}
LARGE = {"embedding_size": 6, "weight_norm": True, "hidden_dropout": 0.3, "embedding_dropout": 0.4}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 segments an epoch: a run of 8 steps begins anew in its midst."""
    folder = tmp_path_factory.mktemp("corpus")
    text = np.random.default_rng().integers(97, 123, 600, dtype=np.uint8).tobytes()
    (folder / "text").write_bytes(text)
    prepare_corpus(cut_by_position(folder / "text", "80,20,0"), folder / "prepared", ByteVocabulary())
    return folder / "prepared"


def experiment_of(corpus: Path, output: Path, **sections: Any) -> Experiment:
    values: dict[str, Any] = {
        "name": "run", "output": str(output), "device": "cpu",
        "model": {"family": "recurrent", "hidden_size": 12, "segment_length": LENGTH, **sections.pop("model", {})},
        "data": {"path": str(corpus), "order": "streams"},
        "auxiliary": {"intermediate_layers": False, "num_targets": 1},
        "batch": {"micro_size": 2, "global_size": STREAMS, **sections.pop("batch", {})},
        "optimizer": sections.pop("optimizer", SGD),
        "training": {"total_steps": TOTAL, "log_interval": 1, "validation_interval": 4, "validation_windows": 999,
                     "checkpoint_interval": STOP, "keep_checkpoints": 9, **sections.pop("training", {})},
        **sections,
    }  # fmt: skip
    experiment = parse_experiment(values, "test")
    check_experiment(experiment)
    return experiment


def train_case(values: dict[str, Any], resume: bool, pictures: bool) -> None:
    """On a rank: the whole training loop."""
    train(Experiment.model_validate(values), resume, pictures)


def run(ranks: Ranks, experiment: Experiment, resume: bool = False, pictures: bool = False) -> RunFolder:
    ranks(experiment.parallel.data).run(train_case, experiment.model_dump(), resume, pictures)
    return run_folder(experiment)


def bits(folder: RunFolder, kind: str = "train") -> list[float]:
    return [record["bits_per_character"] for record in read_metrics(folder, kind)]


def optimizer_of(experiment: Experiment, model: nn.Module) -> Any:
    if experiment.optimizer.name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return NormalizedRMSprop(model.parameters(), lr=0.5)


def streams_of(tokens: Any) -> Tensor:
    """(S, characters): the text cut into streams, one character more than each reads."""
    size = (len(tokens) - 1) // STREAMS
    return torch.stack([torch.from_numpy(np.array(tokens[s * size : s * size + size + 1], dtype=np.int64))
                        for s in range(STREAMS)])  # fmt: skip


def plain(experiment: Experiment, corpus: Path, steps: int = TOTAL) -> tuple[RecurrentModel, list[float]]:
    """The single-device model over the whole streams side by side, and its bits per character at every step."""
    torch.manual_seed(0)
    config: Any = experiment.model
    model = initialize(RecurrentModel(config), experiment.seed).train()
    optimizer, text = optimizer_of(experiment, model), streams_of(Corpus.open(corpus).split("train").tokens)
    per_epoch = (text.shape[1] - 1) // LENGTH
    found = []
    for step in range(steps):
        place = step % per_epoch
        if place == 0:
            state = model.new_state(STREAMS)
        piece = text[:, place * LENGTH : (place + 1) * LENGTH + 1]
        key = SegmentKey(experiment.seed, step, tuple(range(STREAMS)))
        nats, state = model.nats(piece[:, :-1], piece[:, 1:], state.detach(), key)
        optimizer.zero_grad()
        (nats / (STREAMS * LENGTH)).backward()
        optimizer.step()
        found.append(float(nats.detach()) / (STREAMS * LENGTH) / math.log(2))
    return model, found


@pytest.mark.parametrize(
    ("data", "zero", "optimizer", "model"),
    [
        (1, 0, SGD, {}),
        (2, 0, SGD, LARGE),
        (2, 1, RMSPROP, {"cell": "lstm", "num_layers": 2}),
        (2, 2, SGD, {"cell": "milstm"}),
        (2, 3, RMSPROP, LARGE),
        (4, 1, SGD, LARGE),
    ],
)
def test_training_is_that_of_a_plain_loop(
    ranks: Ranks, corpus: Path, tmp_path: Path, data: int, zero: int, optimizer: Any, model: Any
) -> None:
    deepspeed = tmp_path / "zero.json"
    # Under ZeRO 3 small parameters are kept whole unless told otherwise.
    threshold = {"stage3_param_persistence_threshold": 0} if zero == 3 else {}
    deepspeed.write_text(json.dumps({"zero_optimization": {"stage": zero, **threshold}}))
    experiment = experiment_of(
        corpus, tmp_path, deepspeed=str(deepspeed), optimizer=optimizer, model=model, parallel={"data": data}
    )
    folder = run(ranks, experiment)
    expected, losses = plain(experiment, corpus)
    assert bits(folder) == pytest.approx(losses, rel=1e-5)
    trained = load_model(folder.path).model.state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-3, atol=1e-5)
    assert bits(folder, "validation")[-1] == pytest.approx(validation_bits(expected, corpus), rel=1e-5)


def train_in_fp16(values: dict[str, Any], resume: bool, pictures: bool) -> None:
    """On a rank: the whole training loop, in fp16."""
    with fp16_on_cpu():
        train_case(values, resume, pictures)


@pytest.mark.parametrize(
    ("deepspeed", "model"),
    [
        ("bf16_zero1", {}),
        ("bf16_zero2", {"cell": "lstm", "num_layers": 2}),
        ("bf16_zero3", {"cell": "milstm", "hidden_dropout": 0.3}),
        ("bf16_zero2_offload", {"weight_norm": True}),
        ("bf16_zero3_offload", {"output_gate": "inside"}),
        ("bf16_zero1", LARGE),
        ("fp16_zero1", {"num_layers": 2}),
    ],
)
def test_half_precision_trains_as_fp32_does(
    ranks: Ranks, corpus: Path, tmp_path: Path, deepspeed: str, model: Any
) -> None:
    """One-hot vectors and embeddings, every cell; and a run that was saved so goes on in fp32."""
    experiment = experiment_of(corpus, tmp_path, deepspeed=deepspeed, model=model)
    case = train_in_fp16 if deepspeed.startswith("fp16") else train_case
    ranks(1).run(case, experiment.model_dump(), False, False)
    _, losses = plain(experiment, corpus)
    half = bits(run_folder(experiment))
    assert half == pytest.approx(losses, rel=0.01)
    assert half != pytest.approx(losses, rel=1e-6)
    whole = experiment_of(corpus, tmp_path / "fp32", model=model)
    stop_at(run_folder(experiment), whole)
    assert bits(run(ranks, whole, resume=True)) == pytest.approx(losses[STOP:], rel=0.01)


@torch.no_grad()
def validation_bits(model: RecurrentModel, corpus: Path) -> float:
    """Whole segments of the streams of the valid split, from a state of zero."""
    text = streams_of(Corpus.open(corpus).split("valid").tokens)
    length = (text.shape[1] - 1) // LENGTH * LENGTH
    nats, _ = model.eval().nats(text[:, :length], text[:, 1 : length + 1], model.new_state(STREAMS))
    return float(nats) / (STREAMS * length) / math.log(2)


def stop_at(original: RunFolder, experiment: Experiment, step: int = STOP) -> RunFolder:
    """A copy of the run as it was after `step` steps, to go on as `experiment`."""
    folder = run_folder(experiment)
    shutil.copytree(original.path, folder.path)
    save_experiment(experiment, folder.experiment_file)
    for checkpoint in list_checkpoints(folder):
        if checkpoint.step != step:
            shutil.rmtree(checkpoint.path)
    folder.metrics_file.unlink()
    return folder


def test_resumed_runs_carry_their_streams_on(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """On the same layout bit by bit; on another number of data ranks and size of micro-batches up to rounding."""
    whole = experiment_of(corpus, tmp_path / "whole", model=LARGE)
    original = run(ranks, whole)
    same = experiment_of(corpus, tmp_path / "same", model=LARGE)
    stop_at(original, same)
    resumed = run(ranks, same, resume=True)
    assert bits(resumed) == bits(original)[STOP:]
    hashes = [find_checkpoint(folder, TOTAL).manifest.files for folder in (original, resumed)]
    assert hashes[0] == hashes[1]
    assert {name for name in hashes[0] if name.startswith("streams/")} == {
        f"streams/00000{first}.safetensors" for first in (0, 2, 4, 6)
    }
    sections: dict[str, Any] = {"parallel": {"data": 2}, "batch": {"micro_size": 4}, "deepspeed": "fp32_zero1"}
    moved = experiment_of(corpus, tmp_path / "moved", model=LARGE, **sections)
    stop_at(original, moved)
    assert bits(run(ranks, moved, resume=True)) == pytest.approx(bits(original)[STOP:], rel=1e-5)


def test_zero_3_validates_right_after_a_resume(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """It traces which parameters the first step asks for; a validation behind that step may ask for no others."""
    deepspeed = tmp_path / "zero.json"
    fetching = {"stage3_prefetch_bucket_size": 1, "stage3_model_persistence_threshold": 0}
    deepspeed.write_text(json.dumps({"zero_optimization": {"stage": 3, **fetching}}))
    sections: dict[str, Any] = {"parallel": {"data": 2}, "deepspeed": str(deepspeed), "model": {"embedding_size": 6}}
    original = run(ranks, experiment_of(corpus, tmp_path / "whole", **sections))
    again = experiment_of(corpus, tmp_path / "again", **sections)
    stop_at(original, again)
    resumed = run(ranks, again, resume=True)
    assert bits(resumed, "validation") == pytest.approx(bits(original, "validation"), rel=1e-6)


def test_state_matters_for_the_loss(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """Without its streams' files a run would go on otherwise: what the test above compares is felt."""
    original = run(ranks, experiment_of(corpus, tmp_path / "whole"))
    file, restarted = tmp_path / "all.safetensors", tmp_path / "restarted"
    export_checkpoint(find_checkpoint(original, STOP), file, "all")
    import_file(file, restarted)
    imported = find_checkpoint(RunFolder(restarted))
    assert len(imported.layers("streams")) == 4
    again = experiment_of(corpus, tmp_path, name="restarted")
    assert bits(run(ranks, again, resume=True)) == bits(original)[STOP:]
    shutil.rmtree(imported.path / "streams")
    manifest = json.loads((imported.path / "manifest.json").read_text())
    manifest["files"] = {name: record for name, record in manifest["files"].items() if "streams/" not in name}
    (imported.path / "manifest.json").write_text(json.dumps(manifest))
    for checkpoint in list_checkpoints(RunFolder(restarted))[1:]:
        shutil.rmtree(checkpoint.path)
    RunFolder(restarted).metrics_file.unlink()
    assert bits(run(ranks, again, resume=True)) != bits(original)[STOP:]


def refused_case(values: dict[str, Any], refused: tuple[int, ...], spoils: bool) -> list[dict[str, np.ndarray]]:
    """On a rank: what the first two streams carry after each of three steps that change no weight.

    Args:
        values: of the experiment.
        refused: steps whose update is refused.
        spoils: the first stream's state, where a step is refused.
    """
    experiment = Experiment.model_validate(values)
    mesh = start(Topology(1, 1, 1), torch.device("cpu"))
    engine = build_engine(experiment, mesh)
    source = build_source(experiment, check_data(experiment), mesh)
    found: list[dict[str, np.ndarray]] = []

    def judge(figures: StepFigures) -> bool:
        if spoils and len(found) in refused:
            engine.stage._carried[0].state.cell[0, 0, 3] = math.nan
        return len(found) not in refused

    engine.guard_steps(judge)
    for step in range(3):
        engine.train_step(source.training(step), (1.0,), 0.0)
        found.append({name: rows.numpy() for name, rows in engine.stage.export_streams()[0].items()})
    return found


def test_a_refused_step_leaves_no_hole_in_streams(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """Its text was read: the next segment goes on from its end. A stream whose state is not finite begins anew."""
    values = experiment_of(corpus, tmp_path).model_dump()
    taken, refused, spoilt = (ranks(1).run(refused_case, values, *how)[0] for how in (((), False), ((1,), False),
                                                                                      ((1,), True)))  # fmt: skip
    for name in ("hidden", "cell"):
        assert not np.array_equal(taken[0][name], taken[1][name])
        for step in range(3):
            np.testing.assert_array_equal(refused[step][name], taken[step][name])
            np.testing.assert_array_equal(spoilt[step][name][1], taken[step][name][1])  # its neighbor
        assert not spoilt[1][name][0].any()
        assert np.isfinite(spoilt[2][name]).all()
        assert spoilt[2][name][0].any()


def rollback_case(values: dict[str, Any]) -> list[bool]:
    """On a rank: the whole loop, in which step 5 is bad; of each training segment whether stream 0 began anew."""
    experiment, began = Experiment.model_validate(values), list[bool]()
    accept, read = Guard.accept, RecurrentStage._state

    def refuse(guard: Guard, figures: StepFigures) -> bool:
        bad = StepFigures(math.nan, figures.gradient_norm)
        return accept(guard, bad if len(began) == 5 else figures)

    def state(stage: RecurrentStage, carried: Any, segment: Any, batch: Any) -> Any:
        if segment.first_stream == 0 and stage.training:
            began.append(carried is None or carried.epoch != segment.epoch)
        return read(stage, carried, segment, batch)

    Guard.accept, RecurrentStage._state = refuse, state  # type: ignore[method-assign]
    try:
        train(experiment, False)
    finally:
        Guard.accept, RecurrentStage._state = accept, read  # type: ignore[method-assign]
    return began


def test_streams_begin_anew_behind_text_that_a_rollback_goes_past(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """From step 5 back to the checkpoint of step 3: what was carried on there is from before two segments left out."""
    training = {"checkpoint_interval": 3, "total_steps": 5}
    experiment = experiment_of(corpus, tmp_path, training=training, guard={"action": "rollback"})
    ((*began,),) = ranks(1).run(rollback_case, experiment.model_dump())
    # Segments 0 to 4 of the first epoch, the last of them bad; then 0 and 1 of the second.
    assert began == [True, False, False, False, False, True, False]


def test_another_number_of_streams_is_refused(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    original = run(ranks, experiment_of(corpus, tmp_path / "whole"))
    other = experiment_of(corpus, tmp_path / "other", batch={"global_size": 4})
    stop_at(original, other)
    with pytest.raises(RankError, match=r"saved with 8 streams, and batch.global_size is now 4.*batch.global_size=8"):
        run(ranks, other, resume=True)


def test_training_ends_early(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """A rate that is far too high makes no progress; a run that has ended does not go on."""
    training = {"total_steps": 40, "validation_interval": 1, "checkpoint_interval": 1, "early_stopping_patience": 2}
    experiment = experiment_of(
        corpus, tmp_path, training=training, optimizer={**SGD, "learning_rate": 300.0}, guard={"action": "off"}
    )
    folder = run(ranks, experiment, pictures=True)
    found = bits(folder, "validation")
    assert len(found) < 40
    assert min(found) == found[-3] == min(found[-3:])
    assert (folder.plots / "loss.png").is_file()
    run(ranks, experiment, resume=True)
    assert bits(folder, "validation") == found
