"""The form of all laws: its derivatives, its centering, and terms that are not there."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from megachar.scaling.points import Floats
from megachar.scaling.power_sum import jacobian, log_loss, shares, uncentered, uncentering
from tests.draws import fresh_rng


@pytest.mark.parametrize("num_terms", [1, 2, 3])
def test_values_and_derivatives(num_terms: int) -> None:
    rng = fresh_rng()
    theta, logs = rng.normal(size=2 * num_terms + 1), rng.normal(size=(7, num_terms))
    factors, powers = np.exp(theta[1 : num_terms + 1]), theta[num_terms + 1 :]
    plain = np.log(np.exp(theta[0]) + (factors * np.exp(logs) ** -powers).sum(axis=1))
    assert log_loss(theta, logs) == pytest.approx(plain)
    assert shares(theta, logs).sum(axis=1) == pytest.approx(np.ones(7))
    slopes = approx_fprime(theta, lambda theta: log_loss(theta, logs))
    assert jacobian(theta, logs) == pytest.approx(slopes, abs=1e-5)


def test_centering_changes_no_loss() -> None:
    rng = fresh_rng()
    theta, logs, center = rng.normal(size=5), rng.normal(size=(7, 2)), rng.normal(size=2)
    moved: Floats = uncentered(theta, center)
    assert log_loss(moved, logs) == pytest.approx(log_loss(theta, logs - center))
    assert moved == pytest.approx(uncentering(center) @ theta)
    assert uncentered(moved, -center) == pytest.approx(theta)


def test_a_term_that_is_not_there_counts_nothing() -> None:
    logs = fresh_rng().normal(size=(7, 2))
    theta = np.array([0.3, -np.inf, 0.1, 0.5, 0.4])
    assert log_loss(theta, logs) == pytest.approx(log_loss(theta[[0, 2, 4]], logs[:, 1:]))
    assert (jacobian(theta, logs)[:, [1, 3]] == 0).all()
