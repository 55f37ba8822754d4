"""Ladders whose law is known, and Chinchilla's points: how often intervals hold the truth, alarms fire, starts agree.

    python -m tests.experiments.scaling_laws --ladders 200
    python -m tests.experiments.scaling_laws --trunks 200
    python -m tests.experiments.scaling_laws --grids 40

The first fits ladders of 20 runs and prints the coverage of intervals, then for every fault and strength the share of
ladders on which each alarm fires, and any of them, and how often a held-out run with the same fault lies inside its
interval. The second gives the runs of a trunk luck that they share, and compares Student's t with the bootstrap. The
third fits Chinchilla's 240 points from many sets of random starts.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from megachar.scaling.alarms import raise_alarms
from megachar.scaling.bootstrap import resample
from megachar.scaling.joint import QUANTITIES, fit_joint, quantities
from megachar.scaling.noise import Noise
from megachar.scaling.power_sum import log_loss
from megachar.scaling.published import fit_published, random_starts
from tests.scaling.chinchilla import KNOWN, OBJECTIVE, chinchilla
from tests.scaling.ladders import FAULTS, HELD_OUT, NOISES, TRUTH, Loss, make_ladder, make_trunks, sound

LEVEL = 0.9
ALARMS = ("shortest", "largest", "noise", "curvature", "starts", "optimum", "bounds")
RESAMPLES = 200
STARTS = 20


@dataclass
class Tally:
    """What came of some ladders."""

    ladders: int = 0
    held: Counter[str] = field(default_factory=Counter)
    """Quantity, or `held-out run` -> in how many ladders its interval holds the truth."""
    fired: Counter[str] = field(default_factory=Counter)
    """Alarm, or `any` -> on how many ladders it fires."""

    def share(self, of: Counter[str], name: str) -> float:
        """Of the ladders."""
        return of[name] / self.ladders


def try_ladders(count: int, noise: float, loss: Loss = sound, seed: int = 0, starts: int = 0) -> Tally:
    """Fit as many ladders, and count.

    Args:
        count: of ladders, each of other noise.
        noise: standard deviation of log L between seeds, which the alarms are told.
        loss: what the runs really follow.
        seed: of the first ladder; the others follow.
        starts: random starts of the published fit; 0: whether they agree is not tested.
    """
    tally = Tally()
    truth = quantities(TRUTH)
    for number in range(seed, seed + count):
        rng = np.random.default_rng(number)
        points = make_ladder(rng, noise, loss)
        law = fit_joint(points)
        tally.ladders += 1
        tally.held.update(name for name in QUANTITIES if law.interval(name, LEVEL).holds(truth[name]))
        measured = loss(*HELD_OUT) * np.exp(noise * rng.standard_normal())
        tally.held["held-out run"] += law.predict(*HELD_OUT, LEVEL).holds(measured)
        logs, log_losses, published, from_law = points.logs("N", "D"), points.log_losses, None, None
        if starts:
            published = fit_published(logs, log_losses, random_starts(starts, 2, number))
            from_law = fit_published(logs, log_losses, [law.fit.projected])
        fired = [alarm.name for alarm in raise_alarms(law, Noise(noise, None), published, from_law) if alarm.fired]
        tally.fired.update(fired)
        tally.fired["any"] += bool(fired)
    return tally


def try_trunks(count: int, shared: float, own: float) -> tuple[Tally, Tally]:
    """Coverage of Student's t and of the bootstrap, where log L has noise that a trunk's runs share, and their own."""
    student, bootstrap, truth = Tally(count), Tally(count), quantities(TRUTH)
    for number in range(count):
        law = fit_joint(make_trunks(np.random.default_rng(number), shared, own))
        drawn = resample(law, RESAMPLES, number, LEVEL).intervals
        student.held.update(name for name in QUANTITIES if law.interval(name, LEVEL).holds(truth[name]))
        bootstrap.held.update(name for name in QUANTITIES if drawn[name].holds(truth[name]))
    return student, bootstrap


def try_grids(count: int, starts: int) -> tuple[int, float]:
    """In how many of the grids of random starts the known optimum is found, and the share of single starts that do."""
    points = chinchilla()
    found, agreements = 0, []
    for seed in range(count):
        fit = fit_published(points.logs("N", "D"), points.log_losses, random_starts(starts, 2, seed))
        named = quantities(fit.theta)
        near = all(abs(named[name] / value - 1) < 1e-3 for name, value in KNOWN.items())
        reached = abs(fit.objective - OBJECTIVE) < 1e-8
        found += near and reached
        agreements.append(fit.agreement * reached)
    return found, float(np.mean(agreements))


def main() -> int:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description="Fit ladders whose law is known, and Chinchilla's points.")
    parser.add_argument("--ladders", type=int, default=0, help="how many of each kind")
    parser.add_argument("--trunks", type=int, default=0, help="ladders whose trunks share luck")
    parser.add_argument("--grids", type=int, default=0, help="sets of random starts")
    parser.add_argument("--seed", type=int, default=0, help="of the first ladder")
    parser.add_argument("--starts", type=int, default=STARTS, help="in a set; on ladders 0 leaves them out")
    given = parser.parse_args()
    if given.ladders:
        _print_ladders(given.ladders, given.seed, given.starts)
    if given.trunks:
        for shared, own in ((0.0, 0.004), (0.002, 0.0035), (0.004, 0.001)):
            for name, tally in zip(("Student's t", "bootstrap"), try_trunks(given.trunks, shared, own), strict=True):
                print(
                    f"trunks share {shared:.1%} beside {own:.2%} of a run's own, {name}: {_coverage(tally)}", flush=True
                )
    if given.grids:
        found, alone = try_grids(given.grids, given.starts)
        print(f"{found} of {given.grids} sets of {given.starts} random starts find the known optimum; {alone:.0%} of "
              "single starts do")  # fmt: skip
        print(f"fitted below 1e21 operations, the other 23 are predicted within {prediction_error():.2%} on average")
    return 0


def prediction_error() -> float:
    """The mean relative error of the law of Chinchilla's runs below 1e21 operations on the others."""
    points = chinchilla()
    small, large = points.where(lambda run: run.compute < 1e21), points.where(lambda run: run.compute >= 1e21)
    fit = fit_published(small.logs("N", "D"), small.log_losses, random_starts(STARTS, 2, 0))
    return float(np.abs(np.expm1(large.log_losses - log_loss(fit.theta, large.logs("N", "D")))).mean())


def _print_ladders(count: int, seed: int, starts: int) -> None:
    for noise in NOISES:
        tally = try_ladders(count, noise, seed=seed, starts=starts)
        print(f"noise {noise:.1%}, {LEVEL:.0%} intervals hold the truth: {_coverage(tally)}")
        _print_alarms("sound", tally)
        for name, (make, strengths) in FAULTS.items():
            for strength in strengths:
                _print_alarms(f"{name} {strength:g}", try_ladders(count, noise, make(strength), seed))


def _coverage(tally: Tally) -> str:
    return ", ".join(f"{name} {tally.share(tally.held, name):.1%}" for name in QUANTITIES)


def _print_alarms(name: str, tally: Tally) -> None:
    shares = ", ".join(f"{alarm} {tally.share(tally.fired, alarm):.1%}" for alarm in ("any", *ALARMS))
    inside = tally.share(tally.held, "held-out run")
    print(f"  {name}: {shares}; held-out run inside its interval {inside:.1%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
