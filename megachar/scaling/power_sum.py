"""The form of every law here: L = E + A_1 X_1^-x_1 + ... + A_m X_m^-x_m, fitted through its logarithm.

Parameters are one array theta (2 m + 1,): log E, then the m logs of the factors A, then the m exponents x. A term that
is not there has -inf for the logarithm of its factor. Inputs are logarithms (K, m) of the X of K runs. Where they are
centered, that is, where each X is divided by its geometric mean, so is theta: log A is then the term at the mean run.
Without that, the least-squares problem has a condition number of about 1e11.
"""

import numpy as np

from megachar.scaling.points import Floats


def log_loss(theta: Floats, logs: Floats) -> Floats:
    """Logarithms (K,) of the loss."""
    return np.asarray(np.logaddexp.reduce(_log_terms(theta, logs), axis=1))


def shares(theta: Floats, logs: Floats) -> Floats:
    """What part of the loss each term is: (K, m + 1), the offset first; rows add up to 1."""
    terms = _log_terms(theta, logs)
    return np.asarray(np.exp(terms - np.logaddexp.reduce(terms, axis=1)[:, None]))


def jacobian(theta: Floats, logs: Floats) -> Floats:
    """Derivatives (K, 2 m + 1) of the logarithms of the loss with respect to theta."""
    parts = shares(theta, logs)
    return np.concatenate([parts, -parts[:, 1:] * logs], axis=1)


def uncentering(center: Floats) -> Floats:
    """The matrix (p, p) that takes theta on centered logs to theta on logs; `center` (m,) is what was taken off."""
    num_terms = len(center)
    matrix = np.eye(2 * num_terms + 1)
    matrix[1 : num_terms + 1, num_terms + 1 :] = np.diag(center)
    return matrix


def uncentered(theta: Floats, center: Floats) -> Floats:
    """Theta on centered logs -> theta on logs."""
    num_terms = len(center)
    moved = theta.copy()
    moved[1 : num_terms + 1] += theta[num_terms + 1 :] * center  # no matrix: -inf times 0 is no number
    return moved


def _log_terms(theta: Floats, logs: Floats) -> Floats:
    num_terms = logs.shape[1]
    terms = np.empty((len(logs), num_terms + 1))
    terms[:, 0] = theta[0]
    terms[:, 1:] = theta[1 : num_terms + 1] - theta[num_terms + 1 :] * logs
    return terms
