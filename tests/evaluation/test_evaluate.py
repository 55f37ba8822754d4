"""Losses of a split equal a naive loop for any stride, batch and number of processes; failures leave no process."""

import json
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from megachar.base.errors import CheckpointError, ConfigError, PlatformError
from megachar.base.units import bits
from megachar.evaluation.evaluate import evaluate
from megachar.evaluation.result import write_json
from megachar.evaluation.scoring import make_scorer
from megachar.evaluation.settings import WindowSettings
from megachar.evaluation.windows import WindowPlan
from megachar.evaluation.workers import gather
from megachar.families.transformer.model import Transformer
from tests.evaluation import worker_targets

MakeModel = Callable[..., Transformer]


def settings(stride: int, **others: Any) -> WindowSettings:
    return WindowSettings(stride, device="cpu", **others)


def random_text(rng: np.random.Generator, size: int) -> npt.NDArray[np.uint8]:
    return rng.integers(0, 256, size=size).astype(np.uint8)


@torch.inference_mode()
def naive_nats(model: Transformer, text: npt.NDArray[np.uint8], stride: int) -> list[float]:
    """One forward pass per character, and of its logits only the last position's. Knows nothing of `WindowPlan`."""
    context, nats = model.config.context, [math.log(256)]
    for place in range(1, len(text)):
        start = 0
        while place - start > context:  # move on until the window reaches this character
            start = min(start + stride, len(text) - 1 - context)
        logits = model.head(model.hidden(torch.from_numpy(text[start:place].astype(np.int64))[None])[0, -1])
        nats.append(-float(logits.log_softmax(0)[int(text[place])]))
    return nats


@pytest.mark.parametrize(("context", "stride", "size"), [(64, 1, 200), (64, 7, 200), (64, 64, 200), (512, 512, 560)])
def test_equals_the_naive_loop(
    make_model: MakeModel, rng: np.random.Generator, context: int, stride: int, size: int
) -> None:
    model, text = make_model(context, torch.float64), random_text(rng, size)
    expected = naive_nats(model, text, stride)
    result = evaluate(model, text, settings(stride, batch_size=5))
    assert result.num_characters == len(expected) == size
    assert result.nats == pytest.approx(math.fsum(expected), rel=1e-12)
    assert result.bits_per_character == pytest.approx(bits(math.fsum(expected)) / size, rel=1e-12)


def test_each_character_equals_the_naive_loop(make_model: MakeModel, rng: np.random.Generator) -> None:
    model, text = make_model(24, torch.float64), random_text(rng, 100)
    plan, scorer = WindowPlan(100, 24, 5), make_scorer(model, torch.device("cpu"), "fp32")
    nats = np.concatenate([scorer.nats(text, plan.batch(j, 3)) for j in range(plan.num_batches(3))])
    np.testing.assert_allclose(nats, naive_nats(model, text, 5)[1:], rtol=1e-11)


@pytest.mark.parametrize("size", [1, 2, 16, 17, 18])
def test_short_texts(make_model: MakeModel, rng: np.random.Generator, size: int) -> None:
    model, text = make_model(16, torch.float64), random_text(rng, size)
    for stride in (1, 5, 16):
        result = evaluate(model, text, settings(stride))
        assert result.num_characters == size
        assert result.nats == pytest.approx(math.fsum(naive_nats(model, text, stride)), rel=1e-12)


@torch.inference_mode()
@pytest.mark.parametrize("stride", [1, 7, 64])
def test_bit_equal_in_fp32_with_the_same_batches(make_model: MakeModel, rng: np.random.Generator, stride: int) -> None:
    context, batch = 64, 4
    model, text = make_model(context), random_text(rng, 230)
    starts = [*range(0, len(text) - 1 - context, stride), len(text) - 1 - context]
    nats, next_place = [math.log(256)], 1
    for first in range(0, len(starts), batch):
        group = starts[first : first + batch]
        hidden = model.hidden(torch.from_numpy(np.stack([text[s : s + context] for s in group]).astype(np.int64)))
        rows, places = [], []
        for row, start in enumerate(group):
            end = start + context + 1
            rows += [hidden[row, place - start - 1] for place in range(next_place, end)]
            places += range(next_place, end)
            next_place = end
        logits, targets = model.head(torch.stack(rows)), torch.from_numpy(text[places].astype(np.int64))
        nats += F.cross_entropy(logits, targets, reduction="none").tolist()
    assert len(nats) == len(text)
    assert evaluate(model, text, settings(stride, batch_size=batch)).nats == math.fsum(nats)


def test_classifier_sees_scored_positions_only(make_model: MakeModel, rng: np.random.Generator) -> None:
    model, text = make_model(32), random_text(rng, 150)
    seen = []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:-1].numel()))
    evaluate(model, text, settings(4))
    assert sum(seen) == 149


