"""Alarms: each fires on what it is for, and says so with a number; sound ladders are left in peace."""

from collections.abc import Mapping

import numpy as np
import pytest

from megachar.scaling.alarms import Alarm, raise_alarms, without_largest, without_shortest
from megachar.scaling.edges import edge_alarms
from megachar.scaling.isoflop import find_isoflops
from megachar.scaling.joint import fit_joint
from megachar.scaling.noise import Noise, seed_noise
from megachar.scaling.points import Points, Run
from megachar.scaling.published import Published
from megachar.scaling.tuning import Optimum, Tuning
from tests.draws import fresh_rng
from tests.scaling.ladders import LENGTHS, SIZES, make_ladder, rate_too_high, read_in_mid_schedule, sound, wasted_warmup


def alarms_of(points: Points, noise: Noise | None = None, *starts: Published) -> Mapping[str, Alarm]:
    return {alarm.name: alarm for alarm in raise_alarms(fit_joint(points), noise, *starts)}


def test_a_ladder_without_noise_is_left_in_peace() -> None:
    """And what cannot be tested says so, without having fired."""
    found = alarms_of(make_ladder(np.random.default_rng(2), 1e-7), Noise(1e-3, None))
    assert not [alarm.sentence for alarm in found.values() if alarm.fired]
    assert "beta stays: 0.400 to 0.400" in found["shortest"].sentence
    assert found["optimum"].value >= 2
    assert np.isnan(alarms_of(make_ladder(fresh_rng(), 0.005))["noise"].value)


@pytest.mark.parametrize(
    ("loss", "name", "words"),
    [
        (wasted_warmup(0.5), "shortest", "Without the shortest lengths beta moves"),
        (rate_too_high(0.08), "largest", "Without the largest models alpha moves"),
        (read_in_mid_schedule(0.04), "noise", "the variance that the law leaves is"),
        (rate_too_high(0.08), "curvature", "explain the residuals"),
    ],
)
def test_a_strong_fault_fires_its_alarm(loss: object, name: str, words: str) -> None:
    alarm = alarms_of(make_ladder(fresh_rng(), 5e-4, loss), Noise(5e-4, None))[name]  # type: ignore[arg-type]
    assert alarm.fired
    assert alarm.value > alarm.limit
    assert words in alarm.sentence


def test_what_is_left_out_is_a_whole_length_or_size() -> None:
    points = make_ladder(fresh_rng(), 0.005)
    assert set(without_shortest(points).column("D")) == set(LENGTHS[1:])
    assert set(without_largest(points).column("N")) == set(SIZES[:-1])


def test_the_exponents_with_and_without_an_end_are_shown() -> None:
    points = make_ladder(fresh_rng(), 0.005)
    found, law = alarms_of(points), fit_joint(points).fit
    for name, kept, place in (("shortest", without_shortest(points), 4), ("largest", without_largest(points), 3)):
        without = fit_joint(kept).fit.theta[place]
        assert f"{law.theta[place]:.3f} to {without:.3f}" in found[name].sentence


def test_residuals_are_compared_with_repeated_seeds() -> None:
    """Lack of fit by F, where the noise is estimated from the runs themselves."""
    rng = fresh_rng()
    quiet = [run.model_copy(update={"seed": seed}) for seed in (1, 2) for run in make_ladder(rng, 1e-4).runs]
    noise = seed_noise(Points(tuple(quiet)))
    assert noise is not None
    assert noise.degrees == 20
    assert 0.5e-4 < noise.deviation < 2e-4
    faulty = [run.model_copy(update={"seed": seed}) for seed in (1, 2)
              for run in make_ladder(rng, 1e-4, read_in_mid_schedule(0.03)).runs]  # fmt: skip
    assert alarms_of(Points(tuple(faulty)), seed_noise(Points(tuple(faulty))))["noise"].fired


