"""Every process runs the vision tower, whatever its batch holds: same weights reached, nothing added."""

import dataclasses

import pytest
import torch

from spatialprior.model import SpatialModel
from spatialprior.testing import plane_clip, tiny_backbone

FAMILIES = [
    ("qwen2_5_vl", {}),
    ("qwen2_vl", {"frames": "video"}),
    ("qwen3_vl", {}),
    ("qwen3_vl", {"frames": "video"}),
    ("llava_next_video", {}),
    ("llava_onevision", {}),
    ("llava_onevision", {"frames": "video"}),
]


def gradients(model, clip):
    model.zero_grad()
    (term, *_) = model(model.backbone.encoder()([clip]))
    term.sum.backward()
    return term, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(("kind", "settings"), FAMILIES)
def test_text_alone_reaches_every_weight_and_changes_no_loss(kind, settings):
    model = SpatialModel(tiny_backbone(kind=kind, **settings), {})
    clip = plane_clip(num_views=2)
    text = dataclasses.replace(
        clip,
        images=(),
        frame_ids=(),
        intrinsics=None,
        world_to_cam=None,
        depth=None,
        depth_valid=None,
    )
    plain, sparse = gradients(model, text)
    model.set_lockstep(True)
    term, full = gradients(model, text)
    torch.testing.assert_close(term.sum, plain.sum, rtol=0, atol=0)
    assert any(grad is None for grad in sparse.values())
    missing = [name for name, grad in full.items() if grad is None]
    with_images = gradients(model, clip)[1]
    # Weights that neither meets (a line break between tiles, say) are no matter of lockstep.
    assert not [name for name in missing if with_images[name] is not None]
    for name, grad in sparse.items():
        expected = torch.zeros_like(full[name]) if grad is None and full[name] is not None else grad
        if expected is not None:
            torch.testing.assert_close(full[name], expected, rtol=0, atol=0, msg=name)


def test_a_batch_without_any_loss_still_reaches_every_weight():
    model = SpatialModel(tiny_backbone(), {})
    model.set_lockstep(True)
    term, grads = gradients(model, plane_clip(num_views=2, questions=()))
    assert term.count == 0 and term.sum == 0
    assert all(grad is not None and not grad.any() for grad in grads.values())
