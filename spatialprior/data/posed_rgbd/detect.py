"""Which layout a folder has."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Protocol

from spatialprior.data.posed_rgbd import hololens, open3d_log, seven_scenes, tum
from spatialprior.data.posed_rgbd.recorded import RecordedSequence


class Layout(Protocol):
    """A module that reads one layout."""

    EXPECTS: str

    def matches(self, folder: Path) -> bool: ...

    def read(self, folder: Path) -> RecordedSequence: ...


LAYOUTS: dict[str, Layout] = {
    "seven_scenes": seven_scenes,
    "tum": tum,
    "open3d_log": open3d_log,
    "hololens": hololens,
}


def read_sequences(root: Path, layout: str = "auto") -> list[RecordedSequence]:
    """Read ``root`` as one recording, or each of its subfolders that is one.

    Raises:
        ValueError: The folder does not exist, the layout is unknown, or nothing here has it.
    """
    if layout != "auto" and layout not in LAYOUTS:
        near = difflib.get_close_matches(layout, LAYOUTS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"data.layout={layout}: there are auto, {', '.join(LAYOUTS)}{hint}")
    if not root.is_dir():
        raise ValueError(
            f"data.root={root}: no such folder; set data.root=PATH to a folder with posed RGB-D frames"
        )
    candidates = dict(LAYOUTS) if layout == "auto" else {layout: LAYOUTS[layout]}
    for folders in ([root], sorted(path for path in root.iterdir() if path.is_dir())):
        found = []
        for folder in folders:
            fitting = [name for name, module in candidates.items() if module.matches(folder)]
            if len(fitting) > 1:
                raise ValueError(
                    f"{folder} fits several layouts; set data.layout to one of {', '.join(fitting)}"
                )
            found += [candidates[name].read(folder) for name in fitting]
        if found:
            return found
    known = "; ".join(f"{name}: {module.EXPECTS}" for name, module in candidates.items())
    raise ValueError(
        f"data.root={root} holds no known layout, neither itself nor one level down. Supported: {known}"
    )
