#!/usr/bin/env python
"""The command `latentdebias recipes`, for a checkout: its code is in latentdebias/cli."""

from latentdebias.cli.recipes import main
from latentdebias.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
