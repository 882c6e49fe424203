from latentdebias.cli.evaluate import main
from latentdebias.errors import run_tool

run_tool(main)
