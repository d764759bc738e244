"""`python -m speedy` is `speedy`."""

from speedy.cli import main

if __name__ == "__main__":
    main()
