"""Hypothesis profiles, torch's generator under its care, one thread, and bytecode that is kept."""

import os

import pytest
import torch
from hypothesis import HealthCheck, register_random, settings

torch.set_num_threads(1)  # many small tensors: more threads would only wait for each other

_SLOW_OK = [HealthCheck.too_slow]
settings.register_profile("dev", deadline=None, max_examples=50, suppress_health_check=_SLOW_OK)
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=_SLOW_OK)
# Hypothesis' own profile for continuous integration: no randomness, no database, prints how to reproduce a failure.
settings.register_profile("ci", settings.get_profile("ci"), max_examples=100)
if settings.get_current_profile_name() == "default":
    settings.load_profile("dev")


def pytest_configure(config: pytest.Config) -> None:
    """Where no bytecode may lie beside the sources, pytest's cache has it: to compile all that an app imports anew
    would cost each process that tests start, and the two that run them, half of their time to start."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", "") and (cache := getattr(config, "cache", None)):
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(cache.mkdir("bytecode")))


class TorchRandom:
    """What Hypothesis needs to seed, save and restore torch's global generator."""

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def getstate(self) -> torch.Tensor:
        return torch.get_rng_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


torch_random = TorchRandom()  # a module-level name: Hypothesis keeps only a weak reference
register_random(torch_random)
