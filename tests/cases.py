"""One row of arguments for each public name of the losses; the conformance suite runs every row."""

import dataclasses
import math
from collections.abc import Callable, Mapping

from tests import oracles, plain_layers

INF, NAN = math.inf, math.nan


@dataclasses.dataclass(frozen=True)
class Loss:
    """How a loss is called, and what it is held against."""

    definition: Callable
    """The paper's formula, from ``tests.oracles``."""
    hyper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """A value inside the range of each hyper-parameter, exact in half precision."""
    other: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Another one."""
    refused: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    """Values outside the range."""
    limits: tuple[str, ...] = ()
    """Hyper-parameters whose ends 0 and inf are limits of the formula and not cases of it."""
    ends: tuple[Mapping[str, float], ...] = ()
    """Hyper-parameters at such ends."""
    near_ends: tuple[Mapping[str, float], ...] = ()
    """Hyper-parameters so near to the ends that the plain formula fails."""
    counts: tuple[str, ...] = ()
    """Hyper-parameters that are whole numbers, in which the loss is not differentiable."""
    choices: tuple[str, ...] = ()
    """Arguments that name a variant; the first is run here, the others have tests of their own."""
    confident: bool = False
    """A function of the label's probability alone, hence accurate however near to one it is."""
    linear_pieces: bool = False
    """Piecewise linear in the logits: the gradient is not unique at ties, so the parameters avoid them."""


TEMPERATURE = {"temperature": (-1.0, NAN)}
MARGIN = {"margin": (-0.5, INF, NAN)}

