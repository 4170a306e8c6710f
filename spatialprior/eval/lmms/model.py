"""``--model spatialprior``: an export as a model of lmms-eval.

``python -m lmms_eval --model spatialprior --model_args pretrained=EXPORT --tasks blink --batch_size 16``. This
module imports lmms-eval; nothing but its entry point and this package names it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.model import lmms

from spatialprior.eval.lmms.answering import Answering
from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.loading import load_backbone
from spatialprior.eval.lmms.messages import Chat, read_chat

log = logging.getLogger(__name__)

_NEW_TOKENS = 128  # where a task says nothing, as lmms-eval's own Qwen2.5-VL


class SpatialPriorLmms(lmms):
    """Chat model of lmms-eval: replies are greedy, and end at the model's own stop tokens (not at ``until``).

    Args:
        pretrained: An export, or a plain checkpoint of a family we know.
        batch_size: Questions answered together; the questions about one clip always are.
        max_new_tokens: In place of the tasks' own.
        device: By default a GPU where there is one.
        frames: Of a video, evenly from the first to the last.
        engine: ``packed`` shares one pass over the views among the questions about them; ``generate`` does not.
        max_batch_size: lmms-eval always hands it over; not used.
        settings: Of the backbone, for a plain checkpoint (not on the command line).
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | Path,
        batch_size: int | str = 1,
        max_new_tokens: int | None = None,
        device: str | None = None,
        frames: int = 32,
        engine: str = "packed",
        max_batch_size: int | str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if engine not in ("packed", "generate"):
            raise LmmsError(f"engine={engine}: choose from packed, generate")
        if not str(batch_size).isdecimal() or int(batch_size) < 1 or int(frames) < 1:
            raise LmmsError(
                f"batch_size={batch_size}, frames={frames}: must be whole numbers from 1 on"
            )
        self.pretrained, self.frames, self.engine = Path(pretrained), int(frames), engine
        self.batch_size_per_gpu = int(batch_size)
        self.max_new_tokens, self._settings = max_new_tokens, settings
        self._device = torch.device(device or _device())
        self._answering: Answering | None = self._load()

    @property
    def batch_size(self) -> int:
        """Questions answered together."""
        return self.batch_size_per_gpu

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Replies, in the order of the requests."""
        replies = [""] * len(requests)
        by_length: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            by_length.setdefault(self._length(request.args[2]), []).append(number)
        for length, numbers in by_length.items():
            read = [partial(self._chat, requests[number].args) for number in numbers]
            found = self._model().replies(read, length)
            for number, reply in zip(numbers, found, strict=True):
                replies[number] = reply
        return replies

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Replies of every round, in the order of the requests; the task makes each round from those before."""
        found = []
        for request in requests:
            _, make, options, doc_id, task, split = request.args
            document = self.task_dict[task][split][doc_id]
            said: list[str] = []
            messages, information = make(document), None
            while messages is not None:
                chat = read_chat(messages)
                said += self._model().replies([lambda chat=chat: chat], self._length(options))  # type: ignore[misc]
                following = make(
                    document,
                    round_idx=len(said),
                    previous_output=list(said),
                    previous_round_info=information,
                )
                messages, information = _following(following)
            found.append(said)
        return found

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not there: such tasks rank options by likelihood, and our scores are of replies."""
        task = requests[0].args[-2] if requests else "a task"
        raise LmmsError(
            f"{task} asks for likelihoods of given answers, and this model only replies; choose a task whose "
            "output_type is generate_until"
        )

    def clean(self) -> None:
        """Free the weights, as lmms-eval asks before it scores; they are loaded again when needed."""
        self._answering = None
        super().clean()

    def _model(self) -> Answering:
        self._answering = self._answering or self._load()
        return self._answering

    def _load(self) -> Answering:
        backbone = load_backbone(self.pretrained, self._device, self._settings)
        attention = getattr(getattr(backbone, "settings", None), "attention", "sdpa")
        packed = self.engine == "packed" and attention in ("sdpa", "eager")
        return Answering(backbone, self.frames, self.batch_size_per_gpu, packed)

    def _chat(self, arguments: tuple[Any, ...]) -> Chat:
        _, make, _, doc_id, task, split = arguments
        return read_chat(make(self.task_dict[task][split][doc_id]))

    def _length(self, options: Mapping[str, Any]) -> int:
        if options.get("do_sample") or (options.get("num_beams") or 1) > 1:
            log.warning("the task asks for sampling or beams; replies are greedy")
        return int(self.max_new_tokens or options.get("max_new_tokens") or _NEW_TOKENS)


def _following(payload: Any) -> tuple[Any, Any]:
    """Messages of the next round (``None``: there is none) and what the task wants to be told in it."""
    if not (isinstance(payload, tuple) and len(payload) == 4):
        return None, None
    messages, over, _, information = payload
    return (None if over else messages), information


def _device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