def test_the_noise_between_seeds_is_that_of_runs_that_differ_in_nothing_else() -> None:
    runs = [Run(N=1e5, D=1e6, loss=loss, seed=seed, rate=rate) for loss, seed, rate in
            ((2.0, 1, 1e-3), (2.0 * np.exp(0.02), 2, 1e-3), (3.0, 1, 2e-3))]  # fmt: skip
    noise = seed_noise(Points(tuple(runs)))
    assert noise == Noise(pytest.approx(0.01 * np.sqrt(2)), 1)  # type: ignore[arg-type]
    assert seed_noise(Points(tuple(runs[1:]))) is None


def test_all_runs_on_one_side_of_the_optimum() -> None:
    """Small models that read much text say nothing of larger ones."""
    runs = tuple(Run(N=n, D=d, loss=sound(n, d) * (1 + 1e-6 * (number % 3))) for number, (n, d) in
                 enumerate((n, d) for n in SIZES for d in 100 * LENGTHS))  # fmt: skip
    alarm = alarms_of(Points(runs))["optimum"]
    assert alarm.fired
    assert "20 runs are smaller than the optimum" in alarm.sentence


def test_a_parameter_at_its_bound() -> None:
    runs = tuple(Run(N=n, D=d, loss=8 * d**-0.1 * (1 + 1e-3 * (n == SIZES[2]))) for n in SIZES for d in LENGTHS)
    alarm = alarms_of(Points(runs))["bounds"]
    assert alarm.fired
    assert alarm.value >= 1
    assert "At a bound, and so no estimate: " in alarm.sentence


def test_what_was_varied_together_and_what_is_not_6_n_d() -> None:
    rng = fresh_rng()
    tied = tuple(Run(N=n, D=20 * n * factor, loss=sound(n, 20 * n) * np.exp(1e-3 * rng.standard_normal()),
                     depth=n**0.3, width=n**0.35, unique=2 * n, C=100 * n * n)
                 for n in np.geomspace(2e4, 2e6, 10) for factor in (0.9, 1.0, 1.1))  # fmt: skip
    found = alarms_of(Points(tied))
    for name in ("D tied to N", "depth tied to width", "C is 6 N D", "repeated text"):
        assert found[name].fired
    assert found["repeated text"].value == pytest.approx(11)
    assert "repeated text" not in alarms_of(make_ladder(rng, 0.005))
    few = tuple(run.model_copy(update={"unique": run.D / 4}) for run in make_ladder(rng, 0.005).runs)
    assert not alarms_of(Points(few))["repeated text"].fired


@pytest.mark.parametrize(
    ("objectives", "from_law", "fired"),
    [((1.0, 1.0, 2.0), 1.0, False), ((1.0, *(2.0,) * 9), 1.0, True), ((1.0, 1.0), 1.1, True), ((1.1, 1.1), 1.0, True)],
    ids=["most agree", "one of ten", "the law's start misses", "all random ones miss"],
)
def test_starts_that_disagree(objectives: tuple[float, ...], from_law: float, fired: bool) -> None:
    theta = np.zeros(5)
    found = alarms_of(make_ladder(fresh_rng(), 0.005), None, Published(theta, min(objectives), objectives),
                      Published(theta, from_law, (from_law,)))  # fmt: skip
    assert found["starts"].fired == fired


def test_optima_at_the_edge_of_what_was_tried() -> None:
    falling = Points(tuple(Run(N=n, D=1e12 / n, loss=2 + np.log(n / 1e6) ** 2) for n in (1e4, 2e4, 4e4, 8e4)))
    inside = Points(tuple(Run(N=n, D=1e13 / n, loss=2 + np.log(n / 2e4) ** 2) for n in (1e4, 2e4, 4e4, 8e4)))
    isoflops = [*find_isoflops(falling), *find_isoflops(inside)]
    tuning = Tuning("rate", (Optimum(1e12, 1e-3, True), Optimum(1e13, 1e-3, False)), None, None)
    budgets, rate = edge_alarms(isoflops, [tuning])
    assert budgets.fired
    assert budgets.sentence.startswith("1 of 2 budgets")
    assert rate.fired
    assert rate.name == "best rate"
    assert not next(edge_alarms(find_isoflops(inside), [])).fired
    assert not list(edge_alarms([], []))
