"""How long importing takes, as a multiple of importing torch: seconds alone say little on a machine
that does other things.

    python benchmarks/import_time.py [REPEATS]

Bounds of ours: `import latentsmith` 1.5 s, `latentsmith --help` 0.7 s, on a machine that imports
torch in 5 s: 0.3 and 0.14 of it. Which modules may load is held by tests/unit/test_imports.py.
"""

import subprocess
import sys
import time

WHAT = {
    "import torch": ["-c", "import torch"],
    "import latentsmith": ["-c", "import latentsmith"],
    "latentsmith --help": ["-m", "latentsmith", "--help"],
    "latentsmith --version": ["-m", "latentsmith", "--version"],
    "the settings of mmreg": [
        "-c",
        "from latentsmith.config.compose import compose; compose('mmreg')",
    ],
}


def seconds(words: list[str]) -> float:
    """Of one fresh process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Best of some repeats each, taken in turns."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    best = dict.fromkeys(WHAT, float("inf"))
    for _ in range(repeats):
        for name, words in WHAT.items():
            best[name] = min(best[name], seconds(words))
    torch = best["import torch"]
    for name, found in best.items():
        print(f"{name:24} {found:6.2f} s  {found / torch:5.2f} x import torch")


if __name__ == "__main__":
    main()
