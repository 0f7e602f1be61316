# %% [markdown]
# # Comp-sum losses and their H-consistency bounds
#
# {{badge}}
#
# One family from the sum-exponential loss through cross-entropy to mean absolute error; what a small
# surrogate loss says about mistakes; a live search for violations of the theorem, and of a false version
# of it; a small robust training. About a minute on a CPU.

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

from jaxreg import attacks, losses
from jaxreg.theory import comp_sum, falsify

print(f"jax {jax.__version__}, devices: {jax.devices()}")

# %% [markdown]
# ## The family
#
# With $u = \sum_{k \ne y} e^{h_k - h_y}$ the losses of Mao, Mohri and Zhong (2023, arXiv 2304.07288) are
# $\Phi^\tau(u) = \frac{(1+u)^{1-\tau} - 1}{1-\tau}$, and $\log(1+u)$ at $\tau = 1$. `tau` is an array like
# any other: traced, one per example, differentiable, exact through 1.
#
# If a hypothesis has an estimation error $t$ of the surrogate loss, how many more mistakes than the best
# can it make? At most $\Gamma_\tau(t)$, if the hypothesis set is complete.

# %%
margins, taus = jnp.linspace(-4, 6, 200), (0.0, 0.5, 1.0, 1.5, 2.0)
two_scores = jnp.stack([margins, jnp.zeros_like(margins)], axis=-1)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
t = jnp.linspace(0, 1.2, 400)
for tau in taus:
    loss = losses.comp_sum(two_scores, jnp.zeros(len(margins), int), tau=tau)
    left.plot(margins, loss, label=f"tau = {tau:g}")
    right.plot(t, comp_sum.inverse_transform(t, tau, 10), label=f"tau = {tau:g}")
left.set(ylim=(0, 6), xlabel="score of the label less the other's", ylabel="loss", title="The losses")
right.set(
    xlabel="surrogate estimation error t", ylabel="zero-one error at most", title="The bound, 10 classes"
)
left.legend()
plt.show()

# %% [markdown]
# ## A search for violations
#
# `falsify.search` climbs the violation of a claim by gradient ascent from many random starts. Of the
# theorem it finds none. A tempting simple form of the bound, $\sqrt{2 n^{\tau-1} (2-\tau)\, t}$, holds for
# $\tau \le 4/3$ only: at $\tau = 1.7$ the search walks to its counterexample, a certain label and tied
# scores.

# %%
generator = np.random.default_rng(0)
starts = 2 * generator.standard_normal((2000, 4)).astype(np.float32), np.arange(2000) % 10
theorem = falsify.search(comp_sum.bounds.regret_exceeds_transform, starts, steps=60)
print(f"theorem, {np.size(theorem.check.lhs)} cases: largest violation {theorem.violation:.1e} (rounding)")

pairs = (generator.standard_normal((64, 2)).astype(np.float32),)
false = falsify.search(comp_sum.bounds.false_simple_bound, pairs)
worst = np.round(np.asarray(jax.nn.softmax(false.arguments[0]), np.float64), 3)
print(f"false form at tau = 1.7: violated by {false.violation:.2f} at p = {worst}")

# %% [markdown]
# ## A small robust training
#
# The smooth adversarial loss adds to the comp-sum loss how far a perturbation can move the score
# differences; `attacks.projected_gradient_ascent` looks for that perturbation in a ball. Robust accuracy
# is measured by another search, for a mistake, with restarts. The digits have 8x8 pixels in [0, 1]; each
# may move by 0.15.

# %%
images, digits = load_digits(return_X_y=True)
images, digits = jnp.asarray(images / 16, jnp.float32), jnp.asarray(digits)
train_images, train_digits, test_images, test_digits = (
    images[:1400],
    digits[:1400],
    images[1400:],
    digits[1400:],
)
radius = 0.15


def score(params, x):
    return jax.nn.relu(x @ params["hidden"] + params["bias"]) @ params["head"]


def ascend(objective, x, key, steps, **more):
    return attacks.projected_gradient_ascent(
        objective,
        x,
        key,
        radius=radius,
        step_size=2.5 * radius / steps,
        steps=steps,
        lower=0.0,
        upper=1.0,
        **more,
    )


def smooth(params, x, y, key):
    def moved(x_moved):
        change = score(params, x_moved) - score(params, x)
        return jnp.sum(jnp.square(jnp.take_along_axis(change, y[:, None], -1) - change), -1)

    perturbed = score(params, ascend(moved, x, key, 5))
    return losses.smooth_adversarial_comp_sum(score(params, x), perturbed, y, tau=1.0, rho=1.0, nu=0.5)


def standard(params, x, y, key):
    return losses.comp_sum(score(params, x), y, tau=1.0)


def train(loss, steps=600, batch=128):
    first, second = jax.random.split(jax.random.key(0))
    params = {
        "hidden": jax.random.normal(first, (64, 128)) * (2 / 64) ** 0.5,
        "bias": jnp.zeros(128),
        "head": jax.random.normal(second, (128, 10)) * 128**-0.5,
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))

    def step(state, key):
        params, moments = state
        rows = jax.random.randint(key, (batch,), 0, len(train_digits))
        x, y = train_images[rows], train_digits[rows]
        gradient = jax.grad(lambda params: jnp.mean(loss(params, x, y, key)))(params)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), None

    keys = jax.random.split(jax.random.key(1), steps)
    return jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0])()


def accuracies(params):
    def mistake(x):
        return attacks.score_margin(score(params, x), test_digits)

    worst = ascend(mistake, test_images, jax.random.key(2), 50, restarts=5, keep_best=True)
    return jnp.mean(mistake(test_images) < 0), jnp.mean(mistake(worst) < 0), worst


for name, loss in {"cross-entropy": standard, "smooth adversarial": smooth}.items():
    clean, robust, worst = jax.jit(accuracies)(train(loss))
    print(f"{name:20s} clean {clean:.1%}, robust {robust:.1%}")

# %%
figure, axes = plt.subplots(2, 8, figsize=(10, 2.8), layout="constrained")
for column in range(8):
    for row, shown in enumerate((test_images, worst)):
        axes[row, column].imshow(shown[column].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        axes[row, column].axis("off")
figure.suptitle("Test images, and the worst perturbations found for the robust model")
plt.show()
