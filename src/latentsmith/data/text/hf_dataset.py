"""``hf_dataset``: a text column of anything the ``datasets`` library opens."""

from pathlib import Path
from typing import Any, Literal

from latentsmith.config.schema import schema
from latentsmith.data.text.base import CORPORA, Corpus, CorpusConfig, distinct
from latentsmith.errors import UserError, nearest


@CORPORA.register("hf_dataset", help="a text column of a Hugging Face dataset: hub id or folder")
@schema
class HFTextsConfig(CorpusConfig):
    """Texts of one split of a hub dataset or of a ``save_to_disk`` folder. Train, validation and
    test texts are drawn from it by digest, as for every corpus: published splits often share
    sentences."""

    kind: Literal["hf_dataset"] = "hf_dataset"
    path: str
    """Hub id (``owner/name``) or folder written by ``save_to_disk``."""
    subset: str | None = None
    """Configuration of the hub dataset, where it has several."""
    revision: str | None = None
    """Branch, tag or commit of the hub dataset."""
    split: str = "train"
    """Which of its splits is read (``train+validation`` joins two of a hub dataset)."""
    field: str = "text"
    """Column of the texts."""
    lower: bool = False
    """Turn texts into lower case."""

    def read(self, cache: Path) -> Corpus:
        """Open (and for a hub id download) the texts. Raises UserError naming the path, the splits
        or the columns there are, or the row that holds no text."""
        table = self._open()
        if self.field not in table.column_names:
            raise UserError(
                f"dataset {self.path!r} has no column {self.field!r} (data.field). "
                f"{nearest(self.field, table.column_names)}"
            )
        lines = list(table[self.field])
        wrong = next((i for i, text in enumerate(lines) if not isinstance(text, str)), None)
        if wrong is not None:
            raise UserError(
                f"row {wrong} of dataset {self.path!r} has no text in column {self.field!r} but "
                f"{lines[wrong]!r}"
            )
        name = Path(self.path).name
        origin = f"datasets {self.path}" + (f"@{self.revision}" if self.revision else "")
        return Corpus(name, distinct(lines, lower=self.lower), origin, "", len(lines))

    def _open(self) -> Any:
        """The ``datasets.Dataset``."""
        from datasets import Dataset, load_dataset, load_from_disk

        folder = Path(self.path).expanduser()
        try:
            if not folder.is_dir():
                if self.path.startswith(("/", ".", "~")):
                    raise UserError(f"dataset folder {folder} does not exist (data.path)")
                return load_dataset(
                    self.path, self.subset, split=self.split, revision=self.revision
                )
            saved = load_from_disk(str(folder))
        except UserError:
            raise
        except Exception as error:  # datasets, its hub client and Arrow share no base class
            raise UserError(
                f"dataset {self.path!r}, split {self.split!r}, cannot be opened: "
                f"{type(error).__name__}: {error}\nIt must be a hub id that can be reached, or a "
                "folder written by save_to_disk."
            ) from error
        if isinstance(saved, Dataset):
            return saved
        if self.split not in saved:
            raise UserError(
                f"dataset {folder} has no split {self.split!r}. "
                f"{nearest(self.split, map(str, saved))}"
            )
        return saved[self.split]
