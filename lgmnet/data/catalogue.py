"""The lists of data sets in ``data/checksums``. `download` explains their columns."""

import csv
import difflib
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ["file", "url", "sha256", "pixels_sha256"]
REDUCED = "reduced"  # a fifth column, of lists whose files are made from larger images


class DownloadError(Exception):
    """An error that the user can correct; the message is one line."""


@dataclass(frozen=True)
class Entry:
    """One line of a list; `download` explains the fields."""

    file: str
    url: str
    sha256: str
    pixels_sha256: str
    reduced: str = ""


@dataclass(frozen=True)
class Dataset:
    """One list: its comments and its files. The first comment is a description."""

    name: str
    comments: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def is_packed(self) -> bool:
        return self.entries[0].file.endswith(".zip")


def dataset_names(lists: Path) -> list[str]:
    return sorted((path.stem for path in lists.glob("*.tsv")), key=str.lower)


def find_dataset(name: str, lists: Path) -> Dataset:
    """Read ``<name>.tsv`` in the folder ``lists``; an unknown name is an error."""
    names = dataset_names(lists)
    if name in names:
        return read_dataset(lists / f"{name}.tsv")
    same = [known for known in names if known.lower() == name.lower()]
    near = same or difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise DownloadError(f"unknown data set '{name}'{hint} (known: {', '.join(names)})")


def read_dataset(path: Path) -> Dataset:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = tuple(line.lstrip("# ") for line in lines if line.startswith("#"))
    columns = [*COLUMNS, REDUCED]
    reader = csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t")
    entries = tuple(Entry(*(row.get(column) or "" for column in columns)) for row in reader)
    if reader.fieldnames not in (COLUMNS, columns) or not entries:
        raise DownloadError(f"{path}: expected files under the columns {', '.join(COLUMNS)}")
    return Dataset(path.stem, comments, entries)
