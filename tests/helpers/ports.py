"""Ports for processes that are to meet."""

import random
import socket

BELOW_OUTGOING = (20_000, 32_000)
"""No port that a kernel gives to a connection going out. Those of the tests beside this one are
many (gloo's), and one could take the port between its being found free and its being used."""


def free_port() -> int:
    """A port of this machine that nobody listens at; another at each call."""
    dice = random.SystemRandom()  # of no seed: workers must not draw the same
    while True:
        port = dice.randrange(*BELOW_OUTGOING)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
