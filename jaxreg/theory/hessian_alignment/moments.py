"""Gradient, Hessian, their product and the diagonal of a linear softmax head in closed form."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.penalties import head_moments
from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment.problems import (
    Derivatives,
    Domains,
    augmented,
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


class Moments(NamedTuple):
    """What ``jaxreg.penalties`` has for each domain in closed form, flattened."""

    loss: jax.Array  # ``[E]``
    gradient: jax.Array  # ``[E, n]``
    product: jax.Array  # Hessian times gradient, ``[E, n]``
    image: jax.Array  # Hessian times a given vector, ``[E, n]``
    diagonal: jax.Array  # of the Hessian, ``[E, n]``


def moments(domains: Domains, vector: jax.Array) -> Moments:
    """The closed forms of the library; traceable, no leading axes. ``vector`` is ``[n]``."""
    head, features, targets, weights = domains.head, *domains[2:]
    rows = vector.reshape(domains.matrix.shape)
    tree = {"kernel": rows[:, :-1].T, "bias": rows[:, -1]}
    labelled = (head, features, targets)
    return Moments(
        head_moments.mean_loss(*labelled, weights=weights),
        flat(head_moments.gradient(*labelled, weights=weights)),
        flat(head_moments.hessian_gradient_product(*labelled, weights=weights)),
        flat(head_moments.hessian_vector_product(head, features, tree, weights=weights)),
        flat(head_moments.hessian_diagonal(head, features, weights=weights)),
    )


def closed_forms(closed: Moments, dense: Derivatives, vector: jax.Array) -> Iterator[Check]:
    """HA-1, HA-4, HA-5, HA-9: the closed forms are the derivatives of the plain definition."""
    image = jnp.einsum("ceij,cj->cei", dense.hessian, vector)
    product = jnp.einsum("ceij,cej->cei", dense.hessian, dense.gradient)
    diagonal = jnp.diagonal(dense.hessian, axis1=-2, axis2=-1)
    claims = (
        ("mean-loss", "the mean loss is that of the definition", closed.loss, dense.loss),
        ("gradient", "HA-1: g = (w o (P - Y))^T Z~ is jax.grad's", closed.gradient, dense.gradient),
        ("hessian-vector-product", "HA-4: (w o A.(Z~ V^T))^T Z~ = H V, H dense", closed.image, image),
        ("hessian-gradient-product", "HA-5: the closed form is H g, H dense", closed.product, product),
        ("hessian-diagonal", "HA-9: (w o P o (1 - P))^T (Z~ o Z~) = diag H", closed.diagonal, diagonal),
    )
    for name, statement, ours, theirs in claims:
        yield Check(
            f"closed-{name}",
            "derived",
            statement,
            ours,
            "==",
            theirs,
            size_of(theirs),
            tolerance_float32=1e-5,
        )


def classes_cancel(closed: Moments, classes: int) -> Check:
    """HA-1, HA-5: over the classes, the entries of gradient and product add up to nothing."""
    both = jnp.stack([closed.gradient, closed.product])
    sums = both.reshape(*both.shape[:-1], classes, -1).sum(-2)
    return Check(
        "sums-over-classes-vanish",
        "derived",
        "HA-1, HA-5: sum_k g_kd = 0 and sum_k (H g)_kd = 0",
        sums,
        "==",
        0.0,
        scale=size_of(jnp.moveaxis(both, 1, 0))[None, ..., 0],
        tolerance_float32=1e-5,
    )


def hessian_is_a_sum_of_kronecker_products(domains: Domains, dense: Derivatives) -> Check:
    """HA-2: curvature of each example, times the outer product of its features."""
    z, p = augmented(domains.features), predictions(domains)
    blocks = np.einsum("ceb,cebkl,cebd,cebf->cekdlf", domains.weights, curvature(p), z, z)
    return Check(
        "hessian-is-kronecker-sum",
        "derived",
        "HA-2: H = sum_i w_i (diag p_i - p_i p_i^T) (x) z~_i z~_i^T",
        dense.hessian,
        "==",
        blocks.reshape(dense.hessian.shape),
        scale=size_of(dense.hessian),
        tolerance_float32=1e-5,
    )


def labels_do_not_enter_the_hessian(domains: Domains, dense: Derivatives) -> Check:
    """HA-2: the same features with other labels have the same Hessian."""
    others = domains._replace(targets=jnp.roll(domains.targets, 1, axis=-1))
    return Check(
        "labels-do-not-enter-the-hessian",
        "derived",
        "HA-2: the head's Hessian is the same for any labels",
        quick_jit(jax.vmap(derivatives))(others).hessian,
        "==",
        dense.hessian,
        scale=size_of(dense.hessian),
        tolerance_float32=1e-5,
    )


def hessian_has_low_rank(seed: int) -> Iterator[Check]:
    """HA-2: with few examples most directions are flat; a common shift of all classes always is."""
    domains = draw(seed, 20, examples=2, features=4)
    classes, width = domains.matrix.shape[-2:]
    hessian = quick_jit(jax.vmap(derivatives))(domains).hessian
    values = np.abs(np.linalg.eigvalsh(np.asarray(hessian)))
    inputs = augmented(domains.features)
    # Relative to what unsaturated predictions would give: the rounding of saturated ones looks like rank.
    size = np.sum(np.asarray(domains.weights)[..., None] * inputs**2, (-2, -1))[..., None]
    threshold = 1e3 * np.finfo(values.dtype).eps * size
    features = np.linalg.matrix_rank(inputs)
    rank = (values > threshold).sum(-1).astype(values.dtype)
    statement = "HA-2: rank H <= (K - 1) rank Z~"
    yield Check(
        "rank-is-bounded", "derived", statement, rank, "<=", (classes - 1.0) * features, tolerance=0.0
    )
    shift = np.kron(np.ones(classes), np.random.default_rng(seed).normal(size=width)).astype(values.dtype)
    yield Check(
        "common-shift-is-flat",
        "derived",
        "HA-2: H (1 (x) v) = 0",
        hessian @ jnp.asarray(shift),
        "==",
        0.0,
        scale=size_of(hessian)[..., 0],
        tolerance_float32=1e-5,
    )


def no_curvature_beyond_the_rank(
    kernel: jax.Array, bias: jax.Array, features: jax.Array, free: jax.Array
) -> Check:
    """HA-2: the rank's bound as a search can climb it, by the largest eigenvalue that must be 0."""
    weights = jax.nn.softmax(free)
    matrix = jnp.concatenate([kernel.T, bias[:, None]], axis=-1)
    examples, classes = features.shape[0], bias.shape[0]
    hessian = jax.hessian(plain_loss)(matrix.ravel(), features, jnp.zeros((examples, classes)), weights)
    values = jnp.linalg.eigvalsh(hessian)
    return Check(
        "no-curvature-beyond-the-rank",
        "derived",
        "HA-2: fewer examples than features: all eigenvalues of H but the (K - 1) B largest are 0",
        values[-1 - (classes - 1) * examples],
        "<=",
        0.0,
        # What unsaturated predictions would give.
        scale=weights @ (1 + jnp.sum(features**2, axis=-1)),
        tolerance_float32=1e-5,
    )


