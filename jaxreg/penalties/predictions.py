"""Predictions of a linear head: probabilities, complements, loss and curvature, exact where saturated."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Predictions(NamedTuple):
    """Class probabilities of a softmax head, or of a logistic head with one logit."""

    logits: jax.Array
    """Scores, shape ``[..., K]``."""
    probabilities: jax.Array
    """``p``, shape ``[..., K]``; with one logit that of class 1."""
    complements: jax.Array
    """``1 - p`` to full relative accuracy, shape ``[..., K]``."""
    leading: jax.Array
    """True at the class of the largest score, shape ``[..., K]``."""

    @classmethod
    def of(cls, logits: jax.Array) -> "Predictions":
        """Predictions from scores ``[..., K]``; K = 1 is one logit."""
        if logits.shape[-1] == 1:
            return cls(
                logits, jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits), jnp.ones_like(logits, dtype=bool)
            )
        _, leading, scales = _scales(logits)
        total = jnp.sum(scales, axis=-1, keepdims=True)
        others = jnp.sum(jnp.where(leading, 0, scales), axis=-1, keepdims=True)
        probabilities = scales / total
        return cls(logits, probabilities, jnp.where(leading, others / total, 1 - probabilities), leading)

    def errors(self, targets: jax.Array) -> jax.Array:
        """``p - y`` for targets ``y``, ``[..., K]``, to full relative accuracy at targets 0 and 1."""
        return self.probabilities * (1 - targets) - self.complements * targets

    def loss(self, targets: jax.Array) -> jax.Array:
        """Cross-entropy of targets ``[..., K]``, shape ``[...]``."""
        if self.logits.shape[-1] == 1:
            scores, target = self.logits[..., 0], targets[..., 0]
            return target * jax.nn.softplus(-scores) + (1 - target) * jax.nn.softplus(scores)
        top, leading, scales = _scales(self.logits)
        others = jnp.sum(jnp.where(leading, 0, scales), axis=-1)
        # A class of probability 0 does not count, even where its score is -inf.
        gaps = jnp.where(targets == 0, 0, targets * jnp.where(targets == 0, 0, top - self.logits))
        return jnp.log1p(others) + jnp.sum(gaps, axis=-1)

    def curve(self, values: jax.Array) -> jax.Array:
        """``(diag(p) - p p^T) u`` for ``u`` of shape ``[..., K]``: the second derivative of the loss."""
        if self.logits.shape[-1] == 1:
            return self.probabilities * self.complements * values
        # Relative to the leading class all terms are as small as the result, however sure the prediction.
        own = jnp.sum(jnp.where(self.leading, values, 0), axis=-1, keepdims=True)
        gaps = values - own
        return self.probabilities * (gaps - jnp.sum(self.probabilities * gaps, axis=-1, keepdims=True))

    @property
    def variances(self) -> jax.Array:
        """``p (1 - p)``, the diagonal of the second derivative, shape ``[..., K]``."""
        return self.probabilities * self.complements


def _scales(logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Largest score, where it is, and exponentials relative to it."""
    classes = jax.lax.broadcasted_iota(
        jnp.int32, (1,) * (logits.ndim - 1) + logits.shape[-1:], logits.ndim - 1
    )
    leading = classes == jnp.argmax(logits, axis=-1)[..., None].astype(jnp.int32)
    top = jnp.sum(jnp.where(leading, logits, 0), axis=-1, keepdims=True)
    return top, leading, jnp.exp(logits - top)
