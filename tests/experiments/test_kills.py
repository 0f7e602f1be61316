"""A run that is killed at random moments and resumed ends with the same results, bit for bit."""

from experiments import soak


def test_five_kills_change_no_result(tmp_path):
    runs, different = soak.soak(tmp_path, kills=5, seed=1)
    assert runs >= 1
    assert different == 0
