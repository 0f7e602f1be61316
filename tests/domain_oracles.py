"""Penalties over domains as papers and released code write them: loops over domains, back-propagated twice.

A domain is a triple of features ``[n, D]``, probabilities of the labels ``[n, K]`` and weights ``[n]``, which
need not add up to 1; domains may differ in n; all gradients are automatic. Nothing here is shared with the
library. Where released code differs from its paper (DomainBed's classes, the class HGP of the authors of
Hessian alignment), the function says so. :func:`of_arrays`
lets the conformance suite call these on arrays ``[E, B, ...]``.
"""

import itertools

import jax
import jax.numpy as jnp


def of_arrays(oracle):
    """``definition(head, features, targets, weights, **options)`` from an oracle of domains."""

    def definition(head, features, targets, weights, **options):
        domains = [tuple(leaf[e] for leaf in (features, targets, weights)) for e in range(len(features))]
        return oracle(head, domains, **options)

    return definition


def average(values, weights):
    total = jnp.sum(weights)
    return jnp.tensordot(weights, values, 1) / jnp.where(total == 0, 1, total)


def scores(head, features):
    logits = features @ head["kernel"]
    return logits + head["bias"] if "bias" in head else logits


def risk(head, domain, factor=1.0):
    """Mean cross-entropy; one logit is that of class 1 against a logit of 0."""
    features, targets, weights = domain
    logits = factor * scores(head, features)
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([0 * logits, logits], axis=-1)
        targets = jnp.concatenate([1 - targets, targets], axis=-1)
    return average(-jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1), weights)


def present(domains):
    return jnp.stack([jnp.any(weights > 0) for *_, weights in domains]).astype(domains[0][0].dtype)


def mean(values, domains):
    """Over the domains that are not empty."""
    return average(jnp.stack(values), present(domains))


def over_pairs(function, items, domains):
    """Mean over the pairs of domains that are not empty."""
    there, total, count = present(domains), 0.0, 0.0
    for a, b in itertools.combinations(range(len(items)), 2):
        total += there[a] * there[b] * function(items[a], items[b])
        count += there[a] * there[b]
    return total / jnp.maximum(count, 1.0)


def flat(tree):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def gradient(head, domain):
    return flat(jax.grad(risk)(head, domain))


def spread(vectors, domains):
    middle = mean(vectors, domains)
    return mean([jnp.sum((vector - middle) ** 2) for vector in vectors], domains)


def coral(head, domains, *, mean_weight=1.0, covariance_weight=1.0, unbiased=False):
    """DomainBed divides the covariance by n - 1; examples must count alike for that."""
    del head

    def moments(domain):
        features, _, weights = domain
        first = average(features, weights)
        outer = jax.vmap(lambda z: jnp.outer(z - first, z - first))(features)
        size = jnp.sum(weights > 0)
        return first, average(outer, weights) * (size / (size - 1) if unbiased else 1)

    def difference(one, other):
        squares = [jnp.mean((a - b) ** 2) for a, b in zip(one, other, strict=True)]
        return mean_weight * squares[0] + covariance_weight * squares[1]

    return over_pairs(difference, [moments(domain) for domain in domains], domains)


def slope(head, domain):
    """Derivative of the risk in a common factor of the logits."""
    return jax.grad(risk, argnums=2)(head, domain, jnp.ones((), domain[0].dtype))


def irm(head, domains, *, halves=False):
    """DomainBed multiplies the slopes of the two halves."""
    if not halves:
        return mean([slope(head, domain) ** 2 for domain in domains], domains)
    parts = [
        [slope(head, tuple(leaf[start::2] for leaf in domain)) for start in (0, 1)] for domain in domains
    ]
    return mean([first * second for first, second in parts], domains)


def v_rex(head, domains):
    return spread([risk(head, domain) for domain in domains], domains)


def iga(head, domains, *, domain_reduction="mean"):
    """DomainBed sums over domains."""
    total = spread([gradient(head, domain) for domain in domains], domains)
    return total * (len(domains) if domain_reduction == "sum" else 1)


def fish(head, domains):
    return -over_pairs(jnp.dot, [gradient(head, domain) for domain in domains], domains)


def variances(head, domain):
    features, targets, weights = domain
    one = jnp.ones(1, weights.dtype)
    each = jax.vmap(lambda z, y: gradient(head, (z[None], y[None], one)))(features, targets)
    return average((each - average(each, weights)) ** 2, weights)


def fishr(head, domains, *, entry_reduction="sum"):
    """DomainBed averages over entries."""
    each = [variances(head, domain) for domain in domains]
    return spread(each, domains) / (each[0].size if entry_reduction == "mean" else 1)


def spectral_decoupling(head, domains, *, target=0.0, class_reduction="mean"):
    reduce = jnp.mean if class_reduction == "mean" else jnp.sum

    def square(features, targets, weights):
        del targets
        return average(reduce((scores(head, features) - target) ** 2, axis=-1), weights)

    return mean([square(*domain) for domain in domains], domains)


def hessian_times_gradient(head, domains):
    """Of the average of the domains' losses."""
    first = jax.grad(lambda head: mean([risk(head, domain) for domain in domains], domains))
    return flat(jax.jvp(first, (head,), (first(head),))[1])


def by_norms(head, domains):
    """The same as ``|g| grad |g|``, which the class HGP takes: NaN where the gradient vanishes."""

    def norm(head):
        first = jax.grad(lambda head: mean([risk(head, domain) for domain in domains], domains))
        return jnp.sqrt(jnp.sum(flat(first(head)) ** 2))

    value, first = jax.value_and_grad(norm)(head)
    return value * flat(first)


def hgp(head, domains, *, hessian_weight, gradient_weight, product=hessian_times_gradient):
    """The class HGP: both references belong to the average loss and are detached."""
    middle = mean([gradient(head, domain) for domain in domains], domains)
    references = jax.lax.stop_gradient((product(head, domains), middle))
    each = [
        hessian_weight * jnp.sum((product(head, [domain]) - references[0]) ** 2)
        + gradient_weight * jnp.sum((gradient(head, domain) - references[1]) ** 2)
        for domain in domains
    ]
    return mean(each, domains)


def and_mask(gradients, *, threshold, rescale=False):
    """The released code divides by the share of entries kept."""
    keep = jnp.abs(jnp.mean(jnp.sign(gradients), axis=0)) >= threshold
    masked = jnp.mean(gradients, axis=0) * keep
    return masked / jnp.mean(keep.astype(masked.dtype)) if rescale else masked


def group_dro_weights(weights, losses, step_size):
    """As in DomainBed: multiply, then normalise."""
    raised = [weight * jnp.exp(step_size * loss) for weight, loss in zip(weights, losses, strict=True)]
    return jnp.stack(raised) / sum(raised)
