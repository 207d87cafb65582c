"""python -m dastune: the command line."""

from dastune.cli import main

main()
