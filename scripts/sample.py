"""Hydra main of `imgsynth sample`: python scripts/sample.py [-m] key=value …"""

import sys

import hydra
from omegaconf import DictConfig

from imgsynth import cli, config, console, pipeline
from imgsynth.types import ImgsynthError


@hydra.main(version_base="1.3", config_path="../configs", config_name="sample")
def main(raw: DictConfig) -> None:
    try:
        console.done(pipeline.sample(config.check(raw)))
    except ImgsynthError as error:
        sys.exit(cli.tell(error))


if __name__ == "__main__":
    main()
