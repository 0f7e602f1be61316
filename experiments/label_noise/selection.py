"""Which hyper-parameters each loss gets under each noise, and what it reaches with them."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

By = Literal["validation", "test"]
# What distinguishes the repetitions of one candidate.
REPETITION = ("seed", "fold")


class Candidate(NamedTuple):
    """One choice of hyper-parameters. R repetitions: folds times seeds."""

    hyper: dict[str, float]  # hyper-parameters, the learning rate last
    validation: float  # mean final accuracy on the noisy validation rows
    test: np.ndarray  # final accuracies on the test rows, [R, top]
    detection: np.ndarray | None  # AUROC of corrupted labels by the loss's temperatures, [R], if it has any


class Choice(NamedTuple):
    """A loss on a data set under one noise, with the hyper-parameters chosen for it. R repetitions, V
    visits.
    """

    dataset: str
    loss: str
    noise: str
    hyper: dict[str, float]
    epochs: np.ndarray  # [V]
    metrics: dict[str, np.ndarray]  # name -> [V, R, ...]
    tried: list[Candidate]

    @property
    def test(self) -> np.ndarray:
        """Final accuracies on clean test labels among the first 1, 2, ... guesses, ``[R, top]``."""
        return self.metrics["test"][-1]


def choices(rows: list[dict[str, Any]], by: By = "validation") -> list[Choice]:
    """Chooses hyper-parameters for every data set, loss and noise.

    Args:
      rows: the lines of ``metrics.jsonl``.
      by: ``validation``: the best mean accuracy after the last epoch, over folds and seeds, on validation
        rows, whose labels carry the same noise as the training labels. ``test``: on the clean test rows,
        which tells what the best choice could reach and not what a user would. Ties go to the candidate
        listed first.
    """
    found = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        runs = next(row["runs"] for row in rows if row["stage"] == stage and "runs" in row)
        visits = [row for row in rows if row["stage"] == stage and "metrics" in row]
        metrics = {
            name: np.array([visit["metrics"][name] for visit in visits]) for name in visits[0]["metrics"]
        }
        epochs = np.array([visit["epoch"] for visit in visits])
        found += [_choose(stage, noise, runs, epochs, metrics, by) for noise in dict.fromkeys(runs["noise"])]
    return found


def _choose(
    stage: str, noise: str, runs: dict[str, list], epochs: np.ndarray, metrics: dict[str, np.ndarray], by: By
) -> Choice:
    names = [key for key in runs if key.startswith("hyper.")] + ["learning_rate"]
    members: dict[tuple[float, ...], list[int]] = {}
    for index, here in enumerate(runs["noise"]):
        if here == noise:
            members.setdefault(tuple(runs[name][index] for name in names), []).append(index)
    tried = []
    for values, rows in members.items():
        short = [name.removeprefix("hyper.") for name in names]
        hyper = {name: float(f"{value:.6g}") for name, value in zip(short, values, strict=True)}
        detection = metrics["detection"][-1, rows] if "detection" in metrics else None
        validation = float(metrics["validation"][-1, rows].mean())
        tried.append(Candidate(hyper, validation, metrics["test"][-1, rows], detection))
    scores = [own.validation if by == "validation" else own.test[:, 0].mean() for own in tried]
    best = int(np.argmax(scores))
    chosen = {name: values[:, list(members.values())[best]] for name, values in metrics.items()}
    dataset, loss = stage.split("/")
    return Choice(dataset, loss, noise, tried[best].hyper, epochs, chosen, tried)


def curves_of(table: dict[str, list]) -> Callable[[dict[str, np.ndarray]], dict[str, float]]:
    """Mean test and validation accuracy over folds and seeds, a curve for every noise and candidate."""
    names = [key for key in table if key not in REPETITION]
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
