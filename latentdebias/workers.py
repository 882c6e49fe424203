"""DataLoader workers: users' errors come out of them without a traceback, and they outlast their trainer's signals."""

import signal
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import Dataset

from latentdebias.errors import UserError

T = TypeVar("T")
# Launchers kill what is left this many seconds after SIGTERM.
SECONDS_TO_OUTLAST = 30


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


def outlast_signals(worker_id: int) -> None:
    """A `worker_init_fn`: the worker ends with its trainer; SIGTERM alone ends it only 30 seconds later."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SECONDS_TO_OUTLAST))
