"""Hydra main of `imgsynth inspect`: python scripts/inspect_cohort.py [-m] key=value …

Not called inspect.py, which would hide the standard library's module from every script in this folder.
"""

import sys

import hydra
from omegaconf import DictConfig

from imgsynth import cli, config, console, pipeline
from imgsynth.types import ImgsynthError


@hydra.main(version_base="1.3", config_path="../configs", config_name="inspect")
def main(raw: DictConfig) -> None:
    try:
        console.done(pipeline.inspect(config.check(raw)))
    except ImgsynthError as error:
        sys.exit(cli.tell(error))


if __name__ == "__main__":
    main()
