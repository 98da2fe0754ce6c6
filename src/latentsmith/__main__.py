"""``python -m latentsmith`` (and ``torchrun -m latentsmith``): the command line."""

import sys

from latentsmith.cli import main

if __name__ == "__main__":
    sys.exit(main())
