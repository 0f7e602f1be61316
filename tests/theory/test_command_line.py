import json
import subprocess
import sys

import pytest

SMALL_FAMILY = """
import sys
import jax.numpy as jnp
from jaxreg.theory import Check, __main__, report

def suite(seed):
    yield Check("one", "derived", "two is two, in a sentence longer than its column is wide", 2.0, "==", 2.0)
    yield Check("two", "A source with a long name (2001)", "at most", jnp.arange(3.0), "<=", {bound})

report.families = lambda: {{"small": suite}}
sys.exit(__main__.main(sys.argv[1:]))
"""


def command(*arguments, program=("-m", "jaxreg.theory")):
    return subprocess.run([sys.executable, *program, *arguments], capture_output=True, text=True, check=False)


def small(*arguments, bound=5.0):
    return command(*arguments, program=("-c", SMALL_FAMILY.format(bound=bound)))


def one_sentence(text):
    return text.count("\n") == 1 and text.endswith(".\n") and "Traceback" not in text


def test_an_unknown_family_is_named_with_the_known_ones():
    done = command("ldr", "nonsense")
    assert done.returncode == 2
    assert one_sentence(done.stderr)
    assert "nonsense" in done.stderr
    assert "noise_robust" in done.stderr


def test_a_negative_seed_is_refused():
    done = command("--seed", "-1")
    assert done.returncode == 2
    assert one_sentence(done.stderr)


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_an_unwritable_file_is_found_before_the_work(option, tmp_path):
    done = small(option, str(tmp_path / "missing" / "file"))
    assert done.returncode == 3
    assert one_sentence(done.stderr)
    assert "statements" not in done.stdout


def test_all_holding_exits_zero_and_writes_both_files(tmp_path):
    done = small("--json", str(tmp_path / "rows.json"), "--html", str(tmp_path / "rows.html"), "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "2 statements" in done.stdout
    record = json.loads((tmp_path / "rows.json").read_text())
    assert record["seed"] == 3
    assert record["precision"] == "float64"
    assert [row["holds"] for row in record["rows"]] == [True, True]
    page = (tmp_path / "rows.html").read_text()
    assert page.count("class='pass'") == 2
    assert "http" not in page


def test_a_failing_statement_exits_one_and_is_named_last(tmp_path):
    done = small("--json", str(tmp_path / "rows.json"), bound=1.5)
    assert done.returncode == 1
    assert "FAIL  small: two" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("1 failed: small: two.")
    assert [row["holds"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]] == [True, False]


def test_the_default_device_computes_in_single_precision(tmp_path):
    done = small("--device", "default", "--json", str(tmp_path / "rows.json"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "rows.json").read_text())["precision"] == "float32"
