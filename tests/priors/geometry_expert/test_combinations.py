"""The expert beside GASP and VEGA-3D, and what does not go together."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from experts import NANO, backward, model, prior, shake, without_geometry

from spatialprior.core.injector import PriorInjector
from spatialprior.eval.generate_packed import generate_packed
from spatialprior.export import export_model, load_model
from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.priors.geometry_expert.injector import GeometryExpert
from spatialprior.priors.vega3d.injector import Vega3d
from spatialprior.run.checks import check_run
from spatialprior.run.compose import compose_run
from spatialprior.run.errors import is_expected
from spatialprior.testing import InjectorContract, plane_clip, tiny_backbone
from spatialprior.train.config import TrainerConfig
from spatialprior.train.optim import make_optimizer

pytestmark = pytest.mark.usefixtures("features")


def gasp(**settings: Any) -> Gasp:
    return Gasp(Gasp.Config(**{"embedding_dim": 16, "anchors": [4], **settings}))


def vega() -> Vega3d:
    encoder = {"kind": "wan_t2v", "path": "nano", "size": [32, 32], "layer": 1}
    return Vega3d(Vega3d.Config(encoder=encoder, cache_gb=0.05))


def clips():
    return [plane_clip("a", num_views=3), plane_clip("b", num_views=2)]


# --- GASP ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("features")
class OnTokensOfAnExpert(InjectorContract):
    injector_class = Gasp

    def companions(self) -> dict[str, PriorInjector]:
        return {"expert": prior(stage="vg_ce")}


class TestGaspOnReserved(OnTokensOfAnExpert):
    config_kwargs: ClassVar[dict[str, Any]] = {
        "embedding_dim": 16,
        "anchors": [4],
        "tokens": "reserved",
    }


class TestGaspOnBoth(OnTokensOfAnExpert):
    config_kwargs: ClassVar[dict[str, Any]] = {**TestGaspOnReserved.config_kwargs, "tokens": "both"}


@pytest.mark.usefixtures("features")
class TestBesideGaspOnBoth(InjectorContract):
    injector_class = GeometryExpert
    config_kwargs: ClassVar[dict[str, Any]] = {**NANO, "stage": "vg_ce"}

    def companions(self) -> dict[str, PriorInjector]:
        return {"gasp": gasp(tokens="both")}


@torch.no_grad()
def test_losses_count_both_kinds_of_tokens():
    counts, sums = {}, {}
    for tokens in ("visual", "reserved", "both"):
        whole = model(stage="vg_ce", others={"gasp": gasp(tokens=tokens)})
        terms = {term.name: term for term in whole(whole.backbone.encoder()(clips()))}
        for name in ("gasp/corr", "gasp/depth"):
            counts[tokens, name], sums[tokens, name] = terms[name].count, terms[name].sum
    for name in ("gasp/corr", "gasp/depth"):
        apart = [counts[tokens, name] for tokens in ("visual", "reserved")]
        assert min(apart) > 0 and counts["both", name] == sum(apart)
        total = sums["visual", name] + sums["reserved", name]
        assert torch.allclose(sums["both", name], total, rtol=1e-5)


def test_tokens_that_nobody_reserves_are_refused_in_one_line():
    message = (
        r"prior 'gasp' reads tokens that another prior reserves, and none does; .*geometry_expert"
    )
    for tokens in ("reserved", "both"):
        with pytest.raises(ValueError, match=message) as error:
            SpatialModel(tiny_backbone(), {"gasp": gasp(tokens=tokens)})
        assert "\n" not in str(error.value)
        config = compose_run(["recipe=gasp_qwen", "size=nano", f"priors.gasp.tokens={tokens}"])
        with pytest.raises(Exception, match=message) as error:
            check_run(config, 1, torch.device("cpu"))
        assert is_expected(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("tokens", ["visual", "reserved", "both"])
def test_gasp_in_stage_geometry(tokens):
    """No view goes through the backbone: of GASP's tokens only the expert's are there."""
    whole = model(stage="geometry", others={"gasp": gasp(tokens=tokens)})
    before = {name: t.clone() for name, t in whole.backbone.state_dict().items()}
    batch = whole.backbone.encoder()([*clips(), without_geometry(plane_clip("c"))])
    assert not batch.visual.any()
    counts = backward(whole, batch)
    assert (counts["gasp/corr"] > 0) == (tokens != "visual")
    assert all(p.grad is not None for p in whole.priors.parameters())
    reached = any(bool(p.grad.any()) for p in whole.priors.gasp.parameters())
    assert reached == (tokens != "visual")
    make_optimizer(whole, TrainerConfig(steps=1, weight_decay=0.5)).step()
    assert all(torch.equal(t, before[n]) for n, t in whole.backbone.state_dict().items())
    # Its losses alone train the expert below.
    whole.zero_grad(set_to_none=True)
    terms = {term.name: term for term in whole(batch)}
    terms["gasp/corr"].sum.backward()
    weight = whole.injectors["expert"].layers[0].q_proj.weight
    assert (weight.grad is not None and bool(weight.grad.any())) == (tokens != "visual")


# --- VEGA-3D ------------------------------------------------------------------------------


def test_vega3d_beside_an_expert_that_only_answers(tmp_path):
    whole = model(stage="ce_only", others={"vega": vega()})
    shake(whole.priors)
    encoder = whole.backbone.encoder()
    asked = [clip.with_questions(clip.questions[:1]) for clip in clips()]
    batch = encoder.prompts(asked)
    context = whole.prepare(batch)

    def hidden(*names: str):
        with torch.no_grad():
            edits = whole.edits({name: context[name] for name in names})
            return whole.backbone(batch, edits=edits).hidden[:, -1]

    passes = [hidden(), hidden("expert"), hidden("vega"), hidden("expert", "vega")]
    for i, one in enumerate(passes):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in passes[:i])

    report = export_model(whole, tmp_path / "export", recipe_hash="x")
    assert report.is_stock and report.kept is not None
    assert report.kept["kept"] == ["expert", "vega"] and report.kept["identical_logits"]
    loaded = load_model(tmp_path / "export").backbone
    with torch.no_grad():
        assert torch.equal(loaded(batch).hidden[:, -1], passes[-1])
    tokens = loaded.generate(batch, 4)
    assert torch.equal(tokens, whole.serve().generate(batch, 4))
    assert generate_packed(loaded, asked, 4) == [[r] for r in encoder.decode(tokens)]


# --- two routers --------------------------------------------------------------------------


def test_two_routers_are_refused_by_name():
    message = r"priors '(first|geometry_expert)' and 'second' both send tokens of their own"
    with pytest.raises(ValueError, match=message) as error:
        SpatialModel(tiny_backbone(), {"first": prior(), "second": prior()})
    assert "\n" not in str(error.value)
    encoder = "encoder={kind: dinov2_reg, path: nano, weights: random, size: [32, 32]}"
    config = compose_run(
        [
            "recipe=g2vlm_baseline",
            "size=nano",
            f"priors.geometry_expert.{encoder}",
            "+priors.second.kind=geometry_expert",
            f"+priors.second.{encoder}",
        ]
    )
    assert sorted(config.priors) == ["geometry_expert", "second"]
    with pytest.raises(Exception, match=message) as error:
        check_run(config, 1, torch.device("cpu"))
    assert is_expected(error.value) and "\n" not in str(error.value)
