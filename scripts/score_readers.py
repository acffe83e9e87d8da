"""python scripts/score_readers.py FORM.csv KEY.json: what a reader of a blinded study (evaluate.readers) could tell."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from imgsynth.evaluate.reader_study import score
from imgsynth.types import InputError

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        print(json.dumps(score(Path(sys.argv[1]), Path(sys.argv[2])), indent=2))
    except InputError as error:
        sys.exit(str(error))
