"""The plug-in as outsiders would test theirs: the contract, then what is its own."""

from __future__ import annotations

import subprocess
import sys

import torch
from spatialprior_example.injector import DepthOrder

from spatialprior.core.terms import total_loss
from spatialprior.model import SpatialModel
from spatialprior.registry import INJECTORS
from spatialprior.run.compose import compose_run
from spatialprior.testing import InjectorContract, plane_clip, tiny_backbone


class TestDepthOrder(InjectorContract):
    injector_class = DepthOrder


class TestDepthOrderOfTheLastLayer(InjectorContract):
    injector_class = DepthOrder
    config_kwargs = {"depth_fraction": 1.0, "pairs": 8}  # noqa: RUF012


def test_pairs_are_ordered_by_true_depth():
    clip = plane_clip("a", num_views=2)
    batch = tiny_backbone().encoder()([clip])
    pairs = DepthOrder(DepthOrder.Config(pairs=200)).prepare(batch)
    centers = batch.token_map.centers().long()
    checked = 0
    for view in range(2):
        for k in pairs.valid[0, view].nonzero().squeeze(1).tolist():
            (x0, y0), (x1, y1) = (
                centers[0, view, int(index[0, view, k])].tolist()
                for index in (pairs.first, pairs.second)
            )
            assert clip.depth[view, y0, x0] < clip.depth[view, y1, x1]
            checked += 1
    assert checked > 50


def test_it_learns():
    torch.manual_seed(0)
    model = SpatialModel(tiny_backbone(), {"depth_order": DepthOrder(DepthOrder.Config())}).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = model.backbone.encoder()([plane_clip("a", questions=())])
    first = last = 0.0
    for step in range(25):
        terms = model(batch)
        loss = total_loss(terms, {term.name: term.count for term in terms})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
        first = first if step else last
    assert last < 0.5 * first


def test_installed_it_is_found_by_name_and_composes():
    assert INJECTORS.get("depth_order") is DepthOrder
    assert INJECTORS.origin("depth_order") == "spatialprior-example"
    run = compose_run(["recipe=depth_order_qwen", "priors.depth_order.pairs=16"])
    assert run.priors["depth_order"].settings == DepthOrder.Config(pairs=16)
    both = compose_run(["recipe=gasp_qwen", "prior=[gasp,depth_order]"])
    assert list(both.priors) == ["gasp", "depth_order"]


def test_the_command_line_lists_it():
    command = [sys.executable, "-m", "spatialprior.run", "recipe=depth_order_qwen", "--cfg"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "depth_order" in done.stdout
