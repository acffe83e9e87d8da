"""Hydra main of `imgsynth audit canaries`: python scripts/audit_canaries.py [-m] key=value …"""

import hydra
from omegaconf import DictConfig

from imgsynth import cli, config, console, pipeline


@hydra.main(version_base="1.3", config_path="../configs", config_name="audit_canaries")
def main(raw: DictConfig) -> None:
    with cli.telling():
        console.done(pipeline.audit_canaries(config.check(raw)))


if __name__ == "__main__":
    cli.script(main)
