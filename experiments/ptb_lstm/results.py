"""What the runs say: perplexities, fixed against tuned against replayed, and the schedules."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments import report
from experiments.faults import UserError
from experiments.ptb_lstm.replay import ACTS
from experiments.runner import RunFolder
from experiments.self_tuning import figures
from experiments.self_tuning.results import Stage, read, spreads


def acts(stage: Stage, visits: int) -> dict[str, Stage]:
    """The three acts of the tuned output dropout, each as a stage of its own."""
    found = {}
    for place, name in enumerate(ACTS):
        rows = slice(place * visits, (place + 1) * visits)
        # Scales belong to the first act alone and are not recorded in the others.
        found[name] = stage._replace(
            name=name, metrics={key: values[rows] for key, values in stage.metrics.items()}
        )
    return found


def parts(rows: list[dict[str, Any]], visits: int) -> dict[str, Stage]:
    """All sets of runs that are compared, by name."""
    kept = [
        {key: value for key, value in row["metrics"].items() if not key.startswith("scale_")}
        if "metrics" in row
        else None
        for row in rows
    ]
    found = read(
        [row if new is None else row | {"metrics": new} for row, new in zip(rows, kept, strict=True)]
    )
    if "output" in found:
        found |= acts(found.pop("output"), visits)
    return found


def measured(stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """Perplexities on the validation and the test text at each run's best visit, one a run."""
    loss = stage.metrics["validation_loss"]
    visit, run = np.argmin(loss, axis=0), np.arange(loss.shape[1])
    return np.exp(loss[visit, run]), np.exp(stage.metrics["test_loss"][visit, run])


def perplexity(values: np.ndarray) -> str:
    """Mean and interval."""
    mean, half = report.interval(values)
    return f"{mean:.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}")


TITLES = {
    "fixed": "output dropout fixed at {}", "tuned": "STN, output dropout from {}",
    "replayed": "its schedule replayed, from {}", "held": "its last value held, from {}",
    "fixed_all": "all seven fixed, {}", "all": "STN, all seven from {}",
    "all_centred": "STN, all seven from {}, centred there",
}  # fmt: skip


def table(found: dict[str, Stage], steps: int) -> tuple[list[str], list[list[str]]]:
    """One row a setting."""
    cells = []
    for name, title in TITLES.items():
        if name not in found:
            continue
        for setting in dict.fromkeys(found[name].settings.tolist()):
            own = found[name].only(setting)
            valid, test = measured(own)
            last = [
                f"{key} {own.metrics[f'value_{key}'][-1].mean():.2g}" for key in figures.tuned(own.metrics)
            ]
            work = len(own.metrics["seconds"]) * steps
            row = [title.format(setting), perplexity(valid), perplexity(test), str(work), ", ".join(last)]
            cells.append(row)
    return ["", "validation perplexity", "test perplexity", "gradient steps", "last values"], cells


def curves(found: dict[str, Stage], config: Any) -> report.Picture:
    """Validation perplexity over the training, and the schedules of output dropout."""
    drawn, axes = report.figure(2, width=5.0, height=3.8)
    steps = (1 + np.arange(config.visits)) * config.steps_per_visit
    lines = {"fixed": ":", "tuned": "-", "replayed": "--", "held": "-.", "all": "-", "all_centred": "--"}
    tuned = ("tuned", "all", "all_centred")
    shown = [(name, setting) for name in lines if name in found
             for setting in dict.fromkeys(found[name].settings.tolist())]  # fmt: skip
    least = []
    for index, (name, setting) in enumerate(shown):
        own, colour = found[name].only(setting), report.COLOURS[index % 8]
        mean = np.exp(own.metrics["validation_loss"]).mean(axis=1)
        least.append(mean.min())
        label = TITLES[name].format(setting)
        width = 2.2 if name in tuned else 1.2
        axes[0, 0].plot(steps, mean, lines[name], color=colour, label=label, linewidth=width)
        if "value_output" in own.metrics and name in tuned:
            values = own.metrics["value_output"]
            axes[0, 1].plot(steps, values, color=colour, linewidth=0.6, alpha=0.6)
            axes[0, 1].plot(steps, values.mean(axis=1), lines[name], color=colour, linewidth=2.2)
    # Early and overfitted perplexities are cut off, but no curve's best one.
    limits = 0.97 * min(least), max(1.5 * min(least), 1.03 * max(least))
    axes[0, 0].set(xlabel="gradient steps", ylabel="validation perplexity", ylim=limits)
    axes[0, 1].set(xlabel="gradient steps", ylabel="output dropout", ylim=(0, 1))
    drawn.tight_layout()
    drawn.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="upper center",
        ncols=3,
        bbox_to_anchor=(0.5, 0.0),
        fontsize=8,
    )
    caption = (
        "Left: validation perplexity, means over seeds. Right: output dropout where it is tuned, in the same "
        "colours; thin lines are seeds."
    )
    return report.Picture("perplexity", caption, report.png(drawn))


def write(folder: RunFolder, config: Any) -> Path:
    """Prints the table and writes results.csv, timings.csv, the figures and report.html; its path."""
    recorded = folder.rows()
    visits = {part: config.visits * (len(ACTS) if part == "output" else 1) for part in config.parts}
    done = {part: sum(row["stage"] == part and "metrics" in row for row in recorded) for part in visits}
    if done != visits:
        raise UserError(f"{folder.path} is not finished; finish it with --resume {folder.path}.")
    found = parts(recorded, config.visits)
    header, cells = table(found, config.steps_per_visit)
    names = ["setting", "validation_perplexity", "test_perplexity", "gradient_steps", "last_values"]
    folder.write("results.csv", report.csv_text([dict(zip(names, row, strict=True)) for row in cells]))
    timings: list[dict[str, object]] = [
        {"part": name, "seconds_per_run": f"{stage.metrics['seconds'].sum(axis=0).mean():.2f}"}
        for name, stage in found.items()
    ]
    folder.write("timings.csv", report.csv_text(timings))
    pictures = [curves(found, config)]
    for name, title in (("all", "STN"), ("all_centred", "STN, centred,")):
        if name in found:
            pictures.append(figures.schedules(found[name], title, config))
    page = report.Page(f"Language models that tune their dropout, on {config.dataset}")
    page.paragraph(
        "Perplexity of an LSTM over words, each run at its visit with the least validation loss, mean ± 95 % "
        f"t-interval over {config.seeds} seeds. STN (MacKay et al., 2019, arXiv 1903.03088) tunes on the "
        "validation text while it trains; its schedule is replayed by a plain model, and its last value held."
    )
    page.table(header, cells)
    for picture in pictures:
        folder.write(f"figures/{picture.name}.png", picture.content)
        page.picture(picture)
    if "tuned" in found:
        page.heading("Schedules from several starts")
        page.table(*spreads(found["tuned"]))
    page.origin(folder.started_on(), dataclasses.asdict(config))
    path = folder.write("report.html", page.text())
    report.print_table(f"Perplexity on {config.dataset}, {config.seeds} seeds", header, cells)
    return path
