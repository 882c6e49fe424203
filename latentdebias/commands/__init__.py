"""What the commands of `latentdebias.cli` do once their arguments are parsed."""
