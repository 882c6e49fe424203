"""The launchers above this process: a rank that outlives them would train on unseen, as an orphan."""

from pathlib import Path

import psutil

LAUNCHERS = {
    "deepspeed",
    "deepspeed.launcher.launch",
    "deepspeed.launcher.runner",
    "torchrun",
    "torch.distributed.run",
    "torch.distributed.launch",
}


class Launchers:
    """The unbroken chain of launchers that started `process`; empty where a shell or srun did.

    The deepspeed launcher on one machine is a chain of two, and a SIGTERM to the upper one leaves the lower running.
    """

    def __init__(self, process: psutil.Process | None = None) -> None:
        self._chain = [process or psutil.Process()]
        while (parent := self._chain[-1].parent()) is not None and is_launcher(parent):
            self._chain.append(parent)

    def ended(self) -> bool:
        """Whether a launcher of the chain has ended: the process that it started then has another parent."""
        links = zip(self._chain, self._chain[1:], strict=False)
        return any(_parent_of(child) != parent.pid for child, parent in links)


def is_launcher(process: psutil.Process) -> bool:
    """Whether `process` is Python running one of `LAUNCHERS`, as a script or with -m."""
    try:
        interpreter, *arguments = process.cmdline() or [""]
    except psutil.Error:
        return False
    program = next((argument for argument in arguments if not argument.startswith("-")), "")
    return "python" in Path(interpreter).name and Path(program).name in LAUNCHERS


def _parent_of(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None
