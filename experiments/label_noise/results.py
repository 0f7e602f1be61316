"""results.csv, the figures, the page and the table in the terminal."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from experiments import report
from experiments.faults import UserError
from experiments.label_noise import contenders, figures, ranks
from experiments.label_noise.selection import Choice, choices
from experiments.runner import RunFolder

Table = tuple[list[str], list[list[str]]]  # header, rows


def write(folder: RunFolder, config: Any) -> Path:
    """Writes results.csv, the figures and report.html, and prints the tables.

    Args:
      folder: a finished run.
      config: its configuration.

    Returns:
      The page's path.
    """
    rows = folder.rows()
    entrants = contenders.entrants(config.losses, config.variant)
    _check_finished(folder, rows, config)
    titles = {name: contender.title for name, contender in entrants.items()}
    found, by_test = choices(rows), choices(rows, by="test")
    ranking = ranks.ranking(found)
    folder.write("results.csv", report.csv_text(csv_rows(found) + csv_rows(by_test, "test")))
    order = [row.loss for row in ranking.standings]
    pictures = [
        figures.rank_diagram(ranking, titles),
        figures.accuracy_by_noise(found, titles, order),
        *figures.temperature_pictures(found, titles),
        *figures.training_curves(found, titles, order),
        *figures.sensitivity(found, titles),
    ]
    for picture in pictures:
        folder.write(f"figures/{picture.name}.png", picture.content)
    tables = accuracy_tables(found, titles, order)
    standing = rank_table(ranking, ranks.ranking(by_test), titles)
    page = _page(folder, config, found, titles, (ranking, standing), tables, pictures, rows)
    path = folder.write("report.html", page)
    for dataset, table in tables.items():
        report.print_table(f"Test accuracy in % on {dataset}, {_interval_of(config)}", *table)
    report.print_table("Average ranks", *standing)
    return path


def _check_finished(folder: RunFolder, rows: list[dict[str, Any]], config: Any) -> None:
    finished = {row["stage"] for row in rows if row.get("epoch") == config.epochs}
    losses = contenders.entrants(config.losses, config.variant)
    if finished != {f"{dataset}/{loss}" for dataset in config.dataset for loss in losses}:
        raise UserError(f"{folder.path} is not finished; finish it with --resume {folder.path}.")


def _interval_of(config: Any) -> str:
    repeats = f"{config.folds} folds" + (f" x {config.seeds} seeds" if config.seeds > 1 else "")
    return f"mean ± 95 % t-interval over {repeats}"


def csv_rows(found: list[Choice], selection: str = "validation") -> list[dict[str, object]]:
    """One row a data set, noise and loss; ``selection`` names the rows that chose the hyper-parameters."""
    rows = []
    top = max(choice.test.shape[1] for choice in found)
    for choice in found:
        row: dict[str, object] = {"dataset": choice.dataset, "noise": choice.noise, "loss": choice.loss}
        row |= {"selection": selection, "repetitions": len(choice.test)}
        row["hyper_parameters"] = " ".join(f"{name}={value:g}" for name, value in choice.hyper.items())
        for at in range(top):
            mean, half_width = math.nan, math.nan
            if at < choice.test.shape[1]:
                mean, half_width = report.interval(choice.test[:, at])
            row |= {
                f"test_top{at + 1}_mean": f"{mean:.6f}",
                f"test_top{at + 1}_half_width": f"{half_width:.6f}",
            }
        for name in ("validation", "train", "memorised"):
            row[f"{name}_mean"] = f"{choice.metrics[name][-1].mean():.6f}"
        area = choice.metrics["detection"][-1].mean() if "detection" in choice.metrics else math.nan
        row["detection_mean"] = f"{area:.6f}"
        rows.append(row)
    return rows


def accuracy_tables(found: list[Choice], titles: dict[str, str], order: list[str]) -> dict[str, Table]:
    """Final test accuracy of every loss under every noise, a table for every data set."""
    noises = figures.names(found, "noise")
    tables = {}
    for dataset in figures.names(found, "dataset"):
        cells = {
            (choice.loss, choice.noise): report.interval(choice.test[:, 0]).percent()
            for choice in found
            if choice.dataset == dataset
        }
        rows = [[titles[loss], *(cells[loss, noise] for noise in noises)] for loss in order]
        tables[dataset] = (["loss", *noises], rows)
    return tables


def rank_table(ranking: ranks.Ranking, by_test: ranks.Ranking, titles: dict[str, str]) -> Table:
    """Average ranks, overall and for each number of guesses."""
    tops = range(1, 1 + len(ranking.standings[0].by_top))
    other = {row.loss: row.rank for row in by_test.standings}
    header = ["loss", "average rank", "95 % interval", *(f"top-{k}" for k in tops), "chosen on test rows"]
    rows = [
        [titles[row.loss], f"{row.rank:.2f}", f"{row.low:.2f} to {row.high:.2f}",
         *(f"{own:.2f}" for own in row.by_top), f"{other[row.loss]:.2f}"]
        for row in ranking.standings
    ]  # fmt: skip
    return header, rows


def rank_sentences(ranking: ranks.Ranking, titles: dict[str, str]) -> list[str]:
    """Who is first, and what the tests say."""
    best = ranking.standings[0]
    close = [
        titles[row.loss]
        for row in ranking.standings[1:]
        if row.rank - best.rank <= ranking.critical_difference
    ]
    lines = [f"{titles[best.loss]} has the best average rank, {best.rank:.2f} of {len(ranking.standings)}."]
    if not math.isnan(ranking.p_value):
        lines.append(f"Friedman's test that all losses are alike: p = {ranking.p_value:.2g}.")
    lines.append(
        f"Within the critical difference of {ranking.critical_difference:.2f} of it: "
        f"{', '.join(close) or 'none'}."
    )
    return lines


def detection_table(found: list[Choice], titles: dict[str, str]) -> Table | None:
    """AUROC of corrupted labels by temperature, for every value of ``temperature``, the largest one allowed.

    The learning rate is the one that the validation rows prefer for that value.
    """
    header, rows = [], []
    for choice in found:
        if "detection" not in choice.metrics or choice.noise == "clean":
            continue
        best = {}  # temperature -> its candidate
        for own in choice.tried:
            value = own.hyper["temperature"]
            best[value] = max(best.get(value, own), own, key=lambda tried: tried.validation)
        areas = [_area(own.detection) for own in best.values()]
        chosen = _area(choice.metrics["detection"][-1])
        header = [f"temperature {value:g}" for value in best]
        rows.append([titles[choice.loss], choice.dataset, choice.noise, chosen, *areas])
    return (["loss", "data set", "noise", "as chosen", *header], rows) if rows else None


def _area(values: Any) -> str:
    mean, half_width = report.interval(values)
    return f"{mean:.3f}" + ("" if math.isnan(half_width) else f" ± {half_width:.3f}")


def verdicts(found: list[Choice], titles: dict[str, str]) -> list[str]:
    """How the losses of the paper compare with cross-entropy: differences paired by fold and seed."""
    base = {(c.dataset, c.noise): c.test[:, 0] for c in found if c.loss == "cross_entropy"}
    lines = []
    for setting, values in base.items():
        for choice in found:
            ours = choice.loss.startswith(("ldr_kl", "aldr_kl"))
            if not ours or (choice.dataset, choice.noise) != setting:
                continue
            mean, half_width = report.interval(choice.test[:, 0] - values)
            word = "level with" if abs(mean) <= half_width else "ahead of" if mean > 0 else "behind"
            lines.append(
                f"{choice.dataset}, {choice.noise}: {titles[choice.loss]} is {word} cross-entropy "
                f"({100 * mean:+.1f} ± {100 * half_width:.1f} points)."
            )
    return lines


def _page(folder, config, found, titles, ranked, tables, pictures, rows) -> str:
    ranking, standing = ranked
    page = report.Page(f"Label noise: robust losses on {', '.join(tables)}")
    page.paragraph(
        "Networks are trained on labels of which a share is wrong, and tested on right ones. Zhu, Ying "
        "and Yang (2023, "
        "arXiv 2112.14869) claim that their adaptive loss, ALDR-KL, has the best average rank among "
        "fifteen losses "
        "over data sets, noises and numbers of guesses."
    )
    page.heading("Average ranks")
    page.listing(rank_sentences(ranking, titles))
    page.table(*standing)
    page.paragraph(
        "Rank 1 is the best; the average is over all settings (data set and noise) and all numbers of "
        "guesses. Interval: "
        "bootstrap over folds and seeds. Last column: the average rank if hyper-parameters are chosen by "
        "the accuracy on "
        "the clean test rows, which no user could do."
    )
    page.picture(pictures[0])
    for dataset, table in tables.items():
        page.heading(f"Test accuracy on {dataset}")
        page.paragraph(f"On clean test labels after the last epoch, in per cent, {_interval_of(config)}.")
        page.table(*table)
    for picture in pictures[1:]:
        page.picture(picture)
    detection = detection_table(found, titles)
    if detection:
        page.heading("Corrupted labels found by their temperature")
        page.paragraph(
            "Area under the receiver operating characteristic on the training examples, mean ± 95 % "
            "t-interval over "
            "folds and seeds; one half is no better than guessing. The temperatures are those of the "
            "last epoch."
        )
        page.table(*detection)
    page.heading("Against cross-entropy")
    page.listing(verdicts(found, titles))
    _protocol(page, found, titles)
    _equipment(page, folder, config, rows)
    return page.text()


def _protocol(page: report.Page, found: list[Choice], titles: dict[str, str]) -> None:
    page.heading("How the hyper-parameters were chosen")
    page.paragraph(
        "For each data set, loss and noise, the learning rate and the loss's own hyper-parameters with "
        "the best mean "
        "accuracy on the validation rows after the last epoch. Validation labels carry the same noise as "
        "training "
        "labels; test rows take no part in the choice, and no run is stopped early. Intervals over folds "
        "take the "
        "folds as independent, although they share training rows and are tested on the same rows. Wrong "
        "labels "
        "learned: share of the corrupted training labels that the model predicts."
    )
    page.table(
        ["loss", "data set", "noise", "chosen", "validation (noisy)", "wrong labels learned", "test"],
        [
            [titles[c.loss], c.dataset, c.noise,
             ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in c.hyper.items()),
             *(f"{100 * c.metrics[name][-1].mean():.1f}" for name in ("validation", "memorised")),
             report.interval(c.test[:, 0]).percent()]
            for c in found
        ],
    )  # fmt: skip


def _equipment(page: report.Page, folder: RunFolder, config: Any, rows: list[dict[str, Any]]) -> None:
    last = {row["stage"]: row["seconds"] for row in rows if "seconds" in row}
    note = (
        f"{sum(len(row['runs']['seed']) for row in rows if 'runs' in row)} training runs, one compiled "
        f"program a data set and loss: {len(last)} programs, {sum(last.values()):.0f} s since the last start "
        "of each, compilation included"
    )
    page.origin(folder.started_on(), dataclasses.asdict(config), note)
