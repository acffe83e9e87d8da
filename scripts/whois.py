"""`imgsynth whois` as a script: python scripts/whois.py RUN [HASH...]"""

import sys
from pathlib import Path

from imgsynth import cli, pipeline
from imgsynth.types import ImgsynthError

if __name__ == "__main__":
    try:
        pipeline.whois(Path(sys.argv[1]), sys.argv[2:])
    except ImgsynthError as error:
        sys.exit(cli.tell(error))
