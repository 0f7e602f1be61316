import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import penalties
from jaxreg.theory import falsify
from jaxreg.theory.domains import and_mask, decoupling, group_dro
from tests import suites

# One worker, so that the suite is evaluated once.
pytestmark = pytest.mark.xdist_group("theory_domains")


@pytest.fixture(scope="module")
def rows():
    return suites.rows("domains")


def test_all_eleven_numbers_occur(rows):
    text = " ".join(row.statement for row in rows)
    assert all(f"DO-{number}:" in text for number in range(1, 12))


def test_the_searches_come_near_to_tight(rows):
    slack = {row.name: row.measured for row in rows}
    assert slack["group-dro-step-is-a-maximum"] < 1e-6
    assert slack["group-dro-regret-after-the-step"] < 0.1
    assert slack["group-dro-regret-before-the-step"] < 0.1
    assert slack["and-mask-suits-every-domain"] == 0


# -- Statements fail for methods that are wrong in the way they are about.


def test_weights_that_forget_the_last_step_are_caught(monkeypatch):
    right = penalties.group_dro_weights
    monkeypatch.setattr(penalties, "group_dro_weights", lambda old, *rest: right(jnp.ones_like(old), *rest))
    assert not any(check.holds() for check in group_dro.maximum_by_programming(0))


def test_weights_that_move_too_little_break_the_bounds_on_the_regret(monkeypatch):
    right = penalties.group_dro_weights
    monkeypatch.setattr(
        penalties, "group_dro_weights", lambda old, losses, step: right(old, losses, 0.8 * step)
    )
    rng = np.random.default_rng(0)
    starts = 2 * rng.normal(size=(16, group_dro.STEPS, 3)), rng.uniform(-2, 2, 16)
    found = falsify.search(lambda *case: group_dro.regret(*case, ahead=True), starts, steps=100)
    assert found.violation > 0.01


def test_a_mask_that_asks_less_does_not_suit_every_domain(monkeypatch):
    right = and_mask.masked
    monkeypatch.setattr(and_mask, "masked", lambda gradients, threshold=1.0: right(gradients, 0.3))
    starts = (np.random.default_rng(0).normal(size=(16, 3, 4)),)
    assert falsify.hill_climb(and_mask.every_domain_descends, starts).violation > 0.01
    assert not any(check.holds() for check in and_mask.noise_dies_out(3))


def test_a_penalty_on_the_surest_logit_alone_is_caught(monkeypatch):
    def largest(head, features, labels=None, **options):
        del labels, options
        logits = features @ head["kernel"] + head.get("bias", jnp.zeros(()))
        return jnp.mean(jnp.max(jnp.square(logits), axis=-1))

    monkeypatch.setattr(penalties, "spectral_decoupling", largest)
    assert not any(check.holds(1e-3) for check in decoupling.penalty_is_quadratic(0))
