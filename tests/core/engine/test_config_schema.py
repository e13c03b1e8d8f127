"""The JSON Schema of configs, held against a validator, the shipped configs and mistakes in one."""
import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from detcore.cli.main import main
from detcore.config import Config, shipped_configs
from detcore.config.pretty import to_text
from detcore.data.loader_config import KNOWN as LOADER_KEYS
from detcore.engine.config_schema import schema_of_component, schema_of_configs, schema_of_registry
from detcore.engine.settings import HOOK_TYPES, KNOWN_KEYS
from detcore.errors import RegistryError
from detcore.plugins.discovery import Claim, find_installed
from detcore.plugins.host import PluginHost, replace_host
from detcore.registry import MODELS
from detcore.registry.core import REGISTRIES

SHIPPED = sorted(path.relative_to(shipped_configs()).as_posix() for path in shipped_configs().rglob("*.py"))


@pytest.fixture(scope="module")
def made():
    return schema_of_configs()


@pytest.fixture(scope="module")
def check(made):
    """Messages of what the schema says against a config."""
    return checker(made.schema)


def checker(schema):
    validator = jsonschema.Draft202012Validator(schema)

    def messages(config):
        found = validator.iter_errors(config)
        return [f"{'.'.join(map(str, each.absolute_path))}: {each.message}" for each in found]

    return messages


def as_data(name):
    """A config as what a YAML or JSON file of it holds."""
    return json.loads(to_text(Config.fromfile(name).to_dict(), ".json"))


@pytest.fixture(scope="module")
def whole():
    return as_data("detcore::retinanet/retinanet_r50_fpn_1x_coco.py")


def changed(config, path, value):
    """A copy with another value at a path; None takes the key away."""
    twin = copy.deepcopy(config)
    place = twin
    *outer, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in outer:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return twin


def test_it_is_a_schema_of_the_stated_dialect(made):
    jsonschema.Draft202012Validator.check_schema(made.schema)
    assert made.schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert [line for line in made.left_out if "timm" not in line] == []  # timm need not be installed
    json.dumps(made.schema, allow_nan=False)


def test_every_reference_leads_somewhere_and_every_definition_is_used(made):
    text = json.dumps(made.schema)
    for name in made.schema["$defs"]:
        assert f'"#/$defs/{name}"' in text or f'"#/$defs/{name}/' in text, name
    resolver = jsonschema.validators.Draft202012Validator(made.schema)._resolver
    targets = {line.split('"')[0] for line in text.split('"$ref": "')[1:]}
    assert len(targets) > 100
    for target in targets:
        resolver.lookup(target)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_valid(name, check):
    assert check(as_data(f"detcore::{name}")) == []


@pytest.mark.parametrize(("path", "value", "message"), [
    ("model.type", "RetinaNett", "model.type: 'RetinaNett' is not valid"),
    ("model.neck.type", "ReLuu", "model.neck.type: 'ReLuu' is not valid"),
    ("train_dataloader.dataset.pipeline.1.type", "LoadAnnotation", "pipeline.1.type: 'LoadAnnotation'"),
    ("optim_wrapper.optimizer.type", "SGDD", "optimizer.type: 'SGDD' is not valid"),
    ("default_hooks.logger.type", "mmengine.LogHook", "default_hooks.logger.type: 'mmengine.LogHook'"),
    ("model.backbone.depht", 50, "model.backbone: Additional properties are not allowed ('depht'"),
    ("model.bbox_head.loss_cls.alpa", 0.1, "('alpa' was unexpected)"),
    ("model.bbox_head.anchor_generator.ratio", [1.0], "('ratio' was unexpected)"),
    ("train_pipeline.2.keepratio", True, "train_pipeline.2: Additional properties"),
    ("train_dataloader.num_worker", 2, "train_dataloader: Additional properties"),
    ("env_cfg.mp_cfg.start", "fork", "env_cfg.mp_cfg: Additional properties"),
    ("default_hooks.checkpoint.intervall", 1, "default_hooks.checkpoint: Additional properties"),
    ("optim_wrapper.optimizer.learning_rate", 1, "('learning_rate' was unexpected)"),
    ("val_evaluator.metrik", "bbox", "('metrik' was unexpected)"),
    ("model.bbox_head.num_classes", None, "model.bbox_head: 'num_classes' is a required property"),
    ("model.backbone", None, "model: 'backbone' is a required property"),
    ("model.backbone.depth", None, "model.backbone: 'depth' is a required property"),
    ("model.neck.type", None, "model.neck: 'type' is a required property"),
    ("train_dataloader.dataset", None, "train_dataloader: 'dataset' is a required property"),
    ("train_cfg.max_epochs", None, "train_cfg: 'max_epochs' is a required property"),
    ("train_pipeline.1.type", None, "train_pipeline.1: 'type' is a required property"),
    ("model.backbone.depth", "fifty", "model.backbone.depth: 'fifty'"),
    ("model.backbone.depth", 50.5, "model.backbone.depth: 50.5 is not of type"),
    ("model.bbox_head.num_classes", True, "num_classes: True is not of type"),
    ("model.neck.in_channels", 256, "model.neck.in_channels: 256 is not valid"),
    ("model.neck.in_channels", ["a"], "model.neck.in_channels.0: 'a'"),
    ("model.bbox_head.loss_cls", "FocalLoss", "model.bbox_head.loss_cls: 'FocalLoss'"),
    ("train_pipeline.2.scale", [1333, 800, 3], "train_pipeline.2.scale: [1333, 800, 3] is too long"),
    ("model.backbone.norm_eval", "yes", "model.backbone.norm_eval: 'yes'"),
    ("train_dataloader.batch_size", "two", "train_dataloader.batch_size: 'two'"),
    ("log_level", "LOUD", "log_level: 'LOUD' is not valid"),
    ("randomness", {"seed": "x"}, "randomness.seed: 'x'"),
    ("optim_wrapper.optimizer.lr", "0.01x", "optim_wrapper.optimizer.lr: '0.01x'"),
    ("param_scheduler.0", 3, "param_scheduler.0: 3 is not of type"),
])
def test_mistakes_are_found(path, value, message, check, whole):
    found = check(changed(whole, path, value))
    assert any(message in each for each in found), found


