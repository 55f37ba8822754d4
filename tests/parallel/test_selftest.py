"""The self-test on real processes: nothing wrong where nothing is, and faults of one rank found and named."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
import torch
import torch.distributed as dist
from rich.console import Console

from megachar.config.experiment import Experiment
from megachar.families.transformer.stage import TransformerStage
from megachar.selftest import collectives, speed
from megachar.selftest.run import selftest
from tests.parallel.cases import small_experiment
from tests.parallel.pool import RankError, RankPool

Ranks = Callable[[int], RankPool]
ROOT = Path(__file__).resolve().parents[2]
NEVER = 1e9
"""How much slower a link may be where speed is not what is tested."""


def selftest_case(values: dict[str, Any], prefix: str, fault: str, where: int, slow_factor: float) -> tuple[int, str]:
    """On a rank: exit status, and on rank 0 the report. `fault` is planted on rank `where`."""
    out = io.StringIO()
    originals = (collectives._pattern, TransformerStage.forward, speed._there_and_back)
    if int(os.environ["RANK"]) == where:
        plant(fault)
    try:
        console = Console(file=out, width=240)
        return selftest(Experiment.model_validate(values), 60, slow_factor, console, prefix), out.getvalue()
    finally:
        collectives._pattern, TransformerStage.forward, speed._there_and_back = originals  # type: ignore[method-assign]


def plant(fault: str) -> None:
    pattern, forward, exchange = collectives._pattern, TransformerStage.forward, speed._there_and_back
    own = int(os.environ["RANK"])

    def wrong_pattern(rank: int, *more: Any) -> torch.Tensor:
        values = pattern(rank, *more)
        if rank == own:
            values[3] += 1
        return values

    def wrong_scale(stage: TransformerStage, hidden: torch.Tensor) -> torch.Tensor:
        output = forward(stage, hidden)
        return output * 2 if stage.is_last else output

    def slow(*arguments: Any) -> Callable[[], None]:
        work = exchange(*arguments)
        return lambda: (time.sleep(0.1), work())[1]

    if fault == "value":
        collectives._pattern = wrong_pattern
    elif fault == "scale":
        TransformerStage.forward = wrong_scale  # type: ignore[method-assign]
    elif fault == "slow":
        speed._there_and_back = slow


def run(
    ranks: Ranks, layout: tuple[int, int, int], deepspeed: str, fault: str = "", where: int = 0, factor: float = NEVER
) -> tuple[int, str]:
    pipe, tensor, data = layout
    parallel = {"pipe": pipe, "tensor": tensor, "data": data}
    with TemporaryDirectory() as folder:
        experiment = small_experiment(deepspeed=deepspeed, parallel=parallel, output=folder)
        arguments = (experiment.model_dump(), uuid4().hex, fault, where, factor)
        results = ranks(pipe * tensor * data).run(selftest_case, *arguments)
    assert len({status for status, _ in results}) == 1
    assert all(text == "" for _, text in results[1:])
    print(results[0][1])
    return results[0]


def problems_of(report: str) -> list[list[str]]:
    """The rows of the last table: check, group, where, what is wrong, seen by."""
    table = report[report.index("what is wrong") :]
    lines = [line for line in table.splitlines() if line.startswith("│")]
    return [row for row in ([cell.strip() for cell in line.strip("│").split("│")] for line in lines) if row[0]]


@pytest.mark.parametrize(
    ("layout", "deepspeed"), [((2, 1, 2), "bf16_zero1"), ((1, 2, 2), "fp32_zero3"), ((2, 2, 1), "fp32")]
)
def test_a_sound_layout_passes(ranks: Ranks, layout: tuple[int, int, int], deepspeed: str) -> None:
    status, report = run(ranks, layout, deepspeed)
    assert status == 0
    assert report.rstrip().endswith("nothing is wrong on 4 ranks")
    assert "WRONG" not in report
    assert "not run" not in report
    for check in ("all_reduce", "reduce_scatter", "send and receive", "model: own gradients", "bandwidth"):
        assert check in report


def test_a_rank_whose_values_are_wrong_is_named(ranks: Ranks) -> None:
    """In every collective of all its groups, and by all others of the group."""
    status, report = run(ranks, (2, 1, 2), "fp32", "value", where=2)
    assert status == 1
    found = problems_of(report)
    assert {row[0] for row in found} == {"all_reduce", "all_gather", "reduce_scatter", "broadcast", "send and receive"}
    assert all(row[2].startswith("rank 2: ") for row in found)
    seen_by = {(row[0], row[1].partition(":")[0]): row[4] for row in found}
    assert seen_by["all_reduce", "all ranks"] == "ranks 0, 1, 3"
    assert seen_by["broadcast", "data group"] == "rank 3"
    assert seen_by["all_gather", "model group"] == "rank 0"
    assert seen_by["send and receive", "stages"] == "rank 0"
    assert "1 of 7 values from rank 2 are wrong: number 3 is" in report


@pytest.mark.parametrize(("layout", "where"), [((2, 1, 2), 3), ((1, 1, 4), 1)])
def test_a_rank_that_scales_its_gradients_wrongly_is_named(
    ranks: Ranks, layout: tuple[int, int, int], where: int
) -> None:
    """Not the stages before it, which get them from it, nor the replicas with whose gradients its own are averaged."""
    status, report = run(ranks, layout, "fp32_zero1", "scale", where)
    assert status == 1
    [row] = problems_of(report)
    stage, replica = (1, 1) if layout[0] == 2 else (0, 1)
    assert row[0] == "own gradients"
    assert row[1] == f"stage {stage}, replica {replica}: rank {where}"
    assert row[2].startswith(f"rank {where}: ")
    model = [line for line in report.splitlines() if "model: " in line]
    assert ["ok" in line for line in model] == [True, False, False, False]
    assert ["follows" in line for line in model] == [False, False, True, True]


def test_a_slow_link_is_named(ranks: Ranks) -> None:
    status, report = run(ranks, (2, 1, 2), "fp32", "slow", where=2, factor=20)
    assert status == 1
    rows = [row for row in problems_of(report) if row[1] == "stages: ranks 0, 2"]
    assert [row[0] for row in rows] == ["speed"]
    assert "where the fastest takes" in rows[0][3]


def hanging_case(values: dict[str, Any], report: str, fault: str) -> int:
    """On a rank: the self-test, in which rank 1 does not come, or hangs in a broadcast, or raises in one."""
    if os.environ["RANK"] == "1" and fault == "absent":
        time.sleep(600)
    broadcast = dist.broadcast

    def faulty(tensor: torch.Tensor, *more: Any, **named: Any) -> Any:
        if os.environ["RANK"] == "1" and tensor.numel() == collectives.COUNTS[1]:
            if fault == "raises":
                raise RuntimeError("the planted fault")
            time.sleep(600)
        return broadcast(tensor, *more, **named)

    dist.broadcast = faulty  # type: ignore[assignment]
    with Path(report).open("w") as file:
        return selftest(Experiment.model_validate(values), 4, NEVER, Console(file=file, width=240))


@pytest.mark.parametrize(
    ("fault", "check", "text"),
    [
        ("absent", "start", "rank 1 did not arrive within 4 s; rank 0 waited for it"),
        ("hangs", "broadcast", "all arrived, and none came through within 4 s: it hangs between them"),
        ("raises", "broadcast", "RuntimeError: the planted fault"),
    ],
)
def test_a_standstill_ends_in_a_report(ranks: Ranks, tmp_path: Path, fault: str, check: str, text: str) -> None:
    experiment = small_experiment(parallel={"data": 2}, output=str(tmp_path))
    with pytest.raises(RankError, match="the process ended"):
        ranks(2).run(hanging_case, experiment.model_dump(), f"{tmp_path}/report", fault)
    report = (tmp_path / "report").read_text()
    print(report)
    [row] = problems_of(report)
    assert row[0] == check
    assert row[1] == "all ranks: ranks 0, 1"
    assert row[2].startswith("rank 0: ") if fault == "hangs" else row[2].startswith("rank 1: ")
    assert row[3] == text
    assert "not run" in report


def test_the_command_tests_this_machine(tmp_path: Path) -> None:
    """Through DeepSpeed's runner, without data; the settings of the experiment's length do not matter."""
    command = [sys.executable, "-c", "from megachar.cli import main; main()", "selftest", "quickstart",
               "--slow-factor", "1e9", f"output={tmp_path}"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nothing is wrong on 2 ranks" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart.selftest"]
