"""Pictures: the best validation loss on the way, and the schedules that were found."""

from typing import Any

import numpy as np
from matplotlib import ticker

from experiments import report

LABELS = {
    "start": "fixed, where tuning starts", "usual": "fixed, as usual", "random": "random search",
    "hyperband": "Hyperband", "self_tuning": "STN", "delta_self_tuning": "Delta-STN",
}  # fmt: skip


def tuned(metrics: dict[str, np.ndarray]) -> list[str]:
    """Names of the hyper-parameters that a stage tuned."""
    return [name.removeprefix("value_") for name in metrics if name.startswith("value_")]


def progress(found: dict[str, Any], config: Any) -> report.Picture:
    """Best validation loss so far against time and against gradient steps."""
    drawn, axes = report.figure(2, width=5.2, height=3.8)
    curves = {}
    if "fixed" in found:
        curves |= {name: _best_so_far(found["fixed"].only(name), config) for name in ("start", "usual")}
    if "random" in found:
        curves["random"] = _one_by_one(found["random"], config)
    if "hyperband" in found:
        curves["hyperband"] = _best_so_far(found["hyperband"], config)
    for name in ("self_tuning", "delta_self_tuning"):
        if name in found:
            curves[name] = _best_so_far(found[name].only(f"dropout {config.dropouts[0]:g}"), config)
    for index, (name, (seconds, steps, losses)) in enumerate(curves.items()):
        mean = losses.mean(axis=1)
        half = np.nan_to_num([report.interval(row).half_width for row in losses])
        for axis, place in zip(axes[0], (seconds, steps), strict=True):
            style = {"color": report.COLOURS[index], "marker": report.MARKERS[index]}
            axis.plot(place, mean, label=LABELS[name], markersize=3, **style)
            axis.fill_between(place, mean - half, mean + half, color=style["color"], alpha=0.12, linewidth=0)
    everything = np.concatenate([losses.mean(axis=1) for _, _, losses in curves.values()])
    # First losses may lie above the picture; every curve ends inside it.
    ends = [losses[-1].mean() for _, _, losses in curves.values()]
    low, high = np.min(everything), max(np.quantile(everything, 0.9), *ends)
    for axis, label in zip(axes[0], ("processor seconds of one search", "gradient steps"), strict=True):
        axis.set(xscale="log", xlabel=label, ylim=(low - 0.15 * (high - low), high + 0.3 * (high - low)))
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0, 0].set_ylabel("best validation loss")
    drawn.tight_layout()
    drawn.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=3, bbox_to_anchor=(0.5, 0.0)
    )
    caption = (
        "Least validation loss so far, mean and 95 % t-interval over seeds; of the random search "
        "the expected "
        "loss after each trial. Gradient steps count those on the training and on the validation loss."
    )
    return report.Picture("progress", caption, report.png(drawn))


def _best_so_far(stage: Any, config: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds ``[V]``, gradient steps ``[V]`` and losses ``[V, seeds]``."""
    loss = stage.trained("validation_loss")
    least = np.stack([loss[:, stage.seeds == seed].min(axis=1) for seed in np.unique(stage.seeds)], -1)
    steps = stage.visits_trained().mean(axis=1) * config.steps_per_visit
    return stage.seconds().mean(axis=1), steps, np.minimum.accumulate(least)


def _one_by_one(stage: Any, config: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random search after each trial."""
    from experiments.self_tuning.results import random_rows

    rows = random_rows(stage, config.steps_per_visit, list(range(1, config.trials + 1)))
    losses = np.stack([row.measures["validation_loss"] for row in rows])
    return np.array([row.seconds for row in rows]), np.array([row.gradient_steps for row in rows]), losses


def schedules(stage: Any, title: str, config: Any) -> report.Picture:
    """Every hyper-parameter over the training, from every start."""
    names = tuned(stage.metrics)
    columns = min(4, len(names))
    drawn, axes = report.figure(columns, -(-len(names) // columns), width=3.2, height=2.6)
    steps = (1 + np.arange(len(stage.metrics["seconds"]))) * config.steps_per_visit
    for axis, name in zip(axes.ravel(), names, strict=False):
        for index, setting in enumerate(dict.fromkeys(stage.settings.tolist())):
            values = stage.only(setting).metrics[f"value_{name}"]
            colour = report.COLOURS[1 + index % 7]
            axis.plot(steps, values, color=colour, linewidth=0.6, alpha=0.6)
            axis.plot(steps, values.mean(axis=1), color=colour, linewidth=2, label=f"from {setting}")
        axis.set(title=name.replace("_", " "), xlabel="gradient steps")
        if name.startswith("dropout"):
            axis.set_ylim(-0.02, None)
    for axis in axes.ravel()[len(names) :]:
        axis.axis("off")
    drawn.tight_layout()
    drawn.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=3, bbox_to_anchor=(0.5, 0.0)
    )
    caption = (
        f"Schedules that {title} finds from several starts: thin lines are seeds, thick ones their mean."
    )
    return report.Picture(f"schedules_{stage.name}", caption, report.png(drawn))
