"""Hydra main of `imgsynth inspect`: python scripts/inspect_cohort.py [-m] key=value …

Not called inspect.py, which would hide the standard library's module from every script in this folder.
"""

import hydra
from omegaconf import DictConfig

from imgsynth import cli, config, console, pipeline


@hydra.main(version_base="1.3", config_path="../configs", config_name="inspect")
def main(raw: DictConfig) -> None:
    with cli.telling():
        console.done(pipeline.inspect(config.check(raw)))


if __name__ == "__main__":
    cli.script(main)
