"""The command line; each command is a module of its own in `commands`, imported when it is called."""
