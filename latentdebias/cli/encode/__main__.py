from latentdebias.cli.encode import main
from latentdebias.errors import run_tool

run_tool(main)
