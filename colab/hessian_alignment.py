# %% [markdown]
# # Alignment of Hessians across domains
#
# {{badge}}
#
# Where several training domains disagree in a feature, a classifier should not use it. Hemati et al. (ICCV
# 2023, arXiv 2308.11778) make the domains' gradients and Hessians in the last layer equal. What that sees,
# what it is blind to, how sampling biases it, and coloured digits in miniature; a minute or two on a CPU.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxreg") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "git+{{repository}}"], check=True)

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxreg
from jaxreg import penalties

print(f"jaxreg {jaxreg.__version__}, jax {jax.__version__}, devices: {jax.devices()}")

# %% [markdown]
# ## What it sees, and what it does not
#
# Two domains under one linear head. Their features have the same variances and opposite correlations, and
# every label is the prediction of the head at $\theta^*$: the head is optimal in both domains. There the
# gradients $g_e$ vanish, so do the products $H_e g_e$ that HGP compares, and yet the Hessians are far
# apart. Away from $\theta^*$ HGP's Hessian term grows as the square of the distance. A head of zeros shows
# another blind spot: diagonals do not see correlations.

# %%
rng = np.random.default_rng(0)
plain = rng.normal(size=(400, 2))
features = jnp.asarray(np.stack([plain @ [[1, 0.8], [0, 0.6]], plain @ [[1, -0.8], [0, 0.6]]]), jnp.float32)
best = {"kernel": jnp.array([[-0.5, 0.5], [0.3, -0.3]])}
labels = jax.nn.softmax(features @ best["kernel"])
direction = jnp.array([[0.6, -0.6], [-0.4, 0.4]])


@jax.jit
@jax.vmap
def seen(distance):
    head = {"kernel": best["kernel"] + distance * direction}
    methods = {
        "HGP": penalties.hessian_gradient_alignment,
        "diagonal": penalties.hessian_diagonal_alignment,
        "whole Hessian": penalties.hessian_alignment,
    }
    found = {name: one(head, features, labels, gradient_weight=0.0) for name, one in methods.items()}
    return found | {"gradients (IGA)": penalties.iga(head, features, labels)}


distances = np.logspace(-3, 0.5, 30)
curves, at_best = seen(jnp.asarray(distances, jnp.float32)), seen(jnp.zeros(1))
zero = {"kernel": jnp.zeros((2, 2))}
diagonals = penalties.hessian_diagonal_alignment(zero, features, labels, gradient_weight=0.0)
whole = penalties.hessian_alignment(zero, features, labels, gradient_weight=0.0)
print("at the shared optimum:", ", ".join(f"{name} {value[0]:.1e}" for name, value in at_best.items()))
print(f"under a head of zeros: diagonal {diagonals:.1e}, whole Hessian {whole:.1e}")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for number, domain in enumerate(features):
    left.plot(*domain.T, ".", alpha=0.5, label=f"domain {number + 1}")
left.set(title="Features", xlabel="first", ylabel="second", aspect="equal")
left.legend()
for name, values in curves.items():
    right.loglog(distances, values, label=name)
right.set(xlabel="distance from the shared optimum", ylabel="squared distance")
right.set_title("Distances between the domains")
right.legend()
plt.show()

# %% [markdown]
# ## The bias of sampling
#
# The released code estimates the Hessians' diagonals from R random vectors of signs, other ones for every
# domain. Noise does not cancel in a squared distance: it adds
#
# $$\frac1R \, \mathrm{mean}_e \big( \mathrm{off}(H_e) + \mathrm{off}(\bar H) \big), \qquad
# \mathrm{off}(M) = \|M\|_F^2 - \|\mathrm{diag}\, M\|^2.$$
#
# For a linear head the diagonals have a closed form, which costs less than a hundredth of 300 probes.

# %%
batch, width, classes = 32, 64, 10
hidden = np.maximum(rng.normal(size=(3, 1, 16)) / 3 + rng.normal(size=(3, batch, 16)), 0) @ rng.normal(
    size=(16, width)
)
inputs = jnp.asarray(np.maximum(hidden, 0) / 4, jnp.float32)
head = {"kernel": jnp.asarray(rng.normal(size=(width, classes)) / 8, jnp.float32)}
classes_of = jnp.asarray(rng.integers(classes, size=(3, batch)))


def mean_loss(flat, domain):
    logits = inputs[domain] @ flat.reshape(width, classes)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, classes_of[domain]).mean()


flat_head = head["kernel"].ravel()
hessians = np.stack([jax.hessian(mean_loss)(flat_head, domain) for domain in range(3)])
average = hessians.mean(0)


def off(matrix):
    return np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)


