"""Ladders whose law is known: how often intervals hold the truth, and how often alarms fire, on sound and faulty ones.

    python -m tests.experiments.scaling_laws --ladders 200

Each ladder has 20 runs. Prints the coverage of intervals, then for every fault and strength the share of ladders on
which each alarm fires, and any of them.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from megachar.scaling.alarms import raise_alarms
from megachar.scaling.joint import QUANTITIES, fit_joint
from megachar.scaling.noise import Noise
from megachar.scaling.published import fit_published, random_starts
from tests.scaling.ladders import FAULTS, HELD_OUT, NOISES, TRUTH, Loss, make_ladder, sound

LEVEL = 0.9
ALARMS = ("shortest", "largest", "noise", "curvature", "starts", "optimum", "bounds")


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
    for number in range(seed, seed + count):
        rng = np.random.default_rng(number)
        points = make_ladder(rng, noise, loss)
        law = fit_joint(points)
        tally.ladders += 1
        for name, (of, logarithm) in QUANTITIES.items():
            truth = np.exp(of(TRUTH)) if logarithm else of(TRUTH)
            tally.held[name] += law.interval(name, LEVEL).holds(truth)
        measured = loss(*HELD_OUT) * np.exp(noise * rng.standard_normal())
        tally.held["held-out run"] += law.predict(*HELD_OUT, LEVEL).holds(measured)
        logs, log_losses, published, from_law = points.logs("N", "D"), points.log_losses, None, None
        if starts:
            published = fit_published(logs, log_losses, random_starts(starts, 2, number))
            from_law = fit_published(logs, log_losses, [law.fit.theta])
        fired = [alarm.name for alarm in raise_alarms(law, Noise(noise, None), published, from_law) if alarm.fired]
        tally.fired.update(fired)
        tally.fired["any"] += bool(fired)
    return tally


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Fit ladders whose law is known.")
    parser.add_argument("--ladders", type=int, default=200, help="how many of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--starts", type=int, default=0, help="random starts of the published fit, on sound ladders")
    given = parser.parse_args()
    for noise in NOISES:
        tally = try_ladders(given.ladders, noise, seed=given.seed, starts=given.starts)
        held = ", ".join(f"{name} {tally.share(tally.held, name):.1%}" for name in (*QUANTITIES, "held-out run"))
        print(f"noise {noise:.1%}, {LEVEL:.0%} intervals hold the truth: {held}")
        _print_alarms("sound", tally)
        for name, (make, strengths) in FAULTS.items():
            for strength in strengths:
                _print_alarms(f"{name} {strength:g}", try_ladders(given.ladders, noise, make(strength), given.seed))
    return 0


def _print_alarms(name: str, tally: Tally) -> None:
    shares = ", ".join(f"{alarm} {tally.share(tally.fired, alarm):.1%}" for alarm in ("any", *ALARMS))
    print(f"  {name}: {shares}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
