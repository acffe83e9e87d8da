"""Hydra main of `imgsynth explain`: python scripts/explain.py [-m] key=value …"""

import hydra
from omegaconf import DictConfig

from imgsynth import cli, config, console, pipeline


@hydra.main(version_base="1.3", config_path="../configs", config_name="explain")
def main(raw: DictConfig) -> None:
    with cli.telling():
        console.done(pipeline.explain(config.check(raw)))


if __name__ == "__main__":
    cli.script(main)
