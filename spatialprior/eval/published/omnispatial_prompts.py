"""OmniSpatial's prompts, from an official checkout or from lmms-eval, which lacks a few trailing spaces."""

from __future__ import annotations

import hashlib
from pathlib import Path

from spatialprior.eval.published.prompt_texts import (
    PromptError,
    checkout_file,
    constant,
    lmms_eval_file,
    string_constants,
)

_TEXTS = {
    "manual_cot": "MANUAL_COT_SYSTEM_PROMPT",
    "none": "DEFAULT_SYSTEM_PROMPT",
    "re": "RE_FORMAT",
    "direct": "DIRECT_FORMAT",
}
_SPACED = ("You will receive", "1. **Image**", "2. **Question**")
"""Lines that end in two spaces in the official file, and in none in lmms-eval."""
_STRAY = "3. Think through the spatial reasoning"
"""The line behind which VLMEvalKit sends a comment of its source code to the model."""

DIGESTS = {
    "official_manual_cot": "e506cdadd8612b66a4aee4628ed90c20e4d367603852b2d7b060b8dbb989803a",
    "official_none": "af971a420cabc77344838843cac8c46c950fa705e22ff62351e22d6957d47e0e",
    "lmms_manual_cot": "cb8e7a1d521bf6435d93cdf5827e8b65c85a891c46386623df34169683b4dcff",
    "lmms_direct": "fa4b82d6574c5caab6fcd59e2f8790ad48f70254b33a7b8a310f506911593219",
    "vlmevalkit_manual_cot": "84d9db1ae4c637116525d77642c8e4fa090e619073bcf999d43674a6c284ebc9",
}
"""SHA-256 of each whole prefix, so that no other version's text is sent as this one's."""


def prefix(prompt: str, checkout: str | None) -> str:
    """Everything before the question under the prompt called ``prompt``.

    Args:
        prompt: A key of :data:`DIGESTS`.
        checkout: An official checkout, where there is one.

    Raises:
        PromptError: Neither is there, or the text is another version's.
    """
    style, _, kind = prompt.partition("_")
    name = f"tasks/{'omni_spatial' if prompt == 'lmms_direct' else 'omnispatial'}/utils.py"
    if style == "official" and checkout is not None:
        path = checkout_file(checkout, "vlms_eval/system_prompts.py", "qizekun/OmniSpatial")
    else:
        path = lmms_eval_file(name)
    found = _prefix(style, kind, path)
    digest = hashlib.sha256(found.encode()).hexdigest()
    if digest != DIGESTS[prompt]:
        raise PromptError(f"{path} holds another version of the prompt {prompt} than expected")
    return found


def _prefix(style: str, kind: str, path: Path) -> str:
    texts = string_constants(path)
    if (style, kind) == ("lmms", "direct"):
        parts = [constant(texts, _TEXTS[each], path) for each in ("none", "direct")]
        return "".join(parts) + "\n"
    system = constant(texts, _TEXTS[kind], path)
    form = constant(texts, _TEXTS["direct" if kind == "none" else "re"], path)
    if style == "official":
        system = _ending(system, _SPACED, "  ")
    if style == "vlmevalkit":
        system = _ending(system, (_STRAY,), "   # noqa: E501")
    return f"{system}\n{form}\n\n"


def _ending(text: str, beginnings: tuple[str, ...], end: str) -> str:
    """Lines with one of these beginnings, ending in ``end`` in place of spaces."""
    lines = text.split("\n")
    return "\n".join(line.rstrip() + end if line.startswith(beginnings) else line for line in lines)
