"""What a calibration times: small models of the experiment's kind that pass the checks and tell the figures apart."""

import pytest

from megachar.config.checks import check_experiment
from megachar.config.loading import load_experiment
from megachar.planning.calibration import _variants
from megachar.planning.devices import load_device
from megachar.planning.fitting import predicted_seconds


@pytest.mark.parametrize("preset", ["t64-modern", "quickstart", "small", "mlstm-20m", "stacked-lstm-20m"])
def test_variants_are_legal_and_differ_in_time(preset: str) -> None:
    experiment, device = load_experiment(preset), load_device("cpu")
    seconds = set()
    for variant, silent in _variants(experiment):
        check_experiment(variant)
        assert variant.parallel.world_size == 1
        seconds.add(predicted_seconds(variant, device, silent))
    speaks = experiment.auxiliary.intermediate_layers
    assert len(seconds) == (12 if speaks else 8) // (1 if experiment.batch.micro_size > 1 else 2)
