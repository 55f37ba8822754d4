"""Fixtures of the tests of sweeps."""

from tests.config.conftest import draw
