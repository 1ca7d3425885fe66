"""`labledger` and `python -m labledger`."""

from labledger.cli import main

if __name__ == "__main__":
    main()
