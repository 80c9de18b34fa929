"""`python -m slotsched` is the slotsched command."""

from slotsched.cli import main

if __name__ == "__main__":
    main()
