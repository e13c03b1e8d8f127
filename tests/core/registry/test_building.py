from __future__ import annotations

import copy
import functools
import pickle
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Optional, Union

import pytest
from torch import nn

from detcore.config import Config
from detcore.errors import ConfigError
from detcore.registry import MODELS, TASK_UTILS, TRANSFORMS, Deferred, Factory, current_scope

if typing.TYPE_CHECKING:
    from nowhere import OnlyForTheChecker


class Kept:
    """Keeps its arguments, so that a test can look at them."""


class Loss(nn.Module):
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight


class Assigner:
    def __init__(self, threshold: float, options: dict | None = None) -> None:
        self.threshold, self.options = threshold, options


@dataclass
class TrainSettings:
    assigner: Annotated[Any, TASK_UTILS]
    allowed_border: int = -1
    losses: list[nn.Module] = field(default_factory=list)


class Head(nn.Module):
    def __init__(
        self,
        num_classes: int,
        loss: nn.Module | None = None,
        old_style: Optional[nn.Module] = None,  # noqa: UP045
        older_style: Union[nn.Module, None] = None,  # noqa: UP007
        losses: Sequence[nn.Module] = (),
        more: typing.Iterable[nn.Module] = (),
        pair: tuple[nn.Module, ...] = (),
        by_name: Mapping[str, nn.Module] | None = None,
        assigner: Annotated[Assigner | None, TASK_UTILS] = None,
        pipeline: Annotated[list[Callable[..., Any]], TRANSFORMS] = (),
        norm_cfg: Annotated[dict[str, Any] | None, Deferred(MODELS, allow=("requires_grad",))] = None,
        init_cfg: Annotated[dict | list[dict] | None, Deferred(MODELS)] = None,
        make_loss: Annotated[Callable[..., nn.Module] | None, Factory(MODELS)] = None,
        train_cfg: TrainSettings | None = None,
        plain: dict | None = None,
        bare=None,
        either: nn.Module | dict | None = None,
    ) -> None:
        given = dict(locals())
        self.__dict__["given"] = {key: given[key] for key in given if key not in ("self", "__class__")}
        super().__init__()


class Child(Head):
    def __init__(self, extra: int = 0, **kwargs: Any) -> None:
        super().__init__(num_classes=7, **kwargs)
        self.extra = extra


