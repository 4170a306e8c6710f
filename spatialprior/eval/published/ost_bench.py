"""OST-Bench: an agent explores a scene and is asked after each stretch; one dialogue a scan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from spatialprior.core.clip import IMAGE_MARK
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.ost_bench_rules import (
    Official,
    Saner,
    Vlmevalkit,
    form_of,
    options_of,
)
from spatialprior.eval.published.rule import Record, Rule


class OstBench(PublishedBenchmark):
    """arXiv 2507.07984.

    Every turn holds the system prompt, only the views that are new in it, and the question, as the official
    Qwen runner puts them; the model's own replies stay in the dialogue.
    """

    rules: ClassVar[Mapping[str, Rule]] = {
        "official": Official(),
        "vlmevalkit": Vlmevalkit(),
        "saner": Saner(),
    }

    def task(self, record: Record) -> str:
        return str(record["type"])

    def dialogue(self, record: Record) -> str:
        return str(record["scan_id"])

    def scene(self, record: Record) -> str:
        return str(record["scan_id"])

    def media(self, record: Record) -> Media:
        paths = tuple(self._path(path) for path in record["new_observations"])
        views = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:12]
        return Media(key=f"{record['scan_id']}/{views}", pictures=paths)

    def _path(self, path: str) -> str:
        """Below ``images`` or, as the hub has it, ``imgs``, which the records leave out."""
        for folder in ("images/", "imgs/"):
            if folder in path:
                return folder + path.rpartition(folder)[2]
        return f"{self._folder}/{path}"

    @property
    def _folder(self) -> str:
        return "imgs" if (Path(self.config.root) / "imgs").is_dir() else "images"

    def prompt(self, record: Record) -> str:
        views = IMAGE_MARK * len(record["new_observations"])
        return f"{record['system_prompt']}{views}{record['user_message']}"

    def answer(self, record: Record) -> str:
        return str(record["answer"])

    def options(self, record: Record) -> tuple[str, ...]:
        judged = form_of(record) == "Judgement"
        return tuple(str(option) for option in options_of(record)) if judged else ()
