"""The picture of `imgsynth show` in the docs: python benchmarks/show_picture.py RUN [--to docs/images/show.png]

RUN is a run on phantoms, whose pictures may go anywhere. Needs Chromium. What the docs show was made by

    imgsynth train experiment=demo privacy=none data.phantom.patients=24 data.phantom.size=48 \\
        preprocess.shape=[48,48,48] preprocess.spacing=[8,8,8] privacy.batch_patients=6 trainer.steps=30 output=RUN
    imgsynth sample output=RUN sample.n=6 sample.seed=1
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import threading
from pathlib import Path

from imgsynth import config
from imgsynth.show.server import ShowServer
from imgsynth.show.shelf import shelf_of
from imgsynth.training.run import read_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, default=Path("docs/images/show.png"))
    parser.add_argument("--size", default="1180,800", help="of the window, pixels")
    asked = parser.parse_args()
    if read_config(asked.run / "config.json").data.kind != "phantom":
        parser.error("a run on phantoms is needed: pictures of patients do not go into docs")
    chromium = shutil.which("chromium") or parser.error("Chromium is not installed")
    with ShowServer(shelf_of(asked.run, config.extra_transforms)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={asked.size}", "--virtual-time-budget=20000", f"--screenshot={asked.to.resolve()}"]
        subprocess.run([*command, f"{server.url}#at=-30,10,20"], check=True, capture_output=True, timeout=300)
        server.shutdown()
    print(asked.to)


if __name__ == "__main__":
    main()
