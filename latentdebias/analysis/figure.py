"""The contract of a figure: the models and data that it is computed from, and what it finds."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from latentdebias.analysis.inputs import Inputs
from latentdebias.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture


@dataclass(frozen=True)
class Table:
    """Numbers for a CSV file: a name for each column, and one row for each point."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]

    @classmethod
    def by_model(cls, columns: tuple[str, ...], rows: Mapping[str, Iterable[tuple[object, ...]]]) -> "Table":
        """The rows of each model, by label; where there are several models, a first column `model` has the label."""
        if len(rows) == 1:
            return cls(columns, [row for each in rows.values() for row in each])
        return cls(("model", *columns), [(label, *row) for label, each in rows.items() for row in each])

    @classmethod
    def with_intervals(
        cls, keys: tuple[str, ...], name: str, rows: Mapping[str, Sequence[tuple[object, ...]]]
    ) -> tuple["Table", "Table"]:
        """The rows (*keys, value, low, high) of each model as two tables: the values, and the ends of the intervals."""
        values = {label: [row[:-2] for row in each] for label, each in rows.items()}
        ends = {label: [(*row[:-3], *row[-2:]) for row in each] for label, each in rows.items()}
        return cls.by_model((*keys, name), values), cls.by_model((*keys, "low", "high"), ends)


@dataclass(frozen=True)
class Finding:
    """What a figure found: the picture, the numbers in it, and one sentence that says what it shows.

    `table` becomes `FIGURE.csv`; each table in `others` becomes a CSV file of its own name.
    """

    picture: "Picture"
    table: Table
    line: str
    others: Mapping[str, Table] = field(default_factory=dict)


class Figure(ABC):
    """A figure of a paper; the fields of the dataclass are its options."""

    @abstractmethod
    def find(self, inputs: Inputs) -> Finding:
        """Compute and draw the figure; `UserError` where the inputs lack what it needs."""


FIGURES: Registry[Figure] = Registry("figure")


def listed(parts: Sequence[str]) -> str:
    """The parts as one text: "a", "a and b", "a, b and c"."""
    return " and ".join([*[", ".join(parts[:-1])] * (len(parts) > 1), *parts[-1:]])
