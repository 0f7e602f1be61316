"""What the runs say: learning rates chosen by validation, accuracies with intervals, pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import report
from experiments.comp_sum import bound
from experiments.faults import UserError
from experiments.runner import RunFolder


class Choice(NamedTuple):
    """A tau with the learning rate chosen for it. S seeds, V visits."""

    tau: float
    learning_rate: float
    epochs: list[int]
    metrics: dict[str, np.ndarray]  # name -> [V, S]

    @property
    def test(self) -> np.ndarray:
        """Final test accuracy, ``[S]``."""
        return self.metrics["test"][-1]


def curves_of(table: dict[str, list]) -> Callable[[dict[str, np.ndarray]], dict[str, float]]:
    """Mean accuracy over seeds, a curve for every tau and learning rate."""
    tags = [
        f"tau={tau:g} rate={rate:g}" for tau, rate in zip(table["tau"], table["learning_rate"], strict=True)
    ]
    members = {tag: np.array([index for index, other in enumerate(tags) if other == tag]) for tag in tags}

    def curves(metrics: dict[str, np.ndarray]) -> dict[str, float]:
        return {
            f"{name}/{tag}": float(metrics[name][rows].mean())
            for name in ("validation", "test")
            for tag, rows in members.items()
        }

    return curves


def choices(rows: list[dict[str, Any]]) -> list[Choice]:
    """For every tau the learning rate with the best mean validation accuracy after the last epoch."""
    runs = next(row["runs"] for row in rows if "runs" in row)
    visits = [row for row in rows if "metrics" in row]
    metrics = {name: np.array([visit["metrics"][name] for visit in visits]) for name in visits[0]["metrics"]}
    taus, rates = np.array(runs["tau"]), np.array(runs["learning_rate"])
    found = []
    for tau in dict.fromkeys(runs["tau"]):
        candidates = {
            rate: np.flatnonzero((taus == tau) & (rates == rate))
            for rate in dict.fromkeys(runs["learning_rate"])
        }
        best = max(candidates, key=lambda rate, c=candidates: metrics["validation"][-1, c[rate]].mean())
        chosen = {name: values[:, candidates[best]] for name, values in metrics.items()}
        found.append(Choice(tau, best, [visit["epoch"] for visit in visits], chosen))
    return found


def table_of(found: list[Choice]) -> tuple[list[str], list[list[str]]]:
    """Accuracies, and differences to tau = 1 paired by seed."""
    base = next((choice.test for choice in found if choice.tau == 1), None)
    rows = []
    for choice in found:
        paired = "" if base is None or choice.tau == 1 else report.interval(choice.test - base).percent()
        row = [f"{choice.tau:g}", report.interval(choice.test).percent(), paired, f"{choice.learning_rate:g}"]
        rows.append([*row, report.interval(choice.metrics["train"][-1]).percent()])
    return ["tau", "test accuracy", "minus tau = 1", "learning rate", "training accuracy"], rows


def accuracy_picture(found: list[Choice]) -> report.Picture:
    """Final test accuracy of every tau."""
    drawn, axes = report.figure(1, width=5.4, height=3.6)
    means, halves = zip(*(report.interval(choice.test) for choice in found), strict=True)
    axes[0, 0].errorbar(
        [choice.tau for choice in found],
        100 * np.array(means),
        100 * np.nan_to_num(halves),
        capsize=3,
        marker="o",
        color=report.COLOURS[2],
    )
    low, high = axes[0, 0].get_ylim()
    axes[0, 0].set(xlabel="tau", ylabel="test accuracy (%)", ylim=(max(low, 0), min(high, 100)))
    caption = "Test accuracy after the last epoch; bars are 95 % t-intervals over seeds."
    return report.Picture("accuracy_by_tau", caption, report.png(drawn))


def write(folder: RunFolder, config: dict[str, Any]) -> Path:
    """Writes results.csv, the figures and report.html, and prints the table.

    Returns:
      The page's path.
    """
    rows = folder.rows()
    if not any(row.get("epoch") == config["epochs"] for row in rows):
        raise UserError(f"{folder.path} is not finished; finish it with --resume {folder.path}.")
    found = choices(rows)
    header, cells = table_of(found)
    names = ["tau", "test", "minus_tau_1", "learning_rate", "train"]
    folder.write("results.csv", report.csv_text([dict(zip(names, row, strict=True)) for row in cells]))
    estimation, slack = bound.picture(tuple(config["taus"]))
    pictures = [accuracy_picture(found), estimation]
    page = report.Page(f"Comp-sum losses on {config['dataset']}")
    page.paragraph(
        "Mao, Mohri and Zhong (2023, arXiv 2304.07288) find cross-entropy, tau = 1, most accurate, and "
        "the ends of the "
        f"family, tau = 0 and 2, behind. Table: accuracy in per cent, mean ± 95 % t-interval over "
        f"{config['seeds']} "
        "seeds; differences to tau = 1 are paired by seed. Learning rates are those with the best "
        "validation accuracy."
    )
    page.table(header, cells)
    for picture in pictures:
        folder.write(f"figures/{picture.name}.png", picture.content)
        page.picture(picture)
    page.paragraph(f"Least distance of a point of the upper row from its bound: {slack:.1e}.")
    page.origin(folder.started_on(), config, "all runs in one compiled program")
    path = folder.write("report.html", page.text())
    report.print_table(f"Accuracy in % on {config['dataset']}, {config['seeds']} seeds", header, cells)
    return path
