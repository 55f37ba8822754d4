"""The joint law: found exactly where there is no noise, by both fits; what follows from it; what it cannot tell."""

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.scaling.joint import QUANTITIES, fit_joint, log_best_d, log_best_n, quantities
from megachar.scaling.points import Points, Run
from megachar.scaling.power_sum import jacobian, uncentered
from megachar.scaling.published import fit_published, random_starts
from tests.draws import fresh_rng
from tests.scaling.ladders import HELD_OUT, LENGTHS, SIZES, TRUTH, make_ladder, sound


def test_a_law_without_noise_is_found_exactly() -> None:
    """By variable projection, by least squares, and as published."""
    points = make_ladder(fresh_rng(), 0.0)
    law = fit_joint(points)
    assert law.fit.projected == pytest.approx(TRUTH, rel=1e-3)
    assert law.fit.theta == pytest.approx(TRUTH, rel=1e-6)
    published = fit_published(points.logs("N", "D"), points.log_losses, random_starts(4, 2, 0))
    assert published.theta == pytest.approx(TRUTH, rel=1e-4)
    assert law.predict(*HELD_OUT, 0.9).value == pytest.approx(sound(*HELD_OUT), rel=1e-6)


def test_both_starts_of_the_least_squares_lead_to_one_law() -> None:
    points = make_ladder(fresh_rng(), 0.005)
    law = fit_joint(points)
    nearly = fit_joint(Points(points.runs[1:]))
    assert fit_joint(points, nearly).fit.theta == pytest.approx(law.fit.theta, rel=1e-4)
    logs = points.logs("N", "D")
    assert law.fit.residuals == pytest.approx(points.log_losses - law.fit.log_loss(logs))
    centered = uncentered(law.fit.theta, -logs.mean(axis=0))
    assert jacobian(centered, logs - logs.mean(axis=0)).T @ law.fit.residuals == pytest.approx(np.zeros(5), abs=1e-6)


def test_the_best_n_and_d_for_a_budget_are_the_best() -> None:
    """A model a little larger or smaller, trained for as much less or more, does worse."""
    compute = 3e13
    n, d = np.exp(log_best_n(TRUTH, compute)), np.exp(log_best_d(TRUTH, compute))
    assert 6 * n * d == pytest.approx(compute)
    assert sound(n, d) < min(sound(n * 1.1, d / 1.1), sound(n / 1.1, d * 1.1))
    named = quantities(TRUTH)
    g = (named["alpha"] * named["A"] / (named["beta"] * named["B"])) ** (1 / (named["alpha"] + named["beta"]))
    assert named["G"] == pytest.approx(g)
    assert n == pytest.approx(g * (compute / 6) ** named["a"])


def test_a_wider_level_gives_a_wider_interval_and_noise_of_a_run_is_part_of_a_prediction() -> None:
    law = fit_joint(make_ladder(fresh_rng(), 0.005))
    for name in QUANTITIES:
        narrow, wide = law.interval(name, 0.5), law.interval(name, 0.99)
        assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    inside = law.predict(1e5, 2e6, 0.9)
    assert inside.high / inside.low > np.exp(2 * 1.7 * law.fit.deviation)
    budget = law.budget(1e14, 0.9)
    assert budget.n.low < budget.n.value < budget.n.high
    assert 6 * budget.n.value * budget.d.value == pytest.approx(1e14)


def test_a_loss_that_n_does_not_move_has_no_exponent() -> None:
    """The term lies at its bound, 0; what depends on it is not known."""
    rng = fresh_rng()
    runs = tuple(Run(N=n, D=d, loss=(1 + 20 * d**-0.3) * np.exp(1e-4 * rng.standard_normal()))
                 for n in SIZES for d in LENGTHS)  # fmt: skip
    law = fit_joint(Points(runs))
    if law.fit.free[1]:  # noise may look like a little of it
        assert law.fit.theta[1] < np.log(0.1)
    else:
        assert not law.fit.free[3]
        assert np.isnan(law.interval("G", 0.9).value)
        assert law.fit.degrees == len(runs) - 3
    assert law.interval("beta", 0.9).value == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        (5, "5 runs cannot fix 5 parameters and their intervals; fit at least 6"),
        (8, "N takes only 2 different values among the fitted runs"),
    ],
)
def test_too_few_runs_are_refused(runs: int, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        fit_joint(Points(make_ladder(fresh_rng(), 0.005).runs[:runs]))
