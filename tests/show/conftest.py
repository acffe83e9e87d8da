"""A shelf of made-up volumes, and a server of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from made_up import WINDOW, radiograph, slanted, unreadable

from imgsynth.show.server import ShowServer
from imgsynth.show.shelf import Entry, Shelf


@pytest.fixture
def shelf() -> Shelf:
    entries = (
        Entry("real", "ANNA-1", "normal", slanted, "train"),
        Entry("synthetic", "SYN-000001", "lesion", radiograph),
        Entry("synthetic", "SYN-000002", "<b>lesion</b>", unreadable),
    )
    return Shelf("run made-up", entries, WINDOW)


@pytest.fixture
def server(shelf: Shelf) -> Iterator[ShowServer]:
    with ShowServer(shelf) as made:
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        yield made
        made.shutdown()
