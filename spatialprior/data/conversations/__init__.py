"""LLaVA-style conversations about pictures and videos: JSON arrays, JSONL, LLaVA-Video-178K."""

from spatialprior.data.conversations.dataset import LlavaJson

__all__ = ["LlavaJson"]
