"""Data sets, splits and noise."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from experiments import data, image_data
from experiments.faults import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data folder ../shared/data")


@pytest.mark.parametrize(
    ("name", "rows", "classes"), [("digits", 1797, 10), ("wine", 178, 3), ("breast_cancer", 569, 2)]
)
def test_bundled_sets_load_without_a_folder(name, rows, classes):
    source = data.load(name)
    assert (len(source.features), len(source.labels), source.classes) == (rows, rows, classes)
    assert source.is_image == (name == "digits")


@pytest.mark.parametrize("make", [data.uniform_noise, data.class_dependent_noise])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_every_row_of_a_transition_matrix_is_a_distribution_that_keeps_the_label_with_one_minus_the_rate(
    make, classes, rate
):
    matrix = make(classes, rate)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-15)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(np.diag(matrix), 1.0 - rate, atol=1e-15)


def test_uniform_noise_treats_all_wrong_classes_alike():
    matrix = data.uniform_noise(4, 0.6)
    np.testing.assert_allclose(matrix[~np.eye(4, dtype=bool)], 0.6 / 3)


def test_class_dependent_noise_moves_labels_to_the_next_class_alone():
    matrix = data.class_dependent_noise(3, 0.25)
    np.testing.assert_allclose(matrix, [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]])


@pytest.mark.parametrize(
    "matrix", [data.uniform_noise(5, 0.4), data.class_dependent_noise(5, 0.3), data.uniform_noise(2, 1.0)]
)
def test_corrupted_labels_follow_the_transition_matrix(matrix):
    classes, count = len(matrix), 20_000
    for true in range(classes):
        recorded = data.corrupt(np.full(count, true), matrix, seed=true)
        observed, expected = np.bincount(recorded, minlength=classes), count * matrix[true]
        assert (observed[expected == 0] == 0).all()
        possible = expected > 0
        distance = ((observed[possible] - expected[possible]) ** 2 / expected[possible]).sum()
        assert distance <= scipy.stats.chi2.ppf(1 - 1e-4, max(possible.sum() - 1, 1))


def test_labels_that_a_lower_rate_changes_are_changed_by_a_higher_rate_too():
    labels = np.arange(1000) % 7
    low, high = (data.corrupt(labels, data.uniform_noise(7, rate), seed=3) for rate in (0.2, 0.5))
    assert set(np.flatnonzero(low != labels)) < set(np.flatnonzero(high != labels))


@pytest.mark.parametrize("rate", [-0.1, 1.01, float("nan")])
def test_a_noise_rate_outside_the_unit_interval_is_refused(rate):
    with pytest.raises(UserError, match=r"\[0, 1\]"):
        data.uniform_noise(3, rate)


def test_folds_are_disjoint_from_the_test_rows_validate_every_other_row_once_and_stack():
    source = data.load("wine")
    parts = data.folds(source, seed=4, count=5)
    validation = np.stack([part.validation for part in parts])
    assert sorted([*validation[validation >= 0], *parts[0].test]) == list(range(178))
    assert len({part.train.shape for part in parts}) == 1
    for part in parts:
        assert not set(part.train) & (set(part.validation) | set(part.test))
        assert (part.test == parts[0].test).all()
    assert (data.folds(source, seed=5, count=5)[0].train != parts[0].train).any()


def test_a_test_split_fixed_by_the_source_is_kept():
    source = data.load("wine")._replace(fixed_test=50)
    parts = data.folds(source, seed=0, count=4)
    assert all(list(part.test) == list(range(128, 178)) for part in parts)
    assert sorted(np.concatenate([part.validation for part in parts])) == list(range(128))


@pytest.mark.parametrize("count", [1, 143])
def test_a_number_of_folds_that_the_rows_do_not_allow_is_refused(count):
    with pytest.raises(UserError, match=r"folds must lie in 2\.\.142"):
        data.folds(data.load("wine"), seed=0, count=count)


def one_class(source):
    return source._replace(labels=np.zeros_like(source.labels), classes=1)


def test_a_single_class_is_refused():
    with pytest.raises(UserError, match="1 class"):
        data.checked(one_class(data.load("wine")))


def write_npz(folder, **arrays):
    (folder / "tabular").mkdir()
    np.savez(folder / "tabular" / "vowel.npz", **arrays)


def test_tabular_sets_keep_the_order_of_train_and_test(tmp_path):
    write_npz(
        tmp_path,
        x_train=np.ones((6, 2)),
        y_train=np.arange(6) % 3,
        x_test=np.zeros((3, 2)),
        y_test=np.arange(3),
    )
    source = data.load("vowel", str(tmp_path))
    assert (source.classes, source.fixed_test, source.features.dtype) == (3, 3, np.float32)
    assert (source.features[-3:] == 0).all()


def test_a_tabular_set_of_one_class_is_refused(tmp_path):
    write_npz(
        tmp_path,
        x_train=np.ones((6, 2)),
        y_train=np.zeros(6, int),
        x_test=np.ones((3, 2)),
        y_test=np.zeros(3, int),
    )
    with pytest.raises(UserError, match="1 class"):
        data.load("vowel", str(tmp_path))


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "keys", "nan"])
def test_a_damaged_npz_file_is_named(tmp_path, damage):
    arrays = {
        "x_train": np.ones((6, 2)),
        "y_train": np.arange(6) % 2,
        "x_test": np.ones((2, 2)),
        "y_test": np.arange(2),
    }
    if damage == "keys":
        arrays.pop("y_test")
    if damage == "nan":
        arrays["x_test"][0, 0] = np.nan
    write_npz(tmp_path, **arrays)
    path = tmp_path / "tabular" / "vowel.npz"
    content = path.read_bytes()
    if damage in ("cut", "garbage", "empty"):
        path.write_bytes(
            {"cut": content[: len(content) // 2], "garbage": b"no zip file", "empty": b""}[damage]
        )
    with pytest.raises(UserError, match="vowel"):
        data.load("vowel", str(tmp_path))


def test_an_image_set_is_read_without_tensorflow_and_then_memory_mapped(prepared):
    first, second = data.load("tiny", str(prepared)), data.load("tiny", str(prepared))
    assert (first.features.shape, first.classes, first.fixed_test) == ((120, 8, 8, 1), 3, 30)
    assert (first.features[:, 0, 0, 0] // 100 == first.labels).all()
    assert isinstance(second.features, np.memmap)
    np.testing.assert_array_equal(first.features, second.features)
    assert "tensorflow" not in sys.modules


def test_a_cut_off_cache_is_made_anew(prepared):
    expected = np.array(data.load("tiny", str(prepared)).features)
    for path in image_data.cache_folder().glob("tiny-*/images.npy"):
        path.write_bytes(path.read_bytes()[:500])
    np.testing.assert_array_equal(data.load("tiny", str(prepared)).features, expected)


def test_a_cache_that_cannot_be_written_is_done_without(prepared, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXREG_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert len(data.load("tiny", str(prepared)).labels) == 120
    assert "not cached" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "gone", "info"])
def test_damaged_array_records_are_named(prepared, tmp_path, damage, monkeypatch):
    monkeypatch.setenv("JAXREG_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copytree(prepared / "tiny", tmp_path / "tiny")
    shard = next((tmp_path / "tiny" / "1.0.0").glob("*train.array_record*"))
    content = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    elif damage == "info":
        (tmp_path / "tiny" / "1.0.0" / "dataset_info.json").write_text("{")
    else:
        shard.write_bytes(
            {"cut": content[: len(content) // 2], "empty": b"", "garbage": b"\xff" * 4096}[damage]
        )
    with pytest.raises(UserError, match="tiny"):
        data.load("tiny", str(tmp_path))
    assert not list((tmp_path / "cache").glob("tiny-*"))


def test_unknown_and_missing_sets_say_the_way_out(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="--data-dir"):
        data.load("mnist")
    with pytest.raises(UserError, match="does not exist"):
        data.load("mnist", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="neither bundled nor prepared"):
        data.load("no_such_set", str(tmp_path))


def test_the_environment_names_the_data_folder(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert data.load("tiny").classes == 3


@needs_shared
@pytest.mark.parametrize(
    ("name", "shape", "test"), [("letter", (20_000, 16), 5000), ("vowel", (990, 10), 462)]
)
def test_the_tabular_sets_of_the_shared_folder(name, shape, test):
    source = data.load(name, str(SHARED))
    assert (source.features.shape, source.fixed_test) == (shape, test)


@needs_shared
def test_mnist_of_the_shared_folder():
    source = data.load("mnist", str(SHARED))
    assert source.features.shape == (70_000, 28, 28, 1)
    # The published class counts of the test split.
    assert list(np.bincount(source.labels[-10_000:])) == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