def curvature_is_bounded(
    kernel: jax.Array, bias: jax.Array, features: jax.Array, free: jax.Array, *, above: bool
) -> Check:
    """HA-2: between 0 and a half of the features' largest second moment, a quarter with one logit."""
    weights = jax.nn.softmax(free)
    matrix = jnp.concatenate([kernel.T, bias[:, None]], axis=-1)
    targets = jnp.zeros((features.shape[0], bias.shape[0]))
    # One reverse pass over forward ones: cheap for so few entries.
    hessian = jax.hessian(plain_loss)(matrix.ravel(), features, targets, weights)
    z = jnp.concatenate([features, jnp.ones_like(features[:, :1])], axis=-1)
    largest = jnp.linalg.eigvalsh((weights[:, None] * z).T @ z)[-1]
    half = 0.25 if bias.shape[0] == 1 else 0.5
    values = jnp.linalg.eigvalsh(hessian)
    if not above:
        return Check(
            f"hessian-is-positive-{bias.shape[0]}",
            "derived",
            f"HA-2: lambda_min(H) >= 0, {'one logit' if half < 0.5 else 'softmax'}",
            values[0],
            ">=",
            0.0,
            scale=half * largest,
            tolerance_float32=1e-4,
        )
    return Check(
        f"hessian-is-bounded-{bias.shape[0]}",
        "derived",
        f"HA-2: |H|_2 <= {half:g} lambda_max(sum w z~ z~^T), {'one logit' if half < 0.5 else 'softmax'}",
        values[-1],
        "<=",
        half * largest,
        scale=half * largest,
        tolerance_float32=1e-5,
    )


