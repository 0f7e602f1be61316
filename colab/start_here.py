# %% [markdown]
# # jaxreg: start here
#
# {{badge}}
#
# One loss in an optax training loop on real images with wrong labels; one theorem of its paper, verified
# before your eyes; one picture. Under two minutes on a CPU.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxreg") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "git+{{repository}}"], check=True)

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxreg

print(f"jaxreg {jaxreg.__version__}, jax {jax.__version__}, devices: {jax.devices()}")

# %% [markdown]
# ## Real images, wrong labels
#
# The 1797 handwritten digits that come with scikit-learn, 500 of them kept for testing. Of the training
# labels, 40 % are replaced by a wrong class, each wrong class equally likely; the test labels stay as
# they are.

# %%
images, digits = load_digits(return_X_y=True)
images, test_images, clean_labels, test_labels = train_test_split(
    (images / 16).astype(np.float32), digits, test_size=500, random_state=0, stratify=digits
)
generator = np.random.default_rng(0)
flipped = generator.random(len(clean_labels)) < 0.4
labels = np.where(flipped, (clean_labels + generator.integers(1, 10, len(clean_labels))) % 10, clean_labels)
print(f"{len(labels)} training images, {np.mean(labels != clean_labels):.1%} of their labels are wrong")

# %% [markdown]
# ## The loss in your own loop
#
# A loss of jaxreg takes logits and integer labels and returns one value per example, like the losses of
# optax. Everything around it is plain JAX and optax: a network with one hidden layer, clipped gradients,
# Adam.
#
# LDR-KL (Zhu, Ying and Yang, 2023, arXiv 2112.14869) looks for the distribution over classes under which
# the model does worst, and charges for its divergence from the uniform one:
#
# $$\max_{p} \; \sum_k p_k \,(f_k - f_y) \; - \; \lambda \, \mathrm{KL}(p \,\|\, \text{uniform}).$$
#
# The temperature $\lambda$ moves it from the largest margin ($\lambda \to 0$) through cross-entropy
# ($\lambda = 1$, up to a constant) to the mean margin ($\lambda \to \infty$), which wrong labels disturb
# least. The values below are fixed; `python -m experiments label_noise` chooses them on a validation
# split, over several seeds.

# %%
cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
losses = {
    "cross-entropy": cross_entropy,
    "LDR-KL, temperature 10": functools.partial(jaxreg.losses.ldr_kl, temperature=10.0),
    "GCE, q = 0.7": functools.partial(jaxreg.losses.generalized_cross_entropy, q=0.7),
    "MAE": jaxreg.losses.mean_absolute_error,
}


def network(params, images):
    hidden = jax.nn.relu(images @ params["kernel"] + params["bias"])
    return hidden @ params["head_kernel"] + params["head_bias"]


def initial_params(key, width=256):
    key, head_key = jax.random.split(key)
    return {
        "kernel": jax.random.normal(key, (64, width)) * (2 / 64) ** 0.5,
        "bias": jnp.zeros(width),
        "head_kernel": jax.random.normal(head_key, (width, 10)) * width**-0.5,
        "head_bias": jnp.zeros(10),
    }


def train(loss, epochs=40, steps_per_epoch=50, batch=64):
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(3e-3, epochs * steps_per_epoch)),
    )

    def step(state, key):
        params, optimizer_state = state
        rows = jax.random.randint(key, (batch,), 0, len(labels))

        def mean_loss(params):
            return jnp.mean(loss(network(params, jnp.asarray(images)[rows]), jnp.asarray(labels)[rows]))

        updates, optimizer_state = optimizer.update(jax.grad(mean_loss)(params), optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), None

    def epoch(state, key):
        state, _ = jax.lax.scan(step, state, jax.random.split(key, steps_per_epoch))
        return state, jnp.mean(jnp.argmax(network(state[0], test_images), axis=-1) == test_labels)

    params = initial_params(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), epochs)
    return jax.jit(lambda: jax.lax.scan(epoch, (params, optimizer.init(params)), keys)[1])()


accuracy = {}
for name, loss in losses.items():
    accuracy[name] = np.asarray(train(loss))
    print(f"{name:24s} test accuracy: best {accuracy[name].max():.1%}, at the end {accuracy[name][-1]:.1%}")

# %% [markdown]
# ## One theorem before your eyes
#
# The paper's closed form says that the worst distribution is a softmax, and that the loss is $\lambda
# \log \frac1K \sum_k \exp\{(f_k - f_y)/\lambda\}$. `jaxreg.theory` holds such statements as functions of
# arrays that return a `Check`: two sides, a relation, and how far the sides are apart. Here it is
# evaluated at every point of a grid over all distributions on three classes, and at the softmax.

# %%
from jaxreg.theory import ldr

scores, label, temperature = jnp.array([1.0, 2.0, -0.5]), jnp.array(0), 1.0
first, second = np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201))
inside = first + second <= 1
distributions = jnp.asarray(np.stack([first, second, 1 - first - second], axis=-1)[inside].clip(0))

bound = ldr.value.no_distribution_does_better(scores, label, distributions, temperature=temperature)
attained = ldr.value.softmax_attains_the_value(scores, label, temperature=jnp.array(temperature))
for check in (bound, attained):
    print(f"{check.statement} ({check.source})")
    print(f"  worst violation {check.worst:+.1e}, holds in float32: {check.holds(check.tolerance_float32)}")
print(
    f"best of {len(distributions)} distributions: {jnp.max(bound.lhs):.5f}; closed form: {attained.rhs:.5f}"
)

# %% [markdown]
# `python -m jaxreg.theory` evaluates every statement of every method like this, in float64 and against
# independent oracles.
#
# ## One picture
#
# Left: what each distribution attains on the grid, and the softmax of the closed form at its top. Right:
# accuracy on clean test images while 40 % of the training labels are wrong. Cross-entropy learns the
# digits first and the wrong labels afterwards; the robust losses keep more of what they learned.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")

softmax = jax.nn.softmax((scores - scores[label]) / temperature)
corners = np.array([[0, 0], [1, 0], [0.5, 3**0.5 / 2]])
points = np.asarray(distributions) @ corners
contours = left.tricontourf(points[:, 0], points[:, 1], np.asarray(bound.lhs), levels=14)
left.plot(*(np.asarray(softmax) @ corners), "*", color="white", markeredgecolor="black", markersize=16)
names, heights = ("class 0, the label", "class 1", "class 2"), (-0.07, -0.07, 0.04)
for corner, name, height in zip(corners, names, heights, strict=True):
    left.text(corner[0], corner[1] + height, name, ha="center", va="center")
left.set(aspect="equal", ylim=(-0.15, 0.95))
left.axis("off")
left.set_title("What a distribution over classes attains; star: the softmax")
figure.colorbar(contours, ax=left, label="penalised gap", shrink=0.8)

for name, values in accuracy.items():
    right.plot(np.arange(1, len(values) + 1), 100 * values, label=name)
right.set(
    title="Digits, 40 % of the training labels wrong",
    xlabel="epoch",
    ylabel="accuracy on clean test images (%)",
)
right.grid(alpha=0.3)
right.legend()
plt.show()
