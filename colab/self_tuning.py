# %% [markdown]
# # Regularisation that tunes itself
#
# {{badge}}
#
# A network learns how its weights would respond to its own hyper-parameters, and moves these downhill on
# validation data while it trains: self-tuning networks (MacKay et al., ICLR 2019, arXiv 1903.03088). No
# search, no restarts, one training run. Under two minutes on a CPU.

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
from jaxreg import bilevel
from jaxreg.theory.self_tuning import best_response, gates, spectrum

print(f"jaxreg {jaxreg.__version__}, jax {jax.__version__}, devices: {jax.devices()}")

# %% [markdown]
# ## Where the response is known
#
# Ridge regression with penalty $e^\lambda$. In the principal directions of the data, the best weights are
# those without penalty, each times a gate: a sigmoid of $\lambda$. That is what a best-response layer
# imitates, whose units are gated by the hyper-parameters. Below, dots are solved from the normal
# equations.

# %%
rng = np.random.default_rng(0)
features = rng.normal(size=(40, 5)) * np.array([3.0, 1.5, 0.8, 0.4, 0.2])
targets = features @ rng.normal(size=5) + rng.normal(size=40)
problem = spectrum(jnp.asarray(features), jnp.asarray(targets))
penalties = np.linspace(-4, 9, 27)


def solved(log_penalty):
    return np.linalg.solve(features.T @ features + np.exp(log_penalty) * np.eye(5), features.T @ targets)


responses = np.array([solved(penalty) for penalty in penalties])
curves = jax.vmap(lambda penalty: gates(problem.log_squares, penalty))(jnp.asarray(penalties))
weights = jax.vmap(lambda penalty: best_response(problem, penalty))(jnp.asarray(penalties))

figure, axes = plt.subplots(1, 2, figsize=(11, 3.8))
axes[0].plot(penalties, curves)
axes[0].plot(penalties, responses @ problem.directions.T / problem.solution, "k.", markersize=4)
axes[0].set(xlabel="log-penalty", ylabel="gate", title="what is left of each principal direction")
axes[1].plot(penalties, weights)
axes[1].plot(penalties, responses, "k.", markersize=4)
axes[1].set(xlabel="log-penalty", ylabel="weight", title="the best response")
figure.tight_layout()
print(f"largest difference: {np.abs(weights - responses).max():.1e}")

# %% [markdown]
# ## One hypergradient by three routes
#
# How the loss on other data changes with the penalty, through the weights: by the best response, by the
# implicit function theorem, and through every step of gradient descent.

# %%
more = rng.normal(size=(200, 5)) * np.array([3.0, 1.5, 0.8, 0.4, 0.2])


def inner_loss(weights, log_penalty):
    return 0.5 * jnp.sum((features @ weights - targets) ** 2) + 0.5 * jnp.exp(log_penalty) * jnp.sum(
        weights**2
    )


def outer_loss(weights, log_penalty):
    return jnp.mean((more @ weights - more @ solved(-20.0)) ** 2)


at = jnp.asarray(2.0)
through = jax.grad(lambda penalty: outer_loss(best_response(problem, penalty), penalty))(at)
implicit = bilevel.implicit_hypergradient(inner_loss, outer_loss, best_response(problem, at), at)
unrolled = bilevel.unrolled_hypergradient(
    inner_loss, outer_loss, jnp.zeros(5), at, optimizer=optax.sgd(2e-3), steps=2000, segments=40
)
print(f"best response {through:.5f}, implicit {implicit.gradient:.5f}, unrolled {unrolled.gradient:.5f}")

# %% [markdown]
# ## A network that finds its own dropout
#
# Handwritten digits, 300 to train on, so that a plain network overfits. Three layers with best response,
# two dropout rates: of the pixels and of the hidden units. The training loss is taken at perturbed rates,
# one draw for each example; the validation loss has no dropout, and reaches the rates through the
# response of the weights alone.

