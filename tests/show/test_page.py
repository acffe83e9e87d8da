"""The page in a browser: the right pixels, the right way up, and nothing of its own that the policy forbids."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from made_up import WINDOW, radiograph, slanted

from imgsynth.show.server import ShowServer
from imgsynth.volumes.volume import Volume

# For each plane, where its columns and rows run: axis of the patient (0 right, 1 anterior, 2 superior) and direction.
# The patient's right, front and top are at the left, left and top: every axis runs against the screen's.
PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed (Debian package chromium)")
    return found


def opened(chromium: str, url: str) -> str:
    """The document after its scripts have run: once more where a busy machine had not drawn by then."""
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    for budget in (10_000, 60_000, 300_000):
        limit = f"--virtual-time-budget={budget}"
        page = subprocess.run([*command, limit, url], capture_output=True, text=True, timeout=300, check=True).stdout
        if 'data-ready="yes"' in page:
            break
    return page


def drawn(page: str, plane: str) -> np.ndarray | None:
    """Grey values [row, column] that the canvas of ``plane`` says it has."""
    found = re.search(rf'data-plane="{plane}"[^>]*data-pixels="(\d+)x(\d+):([\d,]+)"', page)
    if found is None:
        return None
    columns, rows = int(found[1]), int(found[2])
    return np.array(found[3].split(","), dtype=int).reshape(rows, columns)


def expected(volume: Volume, plane: str, at: np.ndarray) -> np.ndarray:
    """Grey values [row, column] of ``plane`` through ``at`` (mm from the centre), each looked up by its place in mm."""
    across, down, _ = PLANES[plane]
    shape = np.array(volume.array.shape)
    corners = (
        np.array([volume.affine[:3, :3] @ (shape - 1) * 0, volume.affine[:3, :3] @ (shape - 1)]) + volume.affine[:3, 3]
    )
    low, high = corners.min(axis=0), corners.max(axis=0)
    step = np.abs(volume.affine[:3, :3]).sum(axis=1)
    counts = np.rint((high - low) / step).astype(int) + 1
    greys = np.empty((counts[down], counts[across]), dtype=int)
    for row in range(counts[down]):
        for column in range(counts[across]):
            place = (low + high) / 2 + at
            place[across], place[down] = high[across] - column * step[across], high[down] - row * step[down]
            i, j, k = np.rint(np.linalg.inv(volume.affine) @ [*place, 1])[:3].astype(int)
            share = (volume.array[i, j, k] - WINDOW[0]) / (WINDOW[1] - WINDOW[0])
            greys[row, column] = int(np.clip(share, 0, 1) * 255 + 0.5)
    return greys


def test_every_plane_shows_the_right_voxels_the_right_way_up(server: ShowServer, chromium: str) -> None:
    page = opened(chromium, f"{server.url}#at=-4,3.5,1.5&debug")
    for plane in PLANES:
        np.testing.assert_array_equal(
            drawn(page, f"real-{plane}"), expected(slanted(), plane, np.array([-4, 3.5, 1.5]))
        )
    film = drawn(page, "synthetic-coronal")
    assert film is not None and film.shape == (6, 9)
    np.testing.assert_array_equal(film, expected(radiograph(), "coronal", np.zeros(3)))
    assert film[0, 0] < film[0, -1] < film[-1, -1]  # as it was: darkest at the upper left
    assert drawn(page, "synthetic-axial") is None and drawn(page, "synthetic-sagittal") is None
    for marks in ("RLAP", "RLSI", "APSI"):  # left, right, top, bottom
        sides = zip(("left", "right", "top", "bottom"), marks, strict=True)
        assert "".join(f'<b class="{side}">{mark}</b>' for side, mark in sides) in page
    assert 'data-ready="yes"' in page and "the patient's right is at your left" in unescape(page)
    assert re.search(r'<p id="banner" role="alert">Real patients', page)  # shown: no longer hidden
    assert "Real: ANNA-1 · normal · train" in page and "7 × 5" not in page and "5 × 6 × 7 voxels" in page
    assert "SYN-000002 · &lt;b&gt;lesion" in page  # text of a table is text


def test_a_fault_is_shown_in_its_place_and_the_rest_goes_on(server: ShowServer, chromium: str) -> None:
    page = opened(chromium, f"{server.url}#synthetic=2&debug")
    assert re.search(r'<p class="message">[^<]*a torn file', page) and drawn(page, "real-axial") is not None