@pytest.mark.parametrize(("path", "value"), [
    ("model.backbone", {"type": "models.FPN", "in_channels": [1], "out_channels": 2, "num_outs": 1}),
    ("model.bbox_head.type", "mmdet.RetinaHead"),
    ("model.bbox_head._scope_", "mmdet"),
    ("model.backbone.norm_cfg.requires_grad", False),
    ("default_hooks.logger.priority", "LOW"),
    ("default_hooks.checkpoint", {"interval": 3}),
    ("train_cfg", {"max_epochs": 3}),
    ("train_cfg", {"max_iters": 3}),
    ("train_cfg", {"by_epoch": False, "max_iters": 3}),
    ("train_cfg", {"by_epoch": True, "max_epochs": 3}),
    ("val_cfg", {}),
    ("log_processor", {"window_size": 3}),
    ("optim_wrapper", {"optimizer": {"type": "AdamW", "lr": 1e-4}, "paramwise_cfg": {"bias_lr_mult": 2}}),
    ("param_scheduler", {"type": "CosineAnnealingLR", "T_max": 3, "convert_to_iter_based": True}),
    ("val_evaluator", [{"type": "CocoMetric"}, {"type": "CocoMetric"}]),
    ("val_evaluator", {"metrics": [{"type": "CocoMetric"}]}),
    ("amp", True),
    ("amp", {"dtype": "bfloat16"}),
    ("model.init_cfg", [{"type": "Pretrained", "checkpoint": "x.pth"}]),
    ("a_variable", {"type": 3}),
    ("model.backbone.depth", "${depth}"),
    ("model.neck", "${neck}"),
    ("model.neck.in_channels", "{{_base_.channels}}"),
    ("train_dataloader.dataset.pipeline", "${train_pipeline}"),
    ("train_dataloader.dataset.pipeline.0", "${load}"),
    ("model.backbone.type", "${backbone}"),
    ("log_level", "{{$LEVEL:INFO}}"),
])
def test_what_is_right_is_no_mistake(path, value, check, whole):
    assert check(changed(whole, path, value)) == []


@pytest.mark.parametrize(("path", "value", "message"), [
    ("train_cfg", {"max_epoch": 3}, "('max_epoch' was unexpected)"),
    ("log_processor", {"window": 3}, "('window' was unexpected)"),
    ("default_hooks.checkpoint", {"intervall": 3}, "('intervall' was unexpected)"),
    ("default_hooks.mine", {"interval": 3}, "'type' is a required property"),
    ("val_evaluator", {"metrics": [{"type": "CocoMetrik"}]}, "'CocoMetrik'"),
    ("amp", {"dtyp": "bfloat16"}, "('dtyp' was unexpected)"),
    ("custom_hooks", [{"type": "EarlyStoppingHook"}], "'monitor' is a required property"),
])
def test_parts_that_have_a_type_by_default_are_checked_by_it(path, value, message, check, whole):
    found = check(changed(whole, path, value))
    assert any(message in each for each in found), found


