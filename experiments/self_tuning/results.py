"""What the runs say: losses with intervals, at equal gradient steps and at equal time."""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import report
from experiments.faults import UserError
from experiments.runner import RunFolder
from experiments.self_tuning import figures

TITLES = {
    "fixed": "fixed", "random": "random search", "hyperband": "Hyperband",
    "self_tuning": "STN", "delta_self_tuning": "Delta-STN",
}  # fmt: skip
MEASURES = ("validation_loss", "test_loss", "test_accuracy")


class Stage(NamedTuple):
    """The runs of one contender. V visits, R runs."""

    name: str
    settings: np.ndarray  # what distinguishes runs of one seed, [R]
    seeds: np.ndarray  # [R]
    metrics: dict[str, np.ndarray]  # name -> [V, R]

    def best(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Of every run the measures at the visit with the least validation loss, ``[rows]`` each."""
        loss = self.trained("validation_loss")[:, rows]
        visit = np.argmin(loss, axis=0)
        return {name: self.metrics[name][:, rows][visit, np.arange(len(rows))] for name in MEASURES}

    def trained(self, name: str) -> np.ndarray:
        """A metric where a run was trained, infinite where it rested, ``[V, R]``."""
        values = self.metrics[name]
        return np.where(self.metrics["trained"] > 0, values, np.inf) if "trained" in self.metrics else values

    def visits_trained(self) -> np.ndarray:
        """How many runs each seed trained up to every visit, ``[V, seeds]``."""
        on = self.metrics.get("trained", np.ones_like(self.metrics["validation_loss"]))
        return np.stack([np.cumsum(on[:, self.seeds == s].sum(axis=1)) for s in np.unique(self.seeds)], -1)

    def seconds(self) -> np.ndarray:
        """What each seed's runs took up to every visit, ``[V, seeds]``."""
        own = self.metrics["seconds"]
        return np.stack([np.cumsum(own[:, self.seeds == s].sum(axis=1)) for s in np.unique(self.seeds)], -1)

    def only(self, setting: Any) -> "Stage":
        """The runs of one setting."""
        rows = self.settings == setting
        return Stage(
            self.name, self.settings[rows], self.seeds[rows],
            {name: values[:, rows] for name, values in self.metrics.items()},
        )  # fmt: skip


class Row(NamedTuple):
    """One contender as it is compared. S seeds."""

    title: str
    measures: dict[str, np.ndarray]  # name -> [S]
    gradient_steps: float  # of one seed
    seconds: float  # of one seed, mean over seeds


def read(rows: list[dict[str, Any]]) -> dict[str, Stage]:
    """The stages of a finished run."""
    found = {}
    for name in dict.fromkeys(row["stage"] for row in rows):
        runs = next(row["runs"] for row in rows if row["stage"] == name and "runs" in row)
        visits = [row["metrics"] for row in rows if row["stage"] == name and "metrics" in row]
        metrics = {key: np.array([visit[key] for visit in visits]) for key in visits[0]}
        found[name] = Stage(name, np.array(runs["setting"]), np.array(runs["seed"]), metrics)
    return found


def least_of(values: dict[str, np.ndarray], count: int) -> dict[str, float]:
    """Expected measures of the best by validation of ``count`` trials, drawn from those that were made.

    >>> least_of({"validation_loss": np.array([3.0, 1.0, 2.0])}, 2)["validation_loss"]  # 1, 1 or 2
    1.3333333333333333
    """
    order = np.argsort(values["validation_loss"])
    total = math.comb(len(order), count)
    weights = [math.comb(len(order) - 1 - rank, count - 1) / total for rank in range(len(order))]
    return {name: float(np.dot(weights, of_trials[order])) for name, of_trials in values.items()}


def random_rows(stage: Stage, steps: int, counts: list[int]) -> list[Row]:
    """Random search with some numbers of trials."""
    visits, seeds = len(stage.metrics["seconds"]), np.unique(stage.seeds)
    trials = len(np.unique(stage.settings))
    seconds = float(stage.seconds()[-1].mean()) / trials
    best = [stage.best(np.flatnonzero(stage.seeds == seed)) for seed in seeds]
    rows = []
    for count in counts:
        found = [least_of(of_seed, count) for of_seed in best]
        measures = {name: np.array([one[name] for one in found]) for name in MEASURES}
        title = f"random search, {count} trial{'s' if count > 1 else ''}"
        rows.append(Row(title, measures, count * visits * steps, count * seconds))
    return rows


def single_row(title: str, stage: Stage, steps: int) -> Row:
    """A contender whose seeds have one run each, or the best of several."""
    best = [stage.best(np.flatnonzero(stage.seeds == seed)) for seed in np.unique(stage.seeds)]
    measures = {
        name: np.array([one[name][np.argmin(one["validation_loss"])] for one in best]) for name in MEASURES
    }
    work = float(stage.visits_trained()[-1].mean()) * steps
    return Row(title, measures, work, float(stage.seconds()[-1].mean()))


def comparison(found: dict[str, Stage], config: Any) -> list[Row]:
    """All rows of the table."""
    steps, rows = config.steps_per_visit, []
    if "fixed" in found:
        titles = {"start": "fixed, where tuning starts", "usual": "fixed, as usual"}
        rows += [single_row(title, found["fixed"].only(name), steps) for name, title in titles.items()]
    if "random" in found:
        counts = sorted({*(2**k for k in range(config.trials.bit_length())), config.trials})
        rows += random_rows(found["random"], steps, [count for count in counts if count <= config.trials])
    if "hyperband" in found:
        rows.append(single_row(TITLES["hyperband"], found["hyperband"], steps))
    for name in ("self_tuning", "delta_self_tuning"):
        if name in found:
            own = found[name].only(f"dropout {config.dropouts[0]:g}")
            rows.append(single_row(TITLES[name], own, steps))
    return rows


def number(values: np.ndarray) -> str:
    """Mean and interval of a loss."""
    mean, half = report.interval(values)
    return f"{mean:.3f}" + ("" if math.isnan(half) else f" ± {half:.3f}")


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """What does not depend on the machine's speed; differences to STN are paired by seed."""
    base = next((row for row in rows if row.title == TITLES["self_tuning"]), None)
    header = ["", "validation loss", "minus STN", "test loss", "test accuracy (%)", "gradient steps"]
    cells = []
    for row in rows:
        own = row.measures
        paired = ""
        if base is not None and row is not base:
            paired = number(own["validation_loss"] - base.measures["validation_loss"])
        cells.append(
            [row.title, number(own["validation_loss"]), paired, number(own["test_loss"]),
             report.interval(own["test_accuracy"]).percent(), f"{row.gradient_steps:.0f}"]
        )  # fmt: skip
    return header, cells


def equal_time(found: dict[str, Stage], config: Any, rows: list[Row]) -> list[str]:
    """What random search reaches in the time of a self-tuning run, and what it takes to do as well."""
    if "random" not in found:
        return []
    every = random_rows(found["random"], config.steps_per_visit, list(range(1, config.trials + 1)))
    lines = []
    for row in rows:
        if row.title not in (TITLES["self_tuning"], TITLES["delta_self_tuning"]):
            continue
        loss = row.measures["validation_loss"]
        ratio = row.seconds / every[0].seconds
        count = min(max(1, math.ceil(ratio)), config.trials)
        gap = every[count - 1].measures["validation_loss"] - loss
        mean, half = report.interval(gap)
        word = "level with" if math.isnan(half) or abs(mean) <= half else "ahead of" if mean > 0 else "behind"
        enough = [
            k + 1 for k, one in enumerate(every) if one.measures["validation_loss"].mean() <= loss.mean()
        ]
        reached = f"{enough[0]} trials do as well" if enough else f"{config.trials} trials do not do as well"
        lines.append(
            f"{row.title} took {row.seconds:.1f} s, {ratio:.1f} times a run with fixed "
            f"hyper-parameters. It is "
            f"{word} the best of {count} random trial{'s' if count > 1 else ''}, which take"
            f"{'' if count > 1 else 's'} {every[count - 1].seconds:.1f} s: validation loss {number(loss)} "
            f"against {number(every[count - 1].measures['validation_loss'])}, difference {number(gap)}. "
            f"On average {reached}."
        )
    return lines


def spreads(stage: Stage) -> tuple[list[str], list[list[str]]]:
    """How far schedules of several starts lie apart, at the first and at the last visit."""
    settings = list(dict.fromkeys(stage.settings.tolist()))
    rows = []
    for name in figures.tuned(stage.metrics):
        means = np.stack([stage.only(one).metrics[f"value_{name}"].mean(axis=1) for one in settings], -1)
        ends = [" / ".join(f"{value:.3g}" for value in means[visit]) for visit in (0, -1)]
        spread = [np.ptp(means[visit]) for visit in (0, -1)]
        rows.append([name.replace("_", " "), *ends, f"{spread[0]:.2g}", f"{spread[1]:.2g}"])
    return ["", "first visit", "last visit", "spread, first", "spread, last"], rows


def write(folder: RunFolder, config: Any) -> Path:
    """Prints the table and writes results.csv, timings.csv, the figures and report.html; its path."""
    recorded = folder.rows()
    finished = {row["stage"] for row in recorded if "metrics" in row}
    if set(config.contenders) - finished:
        raise UserError(f"{folder.path} is not finished; finish it with --resume {folder.path}.")
    found = read(recorded)
    rows = comparison(found, config)
    header, cells = table(rows)
    names = ["contender", "validation_loss", "minus_stn", "test_loss", "test_accuracy", "gradient_steps"]
    folder.write("results.csv", report.csv_text([dict(zip(names, row, strict=True)) for row in cells]))
    timings: list[dict[str, object]] = [
        {"contender": row.title, "seconds": f"{row.seconds:.2f}"} for row in rows
    ]
    folder.write("timings.csv", report.csv_text(timings))
    lines = equal_time(found, config, rows)
    path = folder.write("report.html", _page(folder, config, found, (header, cells), lines))
    report.print_table(f"{config.dataset}, {config.seeds} seeds", header, cells)
    print("\n".join(lines))
    return path


def _page(folder: RunFolder, config: Any, found: dict[str, Stage], compared: tuple, lines: list[str]) -> str:
    page = report.Page(f"Self-tuning networks on {config.dataset}")
    page.paragraph(
        "MacKay et al. (2019, arXiv 1903.03088) let a network respond to its hyper-parameters and "
        "tune them on "
        "the validation loss while it trains; Bae and Grosse (2020, arXiv 2010.13514) centre and "
        "linearise the "
        f"response. Table: mean ± 95 % t-interval over {config.seeds} seeds, every run taken at its "
        f"visit with "
        "the least validation loss; the random search is the expected best of so many of its "
        "trials. Gradient "
        "steps are those on the training and the validation loss together."
    )
    page.table(*compared)
    page.heading("At equal time")
    page.listing(lines)
    pictures = [figures.progress(found, config)]
    tuned = [name for name in ("self_tuning", "delta_self_tuning") if name in found]
    pictures += [figures.schedules(found[name], TITLES[name], config) for name in tuned]
    for picture in pictures:
        folder.write(f"figures/{picture.name}.png", picture.content)
        page.picture(picture)
        stage = found.get(picture.name.removeprefix("schedules_"))
        if stage is not None:
            page.table(*spreads(stage))
    page.origin(folder.started_on(), dataclasses.asdict(config))
    return page.text()
