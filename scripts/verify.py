"""`imgsynth verify` as a script: python scripts/verify.py RELEASE"""

import sys
from pathlib import Path

from imgsynth import cli, console, pipeline
from imgsynth.types import ImgsynthError

if __name__ == "__main__":
    try:
        console.done(pipeline.verify(Path(sys.argv[1])))
    except ImgsynthError as error:
        sys.exit(cli.tell(error))
