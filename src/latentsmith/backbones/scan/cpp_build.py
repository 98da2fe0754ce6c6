"""Compiles `backends/cpp_kernel.cpp` on first use into the user's cache, and loads it.

Plain C functions called through ctypes, not a torch extension: the compiler needs neither torch's
nor Python's headers, takes seconds, and the result does not depend on the versions of either.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from latentsmith.errors import UserError
from latentsmith.utils.cache import cache_root
from latentsmith.utils.files import atomic_path
from latentsmith.utils.lock import alone

log = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "backends" / "cpp_kernel.cpp"
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    # compilers hold back 512-bit vectors for older processors' sake: 20 % here
    *(["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []),
    *("-fopenmp", "-shared", "-fPIC"),
)
NAMES = ("s6_forward_float", "s6_forward_double", "s6_backward_float", "s6_backward_double")


def compiler() -> str | None:
    """Path of ``$CXX``, else g++, else clang++; None without any."""
    given = os.environ.get("CXX")
    for name in [given] if given else ["g++", "clang++"]:
        found = shutil.which(name)
        if found:
            return found
    return None


@cache
def library() -> ctypes.CDLL:
    """The kernels, compiled unless that was done on this kind of machine before. Processes that
    start together wait for one build.

    Raises:
        UserError: no compiler, or it fails; with what it said.
    """
    program = compiler()
    if program is None:
        raise UserError(f"scan backend 'cpp' has nothing to compile with: {NO_COMPILER}")
    path = cache_root() / "kernels" / f"s6-{_digest(program)}.so"
    if not path.is_file():
        with alone(path):
            if not path.is_file():  # who held the lock may have made it
                log.info("compiling the cpp scan into %s (once, under a minute)", path)
                with atomic_path(path) as made:
                    _compile(program, made)
    loaded = ctypes.CDLL(str(path))
    pointers = ctypes.POINTER(ctypes.c_void_p)
    for name in NAMES:
        function = getattr(loaded, name)
        function.argtypes = [ctypes.POINTER(ctypes.c_int64), pointers, pointers]
        function.restype = None
    return loaded


NO_COMPILER = (
    "no C++ compiler found. Install g++ (Debian: apt install g++), or name one in $CXX, or use "
    "backend 'chunk'"
)


def _compile(program: str, target: Path) -> None:
    command = [program, *FLAGS, str(SOURCE), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[:5])
        raise UserError(
            f"scan backend 'cpp' does not compile with {program} (C++17 with OpenMP is needed; "
            f"name another compiler in $CXX, or use backend 'chunk'):\n{said}"
        )


def _digest(program: str) -> str:
    """Of all the binary depends on: source, flags, compiler, and, for -march=native, processor."""
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    parts = [SOURCE.read_text(), " ".join(FLAGS), version, platform.machine(), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What this processor can do, as Linux tells it; else its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    told = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(sorted(set(told)))
