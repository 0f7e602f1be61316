"""What the counts say: a table, the bounds, three pictures and the page."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import report
from experiments.faults import UserError
from experiments.runner import RunFolder
from jaxreg.theory.large_step import steps_bound

METHODS = {
    "logistic_gd": "LR+GD",
    "batch_perceptron": "batch perceptron",
    "normalized_logistic_gd": "normalized LR+GD",
    "normalized_perceptron": "normalized perceptron",
    "adaptive_logistic": "adaptive LR+GD",
}
LIMIT_STEPS = 5  # at this step the iterates are compared with the perceptron's


class Found(NamedTuple):
    """One problem. S step sizes."""

    problem: str
    n: int
    d: int
    rho: float  # R^2 / mu^2; 0 if not separable
    sizes: np.ndarray  # ``[S]``
    metrics: dict[str, dict[str, np.ndarray]]  # method -> name -> ``[S, ...]``

    def bound(self, method: str) -> np.ndarray:
        """The proved number of steps, ``[S]``."""
        return np.floor(steps_bound(method, self.n, self.rho, self.sizes) * (1 + 1e-6))

    def steps(self, method: str, place: int = -1) -> str:
        """Steps at one step size, for the table; ``>`` where the method was given up."""
        metrics = self.metrics[method]
        return f"{'' if metrics['separated'][place] else '> '}{metrics['count'][place]:.0f}"


def read(rows: list[dict[str, Any]]) -> list[Found]:
    """The problems of a finished run."""
    found = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        runs = next(row["runs"] for row in rows if row["stage"] == stage and "runs" in row)
        visits = [row["metrics"] for row in rows if row["stage"] == stage and "metrics" in row]
        if len(visits) < len(METHODS):
            raise UserError(f"{stage} is not finished; continue the run with --resume.")
        metrics = {
            method: {name: np.array(values) for name, values in visit.items()}
            for method, visit in zip(METHODS, visits, strict=True)
        }
        sizes = np.array(runs["step_size"])
        found.append(Found(stage, runs["n"][0], runs["d"][0], runs["rho"][0], sizes, metrics))
    return found


def table(found: list[Found]) -> tuple[list[str], list[list[str]]]:
    """Steps at the largest step size; bound and ratio are those of normalized LR+GD."""
    header = ["problem", "n", "d", "R²/μ²", *METHODS.values(), "bound", "ratio"]
    rows = []
    for one in found:
        row = [one.problem, str(one.n), str(one.d), f"{one.rho:.0f}" if one.rho else "not separable"]
        row += [one.steps(method) for method in METHODS]
        bound = one.bound("normalized_logistic_gd")[-1] if one.rho else np.nan
        ratio = one.metrics["normalized_logistic_gd"]["count"][-1] / bound
        rows.append([*row, *((f"{bound:.0f}", f"{ratio:.2g}") if one.rho else ("none", ""))])
    return header, rows


def csv_rows(found: list[Found]) -> list[dict[str, object]]:
    """One row a problem, method and step size."""
    return [
        {
            "problem": one.problem, "n": one.n, "d": one.d, "rho": f"{one.rho:.6g}", "method": method,
            "step_size": f"{size:g}", "steps": int(metrics["count"][place]),
            "separated": bool(metrics["separated"][place]),
            "bound": f"{one.bound(method)[place]:.0f}" if one.rho else "",
        }
        for one in found
        for method, metrics in one.metrics.items()
        for place, size in enumerate(one.sizes)
    ]  # fmt: skip


def verdicts(found: list[Found]) -> list[str]:
    """Whether the bounds held, and what normalizing and large steps brought."""
    real = [one for one in found if one.rho]
    counted = [
        (one.metrics[method]["count"] <= one.bound(method)).ravel() for one in real for method in METHODS
    ]
    lines = [f"Bounds held in {sum(map(np.sum, counted))} of {sum(map(len, counted))} runs."]
    for one in real:
        gd, normalized = (one.metrics[m] for m in ("logistic_gd", "normalized_logistic_gd"))
        if gd["separated"].any():
            best = one.sizes[gd["separated"] > 0][np.argmin(gd["count"][gd["separated"] > 0])]
            lines.append(
                f"{one.problem}: LR+GD is fastest at step size {best:g} ({gd['count'].min():.0f} steps); "
                f"at {one.sizes[-1]:g} it takes {one.steps('logistic_gd')}, "
                f"normalized {normalized['count'][-1]:.0f}."
            )
        else:
            lines.append(f"{one.problem}: LR+GD separates at no step size within the steps allowed.")
    return lines


def _worth_showing(found: list[Found]) -> list[Found]:
    """Separable problems, those first that the batch perceptron separates in many steps."""
    counts = {one.problem: one.metrics["batch_perceptron"] for one in found}
    solved = {name: metrics["count"][-1] * metrics["separated"][-1] for name, metrics in counts.items()}
    return sorted((one for one in found if one.rho), key=lambda one: -solved[one.problem])


def steps_picture(found: list[Found]) -> report.Picture:
    """Steps against step size with the bounds."""
    shown = _worth_showing(found)[:6]
    columns = min(3, len(shown))
    drawn, axes = report.figure(columns, -(-len(shown) // columns), width=4.4, height=3.4)
    for axis, one in zip(axes.ravel(), shown, strict=False):
        for index, (method, title) in enumerate(METHODS.items()):
            metrics, colour = one.metrics[method], report.COLOURS[index + 1]
            done = metrics["separated"] > 0
            axis.plot(one.sizes[done], np.maximum(metrics["count"][done], 1), color=colour,
                      marker=report.MARKERS[index], markersize=4, label=title)  # fmt: skip
            if method in ("logistic_gd", "normalized_logistic_gd"):
                axis.plot(one.sizes, one.bound(method), color=colour, linestyle=":", linewidth=1.4)
        axis.set(xscale="log", yscale="log", title=f"{one.problem}  (R²/μ² = {one.rho:.0f})")
        axis.set(xlabel="step size times R²", ylabel="steps to separation")
        ceiling = max(metrics["count"].max() for metrics in one.metrics.values())
        axis.set_ylim(0.8, 30 * ceiling)
    for axis in axes.ravel()[len(shown) :]:
        axis.axis("off")
    drawn.tight_layout()
    handles = axes[0, 0].get_legend_handles_labels()
    drawn.legend(*handles, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 0.0))
    caption = (
        "Steps to the first separating iterate; dotted: the proved bounds of LR+GD and normalized LR+GD. "
        "Points are missing where a method was given up."
    )
    return report.Picture("steps_to_separation", caption, report.png(drawn))


def curves_picture(found: list[Found]) -> report.Picture:
    """Loss and training accuracy of LR+GD at a small, a middling and a huge step."""
    shown = _worth_showing(found)[:3]
    drawn, axes = report.figure(len(shown), 2, width=4.2, height=2.9)
    for column, one in enumerate(shown):
        metrics = one.metrics["logistic_gd"]
        places = np.unique(np.linspace(0, len(one.sizes) - 1, 4).round().astype(int))
        for index, place in enumerate(places):
            kept = metrics["wrong"][place] >= 0
            kept[0] = False  # all start at the same point
            steps, label = np.arange(len(kept))[kept], f"step size {one.sizes[place]:g}"
            style = {"color": report.COLOURS[index + 1], "label": label, "marker": "o", "markevery": [-1]}
            axes[0, column].plot(steps, np.maximum(metrics["loss"][place][kept], 1e-6), **style)
            axes[1, column].plot(steps, 100 * (1 - metrics["wrong"][place][kept] / one.n), **style)
        axes[0, column].set(xscale="log", yscale="log", title=one.problem)
        axes[1, column].set(xscale="log", xlabel="step")
    axes[0, 0].set_ylabel("mean logistic loss")
    axes[1, 0].set_ylabel("training accuracy (%)")
    axes[0, 0].legend(fontsize=8)
    drawn.tight_layout()
    caption = (
        "LR+GD until it separates: huge steps have a far higher loss, and separate earlier than small ones. "
        "A dot is where all rows are on their side, or where the method was given up."
    )
    return report.Picture("loss_and_accuracy", caption, report.png(drawn))


def limit_picture(found: list[Found]) -> report.Picture:
    """The iterate over the step size approaches the batch perceptron's."""
    drawn, axes = report.figure(1, width=6.0, height=3.8)
    for index, one in enumerate(found[:8]):
        axes[0, 0].plot(
            one.sizes, np.maximum(one.metrics["logistic_gd"]["distance"], 1e-6), label=one.problem,
            color=report.COLOURS[index % 8], marker=report.MARKERS[index % 8], markersize=4,
        )  # fmt: skip
    axes[0, 0].set(xscale="log", yscale="log", xlabel="step size times R²", ylabel="relative distance")
    axes[0, 0].legend(fontsize=8, ncols=2)
    caption = (
        f"Distance of LR+GD's iterate {LIMIT_STEPS}, divided by the step size, to the batch perceptron's, "
        "relative to its length (single precision, shown from 1e-6)."
    )
    return report.Picture("perceptron_limit", caption, report.png(drawn))


