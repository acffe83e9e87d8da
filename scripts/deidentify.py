"""`imgsynth deidentify` as a script: python scripts/deidentify.py SOURCE TARGET"""

import sys
from pathlib import Path

from imgsynth import cli, console, pipeline
from imgsynth.types import ImgsynthError

if __name__ == "__main__":
    try:
        console.done(pipeline.deidentify(Path(sys.argv[1]), Path(sys.argv[2])))
    except ImgsynthError as error:
        sys.exit(cli.tell(error))