def test_a_file_with_bases_may_leave_out_what_they_say(check):
    config = {"_base_": "detcore::x.py", "model": {"backbone": {"depth": 18}, "neck": {"_delete_": True}},
              "train_cfg": {"val_interval": 2}, "default_hooks": {"checkpoint": {"interval": 2}}}
    assert check(config) == []
    assert check({**config, "_base_": ["a.yaml", "b.yaml"]}) == []
    del config["_base_"]
    assert any("required" in each for each in check(config))


def test_a_file_with_bases_is_checked_all_the_same(check):
    base = {"_base_": "x.yaml"}
    assert check({**base, "model": {"backbone": {"type": "ResNet", "depht": 18}}})
    assert check({**base, "model": {"bbox_head": {"num_classes": "two"}}})
    assert check({**base, "model": {"neck": "FPN"}})
    assert check({**base, "optim_wrapper": {"optimiser": {"lr": 1}}})
    assert check({**base, "train_cfg": {"max_epoch": 1}})
    assert check({**base, "train_dataloader": {"batchsize": 2}})
    # A list replaces the base's, so its items must be whole.
    assert check({**base, "train_pipeline": [{"prob": 0.5}]})
    assert check({**base, "train_pipeline": [{"type": "Resize"}, {"type": "RandomFlip", "prob": 0.5}]}) == []


def test_the_keys_are_those_that_the_engine_knows(made):
    assert set(made.schema["properties"]) >= KNOWN_KEYS | {"_base_"}
    loader = made.schema["$defs"]["dataloader"]
    assert set(loader["properties"]) == {*LOADER_KEYS, "_delete_"}
    assert set(made.schema["properties"]["default_hooks"]["properties"]) == {*HOOK_TYPES, "_delete_"}


def test_arguments_carry_their_docs_and_defaults(made):
    head = made.schema["$defs"]["MODELS.models.RetinaHead"]
    assert head["description"] == "Classes and boxes of the anchors of every level."
    stacked = head["properties"]["stacked_convs"]
    assert stacked["default"] == 4
    assert "Convolutions before the last one" in stacked["description"]
    assert ":class:" not in json.dumps(head)


def test_absent_names_are_not_offered_and_names_that_stand_in_are(made):
    names = made.schema["$defs"]["MODELS"]["properties"]["type"]["anyOf"][0]["enum"]
    assert {"FPN", "models.FPN", "mmdet.FPN"} <= set(names)
    assert "mmdet.GLIP" not in names


def test_deferred_parts_need_none_of_their_arguments(check, whole):
    assert check(changed(whole, "model.neck.norm_cfg", {"type": "GN"})) == []
    found = check(changed(whole, "model.neck.norm_cfg", {"type": "GN", "groups": 3}))
    assert any("('groups' was unexpected)" in each for each in found)
    assert check(changed(whole, "model.neck.norm_cfg", {"num_groups": 3}))


# ---- one component, one registry


def test_the_schema_of_one_component():
    check = checker(schema_of_component("models.RetinaHead").schema)
    whole = {"type": "RetinaHead", "num_classes": 1, "in_channels": 2}
    assert check(whole) == []
    assert check({**whole, "type": "mmdet.RetinaHead"}) == []
    assert check({**whole, "type": "FPN"})
    assert check({**whole, "num_class": 3})
    assert check({"type": "RetinaHead"})
    assert check({"num_classes": 1, "in_channels": 2})


def test_the_schema_of_a_registry():
    made = schema_of_registry("transforms")
    check = checker(made.schema)
    assert check({"type": "RandomFlip", "prob": 0.5}) == []
    assert check({"type": "FPN"})
    assert check({"prob": 0.5})
    assert not any(name.startswith("MODELS") for name in made.schema["$defs"])


def test_unknown_names_are_answered_with_close_ones():
    with pytest.raises(RegistryError, match=r"nothing is called 'RetinaHaed'; did you mean 'RetinaHead'\?"):
        schema_of_component("RetinaHaed")
    with pytest.raises(RegistryError, match=r"there is no registry 'MODLES'; did you mean 'MODELS'\?"):
        schema_of_registry("MODLES")


