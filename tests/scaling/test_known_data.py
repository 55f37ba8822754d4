"""Chinchilla's points: the published fit's known parameters, the mistake of stopping early, and a prediction.

The 40 grids of random starts are tried by hand: `python -m tests.experiments.scaling_laws --grids 40`.
"""

import numpy as np
import pytest
from scipy.optimize import minimize

from megachar.scaling.joint import fit_joint, quantities
from megachar.scaling.power_sum import log_loss
from megachar.scaling.published import Recipe, fit_published, random_starts, sum_and_gradient
from tests.draws import fresh_seed
from tests.scaling.chinchilla import KNOWN, OBJECTIVE, chinchilla, needed

pytestmark = needed

PUBLISHED = np.array([np.log(1.69), np.log(406.4), np.log(410.7), 0.34, 0.28])
"""Of Hoffmann et al."""


def test_the_known_parameters_are_found_from_random_starts() -> None:
    points = chinchilla()
    assert len(points) == 240
    found = fit_published(points.logs("N", "D"), points.log_losses, random_starts(12, 2, fresh_seed()))
    named = quantities(found.theta)
    assert found.objective == pytest.approx(OBJECTIVE, abs=1e-8)
    assert {name: named[name] for name in KNOWN} == pytest.approx(KNOWN, rel=1e-3)
    assert named["a"] == pytest.approx(0.514, abs=1e-3)


def test_least_squares_as_a_start_leads_to_the_same_optimum() -> None:
    points = chinchilla()
    start = fit_joint(points).fit.projected
    assert fit_published(points.logs("N", "D"), points.log_losses, [start]).objective == pytest.approx(
        OBJECTIVE, abs=1e-8
    )


def test_stopping_early_is_the_published_mistake() -> None:
    """The mean in place of the sum, at an optimizer's default tolerances, from the published values on."""
    points = chinchilla()
    logs, log_losses = points.logs("N", "D"), points.log_losses
    mean = Recipe(scale=1 / len(points))
    stopped = minimize(sum_and_gradient, PUBLISHED, (logs, log_losses, mean), "L-BFGS-B", jac=True)
    assert stopped.success
    assert stopped.x[3:] == pytest.approx([0.339, 0.285], abs=2e-3)
    early = fit_published(logs, log_losses, [PUBLISHED], Recipe(scale=1 / len(points), tolerance=0, gradient=1e-5))
    assert early.objective > 1.1 * OBJECTIVE
    assert early.theta[4] < 0.3
    ours = fit_published(logs, log_losses, [PUBLISHED])
    assert ours.objective == pytest.approx(OBJECTIVE, abs=1e-8)
    assert ours.theta[3:] == pytest.approx([0.34731, 0.36717], rel=1e-3)


def test_runs_below_1e21_operations_predict_the_others() -> None:
    points = chinchilla()
    small, large = points.where(lambda run: run.compute < 1e21), points.where(lambda run: run.compute >= 1e21)
    assert (len(small), len(large)) == (217, 23)
    found = fit_published(small.logs("N", "D"), small.log_losses, [fit_joint(small).fit.projected])
    errors = np.expm1(large.log_losses - log_loss(found.theta, large.logs("N", "D")))
    assert np.abs(errors).mean() < 0.012
    assert abs(errors.mean()) < 0.002
