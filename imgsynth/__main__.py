"""``python -m imgsynth``, where the command itself is not on the path."""

from imgsynth.cli import main

if __name__ == "__main__":
    main()
