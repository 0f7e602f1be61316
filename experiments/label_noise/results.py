"""What the runs say: selection on the validation rows, accuracies with intervals, pictures and the page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import report
from experiments.faults import UserError
from experiments.runner import RunFolder


class Choice(NamedTuple):
    """A loss under one noise, with the hyper-parameters chosen for it. S seeds, V visits."""

    loss: str
    noise: str
    hyper: dict[str, float]  # chosen hyper-parameters, the learning rate last
    epochs: np.ndarray  # [V]
    metrics: dict[str, np.ndarray]  # name -> [V, S, ...]
    tried: list[
        tuple[dict[str, float], float, np.ndarray]
    ]  # every candidate: values, mean validation, test [S]

    @property
    def test(self) -> np.ndarray:
        """Final accuracy on clean test labels, ``[S]``."""
        return self.metrics["test"][-1, :, 0]


def curves_of(table: dict[str, list]) -> Callable[[dict[str, np.ndarray]], dict[str, float]]:
    """Mean test and validation accuracy over seeds, a curve for every noise and candidate."""
    names = [key for key in table if key != "seed"]
    tags = [" ".join(f"{key.removeprefix('hyper.')}={table[key][row]:.4g}" if key != "noise" else
    table[key][row]
                     for key in names) for row in range(len(table["seed"]))]  # fmt: skip
    distinct = list(dict.fromkeys(tags))
    members = {tag: np.array([index for index, other in enumerate(tags) if other == tag]) for tag in distinct}

    def curves(metrics: dict[str, np.ndarray]) -> dict[str, float]:
        test, validation = metrics["test"][:, 0], metrics["validation"]
        found = {f"test/{tag}": float(test[rows].mean()) for tag, rows in members.items()}
        return found | {f"validation/{tag}": float(validation[rows].mean()) for tag, rows in members.items()}

    return curves


def choices(rows: list[dict[str, Any]]) -> list[Choice]:
    """Chooses hyper-parameters for every loss and noise: best mean validation accuracy after the last epoch.

    The validation labels carry the same noise as the training labels. Ties go to the candidate listed first.
    """
    found = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        runs = next(row["runs"] for row in rows if row["stage"] == stage and "runs" in row)
        visits = [row for row in rows if row["stage"] == stage and "metrics" in row]
        metrics = {
            name: np.array([visit["metrics"][name] for visit in visits]) for name in visits[0]["metrics"]
        }
        epochs = np.array([visit["epoch"] for visit in visits])
        found += [_choose(stage, noise, runs, epochs, metrics) for noise in dict.fromkeys(runs["noise"])]
    return found


def _choose(
    stage: str, noise: str, runs: dict[str, list], epochs: np.ndarray, metrics: dict[str, np.ndarray]
) -> Choice:
    names = [key for key in runs if key.startswith("hyper.")] + ["learning_rate"]
    members: dict[tuple[float, ...], list[int]] = {}
    for index, here in enumerate(runs["noise"]):
        if here == noise:
            members.setdefault(tuple(runs[name][index] for name in names), []).append(index)
    final = {values: float(metrics["validation"][-1, rows].mean()) for values, rows in members.items()}
    best = max(final, key=lambda values: final[values])

    def named(values: tuple[float, ...]) -> dict[str, float]:
        short = [name.removeprefix("hyper.") for name in names]
        return {name: float(f"{value:.6g}") for name, value in zip(short, values, strict=True)}

    tried = [(named(values), final[values], metrics["test"][-1, rows, 0]) for values, rows in members.items()]
    chosen = {name: values[:, members[best]] for name, values in metrics.items()}
    return Choice(stage, noise, named(best), epochs, chosen, tried)


def csv_rows(found: list[Choice], dataset: str) -> list[dict[str, object]]:
    """One row a loss and noise."""
    rows = []
    for choice in found:
        row: dict[str, object] = {"dataset": dataset, "noise": choice.noise, "loss": choice.loss}
        row["hyper_parameters"] = " ".join(f"{name}={value:g}" for name, value in choice.hyper.items())
        row["seeds"] = len(choice.test)
        for at in range(choice.metrics["test"].shape[-1]):
            mean, half_width = report.interval(choice.metrics["test"][-1, :, at])
            row |= {
                f"test_top{at + 1}_mean": f"{mean:.6f}",
                f"test_top{at + 1}_half_width": f"{half_width:.6f}",
            }
        for name in ("validation", "train", "memorised"):
            row[f"{name}_mean"] = f"{choice.metrics[name][-1].mean():.6f}"
        rows.append(row)
    return rows


def verdicts(found: list[Choice], titles: dict[str, str]) -> list[str]:
    """How each loss compares with cross-entropy under each noise: differences paired by seed."""
    base = {choice.noise: choice.test for choice in found if choice.loss == "cross_entropy"}
    lines = []
    for choice in found:
        if choice.loss == "cross_entropy" or choice.noise not in base or len(choice.test) < 2:
            continue
        mean, half_width = report.interval(choice.test - base[choice.noise])
        word = "level with" if abs(mean) <= half_width else "ahead of" if mean > 0 else "behind"
        lines.append(
            f"{choice.noise}: {titles[choice.loss]} is {word} cross-entropy "
            f"({100 * mean:+.1f} ± {100 * half_width:.1f} points over {len(choice.test)} seeds)."
        )
    return sorted(lines, key=lambda line: list(base).index(line.split(":")[0]))


def accuracy_by_noise(found: list[Choice], titles: dict[str, str]) -> report.Picture:
    """Final test accuracy of every loss under every noise."""
    noises, losses = list(dict.fromkeys(c.noise for c in found)), list(dict.fromkeys(c.loss for c in found))
    drawn, axes = report.figure(1, width=6.4, height=4.0)
    for index, loss in enumerate(losses):
        intervals = [report.interval(choice.test) for choice in found if choice.loss == loss]
        places = np.arange(len(noises)) + 0.06 * (index - (len(losses) - 1) / 2)
        axes[0, 0].errorbar(
            places,
            [100 * mean for mean, _ in intervals],
            [100 * np.nan_to_num(half) for _, half in intervals],
            label=titles[loss], color=report.COLOURS[index % 8], marker=report.MARKERS[index % 8], capsize=3,
        )  # fmt: skip
    axes[0, 0].set(
        xticks=range(len(noises)), ylabel="test accuracy (%)", xlabel="noise of the training labels"
    )
    axes[0, 0].set_xticklabels(noises)
    axes[0, 0].legend()
    caption = "Accuracy on clean test labels after the last epoch; bars are 95 % t-intervals over seeds."
    return report.Picture("accuracy_by_noise", caption, report.png(drawn))


def training_curves(found: list[Choice], titles: dict[str, str]) -> report.Picture:
    """Test accuracy and memorised wrong labels over the training, a column for every noise."""
    noises, losses = list(dict.fromkeys(c.noise for c in found)), list(dict.fromkeys(c.loss for c in found))
    drawn, axes = report.figure(len(noises), 2, width=3.6, height=2.8)
    for choice in found:
        index = losses.index(choice.loss)
        colour, marker = report.COLOURS[index % 8], report.MARKERS[index % 8]
        for row, values in enumerate((choice.metrics["test"][..., 0], choice.metrics["memorised"])):
            if row and choice.noise == "clean":
                continue
            bands = [report.interval(visit) for visit in values]
            mean, half = (100 * np.nan_to_num(np.array(part)) for part in zip(*bands, strict=True))
            axis = axes[row, noises.index(choice.noise)]
            axis.plot(
                choice.epochs, mean, color=colour, marker=marker, markersize=4, label=titles[choice.loss]
            )
            axis.fill_between(choice.epochs, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    for column, noise in enumerate(noises):
        axes[0, column].set_title(noise)
        axes[1, column].set_xlabel("epoch")
        if noise == "clean":
            axes[1, column].set(yticks=[], xticks=[], xlabel="")
            axes[1, column].text(
                0.5, 0.5, "no wrong labels", ha="center", transform=axes[1, column].transAxes
            )
        else:
            axes[1, column].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("test accuracy (%)")
    axes[1, 0].set_ylabel("wrong labels learned (%)")
    drawn.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="lower center",
        ncols=len(losses),
        bbox_to_anchor=(0.5, -0.06),
    )
    drawn.tight_layout()
    caption = (
        "Above: accuracy on clean test labels during training. Below: share of the corrupted training "
        "labels that the "
        "model predicts, that is, memorises. Chosen hyper-parameters; bands are 95 % t-intervals over seeds."
    )
    return report.Picture("training_curves", caption, report.png(drawn))


def sensitivity(found: list[Choice], titles: dict[str, str]) -> report.Picture | None:
    """Test accuracy of each value of a loss's hyper-parameter, the learning rate chosen by validation."""
    losses = [loss for loss in dict.fromkeys(c.loss for c in found) if _varying(found, loss)]
    if not losses:
        return None
    noises = list(dict.fromkeys(c.noise for c in found))
    drawn, axes = report.figure(len(losses), width=4.2, height=3.2)
    for axis, loss in zip(axes[0], losses, strict=True):
        name = _varying(found, loss)
        for index, noise in enumerate(noises):
            choice = next(c for c in found if (c.loss, c.noise) == (loss, noise))
            values = list(dict.fromkeys(hyper[name] for hyper, *_ in choice.tried))
            best = [
                max((t for t in choice.tried if t[0][name] == value), key=lambda t: t[1]) for value in values
            ]
            mean, half = zip(*(report.interval(100 * test) for *_, test in best), strict=True)
            axis.errorbar(range(len(values)), mean, np.nan_to_num(half), label=noise, capsize=3,
                          color=report.COLOURS[index % 8], marker=report.MARKERS[index % 8])  # fmt: skip
            axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axis.set(title=titles[loss], xlabel=name, ylabel="test accuracy (%)")
    axes[0, 0].legend()
    drawn.tight_layout()
    caption = (
        "Accuracy on clean test labels for every value of the hyper-parameter that a loss has, with the "
        "learning rate "
        "that its validation rows prefer."
    )
    return report.Picture("sensitivity", caption, report.png(drawn))


