"""Every loss as its paper defines it, in 60 digits, with first and second derivatives.

Nothing here is stable, fast or shared with the library: each definition is the plain formula, evaluated by
mpmath, whose exponents are unbounded. Derivatives come from arithmetic on second-order jets. A limit (a
logit of -inf, a temperature of 0 or inf, q = 0) is taken by going very far towards it, with as many
digits as that needs.
"""

import functools
import math

import mpmath
import numpy as np

mp = mpmath.MPContext()
DIGITS, DIGITS_AT_A_LIMIT = 60, 1000
LOGIT_AT_INFINITY = "1e320"
TINY, HUGE = "1e-100", "1e100"


class Jet:
    """A number with its gradient and Hessian with respect to the variables of the computation.

    Arrays stand before numbers in each product: the other way round mpmath first fails to convert the array.
    """

    __slots__ = ("gradient", "hessian", "value")

    def __init__(self, value, gradient, hessian):
        self.value, self.gradient, self.hessian = value, gradient, hessian

    def apply(self, value, first, second):
        """The jet of ``g(self)``, given ``g`` and its two derivatives at ``self.value``."""
        outer = np.multiply.outer(self.gradient, self.gradient)
        return Jet(value, self.gradient * first, self.hessian * first + outer * second)

    def __add__(self, other):
        if isinstance(other, Jet):
            return Jet(self.value + other.value, self.gradient + other.gradient, self.hessian + other.hessian)
        return Jet(self.value + other, self.gradient, self.hessian)

    def __mul__(self, other):
        if not isinstance(other, Jet):
            return Jet(self.value * other, self.gradient * other, self.hessian * other)
        cross = np.multiply.outer(self.gradient, other.gradient)
        return Jet(
            self.value * other.value,
            other.gradient * self.value + self.gradient * other.value,
            other.hessian * self.value + self.hessian * other.value + cross + cross.T,
        )

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + -other

    def __rsub__(self, other):
        return -self + other

    def __rtruediv__(self, other):
        inverse = 1 / self.value
        return other * self.apply(inverse, -(inverse**2), 2 * inverse**3)

    def __truediv__(self, other):
        return self * (mp.mpf(1) / other)

    def __pow__(self, exponent):
        return exp(exponent * log(self))


def value_of(x):
    return x.value if isinstance(x, Jet) else x


def exp(x):
    if not isinstance(x, Jet):
        return mp.exp(x)
    value = mp.exp(x.value)
    return x.apply(value, value, value)


def log(x):
    if not isinstance(x, Jet):
        return mp.log(x)
    return x.apply(mp.log(x.value), 1 / x.value, -1 / x.value**2)


def largest(*numbers):
    return max(numbers, key=value_of)


def absolute(x):
    return x if value_of(x) >= 0 else -x


def total(numbers):
    return functools.reduce(lambda a, b: a + b, numbers, mp.mpf(0))


def mean(numbers):
    numbers = list(numbers)
    return total(numbers) / len(numbers)


def softmax(scores):
    exponentials = [exp(score) for score in scores]
    return [e / total(exponentials) for e in exponentials]


def entropy(probabilities):
    return -total(p * log(p) for p in probabilities if value_of(p) != 0)


def gaps(f, y, margin):
    return [f_k - f[y] + (0 if k == y else margin) for k, f_k in enumerate(f)]


# -- Zhu, Ying, Yang (2023)


def ldr_kl(f, y, *, temperature, margin):
    return temperature * log(mean(exp(z / temperature) for z in gaps(f, y, margin)))


def ldr_top_k(f, y, *, k, temperature, margin):
    """The maximum of p.z - temperature KL(p, uniform) over distributions with no weight above 1/k."""
    z = sorted(gaps(f, y, margin), key=value_of, reverse=True)
    top = int(value_of(k))
    if value_of(temperature) == 0:
        return total(z[:top]) / k
    for capped in range(top + 1):
        rest = 1 - mp.mpf(capped) / k
        exponentials = [exp(z_l / temperature) for z_l in z[capped:]]
        if capped == len(z) or value_of(rest) == 0:
            weights = []
            break
        weights = [rest * e / total(exponentials) for e in exponentials]
        if value_of(weights[0]) <= 1 / value_of(k):
            break
    weights = [1 / k + mp.mpf(0)] * capped + weights
    weighed = list(zip(weights, z, strict=False))
    return total(p * (z_l - temperature * log(len(z) * p)) for p, z_l in weighed)


