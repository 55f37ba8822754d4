"""What speaks against a fitted law: alarms, each with a number, the limit beyond which it fires, and a sentence.

A good fit proves little. A plateau at the start of training, say, moves beta by half while the residuals stay as small
as before. Each of the four statistical alarms fires by chance on about one sound table in fifty (`CHANCE`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
from scipy.stats import chi2, norm
from scipy.stats import f as fisher
from scipy.stats import t as student

from megachar.base.errors import DataError
from megachar.scaling.joint import ALPHA, BETA, JointLaw, fit_joint, log_best_n
from megachar.scaling.noise import Noise
from megachar.scaling.points import OPERATIONS, Floats, Points
from megachar.scaling.power_sum import jacobian
from megachar.scaling.published import Published

CHANCE: Final = 0.02
"""How often each statistical alarm fires on sound runs."""
LEFT_OUT: Final = 0.1
"""Share of the runs that are left out at an end, rounded up to whole lengths or sizes: the shortest of a grid."""
LEAST_DEGREES: Final = 4
"""Of an estimate of the noise between seeds that is preferred to the scatter around the law."""
MOST_PASSES: Final = 4.0
"""Over a text, up to which repetition costs almost nothing (Muennighoff et al. 2023)."""
MOST_TIED: Final = 0.9
"""Correlation from which two exponents can hardly be told apart."""
LEAST_EACH_SIDE: Final = 2
LEAST_AGREEMENT: Final = 0.25
SAME_COMPUTE: Final = 0.01


@dataclass(frozen=True)
class Alarm:
    """One of them; it may also say that it could not be tested."""

    name: str
    value: float
    """NaN where it could not be tested."""
    limit: float
    """Beyond which it fires: above it, or for `optimum` and `starts` below it."""
    fired: bool
    sentence: str


def raise_alarms(law: JointLaw, noise: Noise | None, published: Published | None = None,
                 from_law: Published | None = None) -> list[Alarm]:  # fmt: skip
    """All alarms about a joint law.

    Args:
        law: fitted to a table of runs.
        noise: between seeds; None where it is not known.
        published: the fit from many starts; None: whether they agree is not tested.
        from_law: the same fit, started from the law's parameters.
    """
    found: list[Iterator[Alarm]] = [
        _moves(law, noise), _scatter(law, noise), _curvature(law), _valley(law), _bounds(law), _ties(law.points),
        _compute(law.points), _passes(law.points),
    ]  # fmt: skip
    if published is not None and from_law is not None:
        found.append(_starts(published, from_law))
    return list(chain.from_iterable(found))


def without_shortest(points: Points) -> Points:
    """The table without its shortest lengths."""
    shortest = float(np.quantile(points.column("D"), LEFT_OUT, method="lower"))
    return points.where(lambda run: not shortest >= run.D)


def without_largest(points: Points) -> Points:
    """The table without its largest models."""
    largest = float(np.quantile(points.column("N"), 1 - LEFT_OUT, method="higher"))
    return points.where(lambda run: not largest <= run.N)


def _moves(law: JointLaw, noise: Noise | None) -> Iterator[Alarm]:
    yield _move(law, without_shortest(law.points), BETA, noise, "shortest", "beta", "the shortest lengths")
    yield _move(law, without_largest(law.points), ALPHA, noise, "largest", "alpha", "the largest models")


def _move(law: JointLaw, kept: Points, place: int, noise: Noise | None, name: str, exponent: str, which: str) -> Alarm:
    """Whether an exponent moves: its difference over the root of the difference of the two variances (Hausman 1978)."""
    try:
        part = fit_joint(kept, law)
    except DataError:
        return _untested(name, f"Without {which} too few runs are left to fit the law.")
    whole_fit, part_fit = law.fit, part.fit
    if not whole_fit.free[place]:
        return _untested(name, f"{exponent} lies at a bound.")
    use_seeds = noise is not None and (noise.degrees is None or noise.degrees >= LEAST_DEGREES)
    deviation, degrees = (noise.deviation, noise.degrees) if use_seeds and noise is not None else (
        part_fit.deviation, part_fit.degrees)  # fmt: skip
    spread = _variance(law, place)
    if (part_fit.free == whole_fit.free).all():  # else a term has vanished, which the part's variance does not show
        spread = _variance(part, place) - spread
    if spread <= 0 or deviation <= 0:
        return _untested(name, f"{which.capitalize()} tell nothing of {exponent}.")
    before, after = whole_fit.theta[place], part_fit.theta[place]
    moved = float(abs(after - before) / (deviation * np.sqrt(spread)))
    limit = float(norm.ppf(1 - CHANCE / 2) if degrees is None else student.ppf(1 - CHANCE / 2, degrees))
    verb = "moves" if moved > limit else "stays"
    return Alarm(name, moved, limit, moved > limit,
                 f"Without {which} {exponent} {verb}: {before:.3f} to {after:.3f}, {moved:.1f} standard deviations "
                 f"(limit {limit:.1f}).")  # fmt: skip


def _variance(law: JointLaw, place: int) -> float:
    """Of a parameter, were the noise 1."""
    return float(law.fit.covariance[place, place] / max(law.fit.deviation, 1e-300) ** 2)


def _scatter(law: JointLaw, noise: Noise | None) -> Iterator[Alarm]:
    """Residuals against the noise between seeds: chi square, or where the noise is an estimate, lack of fit by F."""
    if noise is None or noise.deviation <= 0:
        sentence = "No two runs differ in their seeds alone, and no noise was given to compare residuals with."
        yield _untested("noise", sentence)
        return
    squares, degrees = float(law.fit.residuals @ law.fit.residuals), law.fit.degrees
    variance = noise.deviation**2
    if noise.degrees is None:
        ratio, limit = squares / (degrees * variance), float(chi2.ppf(1 - CHANCE, degrees) / degrees)
    else:
        rest = degrees - noise.degrees
        if rest <= 0:
            yield _untested("noise", "All that is left to judge the law by are runs that differ in their seeds alone.")
            return
        ratio = max(squares - noise.degrees * variance, 0.0) / (rest * variance)
        limit = float(fisher.ppf(1 - CHANCE, rest, noise.degrees))
    yield Alarm("noise", ratio, limit, ratio > limit,
                f"Residuals of {law.fit.deviation:.2%} against {noise.deviation:.2%} between seeds: the variance that "
                f"the law leaves is {ratio:.2f} times that of seeds (limit {limit:.2f}).")  # fmt: skip


def _curvature(law: JointLaw) -> Iterator[Alarm]:
    """Whether a quadratic term in log C and one in log N would explain residuals (F test of added variables)."""
    logs, residuals = law.points.logs("N", "D"), law.fit.residuals
    slopes = jacobian(law.fit.theta, logs)[:, law.fit.free]
    centered = logs - logs.mean(axis=0)
    added = np.stack([centered.sum(axis=1) ** 2, centered[:, 0] ** 2], axis=1)
    rest = len(residuals) - slopes.shape[1] - added.shape[1]
    design = np.concatenate([slopes, added], axis=1)
    if rest <= 0 or np.linalg.matrix_rank(design / np.linalg.norm(design, axis=0)) < design.shape[1]:
        yield _untested("curvature", "Too few runs to tell curvature from the law.")
        return
    before, after = _squares(slopes, residuals), _squares(design, residuals)
    if after <= 0:
        yield _untested("curvature", "The law leaves no residuals.")
        return
    ratio = float((before - after) / added.shape[1] / (after / rest))
    limit = float(fisher.ppf(1 - CHANCE, added.shape[1], rest))
    verb = "explain" if ratio > limit else "do not explain"
    yield Alarm(
        "curvature",
        ratio,
        limit,
        ratio > limit,
        f"Quadratic terms in log C and log N {verb} the residuals: F = {ratio:.1f} (limit {limit:.1f}).",
    )


def _squares(design: Floats, residuals: Floats) -> float:
    """What is left of the residuals' squares once the columns of a design have explained what they can."""
    scaled = design / np.linalg.norm(design, axis=0)
    left = residuals - scaled @ np.linalg.lstsq(scaled, residuals, rcond=None)[0]
    return float(left @ left)