def write(folder: RunFolder, config: dict[str, Any]) -> Path:
    """Prints the table and writes results.csv, the figures and report.html; the path of the last."""
    rows = folder.rows()
    finished = {row["stage"] for row in rows if "metrics" in row}
    if missing := [name for name in config["problems"] if name not in finished]:
        raise UserError(
            f"{folder.path} is not finished ({missing[0]} is missing); continue it with --resume."
        )
    found = read(rows)
    header, body = table(found)
    report.print_table(f"Steps to separation at step size {found[0].sizes[-1]:g}", header, body)
    folder.write("results.csv", report.csv_text(csv_rows(found)))
    pictures = [limit_picture(found)]
    if any(one.rho for one in found):
        pictures = [steps_picture(found), curves_picture(found), *pictures]
    page = report.Page("Large steps for logistic regression")
    page.paragraph(
        "Gradient descent on the logistic loss from 0, on two classes that a plane separates. As the step "
        "size grows, it becomes the batch perceptron (Tyurin 2025, arXiv 2412.08424); divided by the mean "
        "slope, it needs no more than R²/μ² steps in the limit, whatever the number of rows. Table: steps at "
        "the largest step size; "
        "bound and ratio are those of normalized LR+GD."
    )
    page.table(header, body)
    page.listing(verdicts(found))
    for picture in pictures:
        folder.write(f"figures/{picture.name}.png", picture.content)
        page.picture(picture)
    page.origin(
        folder.started_on(), config, "single precision, all step sizes of a problem in one compiled loop"
    )
    return folder.write("report.html", page.text())
