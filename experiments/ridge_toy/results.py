"""What was learned beside what is true: a table, three pictures and the page."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import report
from experiments.faults import UserError
from experiments.ridge_toy import toy
from experiments.runner import RunFolder
from jaxreg.theory.self_tuning import exact_ridge


class Method(NamedTuple):
    """A way of tuning."""

    centred: bool
    tune_scale: bool


METHODS = {
    "STN": Method(centred=False, tune_scale=False),
    "Delta-STN": Method(centred=True, tune_scale=False),
    "Delta-STN, scale tuned": Method(centred=True, tune_scale=True),
}


class Run(NamedTuple):
    """One tuning run. V visits."""

    method: str
    seed: int
    scale: float  # sigma at the start, and to the end if it is not tuned
    start: float
    log_penalty: np.ndarray  # ``[V]``
    sigma: np.ndarray  # ``[V]``
    weights: np.ndarray  # at the end, ``[D]``
    jacobian: np.ndarray  # likewise
    problem: toy.Problem
    optimum: float  # of the exact response
    predicted: float  # where theory says that tuning settles, at the scale of the end

    @property
    def exact(self) -> Any:
        """The true response at the penalty found."""
        return exact_ridge(self.problem.features, self.problem.targets, self.log_penalty[-1])

    def errors(self) -> tuple[float, float]:
        """Relative errors of the learned weights and Jacobian at the penalty found."""
        pairs = (self.weights, self.exact.weights), (self.jacobian, self.exact.jacobian)
        first, second = (float(np.linalg.norm(mine - true) / np.linalg.norm(true)) for mine, true in pairs)
        return first, second


def read(rows: list[dict[str, Any]], config: Any) -> list[Run]:
    """All runs of a finished folder."""
    found = []
    problems = [
        toy.draw(seed, config.rows, config.features, config.valid_rows, config.noise)
        for seed in range(config.seeds)
    ]

    @functools.cache
    def settled(seed: int, scale: float, centred: bool) -> float:
        return toy.settled(problems[seed], scale, centred=centred)

    optima = [toy.optimum(problem) for problem in problems]
    for method in METHODS:
        table = next((row["runs"] for row in rows if row["stage"] == method and "runs" in row), None)
        visits = [row["metrics"] for row in rows if row["stage"] == method and "metrics" in row]
        if table is None or len(visits) < config.visits:
            raise UserError(f"{method} is not finished; continue the run with --resume.")
        for place, (seed, scale, start) in enumerate(zip(*table.values(), strict=True)):
            number, sigma = (
                np.array([visit[name][place] for visit in visits]) for name in ("log_penalty", "sigma")
            )
            weights, slope = (np.array(visits[-1][name][place]) for name in ("weights", "jacobian"))
            predicted = settled(seed, round(float(sigma[-1]), 4), METHODS[method].centred)
            ends = (weights, slope, problems[seed], optima[seed], predicted)
            found.append(Run(method, seed, scale, start, number, sigma, *ends))
    return found


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """Means over problems and starts, the largest distance from theory, and errors of the response."""
    header = ["method", "σ", "λ - λ*", "theory", "largest gap", "weights off", "Jacobian off", "excess loss"]
    rows = []
    for method, scale in dict.fromkeys((run.method, run.scale) for run in runs):
        chosen = [run for run in runs if (run.method, run.scale) == (method, scale)]
        optima = np.array([run.optimum for run in chosen])
        found = np.array([run.log_penalty[-1] for run in chosen])
        theory = np.array([run.predicted for run in chosen])
        errors = np.array([run.errors() for run in chosen])
        least = [run.problem.valid_loss(exact_ridge(*run.problem[:2], best).weights)
                 for run, best in zip(chosen, optima, strict=True)]  # fmt: skip
        excess = np.array([run.problem.valid_loss(run.weights) for run in chosen]) / np.array(least) - 1
        sigma = np.mean([run.sigma[-1] for run in chosen])
        rows.append([
            method, f"{sigma:.2f}", f"{np.mean(found - optima):+.3f}", f"{np.mean(theory - optima):+.3f}",
            f"{np.max(np.abs(found - theory)):.3f}", *(f"{100 * error:.1f} %" for error in errors.mean(0)),
            f"{100 * excess.mean():.3f} %",
        ])  # fmt: skip
    return header, rows


def csv_rows(runs: list[Run]) -> list[dict[str, object]]:
    """One row a run."""
    rows = []
    for run in runs:
        weights, slope = run.errors()
        rows.append({
            "method": run.method, "seed": run.seed, "scale": run.scale, "start": run.start,
            "log_penalty": f"{run.log_penalty[-1]:.6f}", "predicted": f"{run.predicted:.6f}",
            "optimum": f"{run.optimum:.6f}", "sigma": f"{run.sigma[-1]:.6f}",
            "weights_off": f"{weights:.6f}", "jacobian_off": f"{slope:.6f}",
            "valid_loss": f"{run.problem.valid_loss(run.weights):.8f}",
        })  # fmt: skip
    return rows


def verdicts(runs: list[Run], config: Any) -> list[str]:
    """Theory against what was found, in sentences."""
    gaps = [abs(run.log_penalty[-1] - run.predicted) for run in runs]
    lines = [
        f"{len(runs)} runs end {np.median(gaps):.3f} in the median, {max(gaps):.3f} at most, from where "
        "theory has them settle."
    ]
    for run in (run for run in runs if METHODS[run.method].tune_scale and run.start == config.starts[0]):
        wanted = toy.settled_scale(run.problem, config.entropy_weight, run.jacobian)
        lines.append(f"Problem {run.seed}: tuned scale {run.sigma[-1]:.3f}, sqrt(τ / F_λλ) = {wanted:.3f}.")
    return lines


def response_picture(runs: list[Run], config: Any) -> report.Picture:
    """Validation loss and weights along the true response, and the learned ones near the penalty found."""
    shown = [
        run for run in runs
        if run.seed == 0 and run.start == config.starts[0] and run.scale == max(config.scales)
        and not METHODS[run.method].tune_scale
    ]  # fmt: skip
    drawn, axes = report.figure(2, width=4.8, height=3.8)
    problem = shown[0].problem
    grid = np.linspace(-3, 8, 200)
    exact = np.array([exact_ridge(*problem[:2], number).weights for number in grid])
    axes[0, 0].plot(grid, [problem.valid_loss(one) for one in exact], color="black", label="true response")
    axes[0, 1].plot(grid, exact, color="black", linewidth=1)
    for index, run in enumerate(shown):
        near = np.linspace(-2, 2, 50)
        line = run.weights + near[:, None] * run.jacobian
        style = {"color": report.COLOURS[index + 1], "linestyle": ("--", ":")[index % 2], "linewidth": 2}
        place = run.log_penalty[-1] + near
        axes[0, 0].plot(
            place, [problem.valid_loss(one) for one in line], label=f"{run.method}, learned", **style
        )
        axes[0, 0].plot(
            run.log_penalty[-1:], [problem.valid_loss(run.weights)], color=style["color"], marker="o"
        )
        axes[0, 1].plot(place, line, **style)
    axes[0, 0].axvline(toy.optimum(problem), color="grey", linewidth=1)
    low = min(problem.valid_loss(one) for one in exact)
    axes[0, 0].set(xlabel="log-penalty λ", ylabel="validation loss", ylim=(low - 0.02, low + 0.15))
    axes[0, 1].set(xlabel="log-penalty λ", ylabel="weights")
    axes[0, 0].legend(fontsize=8)
    drawn.tight_layout()
    caption = (
        f"Problem 0, σ = {max(config.scales):g}. Left: validation loss along the true best response (black; "
        "grey: its minimum) and along the learned affine ones, through the point where tuning ended. Right: "
        "the weights."
    )
    return report.Picture("response", caption, report.png(drawn))


def paths_picture(runs: list[Run], config: Any) -> report.Picture:
    """The log-penalty while training, from every start."""
    drawn, axes = report.figure(len(METHODS), width=3.9, height=3.4)
    steps = config.alternations // config.visits * np.arange(config.visits + 1)
    shown = config.scales[len(config.scales) // 2]
    for axis, (method, kind) in zip(axes[0], METHODS.items(), strict=True):
        for run in runs:
            if run.method == method and (kind.tune_scale or run.scale == shown):
                colour = report.COLOURS[run.seed % len(report.COLOURS)]
                axis.plot(steps, [run.start, *run.log_penalty], color=colour, linewidth=1.2)
                axis.plot(steps[-1:] * 1.03, [run.optimum], color=colour, marker="<", markersize=7)
        axis.set(title=method if kind.tune_scale else f"{method}, σ = {shown:g}", xlabel="alternation")
    axes[0, 0].set_ylabel("log-penalty λ")
    drawn.tight_layout()
    caption = "Tuning while training; a colour is a problem, a triangle its optimum λ* of the exact response."
    return report.Picture("paths", caption, report.png(drawn))


def fixed_points_picture(runs: list[Run], config: Any) -> report.Picture:
    """The bias of the penalty found against theory's, run by run."""
    drawn, axes = report.figure(1, width=4.8, height=4.2)
    ends = []
    for index, method in enumerate(METHODS):
        chosen = [run for run in runs if run.method == method]
        bias = [[run.predicted - run.optimum, run.log_penalty[-1] - run.optimum]
                for run in chosen]  # fmt: skip
        x, y = np.array(bias).T
        ends += [x.min(), x.max(), y.min(), y.max()]
        axes[0, 0].scatter(
            x, y, s=26, color=report.COLOURS[index + 1], marker=report.MARKERS[index], label=method
        )
    reach = [min(ends) - 0.02, max(ends) + 0.02]
    axes[0, 0].plot(reach, reach, color="grey", linewidth=1)
    axes[0, 0].set(xlabel="theory: settles at λ - λ*", ylabel="found: λ - λ*")
    axes[0, 0].legend(fontsize=8)
    drawn.tight_layout()
    scales = ", ".join(f"{scale:g}" for scale in config.scales)
    caption = (
        f"How far from the optimum each run settles, σ = {scales} or tuned, against the fixed point computed "
        "by quadrature. On the line theory is right."
    )
    return report.Picture("fixed_points", caption, report.png(drawn))


def write(folder: RunFolder, config: Any) -> Path:
    """Prints the table and writes results.csv, the figures and report.html; the path of the last."""
    runs = read(folder.rows(), config)
    header, body = table(runs)
    report.print_table("Self-tuning ridge regression: means over problems and starts", header, body)
    folder.write("results.csv", report.csv_text(csv_rows(runs)))
    page = report.Page("Self-tuning ridge regression")
    page.paragraph(
        "A layer that responds to the log-penalty is trained under perturbation, and the penalty tuned on "
        "validation data meanwhile (MacKay et al. 2019, arXiv 1903.03088; the centred form of Bae and Grosse "
        "2020, arXiv 2010.13514). Here the best response is known, and so is the bias that the perturbation "
        "causes: λ* is the optimum of the exact response, theory the fixed point by quadrature."
    )
    page.table(header, body)
    page.listing(verdicts(runs, config))
    for picture in (draw(runs, config) for draw in (response_picture, paths_picture, fixed_points_picture)):
        folder.write(f"figures/{picture.name}.png", picture.content)
        page.picture(picture)
    page.origin(
        folder.started_on(),
        dataclasses.asdict(config),
        "single precision, all runs of a method in one compiled loop",
    )
    return folder.write("report.html", page.text())
