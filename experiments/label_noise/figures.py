"""Pictures of a run."""

import numpy as np

from experiments import report
from experiments.label_noise.ranks import Ranking
from experiments.label_noise.selection import Choice

Titles = dict[str, str]  # loss -> its title
# More curves than this cannot be told apart.
CURVES = 8


def names(found: list[Choice], what: str) -> list[str]:
    """Distinct data sets, losses or noises, in order."""
    return list(dict.fromkeys(getattr(choice, what) for choice in found))


def rank_diagram(ranking: Ranking, titles: Titles) -> report.Picture:
    """Average ranks with their intervals, and the critical difference as a bar."""
    rows = ranking.standings
    drawn, axes = report.figure(1, width=6.6, height=1.0 + 0.27 * len(rows))
    axis, places = axes[0, 0], np.arange(len(rows))
    rank = np.array([row.rank for row in rows])
    # The average rank itself may lie outside the interval of the resampled ones, which are noisier.
    reach = [
        np.maximum(rank - [row.low for row in rows], 0),
        np.maximum([row.high for row in rows] - rank, 0),
    ]
    axis.errorbar(rank, places, xerr=reach, fmt="o", color=report.COLOURS[2], capsize=3)
    best, width = rank[0], ranking.critical_difference
    axis.plot([best, best + width], [-1, -1], color=report.COLOURS[1], linewidth=3, solid_capstyle="butt")
    axis.text(best, -1.25, f"critical difference {width:.2f}", color=report.COLOURS[1], va="bottom")
    axis.set_yticks(places, [titles[row.loss] for row in rows])
    axis.set(xlabel="average rank (1 is best)", ylim=(len(rows) - 0.5, -2.2))
    axis.set_xlim(left=min(0.5, axis.get_xlim()[0]))
    caption = (
        f"Average rank over {ranking.settings} settings (data set and noise) and all numbers of guesses. "
        f"Bars: 95 % "
        "bootstrap intervals over folds and seeds. The line at the top: losses that are further than "
        "this from the "
        "best are worse at the 5 % level, if the settings are taken as a sample (Nemenyi's test)."
    )
    return report.Picture("average_ranks", caption, report.png(drawn))


def accuracy_by_noise(found: list[Choice], titles: Titles, order: list[str]) -> report.Picture:
    """Final test accuracy of every loss under every noise, a panel for every data set."""
    datasets, noises = names(found, "dataset"), names(found, "noise")
    width = 1.6 + 0.72 * len(noises)
    drawn, axes = report.figure(len(datasets), width=width, height=1.5 + 0.3 * len(order))
    for axis, dataset in zip(axes[0], datasets, strict=True):
        of = {(c.loss, c.noise): 100 * c.test[:, 0].mean() for c in found if c.dataset == dataset}
        values = np.array([[of[loss, noise] for noise in noises] for loss in order])
        spread = np.ptp(values, axis=0)
        shade = (values - values.min(axis=0)) / np.where(spread > 0, spread, 1)
        axis.imshow(shade, cmap="viridis", aspect="auto", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if shade[row, column] < 0.6 else "black"
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=9, color=colour)
        axis.set_xticks(
            range(len(noises)), [noise.replace("-", "-\n").replace(" ", "\n") for noise in noises]
        )
        axis.set_yticks(range(len(order)), [titles[loss] for loss in order])
        axis.set_title(dataset)
        axis.grid(visible=False)
    drawn.tight_layout()
    caption = (
        "Accuracy in % on clean test labels after the last epoch, mean over folds and seeds; losses by "
        "average rank. "
        "Brighter is better within a column."
    )
    return report.Picture("accuracy_by_noise", caption, report.png(drawn))


def training_curves(found: list[Choice], titles: Titles, order: list[str]) -> list[report.Picture]:
    """Test accuracy and memorised wrong labels over the training, a column for every noise."""
    shown, pictures = shown_losses(order), []
    caption = (
        "Above: accuracy on clean test labels during training. Below: share of the corrupted training "
        "labels that "
        "the model predicts, that is, memorises. Chosen hyper-parameters; bands are 95 % t-intervals "
        "over folds and "
        "seeds."
    )
    for dataset in names(found, "dataset"):
        own = [choice for choice in found if choice.dataset == dataset and choice.loss in shown]
        content = _curves_of(own, titles, shown)
        pictures.append(report.Picture(f"training_curves_{dataset}", f"{dataset}. {caption}", content))
    return pictures


def shown_losses(order: list[str]) -> list[str]:
    """All losses, or if there are too many: cross-entropy, those of the paper, and the best of the rest."""
    if len(order) <= CURVES:
        return order
    always = [loss for loss in order if loss.startswith(("cross_entropy", "ldr_kl", "aldr_kl"))]
    rest = [loss for loss in order if loss not in always][: CURVES - len(always)]
    return [loss for loss in order if loss in always or loss in rest]


