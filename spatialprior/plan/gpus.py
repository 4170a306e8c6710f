"""GPUs by name: dense bfloat16 peak and memory, as their makers state them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One device.

    Attributes:
        name: As sold.
        tflops: Dense bfloat16 peak of the tensor cores, 10^12 FLOP/s (data sheets print twice that, with
            structured sparsity).
        gib: Memory, GiB: the capacity as sold in GB (10^9 bytes), converted, which is a little less than what
            the driver reports.
        source: Where both come from.
    """

    name: str
    tflops: float
    gib: float
    source: str


def _sold(name: str, tflops: float, gigabytes: float, source: str) -> Gpu:
    return Gpu(name, tflops, gigabytes * 1e9 / 2**30, source)


GPUS = {
    "a100_40": _sold("A100 SXM 40 GB", 312, 40, "NVIDIA A100 data sheet"),
    "a100": _sold("A100 SXM 80 GB", 312, 80, "NVIDIA A100 data sheet"),
    "h100": _sold("H100 SXM", 989, 80, "NVIDIA H100 data sheet: 1,979 with sparsity"),
    "h200": _sold("H200 SXM", 989, 141, "NVIDIA H200 data sheet: 1,979 with sparsity"),
    "b200": _sold(
        "B200 SXM", 2250, 180, "NVIDIA DGX B200 data sheet: 36 PFLOPS with sparsity by 8"
    ),
    "rtx4090": _sold("GeForce RTX 4090", 165, 24, "NVIDIA Ada whitepaper, FP32 accumulation"),
}
