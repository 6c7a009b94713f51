"""Freed memory stays with the process after `tune`."""

import subprocess
import sys

import pytest

from fedmodels import allocator

SCRIPT = """
import resource, sys
from fedmodels import allocator
if sys.argv[1] == "tuned":
    assert allocator.tune()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytes_ = [bytearray(1 << 26)]
bytes_.clear()
before = faults()
for _ in range(5):
    bytes_.append(bytearray(1 << 26))
    bytes_.clear()
print(faults() - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_blocks_that_are_asked_for_again_cost_no_page_faults() -> None:
    pages = 5 * (1 << 26) // 4096
    assert page_faults("plain") > pages // 2
    assert page_faults("tuned") < pages // 20


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.tune()
