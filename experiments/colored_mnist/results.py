"""What a run found: accuracies by method, two rules to choose the step, curves, and the transfer measure."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import report
from experiments.colored_mnist.training import Portion
from experiments.faults import UserError
from experiments.runner import RunFolder

COLUMNS = {"train": "train", "held_out": "held out", "test": "test", "grey_test": "grey test"}


def means(metrics: dict[str, np.ndarray]) -> dict[str, float]:
    """Curves for TensorBoard: means over the restarts."""
    return {name: float(values.mean()) for name, values in metrics.items() if values.ndim == 1}


class Found(NamedTuple):
    """One method. R restarts, V visits since the penalty is on."""

    steps: np.ndarray  # ``[V]``, steps taken at each visit
    metrics: dict[str, np.ndarray]  # name -> ``[R, V, ...]``, those measured at every visit
    last: dict[str, np.ndarray]  # name -> ``[R, ...]``, at the last visit

    def chosen_by_test(self, penalty_from: int) -> np.ndarray:
        """Visit of each restart with the largest of the smallest accuracies, the test domain's among them."""
        worst = np.minimum(self.metrics["train_domains"].min(-1), self.metrics["test"])
        return np.where(self.steps > penalty_from, worst, -1.0).argmax(1)

    def chosen_by_held_out(self, penalty_from: int) -> np.ndarray:
        """Visit of each restart with the largest accuracy on held-out rows of the training domains."""
        return np.where(self.steps > penalty_from, self.metrics["held_out"], -1.0).argmax(1)


def read(rows: list[dict[str, Any]], visits: list[Portion]) -> dict[str, Found]:
    """Every method with the restarts that finished it; ``start`` has the steps before the penalty."""
    stages = [
        [row["metrics"] for row in rows if row["stage"] == stage and "metrics" in row]
        for stage in dict.fromkeys(row["stage"] for row in rows)
    ]
    found = {}
    for method in dict.fromkeys(portion.method for portion in visits):
        places = [place for place, portion in enumerate(visits) if portion.method == method]
        done = [[stage[place] for place in places] for stage in stages if len(stage) > places[-1]]
        if not done:
            continue
        names = [name for name in done[0][0] if name in done[0][-1]]
        metrics = {
            name: np.concatenate([np.stack([np.array(v[name]) for v in stage], 1) for stage in done])
            for name in names
        }
        last = {name: np.concatenate([np.array(stage[-1][name]) for stage in done]) for name in done[0][-1]}
        found[method] = Found(np.array([visits[place].last for place in places]), metrics, last)
    return found


def table(
    found: dict[str, Found], titles: dict[str, str], penalty_from: int
) -> tuple[list[str], list[list[str]]]:
    """Accuracies after the last step, and at the steps that the two rules choose."""
    header = ["method", "restarts", *(f"{name} %" for name in COLUMNS.values())]
    header += ["chosen by test: train %", "test %", "chosen by held-out rows: train %", "test %"]
    rows = []
    for method, title in titles.items():
        if method not in found:
            continue
        one = found[method]
        row = [title, str(len(one.metrics["test"]))]
        row += [report.interval(one.last[name]).percent() for name in COLUMNS]
        for visit in (one.chosen_by_test(penalty_from), one.chosen_by_held_out(penalty_from)):
            for name in ("train", "test"):
                at = np.take_along_axis(one.metrics[name], visit[:, None], 1)[:, 0]
                row.append(report.interval(at).percent())
        rows.append(row)
    return header, rows


def csv_rows(found: dict[str, Found]) -> list[dict[str, Any]]:
    """One row a method, restart and visit."""
    names = [*COLUMNS, "loss", "test_loss", "gradient_distance", "hessian_distance"]
    return [
        {"method": method, "restart": restart, "step": int(step)}
        | {name: f"{one.metrics[name][restart, visit]:.6g}" for name in names}
        for method, one in found.items()
        for restart in range(len(one.metrics["test"]))
        for visit, step in enumerate(one.steps)
    ]


def curves_picture(found: dict[str, Found], titles: dict[str, str], penalty_from: int) -> report.Picture:
    """Distances of the heads' Hessians and gradients, and the test accuracy, over the steps."""
    shown = [name for name in ("erm", "hgp", "hessian_diagonal", *titles) if name in found]
    shown = list(dict.fromkeys(shown))[:3]
    drawn, axes = report.figure(3, width=4.4, height=3.5)
    panels = {
        "hessian_distance": ("distance of the head Hessians, relative", "hessian_norm"),
        "gradient_distance": ("distance of the head gradients", None),
        "test": ("accuracy (%)", None),
    }
    for axis, (name, (label, over)) in zip(axes[0], panels.items(), strict=True):
        for index, method in enumerate(shown):
            parts = [found[m] for m in ("start", method) if m in found and not (m == "start" and
                     method == "erm_grey")]  # fmt: skip
            restarts = min(len(part.metrics[name]) for part in parts)
            steps = np.concatenate([part.steps for part in parts])
            values = np.concatenate([_curve(part, name, over)[:restarts] for part in parts], 1)
            colour = report.COLOURS[index + 1]
            axis.plot(steps, values.mean(0), color=colour, label=f"{titles[method]}")
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
            if name == "test":
                train = np.concatenate([part.metrics["train"][:restarts] for part in parts], 1)
                axis.plot(steps, 100 * train.mean(0), color=colour, linestyle=":")
        if penalty_from:
            axis.axvline(penalty_from, color="grey", linestyle="--", linewidth=1)
        axis.set(xlabel="step", title=label, **({"ylim": (0, 100)} if name == "test" else {"yscale": "log"}))
    axes[0, 0].legend(fontsize=8)
    drawn.tight_layout()
    caption = (
        "Left and middle: how far apart the head's Hessians (Frobenius norm, relative to their size) and "
        "gradients of the two training domains are. Right: accuracy on the test domain (lines) and the "
        f"training domains (dotted). The penalty is on from step {penalty_from} (dashed). Bands: smallest to "
        "largest restart."
    )
    return report.Picture("alignment", caption, report.png(drawn))