def aldr_objective(z, lam, temperature, alpha):
    """What ALDR-KL maximises over the temperature ``lam``, once the distribution is eliminated."""
    curvature = alpha * mp.log(len(z)) / temperature
    return (
        lam * log(mean(exp(z_k / lam) for z_k in z))
        - curvature * (lam - temperature) * (lam - temperature) / 2
    )


def aldr_temperature(f, y, *, temperature, alpha, margin):
    """The global maximiser: a dense grid finds its cell, Newton's method in 60 digits the rest."""
    if len(f) == 1:
        return temperature
    f, temperature, alpha, margin = ([value_of(x) for x in f], *map(value_of, (temperature, alpha, margin)))
    z = gaps(f, y, margin)
    w = np.array([float((z_k - max(z)) / temperature) for z_k in z])
    grid = np.linspace(1 - 1 / float(alpha), 1, 20_001)[1:]
    objective = grid * np.log(np.mean(np.exp(w[:, None] / grid), axis=0))
    objective -= float(alpha) * math.log(len(z)) * (grid - 1) ** 2 / 2
    lam = temperature * mp.mpf(grid[np.argmax(objective)])
    for _ in range(9 if mp.dps == DIGITS else 11):
        jet = aldr_objective(z, variables([lam])[0], temperature, alpha)
        lam -= jet.gradient[0] / jet.hessian[0, 0]
    return lam


def aldr_kl(f, y, *, temperature, alpha, margin):
    if len(f) == 1:
        return 0 * f[0]
    lam = aldr_temperature(f, y, temperature=temperature, alpha=alpha, margin=margin)
    z = gaps(f, y, margin)
    if not isinstance(f[0], Jet):
        return aldr_objective(z, lam, temperature, alpha)
    # The maximiser moves with the variables: eliminate it by the implicit function theorem.
    given = len(f[0].gradient)
    (extended_lam,) = variables([lam], offset=given)
    extend = functools.partial(_with_one_more_variable, given=given)
    objective = aldr_objective([extend(x) for x in z], extended_lam, extend(temperature), extend(alpha))
    cross, curvature = objective.hessian[:given, given], objective.hessian[given, given]
    hessian = objective.hessian[:given, :given] - np.multiply.outer(cross, cross) / curvature
    return Jet(objective.value, objective.gradient[:given], hessian)


def _with_one_more_variable(jet, given):
    gradient, hessian = _zeros(given + 1), _zeros(given + 1, given + 1)
    gradient[:given], hessian[:given, :given] = jet.gradient, jet.hessian
    return Jet(jet.value, gradient, hessian)


def ldr_quadratic(f, y, *, temperature, margin):
    """The maximum of p.z - temperature |p - uniform|^2 / 2: p is the projection of z / temperature."""
    z = gaps(f, y, margin)
    order = sorted(range(len(z)), key=lambda k: value_of(z[k]), reverse=True)
    for size in range(len(z), 0, -1):
        support = order[:size]
        threshold = (total(z[k] / temperature for k in support) - 1) / size
        if value_of(z[support[-1]] / temperature - threshold) >= 0:
            break
    p = [z[k] / temperature - threshold if k in support else mp.mpf(0) for k in range(len(z))]
    distance = total((p_k - mp.mpf(1) / len(z)) * (p_k - mp.mpf(1) / len(z)) for p_k in p)
    return total(p_k * z_k for p_k, z_k in zip(p, z, strict=True)) - temperature * distance / 2


# -- The margin losses


def weston_watkins(f, y, *, margin):
    return total(largest(0 * f[y], z) for k, z in enumerate(gaps(f, y, margin)) if k != y)


def crammer_singer(f, y, *, margin):
    return largest(0 * f[y], *(z for k, z in enumerate(gaps(f, y, margin)) if k != y))


# -- The robust baselines, as sums over classes of functions of the softmax


def onehot(f, y):
    return [mp.mpf(k == y) for k in range(len(f))]


def cross_entropy(f, y):
    return -log(softmax(f)[y])


def mean_absolute_error(f, y):
    return total(absolute(s - e) for s, e in zip(softmax(f), onehot(f, y), strict=True))


def brier(f, y):
    return total((s - e) * (s - e) for s, e in zip(softmax(f), onehot(f, y), strict=True))


