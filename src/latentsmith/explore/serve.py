"""The page served: on this machine alone, unless told otherwise."""

import contextlib
import importlib.util
import ipaddress
import logging
import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from latentsmith.errors import UserError

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PORT = 7870
NEEDED = ("starlette", "uvicorn")
"""Packages of the extra ``ui`` without which there is no page."""


def check_extra() -> None:
    """Raises UserError where the extra is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"explore needs {' and '.join(missing)}: pip install 'latentsmith[ui]'")


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any that is free.

    Raises:
        UserError: the port is taken or not allowed, or there is no such host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host, port))
        server.listen(64)
    except (OSError, OverflowError) as error:
        server.close()
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on {host}, port {port} ({why}): give another with --port, or --port 0 "
            "for any that is free"
        ) from error
    return server


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    folders: Sequence[Path],
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    count: int = 500,
    show: bool = False,
) -> None:
    """Serve the page of some runs until interrupted.

    Args:
        host: address to listen on; any but a loopback one is said aloud.
        port: 0: any that is free.
        count: held-out samples that are looked at.
        show: open it in the browser.

    Raises:
        UserError: the extra is missing, the port is taken, or see `Bench`.
    """
    check_extra()
    import uvicorn

    from latentsmith.explore.bench import Bench
    from latentsmith.explore.server import application

    with bound(host, port) as listening:  # before models are loaded: a taken port shows at once
        bench = Bench(folders, count=count)
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listening.getsockname()[1]}/"
        if not is_loopback(host):
            log.warning(
                "--host %s: every machine that reaches this port sees the runs and can make this "
                "machine compute; there is no password", host,
            )  # fmt: skip
        print(f"{address}  (Ctrl-C ends it)", flush=True)
        if show:
            webbrowser.open(address)
        hosts = [LOOPBACK, "localhost"] if host in (LOOPBACK, "localhost") else ["*"]
        config = uvicorn.Config(
            application(bench, hosts=hosts), log_level="warning", lifespan="off"
        )
        with contextlib.suppress(KeyboardInterrupt):  # how it is meant to end
            uvicorn.Server(config).run(sockets=[listening])
