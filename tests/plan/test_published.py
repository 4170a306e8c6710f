"""Published shapes give the published numbers of parameters."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.plan.published import PlanError, published_names, published_shape, shape_of


@pytest.mark.parametrize("name", published_names())
def test_parameters_on_the_meta_device_are_the_published_ones(name):
    shape = published_shape(name)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(shape.config)
    model.tie_weights()
    counted = sum(p.numel() for p in model.parameters())
    assert shape.source and shape.parameters
    if shape.exact:
        assert counted == shape.parameters
    else:
        assert counted == pytest.approx(shape.parameters, rel=0.006)  # rounded to two decimals


def test_all_families_are_there():
    assert len(published_names()) >= 13
    kinds = {published_shape(name).config.model_type for name in published_names()}
    assert kinds == {"qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava_next_video", "llava_onevision"}


def test_a_local_folder_is_read_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text((Qwen2_5VL.nano_folder() / "config.json").read_text())
    shape = shape_of(Qwen2_5VL, str(tmp_path))
    assert shape.config.get_text_config().hidden_size == 64


def test_an_unknown_model_is_told_the_known_ones():
    with pytest.raises(PlanError, match="give a local folder") as caught:
        shape_of(Qwen2_5VL, "someone/else")
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in str(caught.value)