# ---- plugins and users' modules


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """Adds a plugin of scope ``cs`` with the given source of its parts to what is installed."""
    monkeypatch = pytest.MonkeyPatch()
    before = replace_host(None)

    def install(parts, table, *, scope="cs"):
        tmp_path = tmp_path_factory.mktemp("site")
        monkeypatch.syspath_prepend(tmp_path)
        package = tmp_path / f"cs_{tmp_path.name}"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "parts.py").write_text(parts)
        (package / "plugin.py").write_text(
            "from detcore.plugins import hookimpl\nDETCORE_API = 1\n@hookimpl\n"
            "def detcore_components(components):\n" + table.replace("PARTS", f"{package.name}.parts")
        )
        claims = find_installed().claims | {scope: [Claim(scope, f"{package.name}.plugin", "det-cs", "1.0")]}
        claims.pop("timm", None)  # its listing takes seconds
        found = type(find_installed())(claims)
        replace_host(PluginHost({}, lambda: found))

    yield install
    replace_host(before)
    monkeypatch.undo()


@pytest.fixture(autouse=True)
def same_host():
    """Each test ends with the plugins that it began with."""
    before = replace_host(None)
    replace_host(before)
    yield
    replace_host(before)


ODD = '''
from __future__ import annotations
import enum
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NewType, TypedDict
from detcore.registry import TRANSFORMS, Factory, Open

Name = NewType("Name", str)

class Loose(TypedDict, total=False):
    level: int

class Odd:
    """Takes all kinds of arguments.

    Args:
        count: How many,
            at most.
        **rest: Other things.
    """

    def __init__(
        self, count: int, ratio: float = 1, mode: Literal["a", "b", 3] | None = None, wrong: int = None,
        name: Name = "x", pairs: Sequence[tuple[int, str]] = (), table: dict[str, int] | None = None,
        loose: Annotated[Loose, Open()] = None,
        make: Annotated[Callable[..., Any], Factory(TRANSFORMS)] = None,
        steps: Annotated[dict[str, object], TRANSFORMS] = None, unknown: NoSuchThing = None, free=None,
        function: Callable[[int], int] = len,
    ) -> None:
        pass

class Child(Odd):
    """Hands on.

    Args:
        own: Its own.
    """

    def __init__(self, own: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)

def function(*args, **kwargs):
    """Takes anything."""
'''
TABLE = """
    components.add("models", "Odd", "PARTS:Odd")
    components.add("models", "Child", "PARTS:Child")
    components.add("models", "Function", "PARTS:function")
    components.alias("models", "Alias", "cs.Odd")
    components.alias("models", "Nobody", "cs.Nobody")
"""


@pytest.fixture(scope="module")
def odd(plugin):
    """Checks of Odd and of Child."""
    before = replace_host(None)
    plugin(ODD, TABLE)
    checks = [checker(schema_of_component(name).schema) for name in ("cs.Odd", "cs.Child")]
    replace_host(before)
    return checks


@pytest.mark.parametrize(("arguments", "right"), [
    ({}, True), ({"count": "x"}, False), ({"ratio": 2}, True), ({"ratio": True}, False),
    ({"mode": "a"}, True), ({"mode": 3}, True), ({"mode": None}, True), ({"mode": "c"}, False),
    ({"mode": "${mode}"}, True), ({"wrong": None}, True), ({"wrong": "x"}, False),
    ({"name": "y"}, True), ({"name": 1}, False),
    ({"pairs": [[1, "a"]]}, True), ({"pairs": [[1]]}, False), ({"pairs": [{}]}, False),
    ({"table": {"a": 1}}, True), ({"table": {"a": "b"}}, False),
    ({"loose": {"level": 1, "other": 2}}, True), ({"loose": {"level": "x"}}, False),
    ({"make": {"type": "Resize"}}, True), ({"make": {"type": "Resize", "scal": 1}}, False),
    ({"make": {}}, False), ({"make": {"type": "FPN"}}, False),
    ({"steps": {"a": {"type": "Resize"}}}, True), ({"steps": {"a": {"type": "Resizze"}}}, False),
    ({"steps": {"a": {"type": "RandomCrop"}}}, False),
    ({"unknown": {"any": [1]}}, True), ({"free": "anything"}, True), ({"more": 1}, False),
])
def test_annotations_decide_what_is_right(odd, arguments, right):
    itself, child = odd
    assert (itself({"type": "cs.Alias", "count": 1, **arguments}) == []) is right
    assert (child({"type": "cs.Child", "own": True, **arguments}) == []) is right


def test_docs_of_several_lines_and_of_parents_are_read(plugin):
    plugin(ODD.replace("unknown: NoSuchThing = None, ", ""), TABLE)
    child = schema_of_component("cs.Child").schema["$defs"]["MODELS.cs.Child"]
    assert child["properties"]["count"]["description"] == "How many, at most."
    assert child["properties"]["own"]["description"] == "Its own."
    function = schema_of_component("cs.Function").schema["$defs"]["MODELS.cs.Function"]
    assert "additionalProperties" not in function


