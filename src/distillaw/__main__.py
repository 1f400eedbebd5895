"""`python -m distillaw`: the same as the console script."""

from distillaw.cli.app import main

main()
