"""`python -m pal` is the command `pal`."""

from pal.cli import main

main()
