"""A word-level language model that tunes its dropout (MacKay et al., ICLR 2019, arXiv 1903.03088).

``python -m experiments ptb_lstm --data-dir FOLDER`` tunes a small LSTM on Penn Treebank text in minutes on 2
CPU cores: output dropout first, whose schedule is then replayed, and all seven hyper-parameters after that.
See the README beside this file for the numbers to expect.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runner, text_data
from experiments.faults import UserError, check_chosen, check_counts, check_positive
from experiments.ptb_lstm import language, replay, results, tasks
from experiments.self_tuning import stages

PARTS = ("fixed", "output", "fixed_all", "all", "all_centred")
START = {
    "input": 0.05, "hidden": 0.05, "output": 0.05, "embedding": 0.05, "drop_connect": 0.05,
    "activation": 0.01, "temporal": 0.01,
}  # fmt: skip
# Values in the manner of Merity, Keskar and Socher (2018), arXiv 1708.02182.
USUAL = {
    "input": 0.4, "hidden": 0.25, "output": 0.4, "embedding": 0.1, "drop_connect": 0.5, "activation": 2.0,
    "temporal": 1.0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Language models that tune their regularisation."""

    dataset: str = "ptb"
    """ptb, a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt; or descriptions (bundled)."""
    data_dir: str | None = None
    """Folder that holds ptb; by default TFDS_DATA_DIR from the environment."""
    parts: tuple[str, ...] = PARTS
    """fixed (output dropout at every rate), output (tuned, replayed, its last value held), fixed_all, all,
    all_centred (responses measured from where tuning starts)."""
    vocabulary: int = 1000
    """Most frequent words kept; 0 keeps all."""
    train_words: int = 20_000
    """Words of the training text used; 0 takes all."""
    eval_words: int = 8_000
    """Words of the validation and of the test text used; 0 takes all."""
    units: int = 64
    """Units of the embedding and of every layer."""
    layers: int = 2
    """Recurrent layers."""
    seeds: int = 4
    """Repetitions; each has its own first weights and masks."""
    visits: int = 16
    """Times the metrics are measured."""
    steps_per_visit: int = 120
    """Gradient steps between two of them, on the training or the validation text."""
    batch_size: int = 20
    """Parallel streams."""
    window: int = 20
    """Words of a step in each."""
    learning_rate: float = 0.01
    """Of Adam."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    rates: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8)
    """Fixed rates of output dropout."""
    starts: tuple[float, ...] = (0.05, 0.6)
    """Output dropout from which tuning starts."""
    scale: float = 0.5
    """First standard deviation of the perturbation."""
    outer_rate: float = 0.02
    """Learning rate of Adam on hyper-parameters and scales."""
    entropy_weight: float = 0.001
    """Weight of the entropy of the perturbation."""
    warmup: float = 0.1
    """Share of the training before hyper-parameters move."""
    devices: int = 0
    """CPU devices to make; 0: one a core, at most 8. Without effect on accelerators."""
    checkpoint_seconds: float = 15.0
    """Least time between two checkpoints."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        dataset="descriptions", vocabulary=50, train_words=600, eval_words=200, units=8, seeds=1, visits=2,
        steps_per_visit=6, batch_size=4, window=5, rates=(0.0, 0.5), starts=(0.05, 0.5),
    ),
    "paper": Config(
        vocabulary=0, train_words=0, eval_words=0, units=650, seeds=1, visits=50, steps_per_visit=1500,
        batch_size=40, window=70, learning_rate=0.002, clip=0.25,
        rates=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.68, 0.7, 0.8), outer_rate=0.01,
    ),
}  # fmt: skip


