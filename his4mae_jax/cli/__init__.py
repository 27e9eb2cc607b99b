"""The `his4mae` command: subcommands and flags, config files, stages of a run, exit status."""
