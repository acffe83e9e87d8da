"""`imgsynth ledger` as a script: python scripts/ledger.py [COHORT] [--verify] [--budget COHORT=ε] [--json]"""

import sys

from imgsynth import cli

if __name__ == "__main__":
    sys.argv.insert(1, "ledger")
    cli.main()
