"""The settings of a training: read strictly, refused by name and in one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.train.made import tiny_config, write_config
from tests.train.toy_methods import registered
from wsi_magnet.errors import ConfigError
from wsi_magnet.train.config import (
    CHOICES,
    RANGES,
    AugmentConfig,
    ClassConfig,
    MethodConfig,
    TrainingConfig,
    read_config,
)

CONFIGS = Path(__file__).parents[2] / "pipelines" / "configs"


def values() -> dict[str, Any]:
    """What a YAML file of the tiny configuration holds."""
    read: dict[str, Any] = yaml.safe_load(yaml.safe_dump(plain(tiny_config().to_json())))
    return read


def plain(value: Any) -> Any:
    """Tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def refusal(path: Path) -> str:
    """The line with which a file is refused."""
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


def refusal_of(folder: Path, change: dict[str, Any]) -> str:
    """The same for the tiny configuration with changes in the sections that they name."""
    changed = values()
    for name, value in change.items():
        section, _, key = name.rpartition(".")
        (changed[section] if section else changed)[key] = value
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    return refusal(path)


def test_a_configuration_comes_back_from_yaml_as_it_was(tmp_path: Path) -> None:
    config = tiny_config(card={"data": "discs"}, backbone={"scale_shares": (1.0, 1.0, 2.0)}, refiners={"shared": True})
    assert read_config(write_config(tmp_path / "c.yaml", config)) == config


def test_the_side_of_a_cell_is_written_where_it_is_not_the_default(tmp_path: Path) -> None:
    assert "cell_px" not in tiny_config().to_json()
    config = tiny_config(cell_px=128)
    assert config.to_json()["cell_px"] == 128
    assert read_config(write_config(tmp_path / "c.yaml", config)) == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configurations_of_the_repository_can_be_read(path: Path) -> None:
    assert len(read_config(path).class_infos()) >= 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "config: unknown field 'colour'"),
        ({"backbone.step": 3}, "config.backbone: unknown field 'step'"),
        ({"augment.hue": 1}, "config.augment: unknown field 'hue'"),
        ({"backbone.steps": "many"}, "config.backbone.steps is 'many', not a whole number"),
        ({"augment.flips": 1}, "config.augment.flips is 1, not true or false"),
        (
            {"refiners.choice_weight": 0.5},
            "refiners.choice_weight 0.5 needs a module that chooses, gate or gate+rgb, and refiners.module is 'magnet'",
        ),
        ({"backbone.encoder": 5}, "config.backbone.encoder is 5, not text"),
        (
            {"classes": [{"name": "a", "value": "b"}, {"name": "c"}]},
            r"config.classes[0].value is 'b', not a whole number",
        ),
        ({"classes": [{"name": "a", "color": [1, 2]}, {"name": "c"}]}, "config.classes[0].color has 2 values, not 3"),
        ({"refiners": None}, "config.refiners is None, not an object"),
        ({"mpps": [4.0, 3.0]}, "scales must halve from each to the next, coarse to fine; got 4 then 3"),
        ({"mpps": [4.0]}, "mpps has 1 scale; MagNet needs at least 2"),
        ({"refiners.loss": "ohem"}, "refiners.ohem_kept 100000 leaves out none of the 1152 pixels that a loss sees"),
        ({"backbone.network": "unet"}, "backbone.network 'unet' is none of fpn, psp, hrnet18+ocr, small, "),
        ({"backbone.crop_px": 80}, "backbone.crop_px 80 is not at least 64 and a multiple of 32, as network 'small'"),
        ({"backbone.crop_px": 32}, "backbone.crop_px 32 is not at least 64"),
        ({"backbone.crop_px": 64_000_000}, "backbone.crop_px 6.4e+07 is not between 8 and 8192"),
        ({"backbone.network_args": {"width": 0}}, "backbone.network_args.width is 0, not a whole number of at least 1"),
        ({"backbone.scale_shares": [1, 1]}, "backbone.scale_shares [1.0, 1.0] are not 3 numbers, one a scale"),
        ({"backbone.scale_shares": [0, 0, 0]}, "backbone.scale_shares [0.0, 0.0, 0.0] are not 3 numbers"),
        ({"backbone.scale_shares": [1, -1, 1]}, "backbone.scale_shares [1.0, -1.0, 1.0] are not 3 numbers"),
        ({"refiners.window_px": 100}, "refiners.window_px 100 is not a multiple of 8, at least 32"),
        ({"refiners.window_px": 24}, "refiners.window_px 24 is not a multiple of 8, at least 32"),
        ({"median_px": 4}, "median_px 4 is not odd"),
        ({"cell_px": 100}, "cell_px 100 is not 128, 256 or 512"),
        ({"classes": [{"name": "a"}]}, "classes must be at least two, of different values; got a 1"),
        ({"classes": [{"name": "a"}, {"name": "A"}]}, "class names must not be empty or repeated; got 'a', 'A'"),
        ({"classes": [{"name": "a", "value": 2}, {"name": "b"}]}, "got a 2, b 2: give each a value"),
        ({"classes": [{"name": "a", "value": 255}, {"name": "b"}]}, "class 'a': value 255 is not between 0 and 254"),
        ({"classes": [{"name": "a", "color": [0, 0, 256]}, {"name": "b"}]}, "class 'a': colour (0, 0, 256) is not RGB"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    assert said in refusal_of(tmp_path, change)


@pytest.mark.parametrize("name", ["name", "mpps", "classes", "backbone"])
def test_a_missing_section_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values().items() if key != name}), encoding="utf-8")
    assert refusal(path) == f"config: missing field '{name}'"


