"""``--model spatialprior_replay``: lmms-eval scores replies that were stored, whoever gave them.

``python -m lmms_eval --model spatialprior_replay --model_args replies=FILE --tasks vsibench``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms

from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.stored import StoredReplies


class ReplayLmms(lmms):
    """Gives stored replies.

    Args:
        replies: A ``.jsonl`` file, see :class:`~spatialprior.eval.lmms.stored.StoredReplies`.
        key: Column by which the file names documents, see
            :meth:`~spatialprior.eval.lmms.stored.StoredReplies.reply`.
        batch_size, max_batch_size, device: lmms-eval always hands them over; not used.
    """

    is_simple = False

    def __init__(
        self,
        replies: str,
        key: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.stored, self._key = StoredReplies.read(replies), key

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The stored replies, in the order of the requests."""
        documents: dict[tuple[str, str], Any] = {}
        found = []
        for request in requests:
            doc_id, task, split = request.args[-3:]
            if (task, split) not in documents:
                documents[task, split] = _without_media(self.task_dict[task][split])
            found.append(self.stored.reply(task, doc_id, documents[task, split][doc_id], self._key))
        return found

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """Not there: a file holds one reply a document."""
        raise LmmsError("stored replies have one round; this task has several")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not there: a file holds replies."""
        raise LmmsError("stored replies are texts; this task asks for likelihoods")


def _without_media(documents: Any) -> Any:
    """The documents without the columns that would be decoded at every look."""
    heavy = [
        name
        for name, kind in getattr(documents, "features", {}).items()
        if any(media in repr(kind) for media in ("Image(", "Audio(", "Video("))
    ]
    return documents.remove_columns(heavy) if heavy else documents
