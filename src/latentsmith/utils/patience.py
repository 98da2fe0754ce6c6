"""Looking again and again for what another process is at."""

import time
from dataclasses import dataclass


@dataclass
class Pauses:
    """Sleeps that grow: what takes a moment is not slept through, and what takes hours is not asked
    for all the time.

        pauses = Pauses(longest=1.0)
        while not file.exists():
            pauses.sleep()
    """

    longest: float
    """Seconds."""
    next: float = 1e-3
    """Seconds of the next one; half as much again of the one after."""

    def sleep(self) -> None:
        """Until it is time to look again."""
        time.sleep(self.next)
        self.next = min(1.5 * self.next, self.longest)
