#!/usr/bin/env python
"""The command `latentdebias describe`, for a checkout: its code is in latentdebias/cli."""

from latentdebias.cli.describe import main
from latentdebias.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
