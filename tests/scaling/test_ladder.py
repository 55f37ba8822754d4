"""Which runs a ladder has, what they cost, and what it says that it cannot answer."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from megachar.base.errors import ConfigError
from megachar.scaling.doubts import doubts_about
from megachar.scaling.ladder import HELD_OUT_SEED, LadderRun, load_ladder, plan_ladder, shares_trunks

SHARED = {
    "model": {"context": 128, "local_offsets": []},
    "auxiliary": {"intermediate_layers": False, "num_targets": 1},
    "schedule": {"shape": "wsd", "warmup_steps": 10},
    "batch": {"micro_size": 8, "global_size": 8},
    "parallel": {"data": 1},
    "data": {"path": ""},
}
SIZES = {"2x16": {"layers": 2, "width": 16, "heads": 1}, "3x64": {"layers": 3, "width": 64, "heads": 4, "seeds": 2}}


def ladder(folder: Path, **more: Any) -> tuple[LadderRun, ...]:
    values = {"name": "try", "base": "small", "shared": SHARED, "sizes": SIZES, "characters": [2e6, 5e5], **more}
    path = folder / "ladder.yaml"
    path.write_text(yaml.safe_dump(values))
    return plan_ladder(load_ladder(path), None, [f"output={folder}"])


def test_every_size_is_trained_over_every_length(tmp_path: Path) -> None:
    """From the shortest on, so that each can go on from the one before; held-out runs have seeds of their own."""
    runs = ladder(tmp_path, held_out=[{"size": "2x16", "characters": 4e6}],
                  tuning=[{"size": "2x16", "characters": 5e5, "rates": [0.001, 0.01]}])  # fmt: skip
    steps = {run.name: run.run.experiment.training.total_steps for run in runs}
    assert steps == {
        "2x16-s1-499.7k": 488, "2x16-s1-2M": 1953, "2x16-r0.001-s1-499.7k": 488, "2x16-r0.01-s1-499.7k": 488,
        "2x16-held-out-s1-4M": 3906, "3x64-s1-499.7k": 488, "3x64-s1-2M": 1953, "3x64-s2-499.7k": 488,
        "3x64-s2-2M": 1953,
    }  # fmt: skip
    by_name = {run.name: run for run in runs}
    assert [name for name, run in by_name.items() if run.held_out] == ["2x16-held-out-s1-4M"]
    assert (
        by_name["2x16-held-out-s1-4M"].run.experiment.seed == by_name["2x16-s1-2M"].run.experiment.seed + HELD_OUT_SEED
    )
    assert by_name["3x64-s1-2M"].trunk == by_name["3x64-s1-499.7k"].trunk != by_name["3x64-s2-2M"].trunk
    assert by_name["3x64-s2-2M"].run.experiment.model.feed_forward_width == 256  # type: ignore[union-attr]
    assert by_name["2x16-r0.01-s1-499.7k"].run.experiment.optimizer.learning_rate == 0.01
    assert {run.run.experiment.output for run in runs} == {str(tmp_path / "try")}


def test_accounts(tmp_path: Path) -> None:
    """Operations a character: 3 (n (8 d^2 + 4 d f + 2 d (t + 1)) + 2 d v c)."""
    account = {run.name: run.account for run in ladder(tmp_path)}["3x64-s1-2M"]
    per_character = 3 * (3 * (8 * 64**2 + 4 * 64 * 256 + 2 * 64 * 129) + 2 * 64 * 256)
    assert account.characters == 1953 * 8 * 128
    assert account.flops == pytest.approx(account.characters * per_character)
    assert account.products == pytest.approx(per_character / 6)
    assert account.blocks == 3 * (4 * 64**2 + 2 * 64 * 256 + 256 + 64 + 4 * 64) + 2 * 64
    assert account.parameters == account.blocks + 256 * 64 + 3 * 128 * 64 + 256 * 64 + 256


def test_budgets(tmp_path: Path) -> None:
    """Every size is trained for as long as takes so many operations, the layers that fall silent counted."""
    shared = {**SHARED, "auxiliary": {"intermediate_layers": True, "reduction": "mean"}}
    for run in ladder(tmp_path, shared=shared, characters=[], budgets=[1e11, 1e12]):
        assert min(abs(run.account.flops / budget - 1) for budget in (1e11, 1e12)) < 0.01, run.name


def test_trunks_are_shared_where_nothing_but_the_rate_knows_the_length(tmp_path: Path) -> None:
    assert shares_trunks(ladder(tmp_path)) is None
    cosine = {**SHARED, "schedule": {"shape": "cosine"}}
    assert "take wsd" in str(shares_trunks(ladder(tmp_path, shared=cosine)))
    by_share = {**SHARED, "auxiliary": {"intermediate_layers": True, "num_targets": 1}}
    assert "auxiliary.interval_steps" in str(shares_trunks(ladder(tmp_path, shared=by_share)))


def test_doubts(tmp_path: Path) -> None:
    """Each where its cause is, and nowhere else."""
    crossed = {f"{n}x{d}": {"layers": n, "width": d, "heads": d // 16} for n in (2, 6) for d in (16, 64)}
    held_out = [{"size": "2x16", "characters": 4e6}]
    sound = ladder(tmp_path, sizes=crossed, characters=[5e5, 2e6, 8e6], held_out=held_out)
    assert doubts_about(sound, 10_000_000) == []
    assert "passes the text 8.0 times" in " ".join(doubts_about(sound, 1_000_000))
    assert "the warm-up of 10 steps is" not in " ".join(doubts_about(sound, 10_000_000))
    few = " ".join(doubts_about(ladder(tmp_path, characters=[3e4]), 10_000_000))
    assert "characters per parameter go from" in few
    assert "is outside: add lengths or sizes" in few
    assert "3 runs are few" in few
    assert "no run is held out" in few
    assert "the warm-up of 10 steps is 34% of the shortest run; set schedule.warmup_steps=2" in few
    tied = {f"{n}x{d}": {"layers": n, "width": d, "heads": 1, "characters": [1e5 * n**3]}
            for n, d in ((2, 16), (4, 32), (8, 64))}  # fmt: skip
    both = " ".join(doubts_about(ladder(tmp_path, sizes=tied, characters=[]), 10_000_000_000))
    assert "depth and width grow together (correlation of logarithms 1.00)" in both
    assert "characters and parameters grow together" in both


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"characters": []}, "gives size 2x16 no length; give the ladder `characters:` or `budgets:`"),
        ({"held_out": [{"size": "9x9", "characters": 1e6}]}, "names the size 9x9, which is none of 2x16, 3x64"),
        ({"sizes": {"a": {"layers": 2, "width": 16}}}, "sizes.a.heads: Field required"),
        ({"lengths": [1]}, "lengths: Extra inputs are not permitted"),
        ({"characters": [1.0e7, 1.0002e7]}, "two runs of the ladder try would be called 2x16-s1-10M; give lengths"),
        ({"base": ""}, "names no base; give it a preset or an experiment file with --base"),
        ({"sizes": {"a": {"layers": 2, "width": 16, "heads": 3}}}, "model.width = 16 is not divisible by"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ladder(tmp_path, **changes)
    assert message in str(refused.value)
