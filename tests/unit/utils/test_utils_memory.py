"""keep_heap must work here and do nothing where glibc is not."""

import subprocess
import sys

import pytest

from latentsmith.utils import memory

# Child process: the setting cannot be taken back. Faults of the second half of the steps, when
# every block has been seen before.
SCRIPT = """
import resource, sys
from latentsmith.utils.memory import keep_heap
if sys.argv[1] == "keep":
    assert keep_heap()
def step():
    blocks = [b'x' * (1 << 24) for _ in range(4)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_not_faulted_in_again():
    default, kept = faults("default"), faults("keep")
    assert kept < 100
    assert default > 1000, "the default no longer returns memory: keep_heap may be dropped"


def test_does_nothing_without_glibc(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_heap() is False


def test_does_nothing_elsewhere(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_heap() is False
