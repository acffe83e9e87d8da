"""Hydra main of `imgsynth evaluate`: python scripts/evaluate.py [-m] key=value …"""

import hydra
from omegaconf import DictConfig

from imgsynth import cli, config, console, pipeline


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
def main(raw: DictConfig) -> None:
    with cli.telling():
        console.done(pipeline.evaluate(config.check(raw)))


if __name__ == "__main__":
    cli.script(main)
