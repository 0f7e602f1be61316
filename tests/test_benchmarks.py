"""The benchmarks: a mistake ends with exit code 2 and no traceback; PyTorch's twin of a network is one."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import self_tuning
from jaxreg import bilevel
from tests import wheel


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["losses", "--rounds", "0"], "at least 2, got 0"),
        (["penalties", "--rows", "-4"], "at least 2, got -4"),
        (["attacks", "--rounds", "many"], "'many'"),
        (["sweeps", "--dataset", "wine", "--loss", "no_such_loss"], "no_such_loss"),
    ],
)
def test_a_mistake_is_named(arguments, word):
    command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]]
    ended = subprocess.run(command, cwd=wheel.ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert word in ended.stderr.splitlines()[-1]
    assert ended.stdout == ""


def test_without_pytorch_its_rows_are_left_out_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.self_tuning_torch", raising=False)
    monkeypatch.setenv("BENCHMARK_ALLOCATOR", "default")
    monkeypatch.setattr(sys, "argv", ["", "--against", "torch", "--models", "perceptron"])
    self_tuning.main()
    printed = capsys.readouterr().out
    assert "perceptron: without the rows of eager PyTorch" in printed
    assert printed.count("\n") == 2


@pytest.mark.parametrize("model", ["dense", "convolutions"])
def test_steps_in_pytorch_are_the_same_steps(model, monkeypatch):
    torch = pytest.importorskip("torch")
    from benchmarks import self_tuning_torch

    monkeypatch.setitem(self_tuning.SHAPES, "dense", ((6, 5), (5, 10)))
    monkeypatch.setitem(self_tuning.SHAPES, "convolutions", ((3, 3, 2, 4), (5, 5, 4, 3), (6, 5), (5, 10)))
    monkeypatch.setitem(self_tuning.INPUTS, "dense", (self_tuning.BATCH, 6))
    monkeypatch.setitem(self_tuning.INPUTS, "convolutions", (self_tuning.BATCH, 8, 4, 2))
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        layers, batch = self_tuning.network(model)
        tuner = self_tuning.tuner()
        state = tuner.init(layers, self_tuning.HYPERPARAMETERS)
        eager = self_tuning.eager_twin(layers)
        images = self_tuning_torch.images(batch)
        for index in range(6):
            kind = "tune_step" if index % 3 == 2 else "train_step"
            tree = state.hyperparameters
            state, (loss, numbers) = getattr(tuner, kind)(state, batch, jax.random.key(index))
            noise = (numbers - bilevel.unconstrain(tree)) / bilevel.scales(tree)
            own = getattr(eager, kind)(images, torch.from_numpy(np.array(noise)))
            np.testing.assert_allclose(float(own), float(loss), rtol=1e-5)
        wanted = self_tuning_torch.in_torch_layout(state.params)
        for layer, values in zip(eager.network.layers, wanted, strict=True):
            for name, value in values.items():
                np.testing.assert_allclose(getattr(layer, name).detach(), value, rtol=1e-4, atol=1e-6)
        moved = bilevel.unconstrain(state.hyperparameters), bilevel.scales(state.hyperparameters)
        scales = torch.nn.functional.softplus(eager.raw_scales)
        np.testing.assert_allclose(eager.numbers.detach(), moved[0], rtol=1e-4)
        np.testing.assert_allclose(scales.detach(), moved[1], rtol=1e-4)
        assert not jnp.allclose(moved[0], bilevel.unconstrain(self_tuning.HYPERPARAMETERS), rtol=1e-3)