exact = float(penalties.hessian_diagonal_alignment(head, inputs, classes_of, gradient_weight=0.0))
bias = np.mean([off(one) for one in hessians]) + off(average)
probes = (10, 30, 100, 300, 1000)
samples = {}
for removed in (False, True):
    for count in probes:
        sampled = jax.jit(
            lambda key, count=count, removed=removed: penalties.hutchinson_alignment(
                head, inputs, classes_of, key=key, probes=count, remove_bias=removed, gradient_weight=0.0
            )
        )
        samples[removed, count] = [sampled(key) for key in jax.random.split(jax.random.key(count), 10)]

figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
fine = np.logspace(1, 3, 100)
axes.semilogx(fine, exact + bias / fine, "k-", label="predicted")
axes.axhline(exact, color="k", linestyle=":", label="exact diagonals")
for removed, colour, name in ((False, "tab:red", "sampled"), (True, "tab:blue", "sampled, bias removed")):
    for count in probes:
        values = samples[removed, count]
        label = name if count == probes[0] else None
        axes.plot(np.full(len(values), count), values, ".", color=colour, alpha=0.5, label=label)
axes.set(title="Penalty on diagonals, ten draws each", xlabel="probes", ylabel="penalty")
axes.set_yscale("symlog", linthresh=exact)
axes.set_yticks([-1, -0.1, 0, 0.1, 1])
axes.legend()
plt.show()
print(f"at 300 probes the bias is {bias / 300 / exact:.1f} times the penalty")

# %% [markdown]
# ## Coloured digits in miniature
#
# Handwritten digits of 8x8 pixels, five to nine against zero to four, a quarter of all labels wrong. A
# colour goes with the label in 90 % of the rows of one training domain and in 80 % of the other's, and in
# 10 % of the test rows: whoever trusts the colour is right in training and wrong in the test. Every image
# occurs several times with label and colour drawn afresh, so that noise cannot be learned by heart. After
# 100 steps of plain training a penalty joins, with a weight that dwarfs the loss.

# %%
images, digits = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
order = rng.permutation(len(images))


def coloured(rows, flip, copies):
    rows = np.tile(rows, copies)
    label = (digits[rows] >= 5) ^ (rng.random(len(rows)) < 0.25)
    colour = label ^ (rng.random(len(rows)) < flip)
    channels = np.stack([images[rows] * colour[:, None], images[rows] * ~colour[:, None]], axis=1)
    return channels.reshape(len(rows), -1), label.astype(np.int32)


domains = [coloured(order[:1400], flip, 3) for flip in (0.1, 0.2)]
pixels, targets = (jnp.asarray(np.stack(leaf)) for leaf in zip(*domains, strict=True))
test_pixels, test_targets = coloured(order[1400:], 0.9, 4)

METHODS = {
    "ERM": lambda head, z, y: 0.0,
    "HGP": penalties.hessian_gradient_alignment,
    "diagonal": penalties.hessian_diagonal_alignment,
    "V-REx": penalties.v_rex,
    "IRM": penalties.irm,
}
STEPS, START, WEIGHT, L2 = 400, 100, 1e4, 1e-3


def hidden_layer(params, pixels):
    return jax.nn.relu(pixels @ params["hidden"] + params["shift"])


def logits(params, pixels):
    return hidden_layer(params, pixels) @ params["head"]["kernel"] + params["head"]["bias"]


def train(penalty, key):
    first, second = jax.random.split(key)
    params = {
        "hidden": jax.random.normal(first, (128, 32)) / 8,
        "shift": jnp.zeros(32),
        "head": {"kernel": jax.random.normal(second, (32, 2)) / 6, "bias": jnp.zeros(2)},
    }
    optimizer = optax.adam(5e-3)

    def objective(params, weight):
        z = hidden_layer(params, pixels)
        loss = penalties.head_moments.mean_loss(params["head"], z, targets).mean()
        loss = loss + L2 * optax.tree.norm(params, squared=True)
        return (loss + weight * penalty(params["head"], z, targets)) / jnp.maximum(weight, 1)

    def step(carry, number):
        params, state = carry
        gradient = jax.grad(objective)(params, jnp.where(number < START, 0.0, WEIGHT))
        updates, state = optimizer.update(gradient, state)
        right = [
            jnp.mean((logits(params, x).argmax(-1) == y).astype(jnp.float32))
            for x, y in ((pixels, targets), (test_pixels, test_targets))
        ]
        return (optax.apply_updates(params, updates), state), jnp.stack(right)

    return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(STEPS))[1]


figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained", sharey=True)
for name, penalty in METHODS.items():
    accuracy = 100 * np.asarray(jax.jit(train, static_argnums=0)(penalty, jax.random.key(0)))
    left.plot(accuracy[:, 0], label=name)
    right.plot(accuracy[:, 1], label=name)
    ends = accuracy[-20:].mean(0)
    print(f"{name:10s} training domains {ends[0]:.0f} %, colours reversed {ends[1]:.0f} %")
left.set(title="Training domains", xlabel="step", ylabel="accuracy (%)")
right.set(title="Test, colours reversed", xlabel="step")
for axes in (left, right):
    axes.axvline(START, color="k", linestyle=":")
right.legend()
plt.show()