def fisher_is_hessian(domains: Domains, dense: Derivatives) -> Check:
    """HA-3: the gradients' second moment, labels drawn from the predictions; by enumerating them."""

    def of_one(matrix: jax.Array, features: jax.Array, weights: jax.Array) -> jax.Array:
        classes = matrix.shape[0]

        def gradients(z: jax.Array) -> jax.Array:
            one = jnp.ones(1, z.dtype)
            return jax.vmap(lambda y: jax.grad(plain_loss)(matrix.ravel(), z[None], y[None], one))(
                jnp.eye(classes, dtype=z.dtype)
            )

        each = jax.vmap(gradients)(features)
        p = jax.nn.softmax(features @ matrix[:, :-1].T + matrix[:, -1], axis=-1)
        return jnp.einsum("b,bc,bci,bcj->ij", weights, p, each, each)

    fisher = quick_jit(jax.vmap(jax.vmap(of_one, (None, 0, 0))))(domains.matrix, *domains[2::2])
    return Check(
        "fisher-is-hessian",
        "derived",
        "HA-3: E_{y ~ p} of the gradients' outer products = H",
        fisher,
        "==",
        dense.hessian,
        scale=size_of(dense.hessian),
        tolerance_float32=1e-5,
    )


def product_is_half_the_gradient_of_the_square(domains: Domains, closed: Moments) -> Check:
    """HA-5: the norm's own gradient times the norm, by back-propagating twice."""

    def of_one(matrix: jax.Array, *data: jax.Array) -> jax.Array:
        def norm(flat_head: jax.Array) -> jax.Array:
            return jnp.linalg.norm(jax.grad(plain_loss)(flat_head, *data))

        value, gradient = jax.value_and_grad(norm)(matrix.ravel())
        return value * gradient

    found = quick_jit(jax.vmap(jax.vmap(of_one, (None, 0, 0, 0))))(domains.matrix, *domains[2:])
    return Check(
        "product-is-norm-times-its-gradient",
        "Hemati et al. (2023)",
        "HA-5: H g = |g| grad |g| where g is not 0",
        closed.product,
        "==",
        found,
        scale=size_of(found),
        tolerance_float32=1e-4,
    )


