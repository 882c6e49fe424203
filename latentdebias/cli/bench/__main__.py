from latentdebias.cli.bench import main
from latentdebias.errors import run_tool

run_tool(main)
