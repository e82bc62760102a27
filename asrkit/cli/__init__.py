"""The asrkit command: one subcommand a stage."""
