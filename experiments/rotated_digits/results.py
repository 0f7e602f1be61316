"""Accuracies on the rotation that was left out: a table, a picture and the page."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import report
from experiments.faults import UserError
from experiments.runner import RunFolder

TITLES = {
    "erm": "ERM",
    "irm": "IRM",
    "v_rex": "V-REx",
    "fishr": "Fishr",
    "coral": "CORAL",
    "iga": "IGA",
    "hgp": "HGP",
    "hessian_diagonal": "Hessian diagonal, exact",
    "hessian": "full Hessian (CMA)",
}


def means(metrics: dict[str, np.ndarray]) -> dict[str, float]:
    """Curves for TensorBoard: means over all runs."""
    return {name: float(values.mean()) for name, values in metrics.items()}


def chosen(row: dict[str, Any], runs: dict[str, list], angles: int, seeds: int) -> dict[str, np.ndarray]:
    """Accuracies ``[A, S]`` with the weight that did best on held-out rows, chosen for each run by itself."""
    shape = (-1, angles, seeds)
    metrics = {name: np.array(values).reshape(shape) for name, values in row["metrics"].items()}
    best = metrics["held_out"].argmax(0)[None]
    metrics["weight"] = np.array(runs["weight"]).reshape(shape)
    return {name: np.take_along_axis(values, best, 0)[0] for name, values in metrics.items()}


def read(rows: list[dict[str, Any]], config: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The chosen accuracies of every method after its last step."""
    found = {}
    for method in config["methods"]:
        stage = [row for row in rows if row["stage"] == method]
        if sum("metrics" in row for row in stage) < config["visits"]:
            raise UserError(f"{method} is not finished; continue the run with --resume.")
        runs = next(row["runs"] for row in stage if "runs" in row)
        found[method] = chosen(stage[-1], runs, len(config["angles"]), config["seeds"])
    return found


def table(found: dict[str, dict[str, np.ndarray]], angles: list[float]) -> tuple[list[str], list[list[str]]]:
    """Accuracy on each angle when it is left out, and the average; intervals over the seeds."""
    header = ["method", "held out %", *(f"{angle:g}° %" for angle in angles), "average %", "against ERM"]
    rows = []
    for method, one in found.items():
        average = one["test"].mean(0)
        row = [TITLES[method], report.interval(one["held_out"].mean(0)).percent()]
        row += [f"{100 * accuracies.mean():.1f}" for accuracies in one["test"]]
        row.append(report.interval(average).percent())
        # Pairs have the same domains and first weights.
        row.append(
            report.interval(average - found["erm"]["test"].mean(0)).percent()
            if "erm" in found and method != "erm"
            else ""
        )
        rows.append(row)
    return header, rows


def csv_rows(found: dict[str, dict[str, np.ndarray]], angles: list[float]) -> list[dict[str, Any]]:
    """One row a method, angle and seed."""
    return [
        {
            "method": method,
            "left_out": f"{angle:g}",
            "seed": seed,
            "weight": f"{one['weight'][index, seed]:g}",
        }
        | {name: f"{one[name][index, seed]:.6g}" for name in ("train", "held_out", "test")}
        for method, one in found.items()
        for index, angle in enumerate(angles)
        for seed in range(one["test"].shape[1])
    ]


def picture(found: dict[str, dict[str, np.ndarray]], angles: list[float]) -> report.Picture:
    """Accuracy on the angle that is left out."""
    drawn, axes = report.figure(1, width=6.4, height=3.8)
    for index, (method, one) in enumerate(found.items()):
        colour, marker = report.COLOURS[index % 8], report.MARKERS[index % 8]
        axes[0, 0].plot(angles, 100 * one["test"].mean(1), color=colour, marker=marker, markersize=5,
                        label=TITLES[method])  # fmt: skip
    axes[0, 0].set(xlabel="rotation that is left out (degrees)", ylabel="accuracy on it (%)")
    axes[0, 0].legend(fontsize=8, ncols=2)
    drawn.tight_layout()
    caption = (
        "Accuracy on a rotation that was not trained on. Those between two others are easy, the outermost "
        "ones are not."
    )
    return report.Picture("left_out", caption, report.png(drawn))


def write(folder: RunFolder, config: dict[str, Any]) -> Path:
    """Prints the table and writes results.csv, the figure and report.html; the path of the last."""
    angles = list(config["angles"])
    found = read(folder.rows(), config)
    header, body = table(found, angles)
    report.print_table("Accuracy on the rotation that is left out", header, body)
    folder.write("results.csv", report.csv_text(csv_rows(found, angles)))
    shown = picture(found, angles)
    folder.write(f"figures/{shown.name}.png", shown.content)
    page = report.Page("Penalties over domains on rotated digits")
    page.paragraph(
        "A network is trained on digits turned by all angles but one and tested on that one. The weight of a "
        "penalty is chosen by accuracy on held-out rows of the training domains. Mean and 95 % interval over "
        "the seeds; the last column is the difference to ERM on the same domains and first weights."
    )
    page.table(header, body)
    page.picture(shown)
    page.origin(folder.started_on(), config, "all runs of a method in one compiled program")
    return folder.write("report.html", page.text())
