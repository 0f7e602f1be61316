"""self_tuning and ptb_lstm: smoke presets to their reports, resuming, searches, texts, refusals."""

import csv
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, runner, text_data
from experiments.ptb_lstm import main as ptb_main
from experiments.self_tuning import hyperband, network, results, space
from experiments.self_tuning import main as image_main

pytestmark = pytest.mark.xdist_group("self_tuning_runs")


class KilledError(Exception):
    """Ends a run as a kill does: at once, whatever it was about to do."""


def run(name, options, runs, monkeypatch, *, killed_at):
    """A smoke run, ended once after a visit and resumed."""
    append, visits = runner.RunFolder.append, itertools.count(1)

    def counting(folder, row):
        append(folder, row)
        if "metrics" in row and next(visits) == killed_at:
            raise KilledError

    arguments = [name, "--preset", "smoke", "--runs-dir", str(runs)]
    arguments += ["--checkpoint-seconds", "0", *options]
    with monkeypatch.context() as patch:
        patch.setattr(runner.RunFolder, "append", counting)
        if killed_at:
            with pytest.raises(KilledError):
                cli.main(arguments)
    (path,) = runs.iterdir() if killed_at else (None,)
    assert cli.main(arguments if path is None else [name, "--resume", str(path)]) == 0
    (path,) = runs.iterdir()
    return path


def found(path):
    """All that a run found, and not how long it took."""
    rows = [row for row in runner.RunFolder.open(path).rows() if "metrics" in row]
    return [{key: value for key, value in row["metrics"].items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize(
    ("name", "options", "kills", "pictures", "rows"),
    [
        (
            "self_tuning",
            ("--contenders", "fixed", "delta_self_tuning", "hyperband"),
            (5, 8),
            ("progress", "schedules_delta_self_tuning"),
            4,
        ),
        ("ptb_lstm", ("--parts", "output"), (5,), ("perplexity",), 6),
    ],
)
def test_a_killed_run_resumes_to_the_same_results(
    name, options, kills, pictures, rows, tmp_path, monkeypatch
):
    whole = run(name, options, tmp_path / "whole", monkeypatch, killed_at=0)
    for kill in kills:
        resumed = run(name, options, tmp_path / f"killed-{kill}", monkeypatch, killed_at=kill)
        assert found(resumed) == found(whole)
        assert (resumed / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    for picture in pictures:
        assert (whole / "figures" / f"{picture}.png").stat().st_size > 1000
    assert len(list(csv.DictReader((whole / "results.csv").open()))) == rows
    assert "NaN" not in (whole / "metrics.jsonl").read_text()


def test_a_convolution_on_patches_is_a_convolution():
    images = jax.random.normal(jax.random.key(0), (2, 7, 9, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    dimensions = ("NHWC", "HWIO", "NHWC")
    for stride in (1, 2):
        ours = network.patches(images, 3, stride) @ kernel.reshape(-1, 4)
        padding = [(1, 1), (1, 1)]
        theirs = jax.lax.conv_general_dilated(
            images, kernel, (stride, stride), padding, None, None, dimensions
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_kernels_in_use_are_those_that_the_layers_multiply_by():
    body = network.layers("small", 8, 3)
    params = network.init(jax.random.key(0), body, (8, 8, 1), 2)
    response = jnp.array([0.7, -0.4])
    images = jax.random.normal(jax.random.key(1), (5, 8, 8, 1))
    plain = {
        name: {
            "kernel": kernel,
            "bias": params[name].elementary_bias
            + (response @ params[name].gate[:, params[name].outputs :]) * params[name].response_bias,
        }
        for name, kernel in network.kernels(params, response).items()
    }
    options = {"body": body, "regularize": None}
    np.testing.assert_allclose(
        network.scores(params, images, response=response, **options),
        network.scores(plain, images, response=None, **options),
        atol=1e-5,
    )


def test_hyperband_gives_every_bracket_about_the_same_work():
    plan = hyperband.turns(3, 18)
    work = [sum(turn.trials for turn in plan if turn.bracket == number) for number in range(3)]
    assert work == [2 * 9 + 4 * 3 + 12, 6 * 5 + 12, 18 * 3]
    assert [bracket.trials for bracket in hyperband.brackets(3)] == [9, 5, 3]


def test_the_best_of_some_trials_is_that_of_all_choices():
    generator = np.random.default_rng(0)
    values = {"validation_loss": generator.normal(size=6), "test_loss": generator.normal(size=6)}
    for count in (1, 3, 6):
        choices = [np.array(rows) for rows in itertools.combinations(range(6), count)]
        best = [rows[np.argmin(values["validation_loss"][rows])] for rows in choices]
        expected = {name: np.mean(of_trials[best]) for name, of_trials in values.items()}
        assert results.least_of(values, count) == pytest.approx(expected)


def test_random_draws_lie_in_the_ranges_that_tuning_has():
    drawn = space.random(0, 50, 28, augment=True)
    assert drawn == space.random(0, 50, 28, augment=True)
    tuned = [space.applied({**one, "weight_decay": 0.0}) for one in drawn]
    assert all(one["weight_decay"] == pytest.approx(space.DECAY_UNIT) for one in tuned)
    for one in drawn[:5]:
        assert all(np.isfinite(part.unconstrained) for part in space.tree(one, 28, 0.5).values())


def test_a_text_keeps_its_most_frequent_words(tmp_path):
    folder = tmp_path / "ptb"
    folder.mkdir()
    for part, content in (("train", "a b b\nc c c\n"), ("valid", "b d\n"), ("test", "a\n")):
        (folder / f"ptb.{part}.txt").write_text(content)
    text = text_data.load("ptb", str(tmp_path), vocabulary=4)
    assert text.words == ("<unk>", "c", "<eos>", "b")
    assert text.train.tolist() == [0, 3, 3, 2, 1, 1, 1, 2]
    assert text.valid.tolist() == [3, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["self_tuning", "--dataset", "fashion_mnist", "--data-dir", "/nowhere/at/all"], "/nowhere/at/all"),
        (["self_tuning", "--dataset", "wine"], "wine"),
        (["self_tuning", "--contenders", "magic"], "magic"),
        (["self_tuning", "--dataset", "digits", "--visits", "10"], "visits"),
        (["self_tuning", "--dataset", "digits", "--dropouts", "1"], "dropouts"),
        (["ptb_lstm"], "--data-dir"),
        (["ptb_lstm", "--data-dir", "/nowhere/at/all"], "/nowhere/at/all"),
        (["ptb_lstm", "--dataset", "novel"], "novel"),
        (["ptb_lstm", "--dataset", "descriptions", "--batch-size", "5000"], "batch_size"),
    ],
)
def test_what_is_impossible_is_refused_in_one_sentence(arguments, word, capsys, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert cli.main(arguments) == 2
    assert word in capsys.readouterr().err


def test_digits_stand_in_where_no_folder_is_given(monkeypatch, capsys):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert image_main.resolve(image_main.PRESETS["default"]).dataset == "digits"
    assert "fashion_mnist" in capsys.readouterr().err
    monkeypatch.setenv("TFDS_DATA_DIR", "somewhere")
    assert image_main.resolve(image_main.PRESETS["default"]).dataset == "fashion_mnist"
    for preset in ptb_main.PRESETS.values():
        ptb_main.check(preset)
    for preset in image_main.PRESETS.values():
        image_main.check(preset)
