"""Predictors against plain loops in float64, one character at a time."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from megachar.base.errors import ConfigError, PlatformError
from megachar.evaluation.predictor import Predictor
from megachar.evaluation.windows import stream_plan
from megachar.families.recurrent.initialization import initialize
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.families.transformer.model import Transformer

CPU = torch.device("cpu")
Rows = npt.NDArray[np.float64]


@pytest.fixture
def recurrent(seed: int) -> RecurrentModel:
    config = RecurrentConfig(hidden_size=9, embedding_size=5, vocabulary_size=11, num_layers=2, weight_norm=True)
    return initialize(RecurrentModel(config), seed=seed).double().eval()


@pytest.fixture
def tokens(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    return rng.integers(0, 11, size=150).astype(np.uint8)


@torch.no_grad()
def naive_rows(model: RecurrentModel, tokens: npt.NDArray[Any], begin: Callable[[int], int]) -> Rows:
    """Log-probabilities (N - 1, v): each character from a zero state and the text from `begin(its place)` on."""
    rows = np.empty((len(tokens) - 1, model.config.vocabulary_size))
    places = range(1, len(tokens))
    for start in {begin(place) for place in places}:
        state = model.new_state(1)
        for place in range(start + 1, max(place for place in places if begin(place) == start) + 1):
            logits, state = model(torch.tensor([[int(tokens[place - 1])]]), state)
            if begin(place) == start:
                rows[place - 1] = logits[0, -1].log_softmax(-1).numpy()
    return rows


def nats_of(rows: Rows, tokens: npt.NDArray[Any]) -> list[float]:
    return [math.log(11), *(-rows[place - 1, tokens[place]] for place in range(1, len(tokens)))]


def predicted(predictor: Predictor, tokens: npt.NDArray[Any], context: int | None = None) -> Rows:
    parts = list(predictor.predict(tokens, context))
    assert {part.dtype for part in parts} == {torch.float32}
    return torch.cat(parts).double().numpy()


def test_one_stream_carries_its_state_over_the_whole_text(
    recurrent: RecurrentModel, tokens: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megachar.families.recurrent.scorer.POSITIONS_AT_ONCE", 32)
    rows = naive_rows(recurrent, tokens, lambda place: 0)
    predictor, heard = Predictor(recurrent, CPU, streams=1), list[int]()
    assert (predictor.context, predictor.vocabulary_size) == (None, 11)
    nats = predictor.nats(tokens, progress=heard.append)
    np.testing.assert_allclose(nats, nats_of(rows, tokens), rtol=1e-10)
    assert sum(heard) == 149
    np.testing.assert_allclose(predicted(predictor, tokens), rows, rtol=1e-5)
    assert [part.shape[0] for part in predictor.predict(tokens)] == [32] * 4 + [21]  # never held as a whole


@pytest.mark.parametrize(("streams", "warm_up"), [(2, 10), (4, 7), (5, 0), (1000, 12)])
def test_streams_side_by_side_warm_up(
    recurrent: RecurrentModel, tokens: npt.NDArray[np.uint8], streams: int, warm_up: int
) -> None:
    predictor = Predictor(recurrent, CPU, streams=streams, warm_up=warm_up)
    used = min(streams, 149 // warm_up - 1) if warm_up else streams
    scored = -(-(149 - warm_up) // used)  # by each stream but the first, which scores its warm-up too

    def begin(place: int) -> int:
        stream = max(0, -(-(place - warm_up - scored) // scored))
        return min(stream * scored, 149 - warm_up - scored)

    nats = predictor.nats(tokens)
    np.testing.assert_allclose(nats, nats_of(naive_rows(recurrent, tokens, begin), tokens), rtol=1e-10)
    in_order = naive_rows(recurrent, tokens, lambda place: 0)
    np.testing.assert_allclose(predicted(predictor, tokens), in_order, rtol=1e-5)


@pytest.mark.parametrize(("context", "stride"), [(16, 1), (16, 5), (16, 16), (200, 20)])
def test_recurrent_model_with_a_context(
    recurrent: RecurrentModel, tokens: npt.NDArray[np.uint8], context: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is zero where a window begins, and windows lie as a transformer's do."""
    monkeypatch.setattr("megachar.families.recurrent.scorer.POSITIONS_AT_ONCE", 28)  # 7 of each of 4 windows
    tokens = tokens[:60]
    predictor = Predictor(recurrent, CPU, stride=stride, batch_size=4)

    def begin(place: int) -> int:
        start = 0
        while place - start > context:
            start = min(start + stride, len(tokens) - 1 - context)
        return start

    rows = naive_rows(recurrent, tokens, begin)
    np.testing.assert_allclose(predictor.nats(tokens, context), nats_of(rows, tokens), rtol=1e-10)
    np.testing.assert_allclose(predicted(predictor, tokens, context), rows, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("context", "stride"), [(None, 1), (None, 7), (8, 1), (8, 3)])
