"""`python -m meshd.cli`: how one process of meshd starts another with the interpreter it runs on itself."""

from meshd.cli import main

main()
