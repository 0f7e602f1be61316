"""Coloured and rotated digits: domains as described, runs that resume, reports of what was measured."""

import csv

import jax
import numpy as np
import pytest

from experiments import cli, data
from experiments.colored_mnist import domains, measures, network
from experiments.rotated_digits import main as rotated_digits

pytestmark = pytest.mark.xdist_group("domain_runs")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert cli.main(["colored_mnist", "--preset", "smoke", "--runs-dir", str(runs)]) == 0
    (path,) = runs.iterdir()
    return path


def test_every_method_is_measured_and_no_transfer_exceeds_its_bound(run):
    rows = list(csv.DictReader((run / "results.csv").open()))
    assert {row["method"] for row in rows} == {"start", "erm", "hgp", "hessian_diagonal", "erm_grey"}
    assert {row["restart"] for row in rows} == {"0", "1"}
    page = (run / "report.html").read_text()
    assert page.count("the bound held in 16 of 16 searches") == 2
    assert {path.name for path in (run / "figures").iterdir()} == {"alignment.png", "transfer.png"}


def test_the_colour_decides_where_it_may_and_not_where_it_is_hidden(run):
    rows = list(csv.DictReader((run / "results.csv").open()))
    last = [row for row in rows if row["step"] == "12"]
    test = {
        name: [float(row["test"]) for row in last if row["method"] == name] for name in ("erm", "erm_grey")
    }
    assert max(test["erm"]) < 0.3 < 0.6 < min(test["erm_grey"])


def test_a_run_cut_off_between_methods_resumes_to_the_same_results(run, tmp_path, monkeypatch):
    whole, calls = measures.measure, []

    def cut(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(measures, "measure", cut)
    assert cli.main(["colored_mnist", "--preset", "smoke", "--runs-dir", str(tmp_path)]) == 130
    (path,) = tmp_path.iterdir()
    assert cli.main(["colored_mnist", "--resume", str(path)]) == 0
    assert (path / "results.csv").read_bytes() == (run / "results.csv").read_bytes()


@pytest.fixture(scope="module")
def benchmark():
    """Random images, each with its number in the first pixel, as one restart."""
    grey = np.random.default_rng(0).uniform(1, 2, (9000, 4)).astype(np.float32)
    grey[:, 0] = 1 + np.arange(9000)
    digits = np.random.default_rng(1).integers(0, 10, 9000).astype(np.int32)
    recipe = domains.Recipe((0.2, 0.1), 0.9, 0.25, (0.5, 0.2), 10_000, 10_000)
    return domains.make(grey, digits, 1500, recipe, 0), digits


def test_colours_agree_with_labels_and_labels_with_digits_as_often_as_asked(benchmark):
    made, digits = benchmark
    seen = []
    for group, agree in ((made.train, (0.8, 0.9)), (made.held_out, (0.8, 0.9)), (made.test, (0.1,))):
        half = group.images.shape[2]
        for domain, share in enumerate(agree):
            colours = np.repeat([0, 1], half)[group.where[domain]]
            labels = group.labels[domain][group.where[domain]]
            numbers = np.concatenate(group.images[:, domain, :, 0])[group.where[domain]]
            rows = np.round(numbers * 9000 - 1).astype(int)
            seen.append(rows)
            assert np.mean(colours == labels) == pytest.approx(share, abs=0.05)
            if domain == 0:
                assert np.mean((digits[rows] < 5) == labels) == pytest.approx(0.75, abs=0.05)
            else:
                assert labels.mean() == pytest.approx(0.2, abs=0.05)
    rows = np.concatenate(seen)
    assert len(np.unique(rows)) == len(rows)


def test_rows_sorted_by_colour_give_the_features_of_two_channel_images(benchmark):
    images = benchmark[0].test.images[:, :, :50]
    params = network.init(jax.random.key(0), 4, 8, 1)
    two = np.zeros((2, 50, 2, 4), np.float32)
    two[0, :, 0], two[1, :, 1] = images[0, 0], images[1, 0]
    hidden = np.maximum(two.reshape(100, 8) @ np.asarray(params["first"]["kernel"]).reshape(8, 8), 0)
    expected = np.maximum(hidden @ np.asarray(params["second"]["kernel"]), 0)
    found = network.features(params, images)
    assert found.shape == (1, 100, 8)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)


def test_rotated_digits_reports_each_angle_that_is_left_out(tmp_path):
    assert cli.main(["rotated_digits", "--preset", "smoke", "--runs-dir", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    rows = list(csv.DictReader((path / "results.csv").open()))
    assert len(rows) == 2 * 3 * 2
    assert (path / "figures" / "left_out.png").exists()


def test_a_right_angle_turns_the_pixels_and_no_image_is_in_two_domains():
    config = rotated_digits.Config(angles=(0.0, 90.0), rows=200, seeds=1)
    source = data.load("digits")
    images = rotated_digits.rotated(source, config)["images"].reshape(2, 100, 8, 8) * 16
    upright = np.concatenate([images[0], np.rot90(images[1], -1, axes=(-2, -1))])
    found = [np.round(image).astype(np.float32).tobytes() for image in upright]
    assert set(found) <= {image.tobytes() for image in source.features[..., 0]}
    assert len(set(found)) == 200


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["colored_mnist", "--dataset", "digits", "--methods", "magic"], "magic"),
        (["colored_mnist", "--dataset", "wine"], "grey images"),
        (["colored_mnist", "--dataset", "digits", "--penalty-from", "501"], "penalty_from"),
        (["colored_mnist", "--dataset", "digits", "--train-flips", "0.2", "1.1"], "train_flips"),
        (["colored_mnist", "--dataset", "digits", "--class-shares", "0", "0.5"], "class_shares"),
        (["rotated_digits", "--angles", "15", "15"], "angles"),
        (["rotated_digits", "--steps", "10", "--visits", "3"], "visits"),
        (["rotated_digits", "--methods", "magic"], "magic"),
    ],
)
def test_a_request_that_cannot_be_met_ends_with_code_2(arguments, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert word in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
