"""The command line: what it does, and what it says when something is wrong."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import cli, runner, soak
from experiments.faults import StorageError, reason
from experiments.label_noise import main
from experiments.label_noise.main import PRESETS, Config
from tests.experiments.conftest import SMOKE

# One worker makes the finished run for all tests that need it.
pytestmark = pytest.mark.xdist_group("finished_run")

FULL = os.strerror(28)
ROOT = Path(__file__).resolve().parents[2]


def refused(arguments, capsys):
    """Exit code and sentence of a command that fails; nothing else may be said."""
    code = cli.main(arguments)
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("experiments: ")]
    assert len(lines) == 1, said.err
    assert "Traceback" not in said.err
    assert lines[0].endswith(".")
    return code, lines[0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["no_such_experiment"], "no_such_experiment"),
        (["report"], "run folder"),
        (["label_noise", "--preset", "huge"], "huge"),
        (["label_noise", "--no-such-field", "1"], "--no-such-field"),
        (["label_noise", "--epochs", "many"], "--epochs"),
        (["label_noise", "--dataset", "nothing"], "nothing"),
        (["label_noise", "--dataset", "mnist", "--data-dir", "/nowhere/at/all"], "/nowhere/at/all"),
        (["label_noise", "--uniform-noise", "1.5"], "1.5"),
        (["label_noise", "--class-dependent-noise", "-0.5"], "[0, 1]"),
        (["label_noise", "--losses", "no_such_loss"], "no_such_loss"),
        (["label_noise", "--seeds", "0"], "seeds"),
        (["label_noise", "--epochs", "7", "--visits", "2"], "visits"),
        (["label_noise", "--dataset", "wine", "--folds", "1"], "folds"),
        (["label_noise", "--dataset", "vowel"], "vowel"),
        (["label_noise", "--dataset", "wine", "wine"], "twice"),
        (["label_noise", "--preset", "paper"], "vowel"),
        (["label_noise", "--learning-rates", "0"], "learning_rates"),
        (["label_noise", "--momentum", "1"], "momentum"),
        (["label_noise", "--dataset", "wine", "--model", "cnn"], "cnn"),
        (["label_noise", "--resume", "/nowhere/at/all"], "/nowhere/at/all"),
        (["label_noise", "--resume="], "run folder"),
        (["report", "/nowhere/at/all"], "/nowhere/at/all"),
        (["label_noise", "--devices", "-1"], "devices"),
        (["label_noise", "--devices", "1000000"], "devices"),
        (["label_noise", "--checkpoint-seconds", "nan"], "checkpoint_seconds"),
        (["label_noise", "--seeds", "1000000000000"], "seeds"),
        (["comp_sum", "--learning-rates", "0.1", "nan"], "learning_rates"),
        (["comp_sum", "--taus", "1e308"], "taus"),
        (["self_tuning", "--entropy-weight", "inf"], "entropy_weight"),
        (["large_step", "--seed", "-1"], "seed"),
        (["ridge_toy", "--noise", "-1"], "noise"),
        (["ridge_toy", "--tuning-rate", "0"], "tuning_rate"),
    ],
)
def test_a_request_that_cannot_be_met_ends_with_code_2_and_names_the_thing(
    arguments, word, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    code, sentence = refused(arguments, capsys)
    assert code == 2
    assert word in sentence
    assert not list(tmp_path.iterdir())  # no run folder that looks as if something had been begun


def test_without_a_data_folder_the_data_sets_of_the_default_are_the_bundled_ones(monkeypatch, capsys):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert main.resolve(PRESETS["default"]).dataset == ("digits",)
    assert "vowel is left out" in capsys.readouterr().err
    monkeypatch.setenv("TFDS_DATA_DIR", "")  # as good as none
    assert main.resolve(PRESETS["default"]).dataset == ("digits",)
    assert "vowel is left out" in capsys.readouterr().err
    monkeypatch.setenv("TFDS_DATA_DIR", "somewhere")
    assert main.resolve(PRESETS["default"]).dataset == ("vowel", "digits")
    assert main.resolve(PRESETS["smoke"]) == PRESETS["smoke"]
    assert capsys.readouterr().err == ""


def test_help_documents_every_field(capsys):
    with pytest.raises(SystemExit) as ending:
        cli.main(["label_noise", "--help"])
    assert not ending.value.code
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text
    for option in ("--preset", "--resume", "--runs-dir", "in [0, 1)", "divides epochs"):
        assert option in text


def test_a_reader_that_goes_away_ends_the_command_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "experiments", "list"]
    ended = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert ended.returncode == 130
    assert ended.stderr == ""


@pytest.mark.parametrize("arguments", [["--kills", "0"], ["--folder", str(ROOT / "experiments")]])
def test_the_soak_refuses_what_it_cannot_do(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["soak", *arguments])
    assert soak.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_list_names_every_experiment(capsys):
    assert cli.main(["list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    folders = {path.parent.name for path in (ROOT / "experiments").glob("*/main.py")}
    assert listed == list(cli.EXPERIMENTS)
    assert set(listed) == folders


def test_presets_are_those_of_the_command_line():
    assert set(PRESETS) == {"smoke", "demo", "default", "paper"}


def test_a_finished_run_has_all_its_files(finished):
    for name in ("config.json", "environment.json", "metrics.jsonl", "results.csv", "report.html"):
        assert (finished / name).stat().st_size > 0
    assert {path.name for path in (finished / "figures").iterdir()} >= {
        "average_ranks.png",
        "accuracy_by_noise.png",
        "training_curves_wine.png",
        "sensitivity_wine.png",
        "temperatures_aldr_kl.png",
    }
    assert list((finished / "tensorboard").glob("events.out.tfevents.*"))
    assert list((finished / "checkpoints").iterdir())
    assert not list(finished.rglob("*.writing"))


def test_results_have_a_row_for_every_loss_and_noise_with_intervals(finished):
    rows = list(csv.DictReader((finished / "results.csv").open()))
    expected = {(loss, noise) for loss in PRESETS["smoke"].losses for noise in ("clean", "uniform 0.4")}
    chosen = [row for row in rows if row["selection"] == "validation"]
    assert {(row["loss"], row["noise"]) for row in chosen} == expected
    assert len(chosen) == len(expected) == len(rows) / 2
    for row in rows:
        tops = [float(row[f"test_top{k}_mean"]) for k in (1, 2)]
        assert tops == sorted(tops)
        assert 0.3 < tops[0] <= 1.0
        assert float(row["test_top1_half_width"]) >= 0
        assert 0 <= float(row["detection_mean"]) <= 1 or row["loss"] != "aldr_kl"


def test_resuming_a_finished_run_changes_nothing(finished, capsys):
    before = (finished / "results.csv").read_bytes(), (finished / "metrics.jsonl").read_bytes()
    assert cli.main(["label_noise", "--resume", str(finished)]) == 0
    assert before == ((finished / "results.csv").read_bytes(), (finished / "metrics.jsonl").read_bytes())
    assert capsys.readouterr().out.splitlines()[-1] == str(finished / "report.html")


def test_report_makes_the_report_again_and_prints_its_path_last(finished, capsys):
    (finished / "report.html").unlink()
    assert cli.main(["report", str(finished)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(finished / "report.html")
    assert (finished / "report.html").exists()


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run that may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("change", [["--epochs", "6"], ["--preset", "paper"], ["--losses", "ldr_kl"]])
def test_resuming_with_another_configuration_is_refused(finished, change, capsys):
    code, sentence = refused(["label_noise", "--resume", str(finished), *change], capsys)
    assert code == 2
    assert "another configuration" in sentence


def test_resuming_on_other_data_is_refused(copy, capsys):
    environment = json.loads((copy / "environment.json").read_text())
    (copy / "environment.json").write_text(json.dumps(environment | {"data": 1}))
    code, sentence = refused(["label_noise", "--resume", str(copy)], capsys)
    assert code == 2
    assert "other data" in sentence


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        '{"experiment": "label_noise", "config": {"epochs": 1}}',
        '{"experiment": "x", "config": {}}',
    ],
)
def test_a_damaged_or_foreign_configuration_is_refused(copy, content, capsys):
    (copy / "config.json").write_text(content)
    code, sentence = refused(["label_noise", "--resume", str(copy)], capsys)
    assert code == 2
    assert str(copy) in sentence


def test_an_unfinished_run_has_no_report(copy, capsys):
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    code, sentence = refused(["report", str(copy)], capsys)
    assert code == 2
    assert "--resume" in sentence


def test_metrics_cut_in_the_middle_are_named(copy, capsys):
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text("\n".join([lines[0], lines[1][:50], *lines[2:]]) + "\n")
    code, sentence = refused(["report", str(copy)], capsys)
    assert code == 3
    assert "metrics.jsonl" in sentence


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[1]", b'{"data": 1}', b"\xcd\xff"])
@pytest.mark.parametrize("command", [["report"], ["label_noise", "--resume"]])
def test_a_damaged_environment_is_named(copy, content, command, capsys):
    (copy / "environment.json").write_bytes(content)
    code, sentence = refused([*command, str(copy)], capsys)
    assert code == 3
    assert "environment.json is damaged" in sentence


@pytest.mark.parametrize("line", ["null", "3", "[1]", '{"step": "1"}', "{}"])
@pytest.mark.parametrize("command", [["report"], ["label_noise", "--resume"]])
def test_metrics_that_are_no_visits_are_named(copy, line, command, capsys):
    (copy / "metrics.jsonl").write_text((copy / "metrics.jsonl").read_text() + line + "\n")
    code, sentence = refused([*command, str(copy)], capsys)
    assert code == 3
    assert "metrics.jsonl is damaged" in sentence


def test_lost_visits_that_a_checkpoint_holds_are_named_since_resuming_cannot_bring_them_back(copy, capsys):
    path = copy / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    before = path.read_text()
    code, sentence = refused(["label_noise", "--resume", str(copy)], capsys)
    assert code == 3
    assert "visit 4 of 4 is missing" in sentence
    assert path.read_text() == before


def test_a_run_folder_that_cannot_be_made_ends_with_code_3(tmp_path, capsys):
    (tmp_path / "file").touch()
    code, sentence = refused([*SMOKE, "--runs-dir", str(tmp_path / "file" / "runs")], capsys)
    assert code == 3
    assert "Not a directory" in sentence


def newest(run):
    return max(
        (path for path in (run / "checkpoints").iterdir() if path.name.isdigit()),
        key=lambda path: int(path.name),
    )


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "flipped"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_serves(copy, damage, capsys):
    expected = (copy / "results.csv").read_bytes()
    shutil.rmtree(newest(copy))  # as if killed before the last visit was checkpointed
    victim = max(
        (path for path in newest(copy).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    content = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        flipped = content[:100] + bytes([content[100] ^ 1]) + content[101:]
        victim.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "flipped": flipped}[damage])
    code, sentence = refused(["label_noise", "--resume", str(copy)], capsys)
    assert code == 3
    assert str(newest(copy)) in sentence
    assert "delete it" in sentence
    if damage == "cut":  # the way out that the sentence names
        shutil.rmtree(newest(copy))
        (copy / "results.csv").unlink()
        assert cli.main(["label_noise", "--resume", str(copy)]) == 0
        assert (copy / "results.csv").read_bytes() == expected


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    folder = runner.RunFolder(tmp_path)
    folder.write("results.csv", "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        folder.write("results.csv", "new and longer")
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
    assert (tmp_path / "results.csv").read_text() == "old"


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    folder = runner.RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append({"step": step, "metrics": {}})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "met')
    assert [row["step"] for row in folder.rows()] == [1, 2, 3]
    folder.keep_rows(2)
    assert [row["step"] for row in folder.rows()] == [1, 2]


def test_the_storage_librarys_messages_are_put_into_the_systems_words():
    end = "Failed to write 91 bytes to file 23: No space left on device [os_error_code='28']"
    assert reason(ValueError(f'RESOURCE_EXHAUSTED: Error writing local file "{"x" * 200}": {end}')) == FULL
    end = "Failed to write [OS error 28: ENOSPC No space left on device] [source locations='a.cc:1']"
    assert reason(ValueError(f'RESOURCE_EXHAUSTED: Error writing local file "{"x" * 200}": {end}')) == FULL


def test_callbacks_of_other_threads_are_silent_and_other_lost_errors_are_told(capsys):
    lost = SimpleNamespace(
        exc_type=RuntimeError,
        exc_value=RuntimeError("loop closed"),
        exc_traceback=None,
        err_msg=None,
        object=None,
    )
    thread = threading.Thread(target=cli.unraisable, args=(lost,))
    thread.start()
    thread.join()
    assert capsys.readouterr().err == ""
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "__unraisablehook__", told.append)
        cli.unraisable(lost)
        owned = SimpleNamespace(**vars(lost) | {"object": print})
        thread = threading.Thread(target=cli.unraisable, args=(owned,))
        thread.start()
        thread.join()
    assert told == [lost, owned]


@pytest.mark.parametrize("limit", [100, 6000])
def test_a_disk_that_fills_up_ends_with_code_3_and_no_traceback(tmp_path, limit):
    """A limit on the size of files is the full disk that root meets too; each size stops another writer."""
    script = (
        "import resource, runpy, sys; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "runpy.run_module('experiments', run_name='__main__', alter_sys=True)"
    )
    options = ["--losses", "cross_entropy", "--epochs", "1", "--visits", "1", "--checkpoint-seconds", "0"]
    command = [sys.executable, "-c", script, *SMOKE, "--runs-dir", str(tmp_path), *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 3, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "cannot write" in ended.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("results.csv"))
