# %% [markdown]
# # Label-distributionally-robust losses
#
# {{badge}}
#
# One temperature leads from Crammer and Singer's loss through cross-entropy to a symmetric loss, and a
# temperature for each example shows which labels are wrong (Zhu, Ying and Yang, ICML 2023, arXiv
# 2112.14869). About a minute on a CPU.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxreg") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "git+{{repository}}"], check=True)

# %%
import functools
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import jaxreg

print(f"jaxreg {jaxreg.__version__}, jax {jax.__version__}, devices: {jax.devices()}")

# %% [markdown]
# ## From temperature 0 to infinity
#
# LDR-KL looks for the distribution over the classes under which the margins are worst, and charges
# $\lambda$ times its divergence from the uniform distribution:
#
# $$\psi_\lambda(f, y) = \max_p \; \sum_k p_k z_k - \lambda \, \mathrm{KL}(p \,\|\, \text{uniform})
# = \lambda \log \frac1K \sum_k e^{z_k / \lambda}, \qquad z_k = f_k - f_y + c \,[k \ne y].$$
#
# At temperature 0 nothing holds the distribution: it sits on the worst class. At 1, without margin, the
# loss is the cross-entropy less $\log K$. At infinity the distribution is uniform, and the losses of all
# labels add up to the same number whatever the scores: the loss is symmetric.

# %%
scores, label, margin = jnp.array([1.0, 2.0, -0.5, 0.3, -1.2]), 0, 0.1
classes = jnp.arange(scores.size)
cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels

cold = jaxreg.losses.ldr_kl(scores, label, temperature=0.0, margin=margin)
print(f"temperature 0          {cold:.6f}")
print(f"Crammer and Singer     {jaxreg.losses.crammer_singer(scores, label, margin=margin):.6f}")
unit = jaxreg.losses.ldr_kl(scores, label, temperature=1.0)
print(f"temperature 1 + log K  {unit + jnp.log(scores.size):.6f}")
print(f"cross-entropy          {cross_entropy(scores, label):.6f}")
several = jnp.repeat(jnp.stack([scores, 3 * scores, -scores])[:, None], scores.size, axis=1)
hot = jaxreg.losses.ldr_kl(several, jnp.tile(classes, (3, 1)), temperature=jnp.inf, margin=margin)
print(f"temperature infinity, sum over the labels, three vectors of scores: {hot.sum(-1)}")

temperatures = jnp.logspace(-2, 3, 101)
values = jaxreg.losses.ldr_kl(jnp.tile(scores, (101, 1)), jnp.zeros(101, int), temperature=temperatures)
weights = jax.vmap(lambda t: jaxreg.losses.ldr_weights(scores, label, temperature=t))(temperatures)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
left.semilogx(temperatures, values, label="LDR-KL")
left.axhline(jnp.max(scores - scores[label]), color="C1", ls="--", label="largest margin")
left.axhline(jnp.mean(scores - scores[label]), color="C2", ls="--", label="mean margin")
left.plot(1, cross_entropy(scores, label) - np.log(scores.size), "ko", label="cross-entropy - log K")
left.set(title="The loss", xlabel="temperature", ylabel="loss")
left.legend()
for k in range(scores.size):
    right.semilogx(temperatures, weights[:, k], label=f"class {k}, score {scores[k]:g}")
right.set(xlabel="temperature", ylabel="probability")
right.set_title("The worst distribution over the classes (label: class 0)")
right.legend()
plt.show()

# %% [markdown]
# ## What the minimiser is
#
# Let the label be random, with probabilities $q$. LDR-KL's expected loss is least at $f^* = \lambda \log
# q$, up to a constant: every temperature puts the classes into the right order. The adaptive loss ALDR-KL
# chooses each example's temperature itself, at most $\lambda_0$, and pays $\frac{a \log K}{2 \lambda_0}
# (\lambda - \lambda_0)^2$ for lowering it. Its minimiser is $f^* = \lambda(q) \log q$ with
#
# $$\lambda(q) = \lambda_0 \Bigl(1 - \frac{\mathrm{KL}(q \,\|\, \text{uniform})}{a \log K}\Bigr):$$
#
# the surer the label, the lower the temperature. L-BFGS of optax knows nothing of this and finds the same.

# %%
temperature, alpha = 1.0, 2.0
probabilities = jnp.array([[0.9, 0.05, 0.03, 0.02], [0.4, 0.3, 0.2, 0.1], [0.28, 0.26, 0.24, 0.22]])


def minimise(loss, q, steps=60):
    def risk(f):
        return jaxreg.losses.expected(loss)(f, q)

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(risk)

    def step(carry, _):
        f, state = carry
        value, gradient = value_and_grad(f, state=state)
        updates, state = optimizer.update(gradient, state, f, value=value, grad=gradient, value_fn=risk)
        return (optax.apply_updates(f, updates), state), None

    start = jnp.zeros_like(q)
    (found, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    best: Any = found
    return best - best.mean()


def centred_log(q):
    return jnp.log(q) - jnp.log(q).mean(-1, keepdims=True)


divergence = jnp.sum(probabilities * jnp.log(probabilities * probabilities.shape[1]), axis=-1)
adaptive = temperature * (1 - divergence / (alpha * np.log(probabilities.shape[1])))
predicted = {"LDR-KL": jnp.full(3, temperature), "ALDR-KL": adaptive}
losses = {
    "LDR-KL": functools.partial(jaxreg.losses.ldr_kl, temperature=temperature),
    "ALDR-KL": functools.partial(jaxreg.losses.aldr_kl, temperature=temperature, alpha=alpha),
}
for name, loss in losses.items():
    found = jax.jit(jax.vmap(functools.partial(minimise, loss)))(probabilities)
    print(name)
    for q, f, own in zip(probabilities, found, predicted[name], strict=True):
        theory = own * centred_log(q)
        print(f"  q = {q}: temperature {own:.3f}, largest difference {jnp.abs(f - theory).max():.0e}")
        print(f"    found                 {np.array2string(np.asarray(f), precision=3)}")
        print(f"    temperature(q) log q  {np.array2string(np.asarray(theory), precision=3)}")

# %% [markdown]
# ## Wrong labels on real images
#
# Scikit-learn's handwritten digits, 30 % of the labels replaced by a wrong class, and a perceptron with
# one hidden layer. The loss goes into any optax chain; here gradients are clipped before Adam.
#
# Does the temperature of a training example tell whether its label is wrong? Without a margin it does not
# depend on the label at all, only on how far the scores are from equal: it is raised where the network
# is unsure. With a margin it depends on the label. Where the scores favour another class than the label
# and the margin is added to that class, the worst distribution concentrates there, its divergence is
# large, and the temperature is **low**. Where they favour the label, margin and score cancel and it is
# high. So a low temperature is the sign of a wrong label, and the margin makes it one. It has to be of the
# size of the scores' differences: 3 was picked among 0, 0.1, 1 and 3 by looking at these very labels, and
# with 0.1 the temperature tells as little as with none.

# %%
images, digits = load_digits(return_X_y=True)
images = jnp.asarray(images / 16, jnp.float32)
generator = np.random.default_rng(0)
corrupted = generator.random(len(digits)) < 0.3
labels = np.where(corrupted, (digits + generator.integers(1, 10, len(digits))) % 10, digits)
labels = jnp.asarray(labels)


def network(params, images):
    hidden = jax.nn.relu(images @ params["kernel"] + params["bias"])
    return hidden @ params["head_kernel"] + params["head_bias"]


def initial_params(key, width=64):
    key, head_key = jax.random.split(key)
    return {
        "kernel": jax.random.normal(key, (64, width)) * (2 / 64) ** 0.5,
        "bias": jnp.zeros(width),
        "head_kernel": jax.random.normal(head_key, (width, 10)) * width**-0.5,
        "head_bias": jnp.zeros(10),
    }


@jax.jit
def train(margin, steps=560, batch=64):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, (batch,), 0, len(labels))

        def mean_loss(params):
            return jaxreg.losses.aldr_kl(network(params, images[rows]), labels[rows], margin=margin).mean()

        updates, state = optimizer.update(jax.grad(mean_loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = initial_params(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), steps)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return network(params, images)


figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for axis, margin in zip(axes, (0.0, 3.0), strict=True):
    logits = train(margin)
    own = jaxreg.losses.aldr_temperature(logits, labels, margin=margin)
    loss = jaxreg.losses.aldr_kl(logits, labels, margin=margin)
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == digits)
    print(f"margin {margin:g}: {accuracy:.1%} of the images get their true class")
    print(f"  mean temperature: clean {own[~corrupted].mean():.3f}, corrupted {own[corrupted].mean():.3f}")
    print(f"  AUROC for corrupted labels: low temperature {roc_auc_score(corrupted, -own):.3f}")
    print(f"                              high loss       {roc_auc_score(corrupted, loss):.3f}")
    for chosen, name in ((~corrupted, "clean label"), (corrupted, "corrupted label")):
        axis.hist(own[chosen], bins=np.linspace(0.5, 1, 41), density=True, alpha=0.6, label=name)
    axis.set(title=f"Margin {margin:g}", xlabel="temperature of the example", ylabel="density")
    axis.legend()
plt.show()

# %% [markdown]
# Without a margin the histograms nearly coincide: the corrupted examples are a little hotter, because a
# wrong label makes the network less sure of its image. With the margin they come apart, the corrupted ones
# being colder. The value of the loss separates the labels better still, whatever the margin: to find wrong
# labels, rank the examples by their loss. What the temperature shows is how the loss treats them.
