import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def numerics():
    # Without strict promotion: the suites run as on the command line, and optax's losses mix precisions.
    with jax.enable_x64(True):
        yield