def _curves_of(found: list[Choice], titles: Titles, losses: list[str]) -> bytes:
    noises = names(found, "noise")
    drawn, axes = report.figure(len(noises), 2, width=2.9, height=2.6)
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
    drawn.tight_layout()
    drawn.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=8, bbox_to_anchor=(0.5, 0)
    )
    return report.png(drawn)


def sensitivity(found: list[Choice], titles: Titles) -> list[report.Picture]:
    """Test accuracy of each value of a loss's hyper-parameter, the learning rate chosen by validation."""
    losses = [loss for loss in names(found, "loss") if _varying(found, loss)]
    caption = (
        "Accuracy on clean test labels for every value of the hyper-parameter that a loss has, with the "
        "learning "
        "rate that its validation rows prefer; bars are 95 % t-intervals over folds and seeds."
    )
    pictures = []
    for dataset in names(found, "dataset") if losses else []:
        columns = min(4, len(losses))
        rows = -(-len(losses) // columns)
        drawn, axes = report.figure(columns, rows, width=3.4, height=2.7)
        for axis in axes.flat[len(losses) :]:
            axis.set_axis_off()
        for axis, loss in zip(axes.flat, losses, strict=False):
            own = [choice for choice in found if (choice.dataset, choice.loss) == (dataset, loss)]
            _sensitivity_of(axis, own, _varying(found, loss))
            axis.set_title(titles[loss])
        for axis in axes[:, 0]:
            axis.set_ylabel("test accuracy (%)")
        drawn.tight_layout()
        handles = axes[0, 0].get_legend_handles_labels()
        drawn.legend(*handles, loc="upper center", ncols=4, bbox_to_anchor=(0.5, 0))
        content = report.png(drawn)
        pictures.append(report.Picture(f"sensitivity_{dataset}", f"{dataset}. {caption}", content))
    return pictures


def _sensitivity_of(axis, own: list[Choice], name: str) -> None:
    for index, choice in enumerate(own):
        values = list(dict.fromkeys(tried.hyper[name] for tried in choice.tried))
        best = [
            max((tried for tried in choice.tried if tried.hyper[name] == value), key=lambda t: t.validation)
            for value in values
        ]
        mean, half = zip(*(report.interval(100 * tried.test[:, 0]) for tried in best), strict=True)
        axis.errorbar(range(len(values)), mean, np.nan_to_num(half), label=choice.noise, capsize=3,
                      color=report.COLOURS[index % 8], marker=report.MARKERS[index % 8])  # fmt: skip
        axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axis.set_xlabel(name)


def _varying(found: list[Choice], loss: str) -> str:
    """A loss's first hyper-parameter, the learning rate aside, with more than one value; else ''."""
    tried = next(choice.tried for choice in found if choice.loss == loss)
    keys = [name for name in tried[0].hyper if name != "learning_rate"]
    return next((name for name in keys if len({own.hyper[name] for own in tried}) > 1), "")


def temperature_pictures(found: list[Choice], titles: Titles) -> list[report.Picture]:
    """Temperatures of training examples with right and with wrong labels, a panel for every noise."""
    adaptive = [choice for choice in found if "detection" in choice.metrics and choice.noise != "clean"]
    return [
        _temperatures_of([choice for choice in adaptive if choice.loss == loss], loss, titles[loss])
        for loss in names(adaptive, "loss")
    ]


def _temperatures_of(found: list[Choice], loss: str, title: str) -> report.Picture:
    datasets, noises = names(found, "dataset"), names(found, "noise")
    drawn, axes = report.figure(len(noises), len(datasets), width=2.9, height=2.6)
    for choice in found:
        axis = axes[datasets.index(choice.dataset), noises.index(choice.noise)]
        for index, kind in enumerate(("right", "wrong")):
            quantiles = np.nanmean(choice.metrics[f"temperature_{kind}"][-1], axis=0)
            share = np.linspace(0, 100, len(quantiles))
            axis.plot(quantiles, share, color=report.COLOURS[2 - index], label=f"label {kind}",
                      linestyle=("-", "--")[index])  # fmt: skip
        area = report.interval(choice.metrics["detection"][-1]).mean
        axis.set_title(f"{choice.dataset}, {choice.noise}\nAUROC {area:.3f}", fontsize=10)
        axis.ticklabel_format(useOffset=False)
        axis.locator_params(axis="x", nbins=4)
    for axis in axes[:, 0]:
        axis.set_ylabel("training examples (%)")
    for axis in axes[-1]:
        axis.set_xlabel("at most this temperature")
    drawn.tight_layout()
    drawn.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=2, bbox_to_anchor=(0.5, 0)
    )
    caption = (
        f"{title}: share of the training examples up to a temperature after the last epoch, for right and "
        f"for "
        "corrupted labels (quantiles averaged over folds and seeds). AUROC: how likely a corrupted "
        "example has a "
        "larger temperature than a right one; one half is no better than guessing."
    )
    return report.Picture(f"temperatures_{loss}", caption, report.png(drawn))
