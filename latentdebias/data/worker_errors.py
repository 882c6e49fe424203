"""Users' errors out of DataLoader workers: torch itself would wrap them in the worker's traceback."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import Dataset

from latentdebias.errors import UserError

T = TypeVar("T")


class ErrorsAsValues(Dataset[Any]):
    """A map-style dataset whose `UserError`s are its values; anything else is raised as ever."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


def raised(items: Iterable[T | UserError]) -> Iterator[T]:
    """The items of a loader over `ErrorsAsValues`; the first `UserError` among them is raised here."""
    for item in items:
        if isinstance(item, UserError):
            raise item
        yield item
