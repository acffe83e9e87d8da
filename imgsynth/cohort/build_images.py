"""A folder of PNG, JPEG, TIFF or BMP images."""

from __future__ import annotations

from pathlib import Path

from imgsynth.cohort.build_probe import probe_all
from imgsynth.cohort.build_scan import Found, Scan, files_under, names_of
from imgsynth.schema import DataConfig
from imgsynth.types import Fault

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def find_images(data: DataConfig) -> Found:
    """Every image under the root; the first folder on its path is its label where that is one of ``data.classes``.

    Patient ids come from ``data.pattern`` or ``data.table``: a folder of pictures states none.
    """
    root = Path(str(data.root))
    found = Found(root)
    folders = set()
    for path in files_under(root, SUFFIXES):
        relative = path.relative_to(root)
        names = names_of(relative)
        scan = Scan(names, (names[0],), data.modality, study=names[0], series=names[0])
        if len(relative.parts) > 1 and data.label is None:
            folders.add(relative.parts[0])
            scan.label = relative.parts[0] if relative.parts[0] in (data.classes or ()) else None
        found.scans.append(scan)
    if folders and data.classes is None:
        found.skipped.append(
            Fault(
                str(root),
                f"sub-folders {', '.join(sorted(folders)[:5])}, not used as labels",
                "nothing, or classes",
                "data.classes=[…] with the folders' names, in order, if they are labels",
                "labels_unused",
            )
        )
    return probe_all(found)
