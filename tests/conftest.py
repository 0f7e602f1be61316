"""Numerics and devices of the tests: 64-bit, strict promotion, eight CPU devices, repeatable hypothesis."""

import os
import sys
from pathlib import Path

# Both must stand before JAX first looks for devices, hence before anything below imports it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
    )
# `tests.cases` and `tests.oracles` are imported by name, whatever way pytest was started.
if (ROOT := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(0, ROOT)

import hypothesis
import jax
import pytest

# Without shrinking, which takes minutes where each example costs milliseconds.
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=25, phases=PHASES
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="module", autouse=True)
def numerics():
    """64-bit and strict promotion while a module's tests run; a folder may override it by this name.

    A fixture and not the global configuration, because the doctests of the library run in the same
    process and shall see JAX as a user does.
    """
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield
