"""CV-Bench: single pictures, two tasks in 2D and two in 3D, choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.metrics.means import mean, means_by
from spatialprior.eval.parsers.after_answer import first_character
from spatialprior.eval.parsers.leading_letter import leading_letter
from spatialprior.eval.parsers.plain_choice import lettered, plain_choice
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.crash import crashed
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.prompts import LETTER, only_letters
from spatialprior.eval.published.rule import Record, Rule, Scored


class Official:
    """``eval/eval/{ade,coco,omni}/*_test.py`` of Cambrian, one script a source, and the data card's sums."""

    def grade(self, record: Record, reply: str) -> Graded:
        try:
            in_space = _in_space(record)
            said = first_character(reply, ".:," if in_space else ".")
            parsed = said.upper() if said.isalpha() else None
            letter = record["answer"].lower()[1]
            # The text counts there, too, where it is one character long.
            text = record["choices"][ord(letter) - ord("a")] if in_space else letter
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            return crashed(error)
        return Graded(float(said in (letter, text)), parsed)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """Accuracy by source; 2D, the mean of two sources; 3D; and the mean of 2D and 3D (0 to 1).

        Sums that lack a source are left out.
        """
        sources = {"ADE20K": "2d_ade", "COCO": "2d_coco", "Omni3D": "3d_omni"}
        means = means_by(rows, lambda record: str(record["source"]))
        found = {f"accuracy_{name}": means[key] for key, name in sources.items() if key in means}
        if "ADE20K" in means and "COCO" in means:
            found["accuracy_2d"] = (means["ADE20K"] + means["COCO"]) / 2
        if "Omni3D" in means:
            found["accuracy_3d"] = means["Omni3D"]
        if "accuracy_2d" in found and "accuracy_3d" in found:
            found["combined_accuracy"] = (found["accuracy_2d"] + found["accuracy_3d"]) / 2
        return found


class LmmsEval:
    """``tasks/cv_bench/utils.py`` of lmms-eval 0.7.3."""

    def grade(self, record: Record, reply: str) -> Graded:
        letter = leading_letter(reply)
        try:
            return Graded(float(letter == record["answer"].strip("()")), letter or None)
        except (KeyError, AttributeError) as error:
            return crashed(error, letter or None)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        return {"cv_bench_acc": mean(rows)}


class Saner(Official):
    """Our reading of a reply (``parsers/plain_choice.py``); official sums."""

    def grade(self, record: Record, reply: str) -> Graded:
        try:
            letter = plain_choice(reply, lettered(record["choices"]))
            return Graded(float(letter == record["answer"].strip("() ").upper()), letter)
        except (KeyError, TypeError, AttributeError) as error:
            return crashed(error)


class CvBench(PublishedBenchmark):
    """arXiv 2406.16860."""

    rules: ClassVar[Mapping[str, Rule]] = {
        "official": Official(),
        "lmms_eval": LmmsEval(),
        "saner": Saner(),
    }

    def task(self, record: Record) -> str:
        return str(record["task"])

    def media(self, record: Record) -> Media:
        picture = record.get("image") or record["filename"]
        return Media(key=str(record["filename"]), pictures=(picture,))

    def scene(self, record: Record) -> str:
        """The photograph: several questions, with different boxes drawn, are about one."""
        return f"{record['source']}/{record.get('source_filename') or record['filename']}"

    def answer(self, record: Record) -> str:
        return str(record["answer"])

    def options(self, record: Record) -> tuple[str, ...]:
        return tuple(str(choice) for choice in record["choices"])

    def prompt(self, record: Record) -> str:
        asked = str(record["prompt"])
        if self.protocol_spec.prompt == "lmms_eval":
            return f"{only_letters(lettered(record['choices']))}\n\n{asked}"
        return f"{asked}\n{LETTER}"


def _in_space(record: Record) -> bool:
    """Whether the script for Omni3D scores it: by ``type`` where the source is none of the three."""
    source = record.get("source")
    return source == "Omni3D" or (source not in ("ADE20K", "COCO") and record.get("type") == "3D")
