"""DataLoader workers: a `UserError` reaches the trainer without a traceback, and signals do not end workers early."""

import signal
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import Dataset

from latentdebias.errors import UserError

T = TypeVar("T")
# Launchers kill what is left this many seconds after SIGTERM.
SECONDS_TO_OUTLAST = 30


class ErrorsAsValues(Dataset[Any]):
    """A map-style dataset that returns a `UserError` in place of the item; other exceptions are raised as usual.

    A DataLoader would add the worker's traceback to an exception that is raised.
    """

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
    """The items of a DataLoader over `ErrorsAsValues`; raises the first `UserError` among them."""
    for item in items:
        if isinstance(item, UserError):
            raise item
        yield item


def outlast_signals(worker_id: int) -> None:
    """A `worker_init_fn` of a DataLoader whose trainer still needs batches to reach a checkpoint after a signal.

    The worker ignores SIGINT and SIGUSR1, and ends 30 seconds after SIGTERM, or earlier with its trainer.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SECONDS_TO_OUTLAST))
