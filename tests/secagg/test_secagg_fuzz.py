"""A bounded run of the fuzzer; the long one is documented in `tests/fuzz/fuzz_secagg.py`."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).parents[1] / "fuzz" / "fuzz_secagg.py"


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed (optional)")
def test_a_few_seconds_of_fuzzing_find_nothing_but_named_errors(tmp_path):
    memory = "-rss_limit_mb=16384"  # the peak it reads is this process's own, from other tests, where that is higher
    command = [sys.executable, str(FUZZER), "-max_total_time=3", "-max_len=4096", "-seed=1", memory]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "Done" in finished.stderr
