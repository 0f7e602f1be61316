"""Penalties over domains as papers and released code write them: loops over domains, back-propagated twice.

A domain is a pair of features ``[n, D]`` and probabilities of the labels ``[n, K]``, domains may differ in n, and
all gradients are automatic. Nothing here is shared with the library. Where code released with a paper differs
from it (DomainBed's classes, and the class HGP of the authors of Hessian alignment), the function says so.
"""

import itertools

import jax
import jax.numpy as jnp


def scores(head, features):
    return features @ head["kernel"] + head.get("bias", 0.0)


def losses(head, domain, factor=1.0):
    """Cross-entropy of each example; one logit is that of class 1 against a logit of 0."""
    features, targets = domain
    logits = factor * scores(head, features)
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([0 * logits, logits], axis=-1)
        targets = jnp.concatenate([1 - targets, targets], axis=-1)
    return -jnp.sum(targets * jnp.log(jax.nn.softmax(logits, axis=-1)), axis=-1)


def risk(head, domain, factor=1.0):
    return jnp.mean(losses(head, domain, factor))


def mean(values):
    return sum(values) / len(values)


def flat(tree):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def gradient(head, domain):
    return flat(jax.grad(risk)(head, domain))


def spread(vectors):
    return mean([jnp.sum((vector - mean(vectors)) ** 2) for vector in vectors])


def coral(head, domains, *, mean_weight=1.0, covariance_weight=1.0, unbiased=False):
    """DomainBed divides the covariance by n - 1."""

    def difference(one, other):
        covariances = [jnp.cov(features.T, bias=not unbiased).reshape(2 * features.shape[1:])
                       for features in (one, other)]  # fmt: skip
        means = jnp.mean((one.mean(0) - other.mean(0)) ** 2)
        return mean_weight * means + covariance_weight * jnp.mean((covariances[0] - covariances[1]) ** 2)

    return mean([difference(one[0], other[0]) for one, other in itertools.combinations(domains, 2)])


def slope(head, domain):
    return jax.grad(risk, argnums=2)(head, domain, 1.0)


def irm(head, domains, *, halves=False):
    """DomainBed multiplies the slopes of the two halves."""
    if not halves:
        return mean([slope(head, domain) ** 2 for domain in domains])
    return mean(
        [slope(head, (z[::2], y[::2])) * slope(head, (z[1::2], y[1::2])) for z, y in domains]
    )


def v_rex(head, domains):
    return spread([risk(head, domain)[None] for domain in domains])


def iga(head, domains, *, domain_reduction="mean"):
    """DomainBed sums over domains."""
    total = spread([gradient(head, domain) for domain in domains])
    return total * (len(domains) if domain_reduction == "sum" else 1)


def fish(head, domains):
    gradients = [gradient(head, domain) for domain in domains]
    return -mean([jnp.sum(one * other) for one, other in itertools.combinations(gradients, 2)])


def variances(head, domain):
    each = jax.vmap(lambda z, y: gradient(head, (z[None], y[None])))(*domain)
    return jnp.mean((each - each.mean(0)) ** 2, axis=0)


def fishr(head, domains, *, entry_reduction="sum"):
    """DomainBed averages over entries."""
    each = [variances(head, domain) for domain in domains]
    return spread(each) / (each[0].size if entry_reduction == "mean" else 1)


def spectral_decoupling(head, domains, *, target=0.0, class_reduction="mean"):
    reduce = jnp.mean if class_reduction == "mean" else jnp.sum
    return mean([jnp.mean(reduce((scores(head, z) - target) ** 2, axis=-1)) for z, _ in domains])


def hessian_gradient(head, domains):
    """Hessian times gradient of the average of the domains' losses."""
    leaves, treedef = jax.tree.flatten(head)
    objective = lambda head: mean([risk(head, domain) for domain in domains])
    first = jax.grad(objective)
    return flat(jax.jvp(first, (head,), (first(jax.tree.unflatten(treedef, leaves)),))[1])


def hgp(head, domains, *, alpha, beta, detach=True):
    """The class HGP: its reference belongs to the average loss and is detached."""
    references = (hessian_gradient(head, domains), mean([gradient(head, domain) for domain in domains]))
    if detach:
        references = jax.lax.stop_gradient(references)
    each = [
        alpha * jnp.sum((hessian_gradient(head, [domain]) - references[0]) ** 2)
        + beta * jnp.sum((gradient(head, domain) - references[1]) ** 2)
        for domain in domains
    ]
    return mean(each)


def hgp_by_norms(head, domains, *, alpha, beta):
    """The same with ``H g = |g| grad |g|``, as that class computes it: NaN where a gradient vanishes."""

    def pair(head, chosen):
        norm = lambda head: jnp.sqrt(jnp.sum(flat(jax.grad(
            lambda head: mean([risk(head, domain) for domain in chosen]))(head)) ** 2))  # fmt: skip
        value, slope_of_norm = jax.value_and_grad(norm)(head)
        return value * flat(slope_of_norm)

    reference = jax.lax.stop_gradient(pair(head, domains))
    references = jax.lax.stop_gradient(mean([gradient(head, domain) for domain in domains]))
    return mean(
        [
            alpha * jnp.sum((pair(head, [domain]) - reference) ** 2)
            + beta * jnp.sum((gradient(head, domain) - references) ** 2)
            for domain in domains
        ]
    )