def _curve(part: Found, name: str, over: str | None) -> np.ndarray:
    values = part.metrics[name] * (100 if name == "test" else 1)
    return values / np.maximum(part.metrics[over], 1e-12) if over else values


def transfer_picture(found: dict[str, Found], titles: dict[str, str], radii: list[float]) -> report.Picture:
    """The transfer measure of the trained heads against its bound."""
    shown = [name for name in ("erm", "hgp", "hessian_diagonal", *titles) if name in found]
    shown = list(dict.fromkeys(shown))[:3]
    drawn, axes = report.figure(2, width=5.2, height=3.8)
    for axis, (pair, title) in zip(
        axes[0],
        {"between": "between the two training domains", "to_test": "training domains to the test domain"}
        .items(),
        strict=True,
    ):  # fmt: skip
        for index, method in enumerate(shown):
            last, colour = found[method].last, report.COLOURS[index + 1]
            style = {"color": colour, "linewidth": 1.2}
            axis.plot(radii, last[f"{pair}_transfer"].mean(0), marker=report.MARKERS[index], markersize=5,
                      label=titles[method], **style)  # fmt: skip
            axis.plot(radii, last[f"{pair}_bound"].mean(0), linestyle="--", **style)
            axis.plot(radii, last[f"{pair}_quadratic"].mean(0), linestyle=":", **style)
        axis.set(xscale="log", yscale="log", title=title, xlabel="radius of the ball of heads")
    axes[0, 0].set_ylabel("largest extra rise of the loss")
    axes[0, 0].legend(fontsize=8)
    drawn.tight_layout()
    caption = (
        "By how much the loss of one domain can rise more than that of another when the trained head moves "
        "within a ball: found by a search (markers), its bound (dashed), and the bound without the cubic "
        "remainder (dotted). Rows that were not trained on; means over the restarts."
    )
    return report.Picture("transfer", caption, report.png(drawn))


def verdicts(found: dict[str, Found], titles: dict[str, str]) -> list[str]:
    """Whether every measured transfer is within its bound, and what the bounds are worth."""
    lines = []
    for pair, words in {"between": "between the training domains", "to_test": "to the test domain"}.items():
        held = [
            (one.last[f"{pair}_transfer"] <= one.last[f"{pair}_bound"] * (1 + 1e-4) + 2e-6).ravel()
            for name, one in found.items()
            if name in titles and f"{pair}_bound" in one.last
        ]
        if held:
            count = np.concatenate(held)
            lines.append(f"Transfer {words}: the bound held in {count.sum()} of {count.size} searches.")
    return lines


def write(folder: RunFolder, config: dict[str, Any], titles: dict[str, str], visits: list[Portion]) -> Path:
    """Prints the table and writes results.csv, the figures and report.html; the path of the last."""
    found = read(folder.rows(), visits)
    if not set(found) & set(titles):
        raise UserError(f"no method of {folder.path} is finished; continue it with --resume.")
    start = config["penalty_from"]
    header, body = table(found, titles, start)
    short = [row[:6] for row in body]
    report.print_table("Accuracies after the last step, mean and 95 % interval", header[:6], short)
    chosen = [[row[0], *row[6:]] for row in body]
    report.print_table("Accuracies at the step that a rule chooses", [header[0], *header[6:]], chosen)
    folder.write("results.csv", report.csv_text(csv_rows(found)))
    pictures = [curves_picture(found, titles, start)]
    if config["transfer_radii"]:
        pictures.append(transfer_picture(found, titles, list(config["transfer_radii"])))
    page = report.Page("Alignment of Hessians on coloured digits")
    page.paragraph(
        "The label of a digit is 1 if it is small; a share of the labels is wrong, and the colour of a digit "
        "predicts the label better than its shape does. In the test domain the colour predicts the opposite. "
        "Methods that align domains should learn the shape. Chosen by test: the step with the best of the "
        "worst accuracies of the training and test domains. Chosen by held-out rows: the step with the best "
        "accuracy on rows of the training domains that were not trained on. Both among the steps with the "
        "penalty."
    )
    page.table(header, body)
    page.listing(verdicts(found, titles))
    for picture in pictures:
        folder.write(f"figures/{picture.name}.png", picture.content)
        page.picture(picture)
    page.origin(folder.started_on(), config)
    return folder.write("report.html", page.text())
