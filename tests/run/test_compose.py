"""Every recipe composes, selections combine as said, and plug-ins take part without being imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import spatialprior.run.catalog as catalog
import spatialprior.run.compose as compose_module
from spatialprior.registry import Registry
from spatialprior.run.catalog import GROUPS, options, recipe_folder
from spatialprior.run.compose import compose_run, load_run, resolve_component, save_run
from spatialprior.run.errors import ConfigError

ROOT = ["data.root=/nowhere"]
PAPER = [*ROOT, "instruction.path=/nowhere"]
SOURCES = [f"data.sources.{name}.path=/nowhere" for name in ("spar", "hound")]


def run(*argv: str):
    return compose_run(argv)


@pytest.mark.parametrize("size", sorted(options("size")))
@pytest.mark.parametrize("recipe", sorted(options("recipe")))
def test_every_recipe_composes_at_every_size(recipe, size):
    own_data = {  # in place of clips with geometry and instructions
        "nano_base_1": [],
        "nano_base_2": [],
        "nano_base_3": [],
        "nano_dino": [],
        "vega3d_baseline": SOURCES,
        "g2vlm_baseline": SOURCES,
    }
    paths = own_data.get(recipe, PAPER) if size == "paper" else []
    config = run(f"recipe={recipe}", f"size={size}", *paths)
    assert (config.recipe, config.size) == (recipe, size)
    assert bool(config.priors) == recipe.startswith(("gasp", "vega3d", "g2vlm", "nano_dino"))
    assert config.vqa.enabled == recipe.startswith("vqa")


def test_scale_never_changes_the_optimisation():
    runs = [run(f"scale={name}") for name in options("scale")]
    assert len({repr(config.trainer) for config in runs}) == 1
    assert len({repr(config.scale) for config in runs}) > 1


def test_defaults_are_the_first_command_of_the_readme():
    config = run()
    assert config.recipe == "gasp_qwen" and config.size == "nano" and config.control == "sft"
    assert config.backbone.settings.path == "nano"
    assert run("recipe=gasp_qwen").fingerprint() == config.fingerprint()


@pytest.mark.parametrize(
    ("argv", "priors"),
    [
        (["recipe=gasp_qwen", "prior=[]"], []),
        (["recipe=gasp_qwen", "prior=null"], []),
        (["recipe=sft_qwen", "prior=[gasp]"], ["gasp"]),
        (["recipe=sft_qwen", "prior=gasp"], ["gasp"]),
        (["prior=[gasp]", "recipe=sft_qwen"], ["gasp"]),
        (["recipe=gasp_corr_qwen"], ["gasp"]),
    ],
)
def test_the_command_line_outranks_the_recipe(argv, priors):
    assert list(run(*argv).priors) == priors


def test_a_preset_sets_what_it_names_and_the_size_the_rest():
    full, corr = run().priors["gasp"], run("prior=[gasp_corr]").priors["gasp"]
    assert full.settings.depth_weight > 0 == corr.settings.depth_weight
    assert full.settings.embedding_dim == corr.settings.embedding_dim == 32
    assert run("size=paper", *PAPER).priors["gasp"].settings.embedding_dim == 128


def test_values_outrank_sizes_and_reach_settings_that_no_file_mentions():
    config = run(
        "priors.gasp.embedding_dim=16", "data.window=2", "trainer.betas=[0.8,0.9]", "seed=3"
    )
    assert config.priors["gasp"].settings.embedding_dim == 16
    assert config.data.settings.window == 2
    assert config.trainer.betas == (0.8, 0.9)
    assert config.seed == 3


def test_paper_size_holds_the_papers_numbers():
    config = run("size=paper", *PAPER)
    assert config.backbone.settings.lora.rank == 128
    assert config.trainer.learning_rate == 1e-4
    assert config.priors["gasp"].settings.lr_multiple == 4.0
    data = config.data.settings
    assert (data.min_frames, data.max_frames, data.window) == (8, 24, 48)
    assert run("size=paper", "backbone.lora=null", *PAPER).backbone.settings.lora is None


def test_real_frames_bring_the_rooms_questions_along_unless_told_not_to():
    assert run("data=posed_rgbd", *ROOT).instruction.kind == "rooms"
    assert run("data=posed_rgbd", "instruction=null", *ROOT).instruction is None
    assert run().instruction.settings.image_size == 64
    assert run("eval=null").eval is None


def test_paths_with_spaces_survive():
    assert run("data=posed_rgbd", "data.root='/a b/c,d'").data.settings.root == "/a b/c,d"


def test_saved_recipe_loads_as_the_same_run(tmp_path):
    config = run("data=posed_rgbd", "trainer.learning_rate=1e-5", *ROOT)
    path = tmp_path / "run" / "recipe.yaml"
    save_run(config, path)
    assert load_run(path) == config
    assert [item.name for item in path.parent.iterdir()] == ["recipe.yaml"]


def test_fingerprint_follows_the_numbers_only():
    base = run().fingerprint()
    assert run("output_root=elsewhere").fingerprint() == base
    assert run("seed=1").fingerprint() != base
    assert run("priors.gasp.temperature=0.1").fingerprint() != base


def test_resume_keeps_the_run_and_lets_hardware_and_stage_change(tmp_path):
    config = run("seed=5", "trainer.steps=7")
    save_run(config, tmp_path / "recipe.yaml")
    again = run(f"resume={tmp_path}", "mode=probe", "scale=1gpu", "probe.test_clips=3")
    assert (again.seed, again.trainer.steps, again.mode) == (5, 7, "probe")
    assert (again.scale.device, again.hardware, again.probe.test_clips) == ("cuda", "1gpu", 3)
    assert again.overrides[:2] == ("seed=5", "trainer.steps=7")
    for text in ("trainer.steps=9", "recipe=sft_qwen", "priors.gasp.temperature=1"):
        with pytest.raises(ConfigError, match="cannot change in a resumed run"):
            run(f"resume={tmp_path}", text)


def test_every_option_on_disk_describes_itself():
    for group in GROUPS:
        for option in options(group).values():
            assert option.describe(), option.path
    assert (recipe_folder() / "config.yaml").is_file()


# --- third parties ---------------------------------------------------------------------------------


class Plane:
    @dataclass
    class Config:
        strength: float = 1.0


@pytest.fixture
def plugin(tmp_path, monkeypatch) -> Path:
    """An installed distribution with a prior and a recipe whose package cannot be imported."""
    package = tmp_path / "plane_package"
    for folder in ("prior", "recipe"):
        (package / "recipes" / folder).mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "recipes/prior/plane.yaml").write_text(
        "# @package priors.plane\n# Planes\nkind: plane\nstrength: 2.0\n"
    )
    (package / "recipes/recipe/plane_qwen.yaml").write_text(
        "# @package _global_\n# Planes on Qwen\ndefaults:\n  - override /prior: [gasp, plane]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("plane", "plane_package.recipes", "spatialprior.recipes")
    monkeypatch.setattr(
        catalog, "plugin_entry_points", lambda group: [(entry, "spatialprior-plane")]
    )
    injectors: Registry = Registry(
        "prior", "none", {"gasp": "spatialprior.priors.gasp.injector:Gasp"}
    )
    injectors.add("plane", Plane)
    monkeypatch.setitem(compose_module.REGISTRIES, "priors", injectors)
    return package


def test_a_plugins_recipe_composes_like_ours_without_importing_it(plugin):
    config = run("recipe=plane_qwen", "priors.plane.strength=3")
    assert list(config.priors) == ["gasp", "plane"]
    assert config.priors["plane"].settings == Plane.Config(3.0)
    assert options("prior")["plane"].origin == "spatialprior-plane"


def test_two_distributions_with_one_recipe_name_are_both_named(plugin):
    (plugin / "recipes/recipe/gasp_qwen.yaml").write_text("# @package _global_\n")
    with pytest.raises(
        ConfigError, match="provided twice: by spatialprior and by spatialprior-plane"
    ):
        run("recipe=gasp_qwen")


def test_a_prior_file_without_its_package_line_is_explained(plugin):
    (plugin / "recipes/prior/plane.yaml").write_text("kind: plane\n")
    with pytest.raises(ConfigError, match=r"begins with '# @package priors\.NAME'"):
        run("recipe=plane_qwen")


def test_broken_yaml_is_one_line(plugin):
    (plugin / "recipes/prior/plane.yaml").write_text("kind: [\n")
    with pytest.raises(ConfigError) as caught:
        run("recipe=plane_qwen")
    assert "cannot compose the recipe" in str(caught.value) and "\n" not in str(caught.value)


def test_resolve_component_alone():
    found = resolve_component(
        "data", {"kind": "rooms", "window": 2}, sized={"rooms": {"window": 3}}
    )
    assert found.kind == "rooms" and found.settings.window == 2
    assert found.to_dict()["kind"] == "rooms"
