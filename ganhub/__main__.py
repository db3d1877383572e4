"""`python -m ganhub`: the command `ganhub`."""

from ganhub.cli import main

if __name__ == "__main__":
    main()