def test_all_else_has_a_default(tmp_path: Path) -> None:
    changed = {key: values()[key] for key in ("name", "mpps", "classes")} | {"backbone": {"network": "small"}}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    config = read_config(path)
    assert (config.backbone.steps, config.backbone.batch, config.backbone.learning_rate) == (1400, 8, 0.003)
    assert (config.refiners.steps, config.refiners.batch, config.refiners.learning_rate) == (400, 1, 0.0015)
    changed["backbone"] = {}
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    assert refusal(path) == "config.backbone: missing field 'network'"


def section_of(name: str) -> str:
    """The prefix of the first section that has a setting."""
    config = tiny_config()
    sections = {"": config, **{f"{key}.": getattr(config, key) for key in ("augment", "backbone", "refiners", "fit")}}
    return next(prefix for prefix, section in sections.items() if hasattr(section, name))


@pytest.mark.parametrize("name", CHOICES)
def test_a_word_that_is_none_of_a_settings_is_named(tmp_path: Path, name: str) -> None:
    prefix = section_of(name)
    text = refusal_of(tmp_path, {f"{prefix}{name}": "odd"})
    assert text == f"{prefix}{name} 'odd' is none of {', '.join(CHOICES[name])}"


@pytest.mark.parametrize("name", RANGES)
def test_a_number_below_the_least_is_named(tmp_path: Path, name: str) -> None:
    prefix, (low, _) = section_of(name), RANGES[name]
    kind = type(tiny_config_value(f"{prefix}{name}"))
    below = kind(low - 1)
    assert refusal_of(tmp_path, {f"{prefix}{name}": below}).startswith(f"{prefix}{name} {below:g} is not ")


def tiny_config_value(name: str) -> Any:
    section, _, key = name.rpartition(".")
    config: Any = tiny_config()
    return getattr(getattr(config, section) if section else config, key)


def test_canonical_names_have_their_values_and_colours() -> None:
    config = replace(tiny_config(), classes=(ClassConfig("stroma"), ClassConfig("Gleason 4"), ClassConfig("fat")))
    assert [c.value for c in config.class_infos()] == [1, 4, 6]
    assert config.class_infos()[1].color == (255, 140, 0)


def test_values_and_colours_that_are_given_are_kept() -> None:
    config = replace(tiny_config(), classes=(ClassConfig("stroma", 9, (1, 2, 3)), ClassConfig("fat", 4)))
    first, second = config.class_infos()
    assert (first.value, first.color, second.value) == (9, (1, 2, 3), 4)


