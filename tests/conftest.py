"""Shared by all tests: one untrained nano, built once, and one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained nano Qwen2.5-VL as a plain Hugging Face folder (read-only by convention)."""
    from spatialprior.backbones.nano.qwen2_5_vl_nano import build

    folder = tmp_path_factory.mktemp("nano") / "qwen2_5_vl"
    build(folder)
    return folder


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """Writes a video whose frame i shows i: eight black or white fields, its bits. Skips without PyAV."""
    av = pytest.importorskip("av")

    def make(
        path: Path,
        *,
        length: int = 60,
        size: int = 64,
        codec: str = "libx264",
        milliseconds: Sequence[int] | None = None,
        rotation: int = 0,
        **options: str,
    ) -> Path:
        ticks = Fraction(1, 1000)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=10, options=options)
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = ticks
            if rotation:
                if not hasattr(stream, "set_display_rotation"):
                    pytest.skip("this PyAV cannot write turned videos")
                stream.set_display_rotation(rotation)
            for i in range(length):
                fields = np.array([i >> bit & 1 for bit in range(8)], np.uint8).reshape(2, 4) * 255
                picture = fields.repeat(size // 2, 0).repeat(size // 4, 1)
                frame = av.VideoFrame.from_ndarray(np.stack([picture] * 3, -1))
                frame.pts = milliseconds[i] if milliseconds is not None else 100 * i
                frame.time_base = ticks
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make


@pytest.fixture(scope="session")
def shown_number() -> Callable[[torch.Tensor], int]:
    """Reads back what a frame of ``make_video`` shows."""

    def read(view: torch.Tensor) -> int:
        grey = view.float().mean(0)
        height, width = grey.shape
        fields = grey[height // 4 :: height // 2, width // 8 :: width // 4]
        return sum(int(value > 127) << bit for bit, value in enumerate(fields.flatten().tolist()))

    return read
