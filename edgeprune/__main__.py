"""`python -m edgeprune`."""

from edgeprune.commands.cli import main

main()
