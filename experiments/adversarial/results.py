"""What the runs say: clean and robust accuracies, each with the check of its attack."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import report
from experiments.faults import UserError
from experiments.runner import RunFolder

MOST = 0.01
"""Share of the rows by which a longer attack may lower an accuracy that counts as robust."""


def means(metrics: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over seeds, for TensorBoard."""
    return {name: float(values.mean()) for name, values in metrics.items()}


def verdict(metrics: dict[str, np.ndarray]) -> str:
    """Whether the attack was strong enough for its accuracy to count."""
    weaker = float(np.mean(metrics["robust"]) - np.mean(metrics["longer"]))
    left = float(np.mean(metrics["anything"]))
    if weaker >= MOST:
        return f"too short: {100 * weaker:.1f} points less with twice the steps"
    return "passed" if left == 0 else f"masked: {100 * left:.1f} left at radius 1"


def chosen(folder: RunFolder, name: str, epochs: int) -> tuple[float, float, dict[str, np.ndarray]]:
    """Weight and learning rate with the best mean robust accuracy on validation rows, and what they reach."""
    rows = [row for row in folder.rows() if row["stage"] == name]
    last = next((row["metrics"] for row in rows if row.get("epoch") == epochs), None)
    if last is None:
        raise UserError(f"{folder.path} is not finished; finish it with --resume {folder.path}.")
    table = next(row["runs"] for row in rows if "runs" in row)
    settings = list(zip(table["weight"], table["learning_rate"], strict=True))
    metrics = {key: np.array(value) for key, value in last.items()}
    members = {one: np.flatnonzero([one == other for other in settings]) for one in dict.fromkeys(settings)}
    best = max(members, key=lambda one: metrics["validation"][members[one]].mean())
    return *best, {key: value[members[best]] for key, value in metrics.items()}


def write(folder: RunFolder, config: dict[str, Any], titles: dict[str, str]) -> Path:
    """Writes results.csv, the figure and report.html, and prints the table.

    Returns:
      The page's path.
    """
    found = {name: chosen(folder, name, config["epochs"]) for name in titles}
    header = ["training", "weight", "learning rate", "clean", "robust", "twice the steps", "radius 1"]
    header += ["attack check"]
    cells = [
        [
            titles[name],
            f"{weight:g}" if weight else "",
            f"{rate:g}",
            *(report.interval(metrics[key]).percent() for key in ("clean", "robust", "longer", "anything")),
            verdict(metrics),
        ]
        for name, (weight, rate, metrics) in found.items()
    ]
    names = [title.replace(" ", "_") for title in header]
    folder.write("results.csv", report.csv_text([dict(zip(names, row, strict=True)) for row in cells]))
    page = report.Page(f"Adversarial training on {config['dataset']}, l_inf radius {config['epsilon']:.4g}")
    page.paragraph(
        f"Accuracy in per cent on {config['test_rows'] or 'all'} test rows, mean ± 95 % t-interval over "
        f"{config['seeds']} seeds. Robust: under projected gradient ascent of the score margin with "
        f"{config['test_steps']} steps and {config['test_restarts']} restarts. An accuracy counts as robust "
        "only if its attack check passes: twice the steps with other starts lower it by less than one point, "
        "and a radius at which any image is allowed leaves none. Weights and learning rates have the best "
        f"accuracy on validation rows under {config['search_steps']} steps."
    )
    page.table(header, cells)
    picture = accuracy_picture({name: metrics for name, (_, _, metrics) in found.items()}, titles)
    folder.write(f"figures/{picture.name}.png", picture.content)
    page.picture(picture)
    page.origin(folder.started_on(), config)
    path = folder.write("report.html", page.text())
    report.print_table(
        f"Accuracy in % on {config['dataset']}, l_inf radius {config['epsilon']:.4g}", header, cells
    )
    return path


def accuracy_picture(found: dict[str, dict[str, np.ndarray]], titles: dict[str, str]) -> report.Picture:
    """Robust against clean accuracy."""
    drawn, axes = report.figure(1, width=5.6, height=4.0)
    for index, (name, metrics) in enumerate(found.items()):
        clean, robust = (report.interval(100 * metrics[key]) for key in ("clean", "robust"))
        axes[0, 0].errorbar(
            clean.mean,
            robust.mean,
            np.nan_to_num(robust.half_width),
            np.nan_to_num(clean.half_width),
            capsize=3,
            label=titles[name],
            color=report.COLOURS[index % 8],
            marker=report.MARKERS[index % 8],
            linestyle="",
        )
    (left, right), (low, high) = axes[0, 0].get_xlim(), axes[0, 0].get_ylim()
    axes[0, 0].set(xlabel="clean accuracy (%)", ylabel="robust accuracy (%)")
    # An interval may reach beyond what an accuracy can be.
    axes[0, 0].set(xlim=(max(left, -2), min(right, 102)), ylim=(max(low, -2), min(high, 102)))
    axes[0, 0].legend()
    caption = "Robust against clean accuracy; bars are 95 % t-intervals over seeds."
    return report.Picture("accuracy", caption, report.png(drawn))