def generalized_cross_entropy(f, y, *, q):
    return (1 - softmax(f)[y] ** q) / q


def comp_sum(f, y, *, tau):
    if value_of(tau) == 1:
        tau = tau + mp.mpf("1e-15")  # the limit: close enough for float64, far enough for 60 digits
    total_odds = total(exp(f_k - f[y]) for k, f_k in enumerate(f) if k != y)
    return ((1 + total_odds) ** (1 - tau) - 1) / (1 - tau)


def truncated_generalized_cross_entropy(f, y, *, q, threshold):
    return (1 - largest(softmax(f)[y], threshold) ** q) / q


def reverse_cross_entropy(f, y, *, log_zero):
    return -total(s * log_zero for k, s in enumerate(softmax(f)) if k != y)


def symmetric_cross_entropy(f, y, *, ce_weight, rce_weight, log_zero):
    return ce_weight * cross_entropy(f, y) + rce_weight * reverse_cross_entropy(f, y, log_zero=log_zero)


def normalized_cross_entropy(f, y):
    if len(f) == 1:
        return 0 * f[0]
    return cross_entropy(f, y) / total(cross_entropy(f, k) for k in range(len(f)))


def asymmetric_unhinged(f, y, *, a, q):
    return ((a - softmax(f)[y]) ** q - (a - 1) ** q) / q


def asymmetric_generalized_cross_entropy(f, y, *, a, q):
    return ((a + 1) ** q - (a + softmax(f)[y]) ** q) / q


def jensen_shannon(f, y, *, label_weight):
    rest = 1 - label_weight
    s = softmax(f)
    mixture = [label_weight * e + rest * s_k for s_k, e in zip(s, onehot(f, y), strict=True)]
    return (entropy(mixture) - rest * entropy(s)) / (-rest * log(rest))


def robust_log_loss(f, y, *, a):
    if len(f) == 1:
        return 0 * f[0]
    s = softmax(f)
    return log((a + 1) / a) - log(a + s[y]) + mean(log(a + s_j) for j, s_j in enumerate(s) if j != y)


# -- Evaluation


def _zeros(*shape):
    array = np.empty(shape, dtype=object)
    array[...] = mp.mpf(0)
    return array


def variables(values, offset=0):
    """Jets of independent variables; ``offset`` variables exist already."""
    size = offset + len(values)
    jets = []
    for position, value in enumerate(values, start=offset):
        gradient = _zeros(size)
        gradient[position] = mp.mpf(1)
        jets.append(Jet(value, gradient, _zeros(size, size)))
    return jets


def _logit(x):
    return mp.sign(mp.mpf(x)) * mp.mpf(LOGIT_AT_INFINITY) if math.isinf(x) else mp.mpf(x)


def _hyper(x):
    return mp.mpf({0.0: TINY, math.inf: HUGE}.get(x, x))


def _prepare(logits, hyper, limits):
    logits = [float(x) for x in np.asarray(logits, np.float64)]
    at_limit = any(not 1e-3 < hyper[name] < 1e3 for name in limits) or any(abs(x) > 1e20 for x in logits)
    return mp.workdps(DIGITS_AT_A_LIMIT if at_limit else DIGITS), logits


def value(definition, logits, label, *, limits=(), **hyper):
    """The loss of one example, in mpmath; ``limits`` names the parameters whose 0 and inf are limits."""
    digits, logits = _prepare(logits, hyper, limits)
    with digits:
        hyper = {name: _hyper(x) if name in limits else mp.mpf(x) for name, x in hyper.items()}
        return definition([_logit(x) for x in logits], int(label), **hyper)


def jet(definition, logits, label, *, limits=(), **hyper):
    """As ``value``, with derivatives by the logits and then by the parameters, in the order given."""
    digits, logits = _prepare(logits, hyper, limits)
    with digits:
        values = [_logit(x) for x in logits]
        values += [_hyper(x) if name in limits else mp.mpf(x) for name, x in hyper.items()]
        jets = variables(values)
        hyper = dict(zip(hyper, jets[len(logits) :], strict=True))
        result = definition(jets[: len(logits)], int(label), **hyper)
        return (
            result
            if isinstance(result, Jet)
            else Jet(result, _zeros(len(values)), _zeros(*2 * [len(values)]))
        )


def floats(array):
    """mpmath numbers to float64, overflowing to infinity."""
    return np.vectorize(float, otypes=[np.float64])(array)
