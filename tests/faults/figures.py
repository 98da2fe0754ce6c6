"""What campaigns of faults count."""

from dataclasses import asdict, dataclass


@dataclass
class Figures:
    """What a campaign came to.

    Attributes:
        tried: kills that hit a living process.
        survived: kills after which all that was safe before was safe still, and the next process
            went on from there.
        lost: pieces (rows, checkpoints, stages) that were safe once and were not any more.
        duplicated: pieces that were safe and were made again.
        finished: stores or runs that came to their end, each equal to one that nobody harmed.
    """

    tried: int = 0
    survived: int = 0
    lost: int = 0
    duplicated: int = 0
    finished: int = 0

    def __add__(self, other: "Figures") -> "Figures":
        a, b = asdict(self), asdict(other)
        return Figures(**{name: a[name] + b[name] for name in a})

    def __str__(self) -> str:
        return (
            f"{self.tried} instants tried, {self.survived} survived, lost = {self.lost}, "
            f"duplicated = {self.duplicated}; {self.finished} ends reached, equal to unharmed ones"
        )

    def check(self, tried: int) -> None:
        """Raises AssertionError unless so many were tried and all went well."""
        assert self.survived == self.tried >= tried, self
        assert self.lost == self.duplicated == 0 and self.finished > 0, self