def _varying(found: list[Choice], loss: str) -> str:
    """A loss's first hyper-parameter, the learning rate aside, with more than one value; else ''."""
    tried = next(c.tried for c in found if c.loss == loss)
    names = [name for name in tried[0][0] if name != "learning_rate"]
    return next((name for name in names if len({hyper[name] for hyper, *_ in tried}) > 1), "")


def write(folder: RunFolder, config: dict[str, Any], titles: dict[str, str]) -> Path:
    """Writes results.csv, the figures and report.html, and prints the table.

    Returns:
      The page's path.
    """
    rows = folder.rows()
    finished = {row["stage"] for row in rows if row.get("epoch") == config["epochs"]}
    if finished != set(config["losses"]):
        raise UserError(f"{folder.path} is not finished; finish it with --resume {folder.path}.")
    found = choices(rows)
    folder.write("results.csv", report.csv_text(csv_rows(found, config["dataset"])))
    noises = list(dict.fromkeys(choice.noise for choice in found))
    header = ["loss", *noises]
    means = {(choice.loss, choice.noise): report.interval(choice.test).percent() for choice in found}
    cells = [[titles[loss], *(means[loss, noise] for noise in noises)] for loss in config["losses"]]
    pictures = [accuracy_by_noise(found, titles), training_curves(found, titles), sensitivity(found, titles)]
    for picture in pictures:
        if picture:
            folder.write(f"figures/{picture.name}.png", picture.content)
    page = _page(
        folder, config, found, titles, (header, cells), [picture for picture in pictures if picture], rows
    )
    path = folder.write("report.html", page)
    title = f"Test accuracy in % on {config['dataset']}, mean ± 95 % t-interval over {config['seeds']} seeds"
    report.print_table(title, header, cells)
    return path