LOSSES = {
    "ldr_kl": Loss(
        oracles.ldr_kl,
        {"temperature": 0.75, "margin": 0.25},
        {"temperature": 2.0, "margin": 1.5},
        TEMPERATURE | MARGIN,
        limits=("temperature",),
        ends=({"temperature": 0.0, "margin": 0.25}, {"temperature": INF, "margin": 0.25}),
        near_ends=tuple({"temperature": t, "margin": 0.25} for t in (1e-30, 1e-4, 1e4, 1e8, 1e30)),
    ),
    "aldr_kl": Loss(
        oracles.aldr_kl,
        {"temperature": 0.75, "alpha": 2.0, "margin": 0.25},
        {"temperature": 2.0, "alpha": 4.0, "margin": 1.5},
        {"temperature": (-1.0, 0.0, INF, NAN), "alpha": (1.0, 0.5, INF, NAN)} | MARGIN,
        limits=("temperature",),
        near_ends=(
            {"temperature": 2.0**-10, "alpha": 2.0, "margin": 0.25},
            {"temperature": 2.0**20, "alpha": 2.0, "margin": 0.25},
            {"temperature": 0.75, "alpha": 1.5, "margin": 0.25},
            {"temperature": 0.75, "alpha": 1024.0, "margin": 0.25},
        ),
    ),
    "ldr_top_k": Loss(
        oracles.ldr_top_k,
        {"k": 2, "temperature": 0.75, "margin": 0.25},
        {"k": 3, "temperature": 2.0, "margin": 1.5},
        {"k": (0, -1, 6)} | TEMPERATURE | MARGIN,
        limits=("temperature",),
        ends=({"k": 2, "temperature": 0.0, "margin": 0.25}, {"k": 3, "temperature": INF, "margin": 0.25}),
        near_ends=tuple({"k": 2, "temperature": t, "margin": 0.25} for t in (1e-30, 1e-4, 1e4, 1e30)),
        counts=("k",),
        choices=("domain",),
    ),
    "ldr_quadratic": Loss(
        oracles.ldr_quadratic,
        # At a temperature of 3/4 the second row of extreme logits would stand on a kink.
        {"temperature": 0.6875, "margin": 0.25},
        {"temperature": 2.0, "margin": 1.5},
        TEMPERATURE | MARGIN,
        limits=("temperature",),
        ends=({"temperature": 0.0, "margin": 0.25}, {"temperature": INF, "margin": 0.25}),
        near_ends=tuple({"temperature": t, "margin": 0.25} for t in (1e-30, 1e-4, 1e4, 1e8, 1e30)),
    ),
    "crammer_singer": Loss(
        oracles.crammer_singer, {"margin": 0.9375}, {"margin": 0.3125}, MARGIN, linear_pieces=True
    ),
    "weston_watkins": Loss(
        oracles.weston_watkins, {"margin": 0.9375}, {"margin": 0.3125}, MARGIN, linear_pieces=True
    ),
    "mean_absolute_error": Loss(oracles.mean_absolute_error, confident=True),
    "brier": Loss(oracles.brier, confident=True),
    "normalized_cross_entropy": Loss(oracles.normalized_cross_entropy, confident=True),
    "generalized_cross_entropy": Loss(
        oracles.generalized_cross_entropy,
        {"q": 0.75},
        {"q": 0.25},
        {"q": (-0.1, 1.5, INF, NAN)},
        limits=("q",),
        ends=({"q": 0.0}, {"q": 1.0}),
        near_ends=tuple({"q": q} for q in (1e-30, 1e-8, 1e-3, 1 - 1e-7)),
        confident=True,
    ),
    "comp_sum": Loss(
        oracles.comp_sum,
        {"tau": 1.75},
        {"tau": 0.5},
        {"tau": (-0.1, INF, NAN)},
        ends=({"tau": 0.0}, {"tau": 1.0}, {"tau": 2.0}),
        near_ends=tuple({"tau": tau} for tau in (1e-7, 1 - 1e-7, 1 + 1e-7, 1 + 1e-3, 2 - 1e-6, 2.5, 8.0)),
        confident=True,
    ),
    "truncated_generalized_cross_entropy": Loss(
        oracles.truncated_generalized_cross_entropy,
        {"q": 0.75, "threshold": 0.0625},
        {"q": 0.25, "threshold": 0.5},
        {"q": (-0.1, 1.5, INF, NAN), "threshold": (-0.1, 1.0, NAN)},
        limits=("q",),
        ends=({"q": 0.0, "threshold": 0.25}, {"q": 1.0, "threshold": 0.25}, {"q": 0.5, "threshold": 0.0}),
        near_ends=({"q": 1e-30, "threshold": 0.25}, {"q": 1e-8, "threshold": 1e-30}),
        confident=True,
    ),
    "reverse_cross_entropy": Loss(
        oracles.reverse_cross_entropy,
        {"log_zero": -4.0},
        {"log_zero": -9.25},
        {"log_zero": (0.0, 1.0, -INF, NAN)},
        confident=True,
    ),
    "symmetric_cross_entropy": Loss(
        oracles.symmetric_cross_entropy,
        {"ce_weight": 0.125, "rce_weight": 1.0, "log_zero": -4.0},
        {"ce_weight": 6.0, "rce_weight": 0.25, "log_zero": -9.25},
        {"ce_weight": (-0.1, INF, NAN), "rce_weight": (-0.1, INF, NAN), "log_zero": (0.0, 1.0, -INF, NAN)},
        ends=({"ce_weight": 0.0, "rce_weight": 1.0, "log_zero": -4.0},),
        confident=True,
    ),
    "asymmetric_unhinged": Loss(
        oracles.asymmetric_unhinged,
        {"a": 1.5, "q": 0.875},
        {"a": 6.0, "q": 1.5},
        {"a": (1.0, 0.5, INF, NAN), "q": (0.0, -1.0, INF, NAN)},
        near_ends=({"a": 1.5, "q": 2.0**-10}, {"a": 1.0 + 2.0**-10, "q": 0.875}),
        confident=True,
    ),
    "asymmetric_generalized_cross_entropy": Loss(
        oracles.asymmetric_generalized_cross_entropy,
        {"a": 1.0, "q": 2.0},
        {"a": 3.0, "q": 1.5},
        {"a": (0.0, -1.0, INF, NAN), "q": (0.0, -1.0, INF, NAN)},
        near_ends=({"a": 1.0, "q": 2.0**-10}, {"a": 2.0**-20, "q": 2.0}),
        confident=True,
    ),
    "jensen_shannon": Loss(
        oracles.jensen_shannon,
        {"label_weight": 0.5},
        {"label_weight": 0.125},
        {"label_weight": (-0.1, 1.5, NAN)},
        near_ends=({"label_weight": 1 / 16}, {"label_weight": 15 / 16}),
        confident=True,
    ),
    "robust_log_loss": Loss(
        oracles.robust_log_loss,
        {"a": 1.0},
        {"a": 0.125},
        {"a": (0.0, -1.0, INF, NAN)},
        confident=True,
    ),
}

