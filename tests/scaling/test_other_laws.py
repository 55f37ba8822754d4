"""Laws beside the joint one, on known laws: one quantity, equal compute, rates, depth and width, repeated text."""

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.scaling.bootstrap import resample
from megachar.scaling.isoflop import find_isoflops
from megachar.scaling.joint import QUANTITIES, fit_joint, log_best_n
from megachar.scaling.points import Points, Run
from megachar.scaling.power_sum import log_loss
from megachar.scaling.repeated import effective, fit_repetition, repeated_log_loss
from megachar.scaling.shapes import fit_shapes
from megachar.scaling.single import fit_single_laws, frontier
from megachar.scaling.tuning import find_tuning
from tests.draws import fresh_rng
from tests.scaling.ladders import LENGTHS, SIZES, TRUTH, make_ladder, make_trunks, sound


def test_laws_of_one_quantity() -> None:
    """Where D is the same for all N, L(N) has alpha, and its offset holds what D costs; L(D) likewise."""
    laws, remarks = fit_single_laws(make_ladder(fresh_rng(), 1e-6))
    assert laws["L(N)"].exponent(0.9).value == pytest.approx(0.355, abs=1e-3)
    assert laws["L(D)"].exponent(0.9).value == pytest.approx(0.40, abs=0.01)
    assert laws["L(N)"].offset(0.9).value == pytest.approx(1.25 + 150 * LENGTHS[-1] ** -0.4, rel=1e-3)
    assert not remarks


def test_a_law_of_compute_is_that_of_the_frontier() -> None:
    """Runs at the best N of many budgets, and one that wastes its compute."""
    runs = []
    for compute in np.geomspace(1e11, 1e15, 12):
        n = float(np.exp(log_best_n(TRUTH, compute)))
        runs.append(Run(N=n, D=compute / 6 / n, loss=sound(n, compute / 6 / n)))
    wasteful = Run(N=1e4, D=1e10, loss=5)
    assert frontier(Points((wasteful, *runs))).runs == tuple(runs)
    laws, _ = fit_single_laws(Points((wasteful, *runs)))
    alpha, beta = TRUTH[3:]
    assert laws["L(C)"].exponent(0.9).value == pytest.approx(alpha * beta / (alpha + beta), rel=1e-3)
    assert laws["L(C)"].offset(0.9).value == pytest.approx(1.25, rel=1e-3)


def test_too_few_runs_for_a_law_of_one_quantity_are_said() -> None:
    laws, remarks = fit_single_laws(Points(make_ladder(fresh_rng(), 0.005).runs[:3]))
    assert not laws
    assert remarks[0] == "L(N) is left out: 1 runs cannot fix 3 parameters and their intervals; fit at least 4"


def test_parabolas_of_equal_compute_are_near_the_optimum_and_biased() -> None:
    """SCALING: 4 % of the intercept for a grid of 16 x to each side, wherever alpha and beta differ."""
    compute = 1e13
    best = float(np.exp(log_best_n(TRUTH, compute)))
    sizes = best * np.geomspace(1 / 16, 16, 9)
    [isoflop] = find_isoflops(Points(tuple(Run(N=n, D=compute / 6 / n, loss=sound(n, compute / 6 / n)) for n in sizes)))
    assert isoflop.compute == pytest.approx(compute)
    assert 1e-3 < abs(isoflop.minimum / best - 1) < 0.5
    assert not find_isoflops(make_ladder(fresh_rng(), 0.0).where(lambda run: run.D == 8e6))


def test_the_best_rate_falls_with_compute() -> None:
    """As 0.01 (C / 1e12)^-0.2, to be found between the rates that were tried; the largest size has it at the edge."""
    runs = []
    for n, d in ((2e4, 1e6), (6e4, 2e6), (2e5, 4e6), (9e5, 8e6)):
        best = 0.01 * (6 * n * d / 1e12) ** -0.2
        rates = best * np.geomspace(0.3, 4, 5) if n < 9e5 else best * np.geomspace(1.5, 8, 4)
        runs += [Run(N=n, D=d, loss=2 + np.log(rate / best) ** 2, rate=rate) for rate in rates]
    tuning = find_tuning(Points(tuple(runs)), "rate", 0.9)
    assert tuning is not None
    assert [optimum.at_edge for optimum in tuning.optima] == [False, False, False, True]
    assert tuning.exponent is not None
    assert tuning.exponent.value == pytest.approx(-0.2)
    assert tuning.at(1e15) == pytest.approx(0.01 * 1000**-0.2)
    assert find_tuning(Points(tuple(runs)), "batch", 0.9) is None
    one = find_tuning(Points(tuple(runs[:5])), "rate", 0.9)
    assert one is not None
    assert one.exponent is None
    assert one.at(1e15) is None


