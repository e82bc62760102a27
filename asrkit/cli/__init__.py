"""The asrkit command: one subcommand per stage."""