# %%
images, digits = load_digits(return_X_y=True)
order = np.random.default_rng(1).permutation(len(digits))
images, digits = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(digits[order])
splits = {"train": slice(0, 300), "valid": slice(300, 800), "test": slice(800, None)}
data = {name: (images[rows], digits[rows]) for name, rows in splits.items()}


def logits(layers, numbers, x, mask=lambda index, x: x):
    for index, layer in enumerate(layers):
        x = bilevel.best_response_dense(layer, mask(index, x), numbers)
        x = jax.nn.relu(x) if index < len(layers) - 1 else x
    return x


def cross_entropy(scores, labels):
    return optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def train_loss(layers, numbers, rates, batch, key):
    def mask(index, x):
        return bilevel.dropout(jax.random.fold_in(key, index), x, rates["units" if index else "pixels"])

    return cross_entropy(logits(layers, numbers, batch[0], mask), batch[1])


def valid_loss(layers, numbers, rates, batch, key):
    return cross_entropy(logits(layers, numbers, batch[0]), batch[1])


tuner = bilevel.self_tuning(
    train_loss, valid_loss, inner=optax.adam(2e-3), outer=optax.adam(1e-2), scale=None, warmup_steps=200
)

# %% [markdown]
# Three runs that begin at rates of 5 %, 35 % and 70 %, as one program. Hyper-parameters are part of the
# state, and their history comes back as arrays.

# %%
ALTERNATIONS, BATCH = 1500, 64


def init(key, rate):
    sizes = [(64, 128), (128, 128), (128, 10)]
    layers = [
        bilevel.best_response_dense_init(jax.random.fold_in(key, index), *size, hyperparameters=2)
        for index, size in enumerate(sizes)
    ]
    return tuner.init(layers, {name: bilevel.Bounded(rate, 0.0, 0.9) for name in ("pixels", "units")})


@jax.jit
def run(key, rate):
    def drawn(key, name, steps):
        rows = jax.random.randint(key, (steps, BATCH), 0, len(data[name][1]))
        return jax.tree.map(lambda leaf: leaf[rows], data[name])

    def alternate(state, key):
        keys = jax.random.split(key, 3)
        state, history = tuner.step(state, drawn(keys[0], "train", 2), drawn(keys[1], "valid", 1), keys[2])
        numbers = bilevel.unconstrain(state.hyperparameters)
        return state, (history.values, valid_loss(state.params, numbers, None, data["valid"], None))

    state, (rates, losses) = jax.lax.scan(alternate, init(key, rate), jax.random.split(key, ALTERNATIONS))
    scores = logits(state.params, bilevel.unconstrain(state.hyperparameters), data["test"][0])
    return rates, losses, jnp.mean(jnp.argmax(scores, axis=-1) == data["test"][1])


starts = jnp.array([0.05, 0.35, 0.7])
rates, losses, accuracy = jax.vmap(run, (None, 0))(jax.random.key(0), starts)

figure, axes = plt.subplots(1, 3, figsize=(14, 3.8))
for axis, (name, values) in zip(axes, rates.items(), strict=False):
    axis.plot(values[..., 0].T)
    axis.set(xlabel="alternation", ylabel="dropout rate", ylim=(0, 0.9), title=f"dropout of the {name}")
axes[2].plot(losses.T)
axes[2].set(xlabel="alternation", ylabel="validation loss", yscale="log", title="on all validation rows")
axes[2].legend([f"start at {start:.0%}" for start in starts])
figure.tight_layout()
for start, found, right in zip(starts, losses[:, -1], accuracy, strict=True):
    print(f"start at {start:.0%}: validation loss {found:.3f}, test accuracy {right:.1%}")

# %% [markdown]
# From three starting points the rates come to one schedule: little dropout of the hidden units while the
# network learns to fit, more and more as it begins to overfit, which no fixed rate does. The run that began
# with too much of it was slow to learn until it had tuned that away, and ends close to the others.
