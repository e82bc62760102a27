"""``python -m asrkit`` and ``torchrun -m asrkit``."""

from asrkit.cli.main import main

main()