def encoder_read(folder: Path, encoder: str) -> str | None:
    (folder / "sub").mkdir(parents=True)
    return read_config(
        write_config(folder / "sub" / "c.yaml", tiny_config(backbone={"encoder": encoder}))
    ).backbone.encoder


def test_a_relative_encoder_is_looked_for_beside_the_configuration(tmp_path: Path) -> None:
    assert encoder_read(tmp_path, "resnet.pth") == str(tmp_path / "sub" / "resnet.pth")


def test_an_absolute_encoder_stays_where_it_is(tmp_path: Path) -> None:
    assert encoder_read(tmp_path, str(tmp_path / "resnet.pth")) == str(tmp_path / "resnet.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "config is None, not an object"),
        (b"- a\n- b\n", "config is ['a', 'b'], not an object"),
        (b"just text", "config is 'just text', not an object"),
        (b"name: [", "no YAML: "),
        (b"[" * 5000, "it is nested too deeply"),
        (b"seed: 1\nbackbone:\n  steps: 1\n  steps: 2\n", "'steps' stands there twice, in or below line 3"),
        (b"name: !!python/object:os.system {}", "no YAML: could not determine a constructor"),
        ("name: Prüfung".encode("latin-1"), "cannot be read: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    assert refusal(path).startswith(said)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml") == "cannot be read: No such file or directory"


def extended(folder: Path, text: str) -> TrainingConfig:
    """What extends the tiny configuration, in a folder of its own."""
    write_config(folder / "base.yaml", tiny_config())
    path = folder / "more.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def test_a_configuration_extends_another_section_by_section(tmp_path: Path) -> None:
    found = extended(tmp_path, "extends: base.yaml\nname: more\nbackbone: {steps: 77}\n")
    base = tiny_config()
    assert found == replace(base, name="more", backbone=replace(base.backbone, steps=77))


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "1.0e-3", ".1e-2", "0.001"])
def test_a_number_may_be_written_as_people_write_it(tmp_path: Path, text: str) -> None:
    assert (
        extended(tmp_path, f"extends: base.yaml\nbackbone: {{learning_rate: {text}}}\n").backbone.learning_rate == 0.001
    )


def test_configurations_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    for own, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{own}.yaml").write_text(f"extends: {other}.yaml\n", encoding="utf-8")
    assert refusal(tmp_path / "a.yaml").endswith("a.yaml extends itself")


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("extends: base.yaml\n", encoding="utf-8")
    assert refusal(path) == f"extends {tmp_path / 'base.yaml'}: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"classes": (ClassConfig("background", 3), ClassConfig("gland"))}, "stands for the value 0, not 3"),
        ({"classes": (ClassConfig("a\nb"), ClassConfig("gland"))}, "has control characters"),
        ({"classes": (ClassConfig("Gland"), ClassConfig("gland"))}, "repeated"),
        ({"name": "a\nb"}, "name 'a\\\\nb' has control characters"),
    ],
)
def test_names_that_no_bundle_should_have_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        tiny_config(**changes)


# ---- other methods --------------------------------------------------------------------------------------------------


@pytest.fixture
def _toys() -> Iterator[None]:
    """Two methods in the registry: Blend learns, Dark does not."""
    with registered():
        yield


def methods_of(folder: Path, text: str, base: str = "") -> TrainingConfig:
    """The tiny configuration with a section `methods`, in a file that extends it."""
    write_config(folder / "tiny.yaml", tiny_config())
    (folder / "base.yaml").write_text(f"extends: tiny.yaml\n{base}", encoding="utf-8")
    path = folder / "c.yaml"
    path.write_text(f"extends: base.yaml\n{text}", encoding="utf-8")
    return read_config(path)


