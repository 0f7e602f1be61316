"""Experiments run with a user's numerics; one small finished run serves many tests."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest

SMOKE = ["label_noise", "--preset", "smoke"]


@pytest.fixture(scope="session", autouse=True)
def image_cache(tmp_path_factory):
    """Decoded images go to a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def numerics():
    """Experiments are run as from the command line: 32-bit, with standard promotion."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished smoke run."""
    from experiments import cli

    runs = tmp_path_factory.mktemp("runs")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        assert cli.main([*SMOKE, "--runs-dir", str(runs), "--checkpoint-seconds", "0"]) == 0
    (path,) = runs.iterdir()
    return path


class Killed(BaseException):
    """Ends a run where a kill would; nothing that runs catches it."""


@pytest.fixture
def killed_and_resumed(monkeypatch, tmp_path):
    """A function that ends a run as soon as it has written a visit's metrics, and resumes it.

    At that moment the visit is not checkpointed yet: what it wrote must be dropped and done again.
    """
    from experiments import cli, runner

    def run(name: str, *options: str, visit: int) -> Path:
        append = runner.RunFolder.append

        def write(folder, row):
            append(folder, row)
            if "metrics" in row and row["step"] == visit:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(runner.RunFolder, "append", write)
            cli.main([name, *options, "--checkpoint-seconds", "0", "--runs-dir", str(tmp_path)])
        (path,) = tmp_path.iterdir()
        assert not (path / "results.csv").exists()
        assert cli.main([name, "--resume", str(path)]) == 0
        return path

    return run


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A data folder with a tiny TFDS image set, ``tiny``: 8x8 grey images, 3 classes, 90 + 30 rows.

    The brightness of an image says its class.
    """
    import tensorflow_datasets as tfds
    from PIL import Image

    def encoded(pixels):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        file.seek(0)
        return file

    folder = tmp_path_factory.mktemp("prepared")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = str(tmp_path_factory.mktemp("package"))
        url_infos, code_path = {}, None  # no downloads, hence no checksums to look for beside the code

        def _info(self):
            image, label = tfds.features.Image(shape=(8, 8, 1)), tfds.features.ClassLabel(num_classes=3)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(90), "test": self._generate_examples(30)}

        def _generate_examples(self, count):
            for index in range(count):
                pixels = np.full((8, 8), 100 * (index % 3) + index // 3, np.uint8)
                yield index, {"image": encoded(pixels), "label": index % 3}

    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder
