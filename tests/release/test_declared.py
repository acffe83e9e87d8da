"""What a custodian may declare of text in the pixels, at the configuration's door."""

from __future__ import annotations

import pytest

from imgsynth import config
from imgsynth.types import InputError


@pytest.mark.parametrize(("given", "read"), [("NO", "NO"), ("YES", "YES"), ("null", None)])
def test_what_was_seen_in_the_pixels_can_be_declared(given: str, read: str | None) -> None:
    assert config.from_overrides("run", [f"sample.burned_in={given}"]).sample.burned_in == read


@pytest.mark.parametrize("given", ["maybe", "false"])
def test_anything_else_is_refused(given: str) -> None:
    with pytest.raises(InputError, match="burned_in"):
        config.from_overrides("run", [f"sample.burned_in={given}"])
