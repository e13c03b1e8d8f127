"""Components made on demand: a backbone for each name of a model, and of a model's class."""

import inspect
import typing
from typing import Any

from det_timm.backbone import TIMMBackbone
from det_timm.zoo import check_model, class_modules, class_of, default_variant, is_model, model_names
from detcore.errors import ConfigError


class NamedBackbone:
    """Builds a :class:`TIMMBackbone` of one model, or of one class of models.

    Args:
        name: ``'resnet50'``, or a class: ``'EfficientNet'``.
    """

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.is_class = not is_model(name)
        # Names of types in its annotations mean nothing outside of its module.
        hints = typing.get_type_hints(TIMMBackbone.__init__, include_extras=True)
        signature = inspect.signature(TIMMBackbone)
        parameters = [
            each.replace(annotation=hints.get(key, each.annotation))
            for key, each in signature.parameters.items()
        ]
        if not self.is_class:
            parameters = [each for each in parameters if each.name != "model_name"]
        else:
            parameters[0] = parameters[0].replace(default=None)
        self.__signature__ = inspect.Signature(parameters)
        self.__doc__ = f"``TIMMBackbone`` of {name}."

    def __call__(self, model_name: str | None = None, **arguments: Any) -> TIMMBackbone:
        """Build it.

        Raises:
            ConfigError: The variant is of another class.
        """
        return TIMMBackbone(self.variant(model_name), **arguments)

    def variant(self, model_name: str | None) -> str:
        """The model that is meant.

        Raises:
            ConfigError: There is no such model, or it is of another class.
        """
        if not self.is_class:
            return self.__name__
        if model_name is None:
            return default_variant(self.__name__)
        check_model(model_name)
        if class_of(model_name) != self.__name__:
            raise ConfigError(
                f"timm's {model_name!r} is of class {class_of(model_name)!r}, not {self.__name__!r}: "
                f"write type='timm.{class_of(model_name)}', or type='timm.{model_name}' alone"
            )
        return model_name

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.__name__,)


def resolve(name: str) -> NamedBackbone | None:
    """The backbone that a name of this scope means, or None."""
    return NamedBackbone(name) if is_model(name) or name in class_modules() else None


def known_names() -> list[str]:
    """Names that this scope can make."""
    return [*class_modules(), *model_names()]
