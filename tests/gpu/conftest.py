"""The tests of this folder need a GPU: each is marked `gpu`, and skipped with a reason where there is none.

A test that takes the fixture `device` runs twice: on the GPU, and, unmarked, on the CPU, where `make test` has it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a GPU, before pytest selects by marks."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path.is_relative_to(HERE) and parameters.get("device") != "cpu":
            item.add_marker("gpu")
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each kind of device in turn: the GPU with its index, and the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if request.param == "cuda" else torch.device("cpu")


@pytest.fixture
def no_waiting(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """A block in which an operation that waits for the GPU raises; what it allocates at its first run is not meant."""

    @contextmanager
    def block() -> Iterator[None]:
        if device.type == "cpu":
            yield
            return
        torch.cuda.synchronize(device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return block


@pytest.fixture
def two_gpus() -> None:
    """Skip a test that needs two GPUs where there are fewer."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 GPUs, and {torch.cuda.device_count()} are here")
