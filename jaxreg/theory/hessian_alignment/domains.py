"""What is aligned: blocks of gradient and Hessian, and what the other penalties over domains make of them."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import penalties
from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment.objectives import value_and_gradient
from jaxreg.theory.hessian_alignment.problems import (
    Derivatives,
    Domains,
    augmented,
    called,
    curvature,
    derivatives,
    draw,
    flat,
    plain_loss,
    predictions,
    size_of,
    softmax,
)
from jaxreg.theory.oracles import quick_jit

ALONE = {"gradient_weight": 0.0}


def blocks_are_moments(domains: Domains, dense: Derivatives) -> Check:
    """HA-15: mean errors, errors times features, and curvature times features to the powers 0, 1, 2."""
    z, w, p = (np.asarray(leaf) for leaf in (domains.features, domains.weights, predictions(domains)))
    a, errors = curvature(p), p - np.asarray(domains.targets)
    classes, width = domains.matrix.shape[-2:]
    shape = (*dense.gradient.shape[:2], classes, width)
    g = np.asarray(dense.gradient).reshape(shape)
    h = np.asarray(dense.hessian).reshape(*shape, classes, width)
    pairs = (
        (g[..., -1], np.einsum("ceb,cebk->cek", w, errors)),
        (g[..., :-1], np.einsum("ceb,cebk,cebd->cekd", w, errors, z)),
        (h[..., -1, :, -1], np.einsum("ceb,cebkl->cekl", w, a)),
        (h[..., :-1, :, -1], np.einsum("ceb,cebkl,cebd->cekdl", w, a, z)),
        (h[..., :-1, :, :-1], np.einsum("ceb,cebkl,cebd,cebf->cekdlf", w, a, z, z)),
    )
    lhs, rhs = (
        np.concatenate([side.reshape(len(g), -1) for side in sides], 1) for sides in zip(*pairs, strict=True)
    )
    return Check(
        "blocks-are-moments",
        "Hemati et al. (2023)",
        "HA-15: g_b = E(p-y), g_W = E(p-y)z, H_bb = E A, H_Wb = E A (x) z, H_WW = E A (x) zz^T",
        lhs,
        "==",
        rhs,
        scale=size_of(rhs),
        tolerance_float32=1e-5,
    )


def zero_head_sees_what_coral_sees(seed: int) -> Iterator[Check]:
    """HA-15: under uniform predictions Hessians differ as the features' moments do; not in general."""
    domains = draw(seed, 20, domains=2)
    domains = domains._replace(kernel=0 * domains.kernel, bias=0 * domains.bias)
    z, w = np.asarray(domains.features), np.asarray(domains.weights)
    classes = domains.bias.shape[-1]
    mean, second = np.einsum("ceb,cebd->ced", w, z), np.einsum("ceb,cebd,cebf->cedf", w, z, z)
    squares = [((leaf[:, 0] - leaf[:, 1]) ** 2).reshape(len(z), -1).sum(-1) for leaf in (second, mean)]
    expected = (classes - 1) / classes**2 * (squares[0] + 2 * squares[1])

    def distance(domains: Domains) -> jax.Array:
        return 4 * called(penalties.hessian_alignment, domains, method="blocks", **ALONE)

    yield Check(
        "zero-head-sees-the-moments-of-coral",
        "derived",
        "HA-15: p uniform: |H_a - H_b|_F^2 = (K-1)/K^2 (|M2_a - M2_b|^2 + 2 |mu_a - mu_b|^2)",
        quick_jit(jax.vmap(distance))(domains),
        "==",
        expected,
        scale=size_of(expected),
        tolerance_float32=1e-5,
    )
    # The second example is predicted with certainty in both domains, so that its features leave no trace.
    head = {"kernel": jnp.array([[0.0, 0.0], [0.0, 100.0]])}
    features = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [3.0, 1.0]]])
    labels = jnp.ones((2, 2), int)
    found = quick_jit(lambda *data: (penalties.hessian_alignment(*data, **ALONE), penalties.coral(*data)))(
        head, features, labels
    )
    yield Check(
        "hessians-do-not-see-all-of-coral",
        "derived",
        "HA-15: NEGATIVE: equal Hessians and a CORAL distance >= 0.1: saturated examples leave no trace",
        np.array([float(found[0]) <= 1e-10, float(found[1]) >= 0.1], float),
        "==",
        1.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def coral_of_pairs(domains: Domains) -> Check:
    """HA-15: DomainBed's loop over pairs of domains."""
    z = np.asarray(domains.features)
    size = z.shape[-1]
    found = []
    for one in z:
        covariances = [np.cov(domain.T) for domain in one]
        distances = []
        for a, b in itertools.combinations(range(len(one)), 2):
            of_means = ((one[a].mean(0) - one[b].mean(0)) ** 2).sum() / size
            distances.append(of_means + ((covariances[a] - covariances[b]) ** 2).sum() / size**2)
        found.append(np.mean(distances))

    def ours(domains: Domains) -> jax.Array:
        return penalties.coral(domains.head, domains.features, unbiased=True)

    return Check(
        "coral-is-a-mean-over-pairs",
        "DomainBed",
        "HA-15: CORAL: mean square differences of means and of covariances, 1/(n-1), averaged over pairs",
        quick_jit(jax.vmap(ours))(domains),
        "==",
        np.array(found),
        scale=size_of(np.array(found)),
        tolerance_float32=1e-5,
    )


def scale_derivative(domains: Domains) -> jax.Array:
    """``d/da L_e(a s)`` at a = 1 by automatic differentiation, ``[E]``; traceable."""

    def of_one(*data: jax.Array) -> jax.Array:
        return jax.grad(lambda a: plain_loss(a * domains.matrix, *data))(jnp.ones((), data[0].dtype))

    return jax.vmap(of_one)(*domains[2:])


def first_order_penalties(domains: Domains, dense: Derivatives) -> Iterator[Check]:
    """HA-15: IRM, V-REx, IGA and Fish as functions of the domains' gradients."""
    g, t = np.asarray(dense.gradient), np.asarray(domains.matrix).reshape(len(dense.loss), 1, -1)
    slopes = (g * t).sum(-1)
    p = predictions(domains)
    entropy = np.einsum("ceb,cebk->ce", domains.weights, -p * np.log(p))
    cosines = np.einsum("cen,cfn->cef", g, g)
    count = g.shape[1]
    off = cosines.sum((1, 2)) - np.trace(cosines, axis1=1, axis2=2)
    deviations = g - g.mean(1, keepdims=True)

    def ours(domains: Domains) -> list:
        options = {"iga": {"domain_reduction": "sum"}}
        names = ("irm", "v_rex", "iga", "fish")
        return [called(getattr(penalties, name), domains, **options.get(name, {})) for name in names]

    found = quick_jit(jax.vmap(lambda domains: (*ours(domains), scale_derivative(domains))))(domains)
    irm, v_rex, iga, fish, derivative = (np.asarray(leaf) for leaf in found)
    trace = np.trace(cosines, axis1=1, axis2=2)
    claims = (
        ("irm-derivative", "IRM: d/da L_e(a s) at a = 1 is <g_e, T>", derivative, slopes),
        ("irm-penalty", "IRM: mean_e <g_e, T>^2", irm, (derivative**2).mean(1)),
        ("v-rex-is-slope-plus-entropy", "V-REx: L_e = <g_e, T> + mean entropy of the predictions",
         dense.loss, slopes + entropy),
        ("v-rex-penalty", "V-REx: variance of <g_e, T> + mean entropy", v_rex, (slopes + entropy).var(1)),
        ("iga-penalty", "IGA: sum_e |g_e - g|^2 (DomainBed)", iga, (deviations**2).sum((1, 2))),
        ("iga-by-products", "IGA: sum = (n-1)/n sum |g_e|^2 - 1/n sum_{i != j} g_i.g_j",
         (deviations**2).sum((1, 2)), (count - 1) / count * trace - off / count),
        ("fish-penalty", "Fish: minus the mean inner product over pairs", fish, -off / (count * (count - 1))),
    )  # fmt: skip
    for name, statement, lhs, rhs in claims:
        yield Check(
            name, "derived", f"HA-15: {statement}", lhs, "==", rhs, scale=size_of(rhs), tolerance_float32=1e-4
        )


def irm_is_bounded(kernel: jax.Array, bias: jax.Array, features: jax.Array, free: jax.Array) -> Check:
    """HA-15: by the gradient's size, which other penalties align."""
    targets = jax.nn.softmax(free, axis=-1)
    weights = jnp.full_like(features[:, 0], 1 / features.shape[0])
    matrix = jnp.concatenate([kernel.T, bias[:, None]], axis=-1)
    gradient = jax.grad(plain_loss)(matrix.ravel(), features, targets, weights)
    head = {"kernel": kernel, "bias": bias}
    bound = jnp.sum(matrix**2) * jnp.sum(gradient**2)
    return Check(
        "irm-is-bounded",
        "derived",
        "HA-15: the IRM penalty <g, T>^2 <= |T|^2 |g|^2",
        penalties.irm(head, features[None], targets[None]),
        "<=",
        bound,
        scale=1e-6 + bound,
        tolerance_float32=1e-4,
    )


def irm_of_halves(domains: Domains) -> Check:
    """HA-15: DomainBed's product over even- and odd-numbered examples, an odd number of them."""
    domains = jax.tree.map(
        lambda leaf: leaf[:, :, :5] if leaf.ndim > 2 and leaf.shape[2] == 6 else leaf, domains
    )

    def both(domains: Domains) -> tuple[jax.Array, jax.Array]:
        ours = penalties.irm(domains.head, *domains[2:4], halves=True)
        slopes = []
        for start in (0, 1):
            features, targets = domains.features[:, start::2], domains.targets[:, start::2]
            weights = jnp.full(features.shape[:2], 1 / features.shape[1])
            slopes.append(scale_derivative(Domains(domains.kernel, domains.bias, features, targets, weights)))
        return ours, jnp.mean(slopes[0] * slopes[1])

    found, expected = quick_jit(jax.vmap(both))(domains)
    return Check(
        "irm-of-halves",
        "DomainBed",
        "HA-15: IRM's estimate from halves of the batch: mean_e of the product of their scale derivatives",
        found,
        "==",
        expected,
        scale=size_of(expected),
        tolerance_float32=1e-4,
    )


def equal_gradients_do_not_align_losses() -> Check:
    """HA-15: the same gradient from one example at z = 1 and one at z = 2 with half the error."""
    kernel, error = np.array([[0.0, 1.0]]), 0.1
    features = jnp.array([[[1.0]], [[2.0]]])
    p = softmax(np.asarray(features) @ kernel)
    errors = np.array([[[error, -error]], [[error / 2, -error / 2]]])
    head, targets = {"kernel": jnp.asarray(kernel)}, jnp.asarray(p - errors)
    moments = penalties.head_moments
    gradients, losses = quick_jit(
        lambda *data: (moments.gradient(*data)["kernel"], moments.mean_loss(*data))
    )(head, features, targets)
    entropy = -(p * np.log(p)).sum(-1)[:, 0]
    return Check(
        "equal-gradients-do-not-align-losses",
        "derived",
        "HA-15: NEGATIVE: equal gradients; the losses differ, by the difference of the mean entropies",
        np.array([jnp.abs(gradients[0] - gradients[1]).max(), losses[0] - losses[1]], float),
        "==",
        np.array([0.0, entropy[0] - entropy[1]]),
        tolerance=1e-12,
        tolerance_float32=1e-6,
    )


def fish_moves_along_two_products(domains: Domains, dense: Derivatives) -> Check:
    """HA-15: Fish's gradient in the head."""
    g, h = np.asarray(dense.gradient), np.asarray(dense.hessian)
    count = g.shape[1]
    pooled = np.einsum("cij,cj->ci", h.mean(1), g.mean(1))
    total = count**2 * pooled - np.einsum("ceij,cej->ci", h, g)
    gradient = quick_jit(jax.vmap(lambda one: value_and_gradient(penalties.fish, one)[1]))(domains)
    return Check(
        "fish-moves-along-two-products",
        "derived",
        "HA-15: grad of sum_{i<j} g_i.g_j = n^2 H g (means) - sum_e H_e g_e, HGP's two references",
        gradient,
        "==",
        -total * 2 / (count * (count - 1)),
        scale=size_of(total),
        tolerance_float32=1e-4,
    )


def one_pass_of_sgd_moves_along_fish(seed: int) -> Check:
    """HA-15: the displacement averaged over all orders of the domains, to second order in the step."""
    domains = draw(seed, 6)
    z, y, w = (np.asarray(leaf, np.float64) for leaf in (augmented(domains.features), *domains[3:]))
    start = np.asarray(domains.matrix, np.float64)
    count = z.shape[1]
    orders = list(itertools.permutations(range(count)))
    p = softmax(np.einsum("cebd,ckd->cebk", z, start))
    g = np.einsum("ceb,cebk,cebd->cekd", w, p - y, z)

    def product(v: np.ndarray) -> np.ndarray:
        u = np.einsum("cebd,cekd->cebk", z, v)
        curved = p * (u - (p * u).sum(-1, keepdims=True))
        return np.einsum("ceb,cebk,cebd->cekd", w, curved, z)

    mean = np.broadcast_to(g.mean(1, keepdims=True), g.shape)
    second = count**2 * product(mean).mean(1) - product(g).sum(1)
    residuals = []
    for step in 2.0 ** -np.arange(8, 10):
        ends = []
        for order in orders:
            matrix = start
            for e in order:
                q = softmax(np.einsum("cbd,ckd->cbk", z[:, e], matrix))
                matrix = matrix - step * np.einsum("cb,cbk,cbd->ckd", w[:, e], q - y[:, e], z[:, e])
            ends.append(matrix - start)
        expected = -step * count * g.mean(1) + step**2 / 2 * second
        residuals.append(np.linalg.norm(np.mean(ends, 0) - expected, axis=(1, 2)))
    return Check(
        "one-pass-of-sgd-moves-along-fish",
        "Shi et al. (2022); exact form derived",
        "HA-15: mean of one pass over all orders: -a n g + a^2/2 (n^2 H g - sum H_e g_e) + O(a^3)",
        np.log2(residuals[0] / residuals[1]),
        "==",
        3.0,
        tolerance=0.05,
        tolerance_float32=0.05,
    )


def fishr_variances(domains: Domains, dense: Derivatives) -> Iterator[Check]:
    """HA-15: variances of single examples' gradients, and their expectation under the model's own labels."""

    def of_one(matrix: jax.Array, features: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        one = jnp.ones(1, weights.dtype)
        each = jax.vmap(lambda z, y: jax.grad(plain_loss)(matrix.ravel(), z[None], y[None], one))(
            features, targets
        )
        return weights @ (each - weights @ each) ** 2

    def both(domains: Domains) -> tuple[jax.Array, ...]:
        each = jax.vmap(of_one, (None, 0, 0, 0))(domains.matrix, *domains[2:])
        ours = flat(called(penalties.gradient_variances, domains))
        return ours, called(penalties.fishr, domains, entry_reduction="mean"), each

    ours, penalty, each = quick_jit(jax.vmap(both))(domains)
    statement = "HA-15: Fishr: (w o E o E)^T (Z~ o Z~) - g o g is the variance of the examples' gradients"
    yield Check(
        "fishr-variances", "derived", statement, ours, "==", each, scale=size_of(each), tolerance_float32=1e-4
    )
    deviations = np.asarray(each) - np.asarray(each).mean(1, keepdims=True)
    expected = (deviations**2).mean((1, 2))
    yield Check(
        "fishr-penalty",
        "DomainBed",
        "HA-15: Fishr: mean over domains and entries of the variances' squared distance from their mean",
        penalty,
        "==",
        expected,
        scale=size_of(expected),
        tolerance_float32=1e-4,
    )
    # Labels of every class in turn, weighted by its probability.
    p, z = predictions(domains), augmented(domains.features)
    classes = np.eye(p.shape[-1])
    errors = p[..., None, :] - classes
    squares = np.einsum("ceb,cebl,ceblk,cebd->cekd", domains.weights, p, errors**2, z**2)
    diagonal = np.diagonal(dense.hessian, axis1=-2, axis2=-1)
    yield Check(
        "fishr-expects-the-diagonal",
        "derived",
        "HA-15: with labels drawn from p, the gradients' second moments have the expectation diag H",
        squares.reshape(diagonal.shape).astype(diagonal.dtype),
        "==",
        diagonal,
        scale=size_of(diagonal),
        tolerance_float32=1e-5,
    )


def cma_objective(domains: Domains, dense: Derivatives) -> Check:
    """HA-15: closed-form moment alignment, as mean loss plus the Frobenius penalty."""
    g, h = np.asarray(dense.gradient), np.asarray(dense.hessian)
    expected = np.asarray(dense.loss).mean(1)
    expected = expected + 0.5 * ((g - g.mean(1, keepdims=True)) ** 2).sum(-1).mean(1)
    expected = expected + 0.25 * ((h - h.mean(1, keepdims=True)) ** 2).sum((-1, -2)).mean(1)

    def ours(domains: Domains) -> jax.Array:
        penalty = called(penalties.hessian_alignment, domains, hessian_weight=0.25, gradient_weight=0.5)
        return jnp.mean(called(penalties.head_moments.mean_loss, domains)) + penalty

    return Check(
        "cma-objective",
        "Chen et al. (2025)",
        "HA-15: mean_e L_e + alpha |g_e - g|^2 + beta |H_e - H|_F^2",
        quick_jit(jax.vmap(ours))(domains),
        "==",
        expected,
        scale=size_of(expected),
        tolerance_float32=1e-4,
    )


def statements(seed: int) -> Iterator[Check]:
    """HA-15."""
    rng = np.random.default_rng(seed)
    domains = draw(seed, 20)
    dense: Any = quick_jit(jax.vmap(derivatives))(domains)
    yield blocks_are_moments(domains, dense)
    yield from zero_head_sees_what_coral_sees(seed)
    yield coral_of_pairs(domains)
    yield from first_order_penalties(domains, dense)
    shapes = ((32, 2, 3), (32, 3), (32, 4, 2), (32, 4, 3))
    yield falsify.search(irm_is_bounded, tuple(rng.normal(size=shape) for shape in shapes), steps=100).check
    yield irm_of_halves(domains)
    yield equal_gradients_do_not_align_losses()
    yield fish_moves_along_two_products(domains, dense)
    yield one_pass_of_sgd_moves_along_fish(seed)
    yield from fishr_variances(domains, dense)
    yield cma_objective(domains, dense)
