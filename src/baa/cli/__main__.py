"""`python -m baa.cli`: the command `baa`."""

from baa.cli import main

if __name__ == "__main__":
    main()
