"""What lies under the cells of a feature map: their mean world point, and their mean colour."""

from __future__ import annotations

import torch
from torch import Tensor

from spatialprior.geometry.cameras import unproject


def pixel_cells(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The cell in whose box each pixel's centre lies: ``H W`` long, row-major over cells, -1 for none.

    Args:
        boxes: ``h w 4``, from ``FeatureMaps.cell_boxes``: a grid over the frame or a part of it.
        size: ``(H, W)`` of the frame.
    """
    rows, cols = boxes.shape[:2]
    boxes = boxes.double()
    edges_x = torch.cat([boxes[0, :, 0], boxes[0, -1:, 2]])
    edges_y = torch.cat([boxes[:, 0, 1], boxes[-1:, 0, 3]])
    x = torch.arange(size[1], dtype=torch.float64) + 0.5
    y = torch.arange(size[0], dtype=torch.float64) + 0.5
    col = torch.searchsorted(edges_x, x, right=True) - 1
    row = torch.searchsorted(edges_y, y, right=True) - 1
    inside = ((row >= 0) & (row < rows))[:, None] & ((col >= 0) & (col < cols))[None]
    return torch.where(inside, row[:, None] * cols + col[None], -1)


def cell_means(values: Tensor, counted: Tensor, cells: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean over each cell's counted pixels.

    Args:
        values: ``V H W K`` float64.
        counted: ``V H W`` bool.
        cells: ``H W``, of :func:`pixel_cells`.
        count: Number of cells.

    Returns:
        ``V count K`` means (0 where nothing counts), and ``V count`` share of the cell's pixels that count.
    """
    inside = cells >= 0
    index = cells[inside]
    weight = counted[:, inside].double()
    # Not a product: what is not counted may be NaN or infinite.
    used = values[:, inside].where(weight.unsqueeze(-1) > 0, 0)
    sums = values.new_zeros(len(values), count, values.shape[-1]).index_add_(1, index, used)
    number = weight.new_zeros(len(values), count).index_add_(1, index, weight)
    total = torch.bincount(index, minlength=count).double()
    return sums / number.clamp(min=1).unsqueeze(-1), number / total.clamp(min=1)


def cell_points(
    boxes: Tensor,
    depth: Tensor,
    depth_valid: Tensor | None,
    intrinsics: Tensor,
    world_to_cam: Tensor,
    min_depth_share: float,
) -> tuple[Tensor, Tensor]:
    """Mean of the back-projected pixels inside each cell's box.

    Args:
        boxes: ``h w 4`` pixels.
        depth: ``V H W`` metres along z.
        depth_valid: ``V H W`` bool, or ``None`` where every finite positive depth is valid.
        intrinsics: ``V 3 3`` pixels.
        world_to_cam: ``V 4 4`` metres.
        min_depth_share: Share of a cell's pixels that must have depth.

    Returns:
        ``V h*w 3`` float64 world points, metres, and ``V h*w`` bool valid (points are meaningless elsewhere).
    """
    views, height, width = depth.shape
    metres = depth.double()
    known = metres.isfinite() & (metres > 0)
    if depth_valid is not None:
        known &= depth_valid
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5,
        torch.arange(width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([x, y], dim=-1).reshape(1, -1, 2).expand(views, -1, -1)
    points = unproject(pixels, metres.flatten(1), intrinsics.double(), world_to_cam.double())
    rows, cols = boxes.shape[:2]
    means, share = cell_means(
        points.unflatten(1, (height, width)),
        known,
        pixel_cells(boxes, (height, width)),
        rows * cols,
    )
    # A cell between pixel centres has none, and is not valid.
    return means, (share >= min_depth_share) & (share > 0)


def cell_colours(boxes: Tensor, images: Tensor) -> Tensor:
    """Mean colour of the pixels inside each cell's box: ``V h*w 3`` in [0, 1]. The raw-pixel baseline.

    Args:
        boxes: ``h w 4`` pixels.
        images: ``V 3 H W`` uint8.
    """
    height, width = (int(side) for side in images.shape[-2:])
    rows, cols = boxes.shape[:2]
    values = images.permute(0, 2, 3, 1).double() / 255
    everywhere = torch.ones(len(images), height, width, dtype=torch.bool)
    return cell_means(values, everywhere, pixel_cells(boxes, (height, width)), rows * cols)[0]
