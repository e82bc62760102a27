"""The loop, its schedules, checkpoints and progress."""