def test_transformer(
    make_model: Callable[..., Transformer], tokens: npt.NDArray[np.uint8], context: int | None, stride: int
) -> None:
    model, longest = make_model(24, torch.float64, vocabulary_size=11), context or 24
    rows = []
    for place in range(1, len(tokens)):
        start = 0
        while place - start > longest:
            start = min(start + stride, len(tokens) - 1 - longest)
        rows.append(model(torch.from_numpy(tokens[start:place].astype(np.int64))[None])[0, -1].log_softmax(-1).numpy())
    predictor = Predictor(model, CPU, stride=stride, batch_size=5)
    assert (predictor.context, predictor.vocabulary_size) == (24, 11)
    np.testing.assert_allclose(predictor.nats(tokens, context), nats_of(np.stack(rows), tokens), rtol=1e-10)
    np.testing.assert_allclose(predicted(predictor, tokens, context), np.stack(rows), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_short_texts(
    recurrent: RecurrentModel, make_model: Callable[..., Transformer], tokens: npt.NDArray[np.uint8], size: int
) -> None:
    for model in (recurrent, make_model(16, vocabulary_size=11)):
        for context in (None, 2):
            predictor = Predictor(model, CPU)
            nats = predictor.nats(tokens[:size], context)
            assert nats[0] == math.log(11)
            assert nats.shape == (size,)
            assert sum(len(part) for part in predictor.predict(tokens[:size], context)) == size - 1


@pytest.mark.parametrize("family", ["transformer", "recurrent"])
def test_bf16_is_close(
    recurrent: RecurrentModel, make_model: Callable[..., Transformer], tokens: npt.NDArray[np.uint8], family: str
) -> None:
    model = make_model(16, vocabulary_size=11) if family == "transformer" else recurrent.float()
    exact, half = (Predictor(model, CPU, precision=name).nats(tokens) for name in ("fp32", "bf16"))
    assert half.sum() != exact.sum()
    assert half.sum() == pytest.approx(exact.sum(), rel=0.02)


def test_streams_of_a_text(rng: np.random.Generator) -> None:
    """Every character but the first is scored once, after the warm-up; no stream warms up on more than it scores."""
    for _ in range(300):
        size, streams, warm_up = (int(rng.integers(*bounds)) for bounds in ((1, 400), (1, 40), (0, 30)))
        plan = stream_plan(size, streams, warm_up)
        assert len(plan) <= streams
        places: list[int] = []
        for window in map(plan.window, range(len(plan))):
            end = window.start + window.length + 1
            places += range(end - window.num_scored, end)
            assert window.start == 0 or window.length - window.num_scored >= warm_up
        assert places == list(range(1, size)), (plan, warm_up)
        assert len(plan) < 2 or plan.stride >= warm_up


def test_default_streams_of_a_text() -> None:
    assert [len(stream_plan(size, 32, 1000)) for size in (1, 500, 2001, 3001, 10_000, 33_001, 10**6)] == [
        0, 1, 1, 2, 8, 32, 32,
    ]  # fmt: skip


@pytest.mark.parametrize(("options", "context", "message"), [
    ({"stride": 25}, None, r"stride = 25 is more than the model's context of 24"),
    ({"batch_size": 0}, None, r"batch size = 0: .*set 1 or more"),
    ({}, 25, r"context = 25 is more than the model's context of 24 characters; set at most 24"),
    ({}, 0, r"context = 0: nothing could be predicted from it; set 1 or more"),
    ({"stride": 9}, 8, r"stride = 9 is more than the model's context of 8 "),
])  # fmt: skip
def test_errors_of_a_transformer(
    make_model: Callable[..., Transformer], tokens: npt.NDArray[np.uint8], options: Any, context: Any, message: str
) -> None:
    model = make_model(24, vocabulary_size=11)
    with pytest.raises(ConfigError, match=message):
        Predictor(model, CPU, **options).predict(tokens, context)
    with pytest.raises(ConfigError, match=message):
        Predictor(model, CPU, **options).nats(tokens, context)


@pytest.mark.parametrize(("options", "context", "message"), [
    ({"streams": 0}, None, r"streams = 0: nothing would be read; set 1 \(exact\) or more, such as 32"),
    ({"warm_up": -1}, None, r"warm-up = -1 is no number of characters; set 0 \(off\) or more, such as 1000"),
    ({"stride": 9}, 8, r"stride = 9 is more than the model's context of 8 "),
])  # fmt: skip
def test_errors_of_a_recurrent_model(
    recurrent: RecurrentModel, tokens: npt.NDArray[np.uint8], options: Any, context: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Predictor(recurrent, CPU, **options).predict(tokens, context)


def test_memory_too_small(
    recurrent: RecurrentModel, tokens: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(RecurrentModel, "hidden", hidden)
    with pytest.raises(PlatformError, match=r"memory for 4 windows of 42 characters; set --streams 2 or less"):
        Predictor(recurrent, CPU, streams=4, warm_up=6).nats(tokens)
