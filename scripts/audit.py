"""Hydra main of `imgsynth audit`: python scripts/audit.py [-m] key=value …"""

import sys

import hydra
from omegaconf import DictConfig

from imgsynth import cli, config, console, pipeline
from imgsynth.types import ImgsynthError


@hydra.main(version_base="1.3", config_path="../configs", config_name="audit")
def main(raw: DictConfig) -> None:
    try:
        console.done(pipeline.audit(config.check(raw)))
    except ImgsynthError as error:
        sys.exit(cli.tell(error))


if __name__ == "__main__":
    main()
