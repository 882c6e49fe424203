"""What the commands do once their arguments are parsed: a function or a few for each command of `latentdebias.cli`."""
