"""The paper's arms and ablations: every preset composes with every arm, every value has a source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from spatialprior.core.sites import SiteError, resolve_layers
from spatialprior.run.__main__ import main
from spatialprior.run.arms import arms_of
from spatialprior.run.catalog import options, recipe_folder
from spatialprior.run.compose import compose_run

PAPER = ["size=paper", "data.root=/nowhere", "instruction.path=/nowhere"]
PRESETS = sorted(name for name in options("prior") if name.startswith("gasp"))
RANKS = sorted(options("lora"))
ARMS = [
    f"{arm}_{family}" for arm in ("gasp", "gasp_corr", "sft", "vqa") for family in ("qwen", "llava")
]
LEAF = re.compile(r"^\s*(?:- override /)?[\w/]+:\s*[^\s#]")
SOURCE = re.compile(r"#.*\[[PFNOSM]\]")


def run(*argv: str):
    return compose_run(argv)


@pytest.mark.parametrize("recipe", ARMS)
def test_every_arm_composes_with_every_preset(recipe):
    family = "llava_next_video" if recipe.endswith("llava") else "qwen2_5_vl"
    assert run(f"recipe={recipe}").backbone.kind == family
    for preset in PRESETS:
        config = run(f"recipe={recipe}", f"prior=[{preset}]", *PAPER)
        assert list(config.priors) == ["gasp"] and config.backbone.kind == family


@pytest.mark.parametrize("rank", RANKS)
def test_ranks_take_the_place_of_the_sizes(rank):
    for argv in (["recipe=gasp_qwen"], ["recipe=gasp_qwen", *PAPER], ["recipe=gasp_llava", *PAPER]):
        lora = run(*argv, f"lora={rank}").backbone.settings.lora
        assert lora.rank == int(rank.removeprefix("rank_")) and lora.alpha == 2 * lora.rank
        assert tuple(lora.targets) == ("attention", "mlp")


def test_what_each_preset_changes_and_nothing_else():
    full = run("recipe=gasp_llava", *PAPER).priors["gasp"].to_dict()
    changed = {}
    for preset in PRESETS:
        own = run("recipe=gasp_llava", *PAPER, f"prior=[{preset}]").priors["gasp"].to_dict()
        changed[preset] = {key: value for key, value in own.items() if value != full[key]}
    assert changed == {
        "gasp": {},
        "gasp_corr": {"depth_weight": 0.0},
        "gasp_depth": {"corr_weight": 0.0},
        "gasp_random": {"initialization": "random"},
        "gasp_layers_10_18": {"layers": "9-17"},
        "gasp_layers_18_25": {"layers": "17-24"},
        "gasp_layers_25_32": {"layers": "24-31"},
    }


def test_layer_ranges_are_the_papers_count_of_32_layers():
    ranges = [options("prior")[f"gasp_layers_{name}"] for name in ("10_18", "18_25", "25_32")]
    layers = [yaml.safe_load(option.path.read_text())["layers"] for option in ranges]
    counted = [[i + 1 for i in resolve_layers(spec, 32)] for spec in layers]
    assert [(own[0], own[-1]) for own in counted] == [(10, 18), (18, 25), (25, 32)]
    with pytest.raises(SiteError, match="this decoder has layers 0 to 27"):
        resolve_layers(layers[2], 28)  # Qwen2.5-VL-7B is shallower


def test_a_range_beyond_the_decoder_is_one_line(capsys):
    assert main(["mode=plan", "prior=[gasp_layers_25_32]"]) != 0
    line = capsys.readouterr().err.strip()
    assert "layers='24-31': this decoder has layers 0 to 5" in line and "\n" not in line


def test_paper_values_of_the_two_backbones():
    qwen, llava = (
        run(f"recipe=gasp_{name}", *PAPER).backbone.settings for name in ("qwen", "llava")
    )
    assert (qwen.path, qwen.lora.rank) == ("Qwen/Qwen2.5-VL-7B-Instruct", 128)
    assert (llava.path, llava.lora.rank) == ("llava-hf/LLaVA-NeXT-Video-7B-hf", 512)
    assert llava.frames == "video"
    assert run("recipe=gasp_llava", *PAPER).instruction.kind == "llava_json"


def test_plans_need_no_path_and_runs_do(capsys):
    assert run("recipe=gasp_llava", "size=paper", "mode=plan").data.kind == "posed_rgbd"
    assert main(["recipe=gasp_llava", "size=paper", "--cfg"]) == 2
    assert "data.root has no value" in capsys.readouterr().err
    assert main(["recipe=gasp_llava", "size=paper", "data.root=/x", "--cfg"]) == 2
    assert "instruction.path has no value" in capsys.readouterr().err


# --- G2VLM --------------------------------------------------------------------------------

G2VLM = [
    "recipe=g2vlm_baseline",
    "size=paper",
    *(f"data.sources.{name}.path=/nowhere" for name in ("spar", "hound")),
]
PHASES = ("geometry_224", "geometry_518")


def test_g2vlm_trains_geometry_twice_and_then_the_answers():
    config = run(*G2VLM, *(f"phases.{name}.data.root=/nowhere" for name in PHASES))
    first, second, last = arms_of(config, Path())[0].chain()
    assert (first.phase, second.phase, last.phase) == (*PHASES, "")
    assert [each.trainer.steps for each in (first, second, last)] == [100000, 20000, 16000]
    priors = [each.priors["geometry_expert"].settings for each in (first, second, last)]
    assert [prior.stage for prior in priors] == ["geometry", "geometry", "ce_only"]
    assert [list(prior.encoder.settings.size) for prior in priors] == [
        [224, 224],
        [518, 518],
        [518, 518],
    ]
    assert {prior.positions for prior in priors} == {"sequential"}
    assert (first.data.kind, last.data.kind) == ("posed_rgbd", "mixture")
    assert (first.data.settings.min_frames, first.data.settings.max_frames) == (2, 24)


@pytest.mark.parametrize("left_out", PHASES)
def test_a_phase_without_its_path_is_one_line(capsys, tmp_path, left_out):
    rest = [f"phases.{name}.data.root=/nowhere" for name in PHASES if name != left_out]
    assert main([*G2VLM, *rest, f"output_root={tmp_path}"]) == 2
    line = capsys.readouterr().err.strip()
    assert f"phases.{left_out}.data.root has no value" in line and "\n" not in line


def test_the_plan_of_g2vlm_says_what_can_be_planned(capsys):
    assert main(["recipe=g2vlm_baseline", "size=paper", "mode=plan"]) == 2
    line = capsys.readouterr().err.strip()
    assert "geometry_expert" in line and "\n" not in line
    rest = line.partition("plan the rest with ")[2].split()
    assert rest == ["prior=[]", "phases={}"]
    config = run("recipe=g2vlm_baseline", "size=paper", "mode=plan", *rest)
    assert not config.priors and not config.phases
    assert config.backbone.settings.path == "Qwen/Qwen2-VL-2B-Instruct"


@pytest.mark.parametrize(
    "path",
    [
        recipe_folder() / "size" / "paper.yaml",
        recipe_folder() / "recipe_size" / "vega3d_baseline_paper.yaml",
        recipe_folder() / "recipe_size" / "g2vlm_baseline_paper.yaml",
        *(options("prior")[name].path for name in PRESETS),
        *(options("lora")[name].path for name in RANKS),
    ],
    ids=lambda path: path.stem,
)
def test_every_value_says_where_it_is_from(path):
    lines = path.read_text().splitlines()
    lacking = [
        line
        for line in lines
        if LEAF.match(line)
        and not SOURCE.search(line)
        and not line.strip().startswith(("kind:", "- override /data:"))
    ]
    assert not lacking