def test_batch_size_changes_rounding_only(make_model: MakeModel, rng: np.random.Generator) -> None:
    model, text = make_model(32, torch.float64), random_text(rng, 150)
    totals = [evaluate(model, text, settings(4, batch_size=size)).nats for size in (1, 3, 1000)]
    assert totals == pytest.approx([totals[0]] * 3, rel=1e-14)


def test_two_processes_give_the_same_bits(make_model: MakeModel, rng: np.random.Generator) -> None:
    model, text = make_model(64), random_text(rng, 1000)
    heard: list[int] = []
    alone = evaluate(model, text, settings(8, batch_size=7))
    shared = evaluate(model, text, settings(8, batch_size=7, processes=2), progress=heard.append)
    assert shared.nats == alone.nats
    assert sum(heard) == 1000
    assert not multiprocessing.active_children()


def test_failing_worker_ends_all(make_model: MakeModel, rng: np.random.Generator) -> None:
    model, text = make_model(16, vocabulary_size=200), np.zeros(1000, dtype=np.uint8)
    text[48] = 255  # no symbol: the second batch of two windows fails
    with pytest.raises(PlatformError, match=r"(?s)\Aevaluation process 1 failed: IndexError: .*Traceback"):
        evaluate(model, text, settings(16, batch_size=2, processes=2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("jobs", [["a"], ["a", "b"]])
def test_dying_worker_ends_all(jobs: Any) -> None:
    started = time.monotonic()
    with pytest.raises(PlatformError, match=r"process 0 died without a word \(exit code 7;.*fewer --processes"):
        list(gather(worker_targets.die, jobs, num_results=4))
    assert time.monotonic() - started < 30
    assert not multiprocessing.active_children()


def test_stopping_early_leaves_no_process() -> None:
    jobs: Any = ["a", "b"]
    results = gather(worker_targets.answer_and_stay, jobs, num_results=4)
    assert [next(results), next(results)] == ["a", "b"]
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert not multiprocessing.active_children()


def test_bf16_is_close(make_model: MakeModel, rng: np.random.Generator) -> None:
    model, text = make_model(32), random_text(rng, 300)
    single = evaluate(model, text, settings(8))
    half = evaluate(model, text, settings(8, precision="bf16"))
    assert half.nats != single.nats
    assert half.nats == pytest.approx(single.nats, rel=0.02)


def test_max_characters(make_model: MakeModel, rng: np.random.Generator) -> None:
    model, text = make_model(16), random_text(rng, 100)
    part = evaluate(model, text, settings(4), split="valid", step=3, max_characters=40)
    assert part.nats == evaluate(model, text[:40], settings(4)).nats
    assert (part.num_characters, part.whole_split) == (40, False)
    assert part.file_name("valid") == "evaluation-valid-stride4-step3-first40"
    whole = evaluate(model, text, settings(4), split="valid", step=3, max_characters=100)
    assert whole.file_name("valid") == "evaluation-valid-stride4-step3"


def test_diverged_model(make_model: MakeModel, rng: np.random.Generator) -> None:
    model = make_model(16)
    with torch.no_grad():
        model.head.classifiers[0].bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"loss at step 9 is nan.*diverged; evaluate an earlier .* --step"):
        evaluate(model, random_text(rng, 50), settings(4), step=9)


def test_memory_too_small(make_model: MakeModel, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(16)

    def hidden(inputs: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "hidden", hidden)
    with pytest.raises(PlatformError, match=r"too little memory for 8 windows of 16 characters; set --batch-size 4"):
        evaluate(model, random_text(rng, 200), settings(1, batch_size=8))


@pytest.mark.parametrize(("wrong", "message"), [
    ({"stride": 17}, r"stride = 17 is more than the model's context of 16"),
    ({"batch_size": 0}, r"batch size = 0: .*set 1 or more"),
    ({"processes": 0}, r"processes = 0: .*set 1 or more"),
    ({"precision": "fp16"}, r"precision = 'fp16' is unknown; set one of fp32, bf16"),
    ({"device": "tpu"}, r"device = 'tpu' is unknown; set one of auto, cpu, cuda"),
])  # fmt: skip
def test_wrong_settings(make_model: MakeModel, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(make_model(16), np.zeros(50, np.uint8), WindowSettings(**{"stride": 4, "device": "cpu", **wrong}))


def test_more_processes_than_gpus(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"processes = 3, but this host has 2 GPUs .*set --processes 2"):
        evaluate(make_model(16), np.zeros(50, np.uint8), WindowSettings(4, processes=3, device="cuda"))


def test_json_is_whole_or_absent(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ConfigError, match=r"absent/a\.json cannot be written: No such file.*writable folder"):
        write_json(tmp_path / "absent" / "a.json", {})
