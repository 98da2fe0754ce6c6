"""What reaches the terminal."""

import logging
import os
import sys
import warnings


class _Format(logging.Formatter):
    """Plain lines; a level's name only where it matters."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {text}"
        return text


def setup(*, debug: bool) -> None:
    """Our messages from INFO up (DEBUG with ``--debug``) to stderr, other libraries' from WARNING
    up; from ranks other than 0, warnings only, marked with the rank."""
    rank = int(os.environ.get("RANK", "0"))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format(f"[rank {rank}] %(message)s" if rank else "%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.DEBUG if debug else logging.INFO if rank == 0 else logging.WARNING
    logging.getLogger("latentsmith").setLevel(level)
    logging.captureWarnings(True)
    if not debug:
        # It retries and warns a dozen times before the error we put into one sentence.
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        warnings.filterwarnings("ignore", module="huggingface_hub")