@pytest.mark.usefixtures("_toys")
@pytest.mark.parametrize(
    "text",
    [
        "methods: [dark, BLEND]",
        "methods:\n- Dark\n- Blend\n",
        "methods: {Dark: , Blend: }",
        "methods: {Dark: {}, Blend: {}}",
        "methods: {Dark: null, Blend: {steps: 400}}",
    ],
)
def test_methods_are_listed_or_have_settings(tmp_path: Path, text: str) -> None:
    config = methods_of(tmp_path, text)
    assert config.methods == {"Dark": None, "Blend": MethodConfig(steps=400)}
    assert read_config(write_config(tmp_path / "again.yaml", config)) == config


def test_a_method_has_the_steps_that_it_suggests_unless_it_is_given_others(tmp_path: Path) -> None:
    config = methods_of(tmp_path, "methods: {ISS: , CascadePSP: {batch: 1}, PointRend: {batch: 1}, DGF: {steps: 7}}")
    found = {name: one.steps for name, one in config.methods.items() if one is not None}
    assert found == {"ISS": 100, "CascadePSP": 100, "PointRend": 400, "DGF": 7}


@pytest.mark.usefixtures("_toys")
def test_settings_of_a_method_are_read(tmp_path: Path) -> None:
    config = methods_of(tmp_path, "methods: {Blend: {steps: 7, augment: {stain: 0.3}}}", "methods: {dark: , Blend: }")
    assert config.methods["Blend"] == MethodConfig(steps=7, augment=AugmentConfig(stain=0.3))
    assert read_config(write_config(tmp_path / "again.yaml", config)) == config


@pytest.mark.usefixtures("_toys")
@pytest.mark.parametrize(
    ("base", "text", "names"),
    [
        ("methods: {Blend: {steps: 7}}", "methods: {Dark: }", {"Blend", "Dark"}),
        ("methods: {Blend: {steps: 7}}", "methods: [Dark]", {"Dark"}),
        ("methods: [Blend]", "", {"Blend"}),
    ],
)
def test_settings_are_added_to_those_of_the_file_below_and_a_list_replaces_them(
    tmp_path: Path, base: str, text: str, names: set[str]
) -> None:
    assert methods_of(tmp_path, text, base).methods.keys() == names


@pytest.mark.usefixtures("_toys")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{Nobody: {batch: 1}}", "methods: method is 'Nobody', none of "),
        ("{Dark: {batch: 4}}", "methods.Dark has settings, but Dark learns nothing; give its name alone"),
        ("[Nobody]", "methods: method is 'Nobody', none of "),
        ("{Dark: {steps: 4}}", "methods.Dark has settings, but Dark learns nothing; give its name alone"),
        ("{Blend: {step: 4}}", "config.methods.Blend: unknown field 'step'"),
        ("{Blend: {steps: 0}}", "methods.Blend.steps 0 is not at least 1"),
        ("{Blend: {window_px: 100}}", "methods.Blend.window_px 100 is not a multiple of 32"),
        ("{Blend: 4}", "config.methods.Blend is 4, not an object"),
        ("Blend", "methods is 'Blend', not a list of names or an object with settings by name"),
        ("", "methods is None, not a list of names"),
        ("[Dark, 4]", "methods has 4, not a name; give settings as `methods: {NAME: {...}}`"),
        ("[Blend: {steps: 4}]", "methods has {'Blend': {'steps': 4}}, not a name"),
        ("[Dark, dark]", "methods names 'Dark' twice; leave one out"),
        ("[Dark, Dark]", "methods names 'Dark' twice; leave one out"),
    ],
)
def test_methods_that_cannot_be_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        methods_of(tmp_path, f"methods: {text}")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'c.yaml'}: {why}")


@pytest.mark.usefixtures("_toys")
def test_a_network_without_features_serves_no_method_that_needs_them() -> None:
    plain = {"network": "identity", "network_args": {}}
    assert tiny_config(backbone=plain, methods={"Dark": None}).methods == {"Dark": None}
    with pytest.raises(ConfigError, match="Blend needs features of the backbone, and network 'identity' has none"):
        tiny_config(backbone=plain, methods={"Blend": None})