def test_plain_names_of_a_scope_count_where_it_is_the_default_one(plugin):
    plugin(ODD.replace("unknown: NoSuchThing = None, ", ""), TABLE)
    part = {"type": "Odd", "count": 1}
    assert checker(schema_of_registry("MODELS").schema)(part)
    assert checker(schema_of_registry("MODELS", default_scope="cs").schema)(part) == []


@pytest.mark.parametrize(("parts", "named"), [
    ("raise ImportError('no such library')", "models cs.Odd: "),
    ("raise SystemExit(3)", "models cs.Odd: "),
    ("Odd = Child = function = 3", "models cs.Odd: 3 is neither a class nor a function"),
])
def test_what_cannot_be_imported_is_left_out_and_named(plugin, parts, named):
    plugin(parts, TABLE)
    made = schema_of_registry("models")
    assert any(line.startswith(named) for line in made.left_out), made.left_out
    assert checker(made.schema)({"type": "ReLU"}) == []
    assert checker(made.schema)({"type": "cs.Odd"})


def test_a_broken_plugin_is_left_out_and_named(plugin):
    plugin("", "    raise RuntimeError('broken')")
    made = schema_of_registry("models")
    assert made.left_out == ["plugin 'cs' (det-cs 1.0): RuntimeError: broken"]


def test_names_made_on_demand_are_allowed_also_where_nobody_lists_them(plugin):
    plugin(
        "def resolve(name):\n    return dict if name.startswith('m') else None\n"
        "def names():\n    return ['made', 'nothing']\n",
        "    components.resolver('models', 'PARTS:resolve', names='PARTS:names')",
    )
    made = schema_of_registry("models")
    names = made.schema["$defs"]["MODELS"]["properties"]["type"]["anyOf"][0]["enum"]
    assert "cs.made" in names
    assert "cs.nothing" not in names
    assert checker(made.schema)({"type": "cs.more"}) == []
    assert checker(made.schema)({"type": "more"})


def test_a_users_own_component_is_offered_by_its_plain_name(monkeypatch):
    class MyHead:
        """Mine."""

        def __init__(self, channels: int) -> None:
            pass

    kept = dict(MODELS._registered)
    MODELS.register_module(module=MyHead, name="my head/1")
    try:
        check = checker(schema_of_component("my head/1").schema)
    finally:
        monkeypatch.setattr(REGISTRIES["models"], "_registered", kept)
    assert check({"type": "my head/1", "channels": 1}) == []
    assert check({"type": "my head/1"})


# ---- the command


def test_the_command_writes_it_for_editors(tmp_path, plugin, monkeypatch):
    plugin("raise ImportError('no such library')", TABLE)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["config", "schema", "--registry", "Param_Schedulers", "--out", "s.json"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "wrote s.json\n")
    assert checker(json.loads(Path("s.json").read_text()))({"type": "ConstantLR"}) == []
    done = CliRunner().invoke(main, ["config", "schema", "--type", "ReLU"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["$schema"]
    assert done.stderr.startswith("left out: models cs.")
    assert "no such library" in done.stderr


@pytest.mark.parametrize("arguments", [
    ["--type", "ReLU", "--registry", "MODELS"], ["--type", "ReLUU"], ["--registry", "X"],
    ["--type", "ReLU", "--out", "no/such/folder/s.json"], ["--plugin", "no_such_module_xyz"],
])
def test_what_cannot_be_done_ends_with_2(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["config", "schema", *arguments])
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_a_file_may_name_its_schema(tmp_path):
    (tmp_path / "a.json").write_text('{"$schema": "schema.json", "x": 1}')
    (tmp_path / "b.yaml").write_text("$schema: schema.json\n_base_: a.json\ny: 2")
    assert Config.fromfile(tmp_path / "b.yaml").to_dict() == {"x": 1, "y": 2}


def test_a_yaml_config_as_users_write_it(check):
    text = """
    # yaml-language-server: $schema=schema.json
    _base_: detcore::retinanet/retinanet_r18_fpn_1x_coco.py
    data_root: data/pets/
    model:
      bbox_head: {num_classes: 2}
    train_dataloader:
      batch_size: 4
      dataset: {metainfo: {classes: [cat, dog]}, ann_file: "${data_root}train.json"}
    optim_wrapper: {optimizer: {_delete_: true, type: AdamW, lr: 0.0001}}
    """
    config = yaml.safe_load(text)
    assert check(config) == []
    config["optim_wrapper"]["optimizer"]["lrr"] = 1
    assert check(config)
