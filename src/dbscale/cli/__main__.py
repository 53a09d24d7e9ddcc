"""`python -m dbscale.cli`: the same as `dbscale`."""

from dbscale.cli import main

main()
