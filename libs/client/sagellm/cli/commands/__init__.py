"""One module per command; each has a function or a Typer of the command's name and imports what it needs late."""