def _valley(law: JointLaw) -> Iterator[Alarm]:
    """Whether there are runs on both sides of the optimum: smaller and larger than the best N of their own compute."""
    with np.errstate(all="ignore"):
        best = np.array([log_best_n(law.fit.theta, run.compute) for run in law.points.runs])
    if not np.isfinite(best).all():
        yield _untested("optimum", "A term of the law is missing, so there is no optimum.")
        return
    smaller = int((law.points.logs("N")[:, 0] < best).sum())
    fewest = min(smaller, len(best) - smaller)
    sides = f"{smaller} runs are smaller than the optimum of their compute, {len(best) - smaller} are larger"
    fired = fewest < LEAST_EACH_SIDE
    tail = "the optimum lies at the edge of the runs or outside" if fired else "it lies among the runs"
    yield Alarm("optimum", fewest, LEAST_EACH_SIDE, fired, f"{sides}: {tail}.")


def _bounds(law: JointLaw) -> Iterator[Alarm]:
    names = np.array(["E", "A", "B", "alpha", "beta"])[~law.fit.free]
    sentence = (f"At a bound, and so no estimate: {', '.join(names)}." if len(names)
                else "No parameter lies at a bound.")  # fmt: skip
    yield Alarm("bounds", len(names), 0, len(names) > 0, sentence)