def norm_path_is_nan_where_the_gradient_vanishes() -> Check:
    """HA-5: two equal inputs with opposite labels under a zero head."""
    kernel, features = jnp.zeros((2, 2)), jnp.ones((1, 2, 2))
    labels = jnp.array([[0, 1]])

    def loss(kernel: jax.Array) -> jax.Array:
        return head_moments.mean_loss({"kernel": kernel}, features, labels)[0]

    def by_norm(kernel: jax.Array) -> jax.Array:
        def norm(kernel: jax.Array) -> jax.Array:
            return jnp.linalg.norm(jax.grad(loss)(kernel))

        value, gradient = jax.value_and_grad(norm)(kernel)
        return jnp.sum((value * gradient) ** 2)

    def in_closed_form(kernel: jax.Array) -> jax.Array:
        product = head_moments.hessian_gradient_product({"kernel": kernel}, features, labels)
        return jnp.sum(product["kernel"] ** 2)

    paths = (jax.value_and_grad(by_norm), jax.value_and_grad(in_closed_form))
    found = quick_jit(lambda kernel: [path(kernel) for path in paths])(kernel)
    is_nan = [float(np.isnan(np.asarray(leaf)).all()) for leaf in found[0]]
    return Check(
        "norm-path-is-nan-at-zero",
        "derived",
        "HA-5: at g = 0, |g| grad |g| and its gradient are NaN; the closed form and its gradient are 0",
        np.array([*is_nan, *(float(np.abs(leaf).max()) for leaf in found[1])]),
        "==",
        np.array([1.0, 1.0, 0.0, 0.0]),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def reverse_formulas(seed: int, cases: int = 20, examples: int = 6) -> Check:
    """HA-6: the derivative of product and gradient by eight matrix products."""
    rng = np.random.default_rng(seed)
    domains = draw(seed, cases, domains=1, examples=examples)
    domains = domains._replace(weights=jnp.full_like(domains.weights, 1 / examples))
    cotangents = jnp.asarray(rng.normal(size=(2, cases, *domains.matrix.shape[1:])))

    def pair(head, features, targets):
        found = (function(head, features, targets)
                 for function in (head_moments.hessian_gradient_product, head_moments.gradient))  # fmt: skip
        return tuple(flat(tree)[0] for tree in found)

    def by_transposition(domains: Domains, c: jax.Array, f: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, back = jax.vjp(lambda h, z: pair(h, z, domains.targets), domains.head, domains.features)
        head, features = back((c.ravel(), f.ravel()))
        return flat(head), features[0]

    found = quick_jit(jax.vmap(by_transposition))(domains, *cotangents)
    written = [
        _reverse(*(np.asarray(leaf) for leaf in (matrix, features[0], targets[0], c, f)))
        for matrix, features, targets, c, f in zip(
            domains.matrix, domains.features, domains.targets, *cotangents, strict=True
        )
    ]
    # Both derivatives side by side.
    sides = [
        np.concatenate([np.reshape(leaf, (cases, -1)) for leaf in (first, second)], axis=1)
        for first, second in (found, tuple(zip(*written, strict=True)))
    ]
    return Check(
        "reverse-formulas",
        "derived",
        "HA-6: cotangents of head and features in eight products of B x K with D",
        sides[0],
        "==",
        sides[1],
        scale=size_of(sides[1]),
        tolerance_float32=1e-5,
    )


def _reverse(matrix, features, targets, c, f) -> tuple[np.ndarray, np.ndarray]:
    """HA-6 as it is written; cotangents of the head ``[K, D + 1]`` and the features ``[B, D]``."""
    z = augmented(features)
    p = softmax(z @ matrix.T)

    def a(x: np.ndarray) -> np.ndarray:
        return p * (x - (p * x).sum(-1, keepdims=True))

    size, errors = len(z), p - targets
    g = errors.T @ z / size
    u = z @ g.T
    r, r_bar = a(u), z @ c.T / size
    u_bar = a(r_bar)
    p_bar = r_bar * (u - (p * u).sum(-1, keepdims=True)) - (r_bar * p).sum(-1, keepdims=True) * u
    g_bar = u_bar.T @ z + f
    p_bar = p_bar + z @ g_bar.T / size
    s_bar = a(p_bar)
    z_bar = r @ c / size + u_bar @ g + errors @ g_bar / size + s_bar @ matrix
    return s_bar.T @ z, z_bar[:, :-1]


def statements(seed: int) -> Iterator[Check]:
    """HA-1 to HA-6 and HA-9."""
    rng = np.random.default_rng(seed)
    domains = draw(seed, 30)
    classes = domains.bias.shape[-1]
    vector = jnp.asarray(rng.normal(size=(30, domains.matrix[0].size)))
    dense = quick_jit(jax.vmap(derivatives))(domains)
    closed = quick_jit(jax.vmap(moments))(domains, vector)
    yield from closed_forms(closed, dense, vector)
    yield classes_cancel(closed, classes)
    yield hessian_is_a_sum_of_kronecker_products(domains, dense)
    yield labels_do_not_enter_the_hessian(domains, dense)
    yield from hessian_has_low_rank(seed)
    shapes = ((32, 3, 3), (32, 3), (32, 2, 3), (32, 2))
    starts = tuple(rng.normal(size=shape) for shape in shapes)
    yield falsify.search(no_curvature_beyond_the_rank, starts, steps=60).check
    for width in (1, 2):
        shapes = ((32, 2, width), (32, width), (32, 3, 2), (32, 3))
        starts = tuple(rng.normal(size=shape) for shape in shapes)
        for above in (True, False):
            claim = functools.partial(curvature_is_bounded, above=above)
            yield falsify.search(claim, starts, steps=150 if above else 50).check
    yield fisher_is_hessian(domains, dense)
    yield product_is_half_the_gradient_of_the_square(domains, closed)
    yield norm_path_is_nan_where_the_gradient_vanishes()
    yield reverse_formulas(seed)
