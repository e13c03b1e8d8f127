"""Arguments that are dicts and stay dicts, and arguments that are one of several words."""
from typing import Annotated, Any, Literal, Required, TypedDict

import pytest
from torch import nn

from detcore.errors import ConfigError
from detcore.registry import MODELS, Open
from detcore.registry.problems import InvalidConfigError


class Inner(TypedDict, total=False):
    kind: Literal["hard", "soft"]
    limit: float


class Settings(TypedDict, total=False):
    size: Required[int]
    inner: Inner
    loss: nn.Module


class Known(TypedDict, total=False):
    classes: Any


class Head(nn.Module):
    def __init__(
        self,
        cfg: Settings | None = None,
        meta: Annotated[Known, Open()] | None = None,
        mode: Literal["a", "bb"] | int = "a",
        modes: list[Literal["a", "bb"]] = (),  # type: ignore[assignment]
        free: Literal["a", "bb"] | str = "a",
    ) -> None:
        super().__init__()
        self.given = {"cfg": cfg, "meta": meta, "mode": mode, "modes": modes, "free": free}


def problems(**arguments):
    return [str(each) for each in MODELS.check({"type": Head, **arguments}, path="head")]


def test_a_dict_with_known_keys_stays_a_dict_whose_parts_are_built():
    cfg = {"size": 3, "inner": {"kind": "hard"}, "loss": {"type": nn.L1Loss}}
    given = MODELS.build({"type": Head, "cfg": cfg}).given["cfg"]
    assert {**given, "loss": None} == {"size": 3, "inner": {"kind": "hard"}, "loss": None}
    assert isinstance(given["loss"], nn.L1Loss)
    assert cfg["loss"] == {"type": nn.L1Loss}


@pytest.mark.parametrize(
    ("cfg", "told"),
    [
        ({"size": 1, "iner": {}}, ["head.cfg.iner: there is no key 'iner' here; did you mean 'inner'?"]),
        ({"size": 1, "x": 0}, ["head.cfg.x: there is no key 'x' here; there are inner, loss, size"]),
        ({}, ["head.cfg: the key 'size' is missing"]),
        ({"size": 1, "inner": {"kind": "sofd"}},
         ["head.cfg.inner.kind: must be one of 'hard', 'soft', got 'sofd'; did you mean 'soft'?"]),
        ({"size": 1, "inner": {"limt": 1}},
         ["head.cfg.inner.limt: there is no key 'limt' here; did you mean 'limit'?"]),
    ],
)  # fmt: skip
def test_its_keys_are_checked_at_every_depth(cfg, told):
    assert problems(cfg=cfg) == told
    with pytest.raises(ConfigError):
        MODELS.build({"type": Head, "cfg": cfg})


def test_an_open_one_takes_other_keys_but_no_slips_of_its_own():
    assert problems(meta={"classes": 1, "palette": 2, 3: 4}) == []
    assert problems(meta={"clases": 1}) == [
        "head.meta.clases: this key is not known here; did you mean 'classes'?"]  # fmt: skip


def test_words_are_checked_unless_any_text_will_do():
    assert problems(mode="b") == ["head.mode: must be one of 'a', 'bb', got 'b'; did you mean 'bb'?"]
    assert problems(modes=["a", "c"]) == ["head.modes.1: must be one of 'a', 'bb', got 'c'"]
    assert problems(mode=3, free="anything") == []
    with pytest.raises(InvalidConfigError):
        MODELS.build({"type": Head, "mode": "b"})