OTHER_NAMES = {
    "aldr_temperature": "tests/losses/test_aldr.py",
    "expected": "tests/losses/test_expected.py",
    "ldr_weights": "tests/losses/test_ldr.py",
    "margin_adversarial_comp_sum": "tests/losses/test_adversarial.py",
    "mart": "tests/losses/test_robust_training.py",
    "smooth_adversarial_comp_sum": "tests/losses/test_adversarial.py",
    "trades": "tests/losses/test_robust_training.py",
}
"""Public names that are not losses, and where they are tested."""


@dataclasses.dataclass(frozen=True)
class Transform:
    """How a transformation is made and called, and what it is held against."""

    definition: Callable
    """(gradient, number of the step, hyper, extra) -> update, in NumPy; one leaf."""
    hyper: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Arguments of the factory."""
    extra: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Extra arguments of ``update``, exact in half precision."""
    refused_hyper: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    """Arguments of the factory outside the range."""
    refused_extra: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    """Extra arguments outside the range."""
    vanishing: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Extra arguments at which the update is 0."""


RATE = {"learning_rate": (-1.0, INF, NAN)}
SLOPE = {"mean_slope": (-0.5, 1.5, INF, NAN)}

TRANSFORMS = {
    "normalize_by_mean_slope": Transform(
        lambda g, step, hyper, extra: g / extra["mean_slope"],
        extra={"mean_slope": 0.125},
        refused_extra=SLOPE,
        vanishing={"mean_slope": 0.0},
    ),
    "normalized_logistic_gd": Transform(
        lambda g, step, hyper, extra: -hyper["learning_rate"] * g / extra["mean_slope"],
        {"learning_rate": 4.0},
        {"mean_slope": 0.125},
        RATE,
        SLOPE,
        {"mean_slope": 0.0},
    ),
    "batch_perceptron": Transform(
        lambda g, step, hyper, extra: -hyper["learning_rate"] * g, {"learning_rate": 1.0}, refused_hyper=RATE
    ),
    "scale_by_risk": Transform(
        lambda g, step, hyper, extra: g / -math.expm1(-extra["value"]),
        {"loss": "logistic"},
        {"value": 0.75},
        {"loss": ("hinge", None)},
        {"value": (-1.0, -INF, NAN)},
        {"value": 0.0},
    ),
}

OTHER_TRANSFORM_NAMES = {
    "logistic_slopes": "tests/transforms/test_large_step.py",
    "multi_steps": "tests/transforms/test_accumulation.py",
}
"""Public names that are not such factories, and where they are tested."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """How a layer with best response is made and called, and what it is held against."""

    init: Callable
    """(init function, key, dtype) -> parameters, with gates of the size of the kernels, for h = 3."""
    shape: tuple[int, ...]
    """Of the inputs, with six examples."""
    call: Callable
    """(function, params, x, hyperparameters) -> outputs."""
    plain: Callable
    """(list of (kernel, bias), x) -> outputs of one example, by the plain layer of these weights."""
    tokens: int = 0
    """Number of rows, where the inputs are integers."""


LAYERS = {
    "best_response_dense": Layer(
        lambda init, key, dtype: init(key, 5, 4, 3, gate_scale=1.0, dtype=dtype, use_elementary_scale=True),
        (6, 2, 5),
        lambda function, params, x, numbers: function(params, x, numbers),
        plain_layers.dense,
    ),
    "best_response_conv": Layer(
        lambda init, key, dtype: init(key, (3, 2), 4, 6, 3, groups=2, gate_scale=1.0, dtype=dtype),
        (6, 7, 5, 4),
        lambda function, params, x, numbers: function(
            params,
            x,
            numbers,
            strides=(2, 1),
            padding=((1, 0), (0, 1)),
            input_dilation=(1, 2),
            kernel_dilation=(2, 1),
            groups=2,
        ),
        lambda weights, x: plain_layers.convolution(
            weights, x, (2, 1), ((1, 0), (0, 1)), input_dilation=(1, 2), kernel_dilation=(2, 1), groups=2
        ),
    ),
    "best_response_embedding": Layer(
        lambda init, key, dtype: init(key, 7, 4, 3, gate_scale=1.0, dtype=dtype),
        (6, 3),
        lambda function, params, x, numbers: function(params, x, numbers),
        plain_layers.embedding,
        tokens=7,
    ),
    "best_response_lstm_cell": Layer(
        lambda init, key, dtype: init(key, 4, 3, 3, gate_scale=1.0, dtype=dtype),
        (6, 10),
        lambda function, params, x, numbers: function(params, (x[:, 4:7], x[:, 7:]), x[:, :4], numbers)[1],
        plain_layers.lstm_cell,
    ),
}

OTHER_BILEVEL_NAMES = {
    "BestResponse": "tests/bilevel/test_best_response.py",
    "BestResponseLSTM": "tests/bilevel/test_best_response.py",
    "Bounded": "tests/bilevel/test_hyperparameters.py",
    "History": "tests/bilevel/test_self_tuning.py",
    "Hypergradient": "tests/bilevel/test_hypergradients.py",
    "Integer": "tests/bilevel/test_hyperparameters.py",
    "NetworkLoss": "tests/bilevel/test_centred.py",
    "Perturbed": "tests/bilevel/test_hyperparameters.py",
    "Positive": "tests/bilevel/test_hyperparameters.py",
    "SelfTuning": "tests/bilevel/test_self_tuning.py",
    "SelfTuningState": "tests/bilevel/test_self_tuning.py",
    "Unbounded": "tests/bilevel/test_hyperparameters.py",
    "activation_regularization": "tests/bilevel/test_regularizers.py",
    "best_response_init": "tests/bilevel/test_best_response.py",
    "channel_dropout": "tests/bilevel/test_regularizers.py",
    "color_jitter": "tests/bilevel/test_regularizers.py",
    "constrain": "tests/bilevel/test_hyperparameters.py",
    "cutout": "tests/bilevel/test_regularizers.py",
    "drop_connect": "tests/bilevel/test_regularizers.py",
    "dropout": "tests/bilevel/test_regularizers.py",
    "embedding_dropout": "tests/bilevel/test_regularizers.py",
    "entropy": "tests/bilevel/test_hyperparameters.py",
    "implicit_hypergradient": "tests/bilevel/test_hypergradients.py",
    "input_scale": "tests/bilevel/test_regularizers.py",
    "linearised": "tests/bilevel/test_centred.py",
    "perturb": "tests/bilevel/test_hyperparameters.py",
    "random_brightness": "tests/bilevel/test_regularizers.py",
    "random_contrast": "tests/bilevel/test_regularizers.py",
    "random_hue": "tests/bilevel/test_regularizers.py",
    "random_saturation": "tests/bilevel/test_regularizers.py",
    "recentre": "tests/bilevel/test_centred.py",
    "scales": "tests/bilevel/test_hyperparameters.py",
    "self_tuning": "tests/bilevel/test_self_tuning.py",
    "temporal_activation_regularization": "tests/bilevel/test_regularizers.py",
    "unconstrain": "tests/bilevel/test_hyperparameters.py",
    "unperturbed": "tests/bilevel/test_hyperparameters.py",
    "unrolled_hypergradient": "tests/bilevel/test_hypergradients.py",
    "variational_dropout": "tests/bilevel/test_regularizers.py",
    "weight_decay": "tests/bilevel/test_regularizers.py",
}
"""Public names of the bilevel family that are no such layers, and where they are tested."""