def test_depth_and_width_apart() -> None:
    """Gemstones cross them; with noise, the truth lies within a few standard errors."""
    rng = fresh_rng()
    theta = np.log([1.25, 6.0, 3.0, 150.0, 1, 1, 1])
    theta[4:] = 0.7, 0.9, 0.4
    runs = []
    for width in (16, 32, 64, 128, 256):
        for depth in (2, 4, 8, 16):
            for d in (1e6, 4e6, 1.6e7):
                loss = np.exp(log_loss(theta, np.log([[width, depth, d]]))[0] + 1e-4 * rng.standard_normal())
                runs.append(Run(N=12 * depth * width**2, D=d, loss=loss, depth=depth, width=width))
    law = fit_shapes(Points(tuple(runs)))
    assert law is not None
    exponents = law.exponents(0.9)
    assert [exponents[name].value for name in ("width", "depth", "D")] == pytest.approx([0.7, 0.9, 0.4], abs=0.03)
    assert abs(law.trade_off) < 0.8
    assert fit_shapes(make_ladder(rng, 0.005)) is None
    assert fit_shapes(Points(tuple(runs[:7]))) is None


def test_effective_amounts() -> None:
    """Muennighoff et al.'s law on C4 and its two published predictions."""
    theta = np.array([0.62548, 6.25541, 7.30500, 0.35266, 0.35266])
    losses = np.exp(repeated_log_loss(theta, np.array([6.34e9, 8.67e9]), np.array([242e9, 178e9]), np.full(2, 25e9)))
    assert losses == pytest.approx([2.22564, 2.22696], abs=1e-5)
    worth = effective(np.array([1.0, 2.0, 4.0, 1e9]), np.full(4, 2.0), 15.39)
    assert worth[:2].tolist() == [1, 2]
    assert worth[2] == pytest.approx(2 + 2 * 15.39 * (1 - np.exp(-1 / 15.39)))
    assert worth[3] == pytest.approx(2 + 2 * 15.39)


def test_what_repetition_is_worth_is_found() -> None:
    """Ladders of new text and of a text of half a million characters that is passed up to 64 times, with R = 6."""
    rng = fresh_rng()
    runs = [Run(N=n, D=d, unique=unique, loss=np.exp(
                float(repeated_log_loss(TRUTH, np.array([n]), np.array([d]), np.array([min(unique, d)]), 6.0)[0])
                + 1e-4 * rng.standard_normal()))
            for unique in (5e5, 1e9) for n in SIZES for d in 5e5 * np.array([1, 2, 4, 16, 64])]  # fmt: skip
    points = Points(tuple(runs))
    found = fit_repetition(points, fit_joint(points), 0.99)
    assert found is not None
    assert found.characters.value == pytest.approx(6.0, rel=0.05)
    assert found.characters.low < 6.0 < found.characters.high
    assert found.theta == pytest.approx(TRUTH, rel=0.05)
    assert fit_repetition(make_ladder(rng, 0.005), fit_joint(make_ladder(rng, 0.005)), 0.9) is None


def test_the_bootstrap_draws_trunks_and_seeds() -> None:
    """So it sees luck that a trunk's runs share, and drawing single runs would not."""
    law = fit_joint(make_trunks(np.random.default_rng(1), 0.004, 0.001))  # one whose E is not at its bound
    drawn = resample(law, 60, 0, 0.9)
    assert drawn.groups == 10
    assert drawn.intervals.keys() == QUANTITIES.keys()
    for name, interval in drawn.intervals.items():
        assert interval.low < interval.high
        assert interval.value == law.interval(name, 0.9).value
    alone = Points(tuple(run.model_copy(update={"trunk": str(number)}) for number, run in enumerate(law.points.runs)))
    single = resample(fit_joint(alone), 60, 0, 0.9)
    assert single.groups == 40
    whole, parts = (one.intervals["alpha"].high - one.intervals["alpha"].low for one in (drawn, single))
    assert whole != parts
    again = resample(law, 60, 0, 0.9)
    assert again == drawn


def test_the_bootstrap_never_draws_single_runs() -> None:
    points = make_ladder(fresh_rng(), 0.005)
    with pytest.raises(DataError, match="no run names its trunk or its seed"):
        resample(fit_joint(points), 10, 0, 0.9)
    one = Points(tuple(run.model_copy(update={"trunk": "all"}) for run in points.runs))
    with pytest.raises(DataError, match="1 groups of runs"):
        resample(fit_joint(one), 10, 0, 0.9)