def _page(folder, config, found, titles, table, pictures, rows) -> str:
    page = report.Page(f"Label noise: robust losses on {config['dataset']}")
    page.paragraph(
        "Networks are trained on labels of which a share is wrong, and tested on right ones. Zhu, Ying and "
        "Yang (2023, "
        "arXiv 2112.14869) claim that label-distributionally-robust losses with a suitable temperature "
        "resist such noise "
        "better than cross-entropy. Table: accuracy on clean test labels after the last epoch, in per cent, "
        "mean ± 95 % "
        f"t-interval over {config['seeds']} seeds."
    )
    page.table(*table)
    page.listing(verdicts(found, titles))
    for picture in pictures:
        page.picture(picture)
    page.heading("How the hyper-parameters were chosen")
    page.paragraph(
        "For each loss and noise, the learning rate and the loss's own hyper-parameters with the best mean "
        "accuracy on "
        "the validation rows after the last epoch. Validation labels carry the same noise as training "
        "labels; test rows "
        "take no part in the choice, and no run is stopped early. "
        "Wrong labels learned: share of the corrupted training labels that the model predicts."
    )
    page.table(
        ["loss", "noise", "chosen", "validation (noisy)", "wrong labels learned", "test"],
        [
            [titles[c.loss], c.noise, ", ".join(f"{name} {value:g}" for name, value in c.hyper.items()),
             *(f"{100 * c.metrics[name][-1].mean():.1f}" for name in ("validation", "memorised")),
             report.interval(c.test).percent()]
            for c in found
        ],
    )  # fmt: skip
    page.heading("Where and how")
    environment = json.loads((folder.path / "environment.json").read_text())
    last = {row["stage"]: row["seconds"] for row in rows if "seconds" in row}
    page.paragraph(
        f"{sum(len(row['runs']['seed']) for row in rows if 'runs' in row)} training runs, one compiled "
        f"program a loss; "
        + ", ".join(f"{titles[name]} {seconds:.0f} s" for name, seconds in last.items())
        + f" (since the last start). {environment['devices']} x {environment['device']}, "
        f"{environment['machine']}, "
        f"Python {environment['python']}, jax {environment['jax']}."
    )
    page.preformatted(json.dumps(config, indent=2))
    return page.text()