def _ties(points: Points) -> Iterator[Alarm]:
    """Whether N and D, or depth and width, were varied apart."""
    for name, one, other, exponents in (("D tied to N", "N", "D", "alpha and beta"),
                                        ("depth tied to width", "depth", "width", "their exponents")):  # fmt: skip
        logs = points.logs(one, other)
        logs = logs[np.isfinite(logs).all(axis=1)]
        if len(logs) < 3 or min(logs.std(axis=0)) < 1e-9:
            continue
        tied = round(float(abs(np.corrcoef(logs.T)[0, 1])), 6)
        verb = "can hardly be told apart" if tied > MOST_TIED else "can be told apart"
        yield Alarm(
            name,
            tied,
            MOST_TIED,
            tied > MOST_TIED,
            f"log {one} and log {other} correlate at {tied:.2f}: {exponents} {verb}.",
        )


def _compute(points: Points) -> Iterator[Alarm]:
    """Whether C is 6 N D, on which the optimum for a budget rests."""
    ratios = points.column("compute") / (OPERATIONS * points.column("N") * points.column("D"))
    worst = round(float(np.abs(ratios - 1).max()), 9)
    tail = ("the N of this table is not C / (6 D), and budgets are those of 6 N D" if worst > SAME_COMPUTE
            else "budgets are what was computed")  # fmt: skip
    yield Alarm(
        "C is 6 N D", worst, SAME_COMPUTE, worst > SAME_COMPUTE, f"C and 6 N D differ by up to {worst:.2%}: {tail}."
    )


def _passes(points: Points) -> Iterator[Alarm]:
    passes = points.column("D") / points.column("unique")
    if not np.isfinite(passes).any():
        return
    most = float(np.nanmax(passes))
    tail = "the law holds for text that is new" if most > MOST_PASSES else "up to 4 cost almost nothing"
    yield Alarm(
        "repeated text", most, MOST_PASSES, most > MOST_PASSES, f"The text was passed up to {most:.1f} times: {tail}."
    )


def _starts(published: Published, from_law: Published) -> Iterator[Alarm]:
    """Whether many starts of the published fit end at one optimum, and a start from the least squares as well."""
    best = min(published.objective, from_law.objective)
    missed = from_law.objective > best * (1 + 1e-6) + 1e-15
    agreement = published.agreement if published.objective <= best * (1 + 1e-6) + 1e-15 else 0.0
    fired = missed or agreement < LEAST_AGREEMENT
    tail = "; a start from the least squares does not" if missed else ", as does one from the least squares"
    yield Alarm(
        "starts",
        agreement,
        LEAST_AGREEMENT,
        fired,
        f"{agreement:.0%} of {len(published.objectives)} random starts end at the best optimum{tail}.",
    )


def _untested(name: str, sentence: str) -> Alarm:
    return Alarm(name, np.nan, np.nan, False, f"Not tested: {sentence}")
