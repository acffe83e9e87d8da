"""The direction of imports (docs/architecture.md): a room knows only the rooms to its left."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "imgsynth"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("types", "schema", "files", "keyed", "console", "__init__"),
    ("volumes", "features"),
    ("cohort", "models", "privacy"),
    ("training",),
    ("release",),
    ("measure",),
    ("evaluate", "audit"),
    ("explain",),
    ("report", "show"),
    ("config_rules",),
    ("config",),
    ("sweep", "planning"),
    ("pipeline",),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
GROUND = 0  # files of the ground floor know each other


def imports(source: str) -> set[str]:
    """The rooms of imgsynth that a module imports, at its top or inside functions."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"imgsynth.{a.name}" for a in node.names] if node.module == "imgsynth" else [node.module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "imgsynth":
                rooms.add(parts[1] if len(parts) > 1 and parts[1] in RANK else "__init__")
    return rooms


def wrong_way(room: str, source: str) -> set[str]:
    allowed = {other for other in RANK if RANK[other] < RANK[room]} | {room}
    return imports(source) - allowed - (set(LAYERS[GROUND]) if RANK[room] == GROUND else set())


def test_every_room_imports_only_to_its_left() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if wrong := wrong_way(room, path.read_text()):
            found[str(path.relative_to(PACKAGE))] = sorted(wrong)
    assert not found


def test_the_check_notices_a_wrong_import() -> None:
    assert wrong_way("privacy", "from imgsynth.models import VAE") == {"models"}
    assert wrong_way("volumes", "def f():\n    import imgsynth.training.loop") == {"training"}
    assert wrong_way("training", "from imgsynth import privacy, models") == set()


def test_only_the_door_knows_omegaconf_and_hydra() -> None:
    knowing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.split(".")[0] in ("omegaconf", "hydra")
    }
    assert knowing == {"config.py"}