def check(config: Config) -> None:
    """Raises ``UserError`` for a configuration that cannot be run."""
    check_counts(config, "units", "layers", "seeds", "visits", "steps_per_visit", "batch_size", "window")
    check_chosen(config, "parts", PARTS)
    if config.steps_per_visit % tasks.CYCLE:
        raise UserError(f"steps_per_visit must be a multiple of {tasks.CYCLE}; got {config.steps_per_visit}.")
    if not config.rates or not all(0 <= rate < language.MAX_DROPOUT for rate in config.rates):
        raise UserError(f"rates must lie in [0, {language.MAX_DROPOUT}); got {config.rates}.")
    if not config.starts or not all(0 < rate < language.MAX_DROPOUT for rate in config.starts):
        raise UserError(f"starts must lie in (0, {language.MAX_DROPOUT}); got {config.starts}.")
    check_positive(config, "learning_rate", "outer_rate", "scale", "clip")
    if not (0 <= config.warmup < 1 and config.entropy_weight >= 0):
        raise UserError("warmup must lie in [0, 1), and entropy_weight be at least 0.")
    if config.vocabulary == 1 or min(config.vocabulary, config.train_words, config.eval_words) < 0:
        raise UserError("vocabulary must be 0 or at least 2, train_words and eval_words at least 0.")


def prepare(config: Config) -> tuple[list[runner.Stage], int]:
    """One stage a part, and the text's fingerprint."""
    check(config)
    text = text_data.load(config.dataset, config.data_dir, config.vocabulary, config.train_words)
    cut = [text.train, text.valid[: config.eval_words or None], text.test[: config.eval_words or None]]
    shared = tasks.Streams(*(text_data.streams(words, config.batch_size) for words in cut))
    shortest = min(stream.shape[1] for stream in shared)
    if shortest <= config.window:
        raise UserError(
            f"a stream of the text has {shortest} words, fewer than a window of {config.window} and "
            f"one more; "
            "take more words, a smaller batch_size or a smaller window."
        )
    problem = tasks.Problem(
        language.Sizes(len(text.words), config.units, config.layers), config.batch_size, config.window,
        config.learning_rate, config.clip, config.visits, config.steps_per_visit,
    )  # fmt: skip
    makers = {"fixed": _fixed, "output": _output, "fixed_all": _fixed_all, "all": _all,
              "all_centred": _all}  # fmt: skip
    return [makers[name](name, config, problem, shared) for name in config.parts], text.fingerprint()


def _runs(
    settings: list[dict[str, float]], labels: list[Any], config: Config
) -> tuple[dict, dict[str, list]]:
    """Every setting with every seed, each hyper-parameter once a visit."""
    seed = np.tile(np.arange(config.seeds, dtype=np.int32), len(settings))
    values = {
        name: np.repeat([[one[name]] * config.visits for one in settings], config.seeds, axis=0).astype("f4")
        for name in settings[0]
    }
    table = {"setting": [label for label in labels for _ in range(config.seeds)], "seed": seed.tolist()}
    return {"seed": seed, "values": values}, table


def _options(config: Config, centred: bool) -> tasks.Options:
    warmup = round(config.warmup * config.visits * config.steps_per_visit / tasks.CYCLE)
    return tasks.Options(config.scale, config.outer_rate, config.entropy_weight, warmup, centred)


def _fixed(name, config, problem, shared) -> runner.Stage:
    runs, table = _runs([{"output": rate} for rate in config.rates], list(config.rates), config)
    build = stages.all_at_once(tasks.fixed_task(problem), runs, shared, problem.steps_per_visit)
    return stages.stage(name, table, config.visits, build)


def _output(name, config, problem, shared) -> runner.Stage:
    runs, table = _runs([{"output": rate} for rate in config.starts], list(config.starts), config)
    build = replay.build(problem, tasks.tuned_task(problem, _options(config, centred=False)), runs, shared)
    return stages.stage(name, table, len(replay.ACTS) * config.visits, build)


def _fixed_all(name, config, problem, shared) -> runner.Stage:
    runs, table = _runs([START, USUAL], ["start", "usual"], config)
    build = stages.all_at_once(tasks.fixed_task(problem), runs, shared, problem.steps_per_visit)
    return stages.stage(name, table, config.visits, build)


def _all(name, config, problem, shared) -> runner.Stage:
    runs, table = _runs([START, USUAL], ["start", "usual"], config)
    task = tasks.tuned_task(problem, _options(config, centred=name == "all_centred"))
    build = stages.all_at_once(task, runs, shared, problem.steps_per_visit // tasks.CYCLE)
    return stages.stage(name, table, config.visits, build)


def report(folder: runner.RunFolder) -> Path:
    """Table, results.csv, figures and report.html of a finished run."""
    return results.write(folder, runner.stored_config(folder.path, "ptb_lstm", Config))
