"""`python -m araponga_infra.cli`: the same as the command `araponga-infra`."""

from araponga_infra.cli import main

if __name__ == "__main__":
    main()
