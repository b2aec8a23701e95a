"""The configuration: what is right is kept, what is wrong is named, and nothing is ever executed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fna.config import MODELS, Config, SearchConfig, dump_yaml, load_config, make_config, merge
from fna.config import settings as all_settings
from fna.config.strict_yaml import parse_yaml, write_yaml
from fna.errors import FnaError

RECIPES = Path(__file__).parents[1] / "recipes"


def parse(text: str) -> Config:
    return make_config(merge(parse_yaml(text, "recipe.yaml") or {}, ()), "recipe.yaml")


# --- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid_and_survive_the_round_trip(recipe: Path) -> None:
    config = load_config(recipe)
    assert make_config(parse_yaml(dump_yaml(config), "dump")) == config


def test_the_defaults_survive_the_round_trip() -> None:
    assert make_config(parse_yaml(dump_yaml(Config()), "dump")) == Config() == load_config(None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-.5e+2", -50.0),
        ("1.", 1.0),
        ("010", "010"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    parsed = parse_yaml(text, "text")
    assert parsed == value
    assert type(parsed) is type(value)


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(TREES)
@example("1e-3")
@example("no")
@example("1:30")
@example("\x85")
@example({"a": [1e-8, 1e300, "0x10", "", "~", "<<"]})
def test_yaml_round_trip(data: Any) -> None:
    assert parse_yaml(write_yaml(data), "text") == data


def test_an_empty_section_has_its_defaults() -> None:
    assert parse("seed:\nsearch:\n  optimizer:\n") == Config()


def test_lambda_has_its_name() -> None:
    assert parse("search: {lambda: 9e-3, budget: null}").search.lambda_ == SearchConfig(lambda_=0.009).lambda_ == 0.009
    assert "lambda: 0.0" in dump_yaml(Config())


def test_a_whole_number_is_a_number() -> None:
    assert parse("search: {budget: 1}").search.budget == 1.0


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_can_be_overridden(model: str) -> None:
    for key, default, _ in all_settings(model):
        config = load_config(None, [f"task.model={model}", f"{key}={write_yaml({'x': _plain(default)})[3:]}"])
        assert config == Config(task={"model": model})


@pytest.mark.parametrize("model", MODELS)
def test_the_setting_of_another_model_is_a_mistake(model: str) -> None:
    own = {key for key, _, _ in all_settings(model)}
    others = [(key, default) for key, default, _ in all_settings() if key not in own]
    assert others
    for key, default in others:
        with pytest.raises(FnaError, match=f"unknown key '{key}'; it is a setting of .*; {model} has: "):
            load_config(None, [f"task.model={model}", f"{key}={write_yaml({'x': _plain(default)})[3:]}"])


def test_every_field_is_among_the_settings() -> None:
    names = [key for key, _, _ in all_settings()]
    assert len(names) == len(set(names))
    assert {"seed.name", "search.lambda", "search.alpha.lr", "adapt.optimizer.lr", "baseline"} <= set(names)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_overrides_win_and_leave_their_source_alone() -> None:
    data = {"search": {"epochs": 3, "alpha_start": 1}}
    merged = merge(data, ["search.epochs=5", "data.crop=[64, 96]", "search.epochs=7", "baseline=false"])
    assert merged == {"search": {"epochs": 7, "alpha_start": 1}, "data": {"crop": [64, 96]}, "baseline": False}
    assert data == {"search": {"epochs": 3, "alpha_start": 1}}
    config = make_config(merged)
    assert (config.search.epochs, config.data.crop, config.baseline) == (7, (64, 96), False)


# --- what is wrong ----------------------------------------------------------------------------------------------------

WRONG = {
    "unknown section": ("serach: {}", "unknown key 'serach' (did you mean 'search'?)"),
    "unknown key": ("search: {epohcs: 5}", "unknown key 'search.epohcs' (did you mean 'epochs'?)"),
    "unknown inner key": ("search: {alpha: {rate: 1}}", "unknown key 'search.alpha.rate'; known here: lr, betas"),
    "duplicate key": ("seed: {}\ndata: {}\nseed: {}", "line 3: the key 'seed' occurs twice"),
    "quoted int": ("search: {epochs: '5'}", "'search.epochs' is '5'; expected a whole number"),
    "quoted float": ("search: {budget_rate: '1.0'}", "expected a number"),
    "float for int": ("search: {epochs: 5.5}", "expected a whole number"),
    "bool for int": ("search: {epochs: true}", "expected a whole number"),
    "bool for float": ("search: {budget_rate: true}", "expected a number"),
    "bool for a budget": ("search: {budget: true}", "search.budget: True is no budget; expected 0.9x"),
    "budget without unit": ("derive: {budget: 50}", "derive.budget: the budget 50 has no unit; write 50x (times"),
    "budget and lambda": ("search: {lambda: 0.1}", "--search.budget null"),
    "bool in a list": ("data: {crop: [true, 64]}", "'data.crop.0' is True; expected a whole number"),
    "bool for a choice": ("task: {output_stride: true}", "expected 8, 16 or 32"),
    "int for bool": ("data: {flip: 1}", "'data.flip' is 1; expected true or false"),
    "no for bool": ("data: {flip: no}", "'data.flip' is 'no'; expected true or false"),
    "int for text": ("data: {root: 123}", "expected text (put it in quotes)"),
    "list for text": ("data: {root: [a]}", "'data.root' is a list; expected text"),
    "text for list": ("data: {crop: 240}", "expected a list such as [240, 320]"),
    "text for a list of names": ("engine: {log: csv}", "'engine.log' is 'csv'; expected a list such as [csv]"),
    "text for a list without default": ("data: {classes: cat}", "expected a list such as [cat]"),
    "number for a pair without default": ("data: {eval_size: 64}", "expected a list such as [64, 64]"),
    "short list": ("data: {crop: [64]}", "'data.crop' is [64]; expected a list of 2 such as [240, 320]"),
    "long list": ("data: {crop: [1, 2, 3]}", "expected a list of 2"),
    "value for section": ("seed: resnet", "'seed' is 'resnet'; expected a section"),
    "nothing for bool": ("baseline: ~", "expected true or false"),
    "inf": ("search: {optimizer: {lr: .inf}}", "'search.optimizer.lr' is inf; expected a finite number"),
    "nan": ("search: {optimizer: {lr: .nan}}", "expected a finite number"),
    "neither word nor number": (
        "engine: {workers: many}",
        "'engine.workers' is 'many'; expected 'auto' or a whole number",
    ),
    "nearly a word": ("adapt: {freeze: backbon}", "or a whole number (did you mean 'backbone'?)"),
    "an item of one of several kinds": (
        "adapt: {class_weights: [1, -2]}",
        "recipe.yaml: 'adapt.class_weights.1' is -2; expected greater than 0",
    ),
    "none of several kinds": (
        "adapt: {class_weights: 5}",
        "is 5; expected 'none' or 'balanced' or a list such as [5] or a section of names and values",
    ),
    "overflow": ("search: {budget_rate: 1e999}", "expected a finite number"),
    "huge int": ("search: {epochs: " + "9" * 400 + "}", "expected less than"),
    "longer int": ("search: {epochs: " + "9" * 5000 + "}", "not valid YAML"),
    "negative": ("search: {optimizer: {lr: -1}}", "expected greater than 0"),
    "wrong choice": ("adapt: {optimizer: {name: adamm}}", "'sgd', 'rmsprop', 'adam' or 'adamw' (did you mean 'adam'?)"),
    "unknown kernel": ("space: {kernels: [3, 4]}", "'space.kernels.1' is 4; expected 3, 5, 7 or 9"),
    "no kernel": ("space: {kernels: []}", "give one value or more"),
    "kernel twice": ("space: {kernels: [3, 3]}", "each once"),
    "scale reversed": ("data: {scale: [2, 1]}", "expected [smallest, largest]"),
    "alphas never move": ("search: {chooser: alphas, epochs: 4, alpha_start: 4}", "the alphas would never move"),
    "name with a path": ("adapt: {name: ../x}", "expected a file name"),
    "name of our folder": ("adapt: {name: targets}", "choose another name"),
    "name of our file": ("adapt: {name: report.html}", "it names a folder: choose another"),
    "target called seed": ("derive: {name: seed}", "which adapt.arch takes for the seed's"),
    "target with a path": ("derive: {name: a/b}", "expected a file name"),
    "unknown model": (
        "task: {model: retina}",
        "'task.model' is 'retina'; expected deeplabv3, deeplabv3plus,",
    ),
    "model of another task": (
        "task: {name: pose, model: ssdlite}",
        "is not for pose; choose simple_baseline, or",
    ),
    "setting of other models": (
        "task: {model: retinanet, rates: [6]}",
        "unknown key 'task.rates'; it is a setting of deeplabv3 and deeplabv3plus; retinanet has: channels, tower",
    ),
    "setting of another task": (
        "data: {rotation: 3}",
        "'data.rotation'; it is a setting of simple_baseline;",
    ),
    "typo in one of another task": (
        "evaluate: {score_treshold: 0.1}",
        "(did you mean 'evaluate.score_threshold'?); it is a setting of retinanet and ssdlite; deeplabv3 has: batch_",
    ),
    "typo in one of its own": ("task: {model: ssdlite, widht: 2}", "(did you mean 'width'?); ssdlite has: width"),
    "number as key": ("1: 2", "expected a key that is text"),
    "list as key": ("{[1]: 2}", "a key is a name, not a list"),
    "python object": ("seed: !!python/object/apply:os.system ['touch canary']", "could not determine a constructor"),
    "python name": ("seed: !!python/name:os.system", "could not determine a constructor"),
    "set": ("space: {kernels: !!set {3, 5}}", "could not determine a constructor"),
    "merge key": ("a: &a {name: x}\nseed: {<<: *a}", "unknown key"),
    "wrong tag": ("search: {epochs: !!int x}", "not valid YAML"),
    "broken": ("seed: [", "not valid YAML, line 1"),
    "tab": ("seed:\n\tname: x", "line 2"),
    "control character": ("seed: \x00", "not valid YAML"),
    "deep list": ("[" * 1000, "nested too deeply"),
    "deep mapping": ("{a: " * 1000, "nested too deeply"),
    "itself": ("&a {seed: *a}", "recursive"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_are_named(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(FnaError) as error:
        load_config("recipe.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith("recipe.yaml")
    assert len(str(error.value)) < 2000
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"], "nothing was executed"


def test_many_aliases_do_not_explode() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    with pytest.raises(FnaError) as error:
        parse("\n".join([*lines, "seed: {name: *i}", "space: {layers: *i}"]))
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize("content", [b"- 1", b"text", b"\xff\xfe\x00", None])
def test_files_that_are_no_recipe(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FnaError, match=r"recipe\.yaml"):
        load_config(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.epohcs=5", "did you mean 'epochs'?"),
        ("search=5", "'search' is 5; expected a section"),
        ("seed.name.x=5", "'seed.name' is a dict; expected text"),
        ("baseline.x=1", "'baseline' is a dict; expected true or false"),
        ("search.epochs=five", "'search.epochs' is 'five'"),
        ("data.root=@x", "the value of --data.root is not valid YAML"),
        ("search.epochs", "write --key.path VALUE"),
        ("=5", "write --key.path VALUE"),
        (".=5", "unknown key"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(FnaError) as error:
        load_config(None, [override])
    assert message in str(error.value)


def test_a_file_is_blamed_for_what_it_has_and_not_for_what_was_typed(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("adapt: {epochs: 0}")
    typed = {"search.epochs=-1": "'search.epochs' is -1", "task.model=retina": "'task.model' is 'retina'"}
    for override, said in typed.items():
        with pytest.raises(FnaError) as error:
            load_config(path, [override])
        assert str(error.value).startswith(said)
    with pytest.raises(FnaError, match=r"is -1; expected .*; .*recipe\.yaml: 'adapt\.epochs' is 0"):
        load_config(path, ["search.epochs=-1"])


def test_a_folder_in_place_of_a_recipe_is_answered_with_how_to_have_one_written(tmp_path: Path) -> None:
    (tmp_path / "my leaves").mkdir()
    with pytest.raises(FnaError, match=r"is a folder; .*fna data '.*/my leaves' --write-recipe 'my leaves\.yaml'"):
        load_config(tmp_path / "my leaves")


def test_an_override_into_a_value() -> None:
    with pytest.raises(FnaError, match="'name' is a value, not a section"):
        make_config(merge({"seed": {"name": "x"}}, ["seed.name.x=1"]))


# --- anything at all --------------------------------------------------------------------------------------------------

NAMES = st.sampled_from([part for key, _, _ in all_settings() for part in key.split(".")])
LEAVES = st.sampled_from(
    ["1", "-3", "1e-3", ".inf", ".nan", "no", "true", "~", "'5'", "[1, 2]", "[]", "{}", "sgd", "!!int x", "*a", "&a 1"]
)
LINES = st.builds(
    lambda depth, name, leaf: f"{'  ' * depth}{name}: {leaf}", st.integers(0, 3), NAMES, LEAVES | st.just("")
)


def only_fna_errors(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
    with suppress(FnaError):
        assert isinstance(load_config(path), Config)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "recipe.yaml"


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(text=st.text())
def test_any_text(text: str, scratch: Path) -> None:
    only_fna_errors(text, scratch)


@FUZZ
@given(lines=st.lists(LINES, max_size=12))
def test_any_shuffled_recipe(lines: list[str], scratch: Path) -> None:
    only_fna_errors("\n".join(lines), scratch)


@FUZZ
@given(data=st.dictionaries(st.sampled_from(list(Config.model_fields)), TREES, max_size=4))
def test_any_tree(data: dict[str, Any], scratch: Path) -> None:
    only_fna_errors(write_yaml(data), scratch)


@FUZZ
@given(key=st.sampled_from([key for key, _, _ in all_settings()]), value=st.text() | LEAVES)
def test_any_override(key: str, value: str) -> None:
    with suppress(FnaError):
        assert isinstance(load_config(None, [f"{key}={value}"]), Config)