class Grandchild(Child):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class Wrapper(nn.Module):
    """Its **kwargs are not for the parent, as the parent takes nothing."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__()
        self.options = kwargs


class Initialised(nn.Module):
    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()


class ForeignKeywords(Initialised):
    """Its **kwargs are not for the parent, as it names all that the parent takes."""

    def __init__(self, name: str, init_cfg: Any = None, **kwargs: Any) -> None:
        super().__init__(init_cfg)
        self.options = kwargs


class ManyParts(nn.Module):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.parts = parts


class Detector(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    @classmethod
    def prepare_config(cls, cfg: dict[str, Any]) -> dict[str, Any]:
        if cfg.get("wrong"):
            raise ValueError("cannot prepare that")
        train_cfg = cfg.pop("train_cfg", None)
        if train_cfg is not None:
            cfg["head"]["train_cfg"] = train_cfg
        return cfg


class UsersHead(nn.Module):
    """As in the manual: takes dicts and builds inside."""

    def __init__(self, loss, assigner=dict(type="Assigner", threshold=0.5)):  # noqa: B006, C408
        super().__init__()
        self.scope = current_scope()
        self.loss = MODELS.build(loss)
        self.assigner = TASK_UTILS.build(assigner)
        self.name = loss.pop("type")


class Unresolved(nn.Module):
    def __init__(self, odd: OnlyForTheChecker = None, loss: nn.Module | None = None) -> None:
        super().__init__()
        self.odd, self.loss = odd, loss


class Failing(nn.Module):
    def __init__(self) -> None:
        raise ZeroDivisionError("in the constructor")


def make_pair(loss: nn.Module, size: int = 2) -> tuple[nn.Module, int]:
    return loss, size


class CallableComponent:
    def __call__(self, loss: nn.Module) -> Any:
        return loss


@pytest.fixture(autouse=True)
def names(scopes):
    parts = (Loss, Head, Child, Grandchild, Wrapper, ForeignKeywords, ManyParts, Detector, UsersHead,
             Unresolved, Failing, make_pair)
    for part in parts:
        MODELS.register_module(module=part)
    TASK_UTILS.register_module(module=Assigner)
    TRANSFORMS.register_module(module=Assigner, name="Transform")
    return scopes


LOSS = {"type": "Loss", "weight": 2.0}


def head(**arguments: Any) -> dict[str, Any]:
    return MODELS.build({"type": "Head", "num_classes": 3, **arguments}).given


def problems(cfg: dict[str, Any], path: str = "model", **keywords: Any) -> list[str]:
    return [str(problem) for problem in MODELS.check(cfg, path=path, **keywords)]


class TestParts:
    @pytest.mark.parametrize("argument", ["loss", "old_style", "older_style", "either"])
    def test_a_module_annotation_builds_a_part(self, argument):
        built = head(**{argument: LOSS})[argument]
        assert isinstance(built, Loss)
        assert built.weight == 2.0

    def test_sequences_tuples_and_mappings_of_parts_keep_their_form(self):
        given = head(losses=[LOSS, {"type": Loss}], pair=(LOSS,), by_name={"cls": LOSS})
        assert [part.weight for part in given["losses"]] == [2.0, 1.0]
        assert isinstance(given["losses"], list)
        assert isinstance(given["pair"], tuple)
        assert given["pair"][0].weight == 2.0
        assert given["by_name"]["cls"].weight == 2.0
        assert head(more=[LOSS])["more"][0].weight == 2.0

    def test_an_annotated_argument_names_its_registry(self):
        given = head(
            assigner={"type": "Assigner", "threshold": 0.4},
            pipeline=[{"type": "Transform", "threshold": 1}, len],
        )
        assert given["assigner"].threshold == 0.4
        assert given["pipeline"][0].threshold == 1
        assert given["pipeline"][1] is len

    def test_a_dataclass_is_filled_with_its_nested_parts(self):
        settings = head(train_cfg={
            "assigner": {"type": "Assigner", "threshold": 0.4}, "losses": [LOSS]})["train_cfg"]
        assert isinstance(settings, TrainSettings)
        assert settings.assigner.threshold == 0.4
        assert settings.losses[0].weight == 2.0
        assert settings.allowed_border == -1

    @pytest.mark.parametrize("argument", ["plain", "bare"])
    def test_plain_and_unannotated_arguments_are_left_alone(self, argument):
        assert head(**{argument: {"type": "NoSuchThing", "x": [LOSS]}})[argument] == {
            "type": "NoSuchThing", "x": [LOSS]}

    def test_a_dict_without_type_stays_one_where_the_annotation_allows_it(self):
        assert head(either={"mode": "x"})["either"] == {"mode": "x"}

    def test_built_objects_pass_through(self):
        loss = Loss()
        assert head(loss=loss)["loss"] is loss
        assert MODELS.build(loss) is loss
        assert MODELS.build(None) is None
        assert MODELS.check(loss) == []

    def test_arbitrary_keywords_can_be_parts(self):
        parts = MODELS.build({"type": "ManyParts", "cls": LOSS, "box": LOSS}).parts
        assert {name: part.weight for name, part in parts.items()} == {"cls": 2.0, "box": 2.0}

    def test_functions_partials_and_callable_objects_are_components(self):
        assert MODELS.build({"type": "make_pair", "loss": LOSS, "size": 3})[1] == 3
        assert MODELS.build({"type": functools.partial(make_pair, size=5), "loss": LOSS})[1] == 5
        assert MODELS.build({"type": CallableComponent(), "loss": LOSS}).weight == 2.0
        assert problems({"type": functools.partial(make_pair, size=5), "los": LOSS}, path="") == [
            "los: " + MODELS.check({"type": functools.partial(make_pair, size=5), "los": LOSS})[0].message
            + "; did you mean 'loss'?",
        ]

    def test_an_annotation_that_cannot_be_resolved_leaves_the_others_working(self, caplog):
        from detcore.registry import signatures

        signatures._cached.cache_clear()
        built = MODELS.build({"type": "Unresolved", "odd": {"type": "x"}, "loss": LOSS})
        assert built.odd == {"type": "x"}
        assert built.loss.weight == 2.0
        assert "'OnlyForTheChecker' of" in caplog.text


class TestDeferred:
    def test_the_dict_is_passed_on_unbuilt(self):
        given = head(norm_cfg={"type": "Loss", "requires_grad": True}, init_cfg=[{"type": "Loss"}])
        assert given["norm_cfg"] == {"type": "Loss", "requires_grad": True}
        assert given["init_cfg"] == [{"type": "Loss"}]

    def test_type_and_names_are_checked_and_missing_arguments_are_the_builders(self):
        cfg = {"type": "Head", "num_classes": 1, "norm_cfg": {"type": "Head"}}
        assert problems(cfg) == []
        cfg["norm_cfg"] = {"type": "Los"}
        cfg["init_cfg"] = [{"type": "Loss", "wieght": 1}]
        wrong_type, wrong_name = problems(cfg)
        assert wrong_type.startswith("model.norm_cfg: there is no 'Los' in MODELS")
        assert wrong_name.endswith("0.wieght: Loss takes no argument 'wieght'; did you mean 'weight'?")


class TestFactory:
    def test_each_call_builds_a_fresh_part_and_may_complete_it(self):
        make = head(make_loss={"type": "Loss"})["make_loss"]
        assert make() is not make()
        assert make(weight=3).weight == 3
        assert make.component is Loss

    def test_required_arguments_may_come_with_the_call(self):
        make = head(make_loss={"type": "Head", "loss": LOSS, "plain": {"a": []}})["make_loss"]
        first, second = make(num_classes=1).given, make(num_classes=2).given
        assert first["loss"] is not second["loss"]
        assert first["plain"]["a"] is not second["plain"]["a"]
        with pytest.raises(ConfigError, match=r"make_loss\.num_classes: Head needs the argument"):
            make()
        with pytest.raises(ConfigError, match=r"make_loss\.num_clases: .*did you mean 'num_classes'"):
            make(num_classes=1, num_clases=2)

    def test_a_factory_can_be_pickled_and_copied(self, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "torch_loss", nn)
        make = head(make_loss={"type": nn.L1Loss, "reduction": "sum"})["make_loss"]
        assert pickle.loads(pickle.dumps(make))().reduction == "sum"
        assert copy.deepcopy(make)().reduction == "sum"


class TestProblems:
    def test_all_of_them_are_told_at_once_and_nothing_is_built(self, monkeypatch):
        monkeypatch.setattr(Loss, "__init__", functools.partialmethod(pytest.fail))
        cfg = {
            "type": "Head",
            "num_clases": 3,
            "loss": {"type": "FocalLos"},
            "losses": [{"weight": 1}],
            "train_cfg": {"assigner": {"type": "Assigner"}, "allowed_boarder": 0},
            "by_name": {"cls": 3, "box": {"type": 5}},
        }
        with pytest.raises(ConfigError) as caught:
            MODELS.build(cfg, path="model")
        text = str(caught.value)
        for part in (
            "6 problems in the config:",
            "model.num_clases: Head takes no argument 'num_clases'; did you mean 'num_classes'?",
            "model.loss: there is no 'FocalLos' in MODELS",
            "model.losses.0: a dict for MODELS needs `type`, it has only 'weight'",
            "model.train_cfg.assigner.threshold: Assigner needs the argument 'threshold'",
            "model.train_cfg.allowed_boarder: TrainSettings takes no argument 'allowed_boarder'; "
            "did you mean 'allowed_border'?",
            "model.by_name.box: models: `type` must be a name or a class, got 5",
        ):
            assert part in text

    def test_the_first_exception_behind_a_problem_is_chained(self, names):
        names.broken["timm"] = ImportError("no timm")
        with pytest.raises(ConfigError) as caught:
            MODELS.build({"type": "Head", "num_classes": 1, "loss": {"type": "timm.X"}})
        assert caught.value.__cause__.__cause__ is names.broken["timm"]

    def test_the_errors_travel_between_processes(self, names):
        with pytest.raises(ConfigError) as caught:
            MODELS.build({"type": "Head", "loss": {"type": "Los"}})
        twin = pickle.loads(pickle.dumps(caught.value))
        assert str(twin) == str(caught.value)
        assert twin.problems == caught.value.problems
        cause = caught.value.__cause__
        assert str(pickle.loads(pickle.dumps(cause))) == str(cause)

    def test_a_list_where_one_part_is_meant(self):
        assert problems({"type": "Head", "num_classes": 1, "loss": [LOSS, LOSS]}) == [
            "model.loss: expected one dict(type=...), got a list of 2"]

    def test_names_that_are_no_strings(self):
        assert problems({"type": "Wrapper", "name": "x", 3: 4}) == [
            "model.3: Wrapper takes no argument 3; it takes name"]

    def test_the_outermost_dict_needs_a_type(self):
        with pytest.raises(ConfigError, match=r"\(top level\): a dict for MODELS needs `type`"):
            MODELS.build({})

    def test_a_name_of_another_registry_says_so(self):
        text, = problems({"type": "Head", "num_classes": 1, "loss": {"type": "Assigner", "threshold": 1}})
        assert "'Assigner' is one of TASK_UTILS" in text


class TestSignatures:
    def test_keywords_stand_for_the_parents_parameters(self):
        built = MODELS.build({"type": "Child", "extra": 1, "loss": LOSS})
        assert built.given["num_classes"] == 7
        assert built.given["loss"].weight == 2.0
        assert problems({"type": "Child", "losss": LOSS}) == [
            "model.losss: Child takes no argument 'losss'; did you mean 'loss'?"]

    def test_a_constructor_that_hands_everything_on_is_transparent(self):
        assert MODELS.build({"type": "Grandchild", "extra": 2, "loss": LOSS}).extra == 2
        assert len(problems({"type": "Grandchild", "extraa": 2})) == 1

    @pytest.mark.parametrize("name", ["Wrapper", "ForeignKeywords"])
    def test_keywords_that_cannot_be_the_parents_take_any_name(self, name):
        assert MODELS.build({"type": name, "name": "x", "anything": 1}).options == {"anything": 1}

    def test_a_class_without_a_constructor_takes_nothing(self):
        class Empty(nn.Module):
            pass

        MODELS.build({"type": Empty})
        assert problems({"type": Empty, "a": 1}) == [
            "model.a: Empty takes no argument 'a'; it takes no arguments"]
        assert len(problems({"type": Kept, "a": 1})) == 1

    def test_torch_classes_are_checked_by_their_own_signature(self):
        channels = {"type": nn.Conv2d, "in_channels": 1, "out_channels": 2}
        assert MODELS.build({**channels, "kernel_size": 3}).kernel_size == (3, 3)
        assert problems({**channels, "kernel_sise": 3}) == [
            "model.kernel_sise: Conv2d takes no argument 'kernel_sise'; did you mean 'kernel_size'?",
        ]

    def test_named_tuples_and_builtins_can_be_components(self):
        class Point(typing.NamedTuple):
            x: int
            y: int = 0

        assert MODELS.build({"type": Point, "x": 1}) == (1, 0)
        assert len(problems({"type": Point, "z": 1})) == 2
        assert MODELS.build({"type": dict, "a": 1}) == {"a": 1}

    def test_a_signature_is_read_once(self):
        from detcore.registry import signatures

        assert signatures.parameters_of(Head) is signatures.parameters_of(Head)


class TestPrepareConfig:
    CFG: typing.ClassVar = {
        "type": "Detector",
        "head": {"type": "Head", "num_classes": 1},
        "train_cfg": {"assigner": {"type": "Assigner", "threshold": 0.5}},
    }

    def test_it_rearranges_the_config_and_leaves_the_original_alone(self):
        before = copy.deepcopy(self.CFG)
        assert MODELS.build(self.CFG).head.given["train_cfg"].assigner.threshold == 0.5
        assert before == self.CFG

    def test_problems_keep_the_path_that_the_user_wrote(self):
        cfg = copy.deepcopy(self.CFG)
        cfg["train_cfg"]["assigner"]["treshold"] = 1
        assert problems(cfg) == [
            "model.train_cfg.assigner.treshold: Assigner takes no argument 'treshold'; "
            "did you mean 'threshold'?"]

    def test_what_it_raises_is_a_problem_like_others(self):
        with pytest.raises(ConfigError, match="model: ValueError: cannot prepare that") as caught:
            MODELS.build({**self.CFG, "wrong": True}, path="model")
        assert isinstance(caught.value.__cause__, ValueError)


class TestScopesAndDefaults:
    def test_scope_in_a_dict_is_the_default_scope_of_its_subtree(self, names):
        names.add("far", FarLoss=f"{nn.L1Loss.__module__}:L1Loss", FarSequence="torch.nn:Sequential")
        cfg = {"type": "Head", "num_classes": 1, "_scope_": "far", "loss": {"type": "FarLoss"}}
        assert isinstance(MODELS.build(cfg).given["loss"], nn.L1Loss)
        cfg = {"type": "Head", "num_classes": 1, "loss": {"type": "FarLoss", "_scope_": "far"},
               "losses": [{"type": "FarLoss"}]}
        text, = problems(cfg)
        assert text.startswith("model.losses.0: there is no 'FarLoss'")

    def test_constructors_that_build_find_the_default_scope_of_their_place(self, names):
        names.add("far", FarLoss="torch.nn:L1Loss")
        cfg = {"type": "UsersHead", "loss": {"type": "FarLoss"}}
        built = MODELS.build(cfg, default_scope="far")
        assert isinstance(built.loss, nn.L1Loss)
        assert built.scope == "far"
        assert current_scope() is None
        assert cfg == {"type": "UsersHead", "loss": {"type": "FarLoss"}}, "constructors get copies"

    def test_default_arguments_stand_in_for_what_the_config_lacks(self):
        shared = ["kept as it is"]
        cfg = {"type": "Head", "plain": {"a": 1}}
        given = MODELS.build(cfg, num_classes=9, plain={"b": 2}, bare=shared).given
        assert given["num_classes"] == 9
        assert given["plain"] == {"a": 1}
        assert given["bare"] is shared
        with pytest.raises(ConfigError, match="Loss takes no argument 'sise'"):
            MODELS.build({"type": "Loss"}, sise=3)
        assert MODELS.build({"type": "Loss"}, default_args={"weight": 4}).weight == 4

    def test_a_check_can_be_told_which_arguments_the_builder_supplies(self):
        assert MODELS.check({"type": "Head"}, supplied=["num_classes"]) == []
        assert len(MODELS.check({"type": "Head"})) == 1

    def test_configs_keep_their_kind_inside_and_their_attribute_access(self):
        cfg = Config.fromstring("model = dict(type='Head', num_classes=1, plain=dict(a=[dict(b=1)]))", ".py")
        given = MODELS.build(cfg.model).given
        assert given["plain"].a[0].b == 1
        assert given["plain"] is not cfg.model.plain
        assert MODELS.check(cfg.model) == []


class TestFailures:
    def test_a_failing_constructor_keeps_its_exception_and_gets_the_path(self):
        with pytest.raises(ZeroDivisionError) as caught:
            MODELS.build({"type": "Head", "num_classes": 1, "loss": {"type": "Failing"}}, path="model")
        assert caught.value.__notes__ == ["while building model.loss: Failing"]

    def test_the_default_scope_is_reset_after_a_failure(self):
        with pytest.raises(ZeroDivisionError):
            MODELS.build({"type": "Failing"}, default_scope=None)
        assert current_scope() is None
