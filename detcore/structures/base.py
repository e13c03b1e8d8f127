"""The container that carries named data and its description from one component to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

_MISSING: Any = object()
_PRIVATE = ("_metainfo_fields", "_data_fields")
Element = TypeVar("Element", bound="BaseDataElement")


class BaseDataElement:
    """Named data plus metainfo, all of it reachable as attributes.

    *Data fields* (boxes, scores, label maps) follow ``to``, ``cpu``, ``detach`` and their kin;
    *metainfo fields* (``img_id``, ``img_shape``, ...) describe the data and stay as they are. A name is
    one or the other, never both. Nothing is copied when it is stored: values are shared with the caller.

    Args:
        metainfo: Names and values of the metainfo fields.
        **kwargs: Names and values of the data fields.
    """

    _metainfo_fields: dict[str, None]
    _data_fields: dict[str, None]

    def __init__(self, *, metainfo: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        # Dicts without values serve as sets that keep their order, so that keys() and repr() are stable.
        self.__dict__["_metainfo_fields"] = {}
        self.__dict__["_data_fields"] = {}
        if metainfo is not None:
            self.set_metainfo(metainfo)
        if kwargs:
            self.set_data(kwargs)

    # -- storing ---------------------------------------------------------------------------------

    def set_metainfo(self, metainfo: Mapping[str, Any]) -> None:
        """Add or change metainfo fields.

        Raises:
            TypeError: ``metainfo`` is no mapping.
            AttributeError: A name is a data field already, or belongs to the class itself.
        """
        if not isinstance(metainfo, Mapping):
            raise TypeError(f"metainfo must be a dict, got {type(metainfo).__name__}")
        for name, value in metainfo.items():
            self.set_field(value, name, field_type="metainfo")

    def set_data(self, data: Mapping[str, Any]) -> None:
        """Add or change data fields, each as if it was assigned as an attribute.

        Raises:
            TypeError: ``data`` is no mapping, or a value does not suit its field.
            AttributeError: A name is a metainfo field already, or belongs to the class itself.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"data must be a dict, got {type(data).__name__}")
        for name, value in data.items():
            setattr(self, name, value)

    def set_field(
        self,
        value: Any,
        name: str,
        dtype: type | tuple[type, ...] | None = None,
        field_type: str = "data",
    ) -> None:
        """Store one field.

        Args:
            value: What to store.
            name: Its name.
            dtype: Type or types that the value must be an instance of; None takes any.
            field_type: ``'data'`` or ``'metainfo'``.

        Raises:
            ValueError: ``field_type`` is something else.
            TypeError: The value is of another type than ``dtype``.
            AttributeError: The name is a field of the other kind, or belongs to the class itself.
        """
        if field_type == "data":
            fields, others, other_kind = self._data_fields, self._metainfo_fields, "metainfo"
        elif field_type == "metainfo":
            fields, others, other_kind = self._metainfo_fields, self._data_fields, "data"
        else:
            raise ValueError(f"field_type must be 'data' or 'metainfo', got {field_type!r}")
        if dtype is not None and not isinstance(value, dtype):
            wanted = " or ".join(t.__name__ for t in (dtype if isinstance(dtype, tuple) else (dtype,)))
            raise TypeError(f"{type(self).__name__}.{name} must be {wanted}, got {type(value).__name__}")
        if name in others:
            raise AttributeError(
                f"{type(self).__name__}.{name} is a {other_kind} field already; "
                f"delete it first to store it as a {field_type} field"
            )
        known = getattr(type(self), name, None)
        if isinstance(known, property):
            object.__setattr__(self, name, value)
        elif known is not None or name in _PRIVATE:
            raise AttributeError(f"{name!r} cannot be a field: {type(self).__name__} itself uses the name")
        else:
            self.__dict__[name] = value
        fields[name] = None

    def update(self, instance: BaseDataElement) -> None:
        """Take over all fields of another element.

        Raises:
            TypeError: ``instance`` is no data element.
        """
        if not isinstance(instance, BaseDataElement):
            raise TypeError(f"instance must be a BaseDataElement, got {type(instance).__name__}")
        self.set_metainfo(dict(instance.metainfo_items()))
        self.set_data(dict(instance.items()))

    def __setattr__(self, name: str, value: Any) -> None:
        self.set_field(value, name)

    def __delattr__(self, name: str) -> None:
        if name in _PRIVATE:
            raise AttributeError(f"{name!r} cannot be deleted")
        if name not in self:
            raise AttributeError(self._no_field(name))
        if name in self.__dict__:
            del self.__dict__[name]
        else:
            object.__delattr__(self, name)
        self._data_fields.pop(name, None)
        self._metainfo_fields.pop(name, None)

    __delitem__ = __delattr__

    # -- reading ---------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:  # only called where ordinary look-up found nothing
        raise AttributeError(self._no_field(name))

    def _no_field(self, name: str) -> str:
        data = self.__dict__.get("_data_fields", {})
        meta = self.__dict__.get("_metainfo_fields", {})
        return f"{type(self).__name__} has no field {name!r}; data: {list(data)}, metainfo: {list(meta)}"

    def get(self, key: str, default: Any = None) -> Any:
        """The field's value, or ``default`` where there is no such field."""
        return getattr(self, key) if key in self else default

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove a field and return its value.

        Raises:
            KeyError: There is no such field and no default was given.
        """
        if key in self:
            value = getattr(self, key)
            delattr(self, key)
            return value
        if default is _MISSING:
            raise KeyError(self._no_field(key))
        return default

    def __contains__(self, name: object) -> bool:
        return name in self._data_fields or name in self._metainfo_fields

    def keys(self) -> list[str]:
        """Names of the data fields."""
        cls = type(self)
        # A property `boxes` of a subclass usually stores its value as `_boxes`: that is one field, not two.
        hidden = {f"_{name}" for name in self._data_fields if isinstance(getattr(cls, name, None), property)}
        return [name for name in self._data_fields if name not in hidden]

    def values(self) -> list[Any]:
        """Values of the data fields."""
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and values of the data fields."""
        return iter([(name, getattr(self, name)) for name in self.keys()])

    def metainfo_keys(self) -> list[str]:
        """Names of the metainfo fields."""
        return list(self._metainfo_fields)

    def metainfo_values(self) -> list[Any]:
        """Values of the metainfo fields."""
        return [getattr(self, name) for name in self._metainfo_fields]

    def metainfo_items(self) -> Iterator[tuple[str, Any]]:
        """Names and values of the metainfo fields."""
        return iter([(name, getattr(self, name)) for name in self._metainfo_fields])

    def all_keys(self) -> list[str]:
        """Names of all fields, metainfo first."""
        return self.metainfo_keys() + self.keys()

    def all_values(self) -> list[Any]:
        """Values of all fields, metainfo first."""
        return self.metainfo_values() + self.values()

    def all_items(self) -> Iterator[tuple[str, Any]]:
        """Names and values of all fields, metainfo first."""
        return iter([*self.metainfo_items(), *self.items()])

    @property
    def metainfo(self) -> dict[str, Any]:
        """A new dict of the metainfo fields."""
        return dict(self.metainfo_items())

    # -- copies ----------------------------------------------------------------------------------

    def new(self: Element, *, metainfo: Mapping[str, Any] | None = None, **kwargs: Any) -> Element:
        """A new element of this class with this metainfo and data, or with what is given in their place."""
        meta = self.metainfo if metainfo is None else metainfo
        return type(self)(metainfo=meta, **(kwargs or dict(self.items())))

    def clone(self: Element) -> Element:
        """A new element that holds the same values (not copies of them)."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.__dict__["_metainfo_fields"] = dict(self._metainfo_fields)
        other.__dict__["_data_fields"] = dict(self._data_fields)
        return other

    __copy__ = clone

    def _converted(self: Element, convert: Any) -> Element:
        other = self.clone()
        for name in self.keys():
            value = getattr(self, name)
            changed = convert(value)
            if changed is not value:
                setattr(other, name, changed)
        return other

    def _calling(self: Element, method: str, *args: Any, **kwargs: Any) -> Element:
        def convert(value: Any) -> Any:
            return getattr(value, method)(*args, **kwargs) if hasattr(value, method) else value

        return self._converted(convert)

    def to(self: Element, *args: Any, **kwargs: Any) -> Element:
        """A new element whose tensors went through ``Tensor.to`` with these arguments."""
        return self._calling("to", *args, **kwargs)

    def cpu(self: Element) -> Element:
        """A new element whose tensors are on the CPU."""
        return self._calling("cpu")

    def cuda(self: Element, *args: Any, **kwargs: Any) -> Element:
        """A new element whose tensors are on the GPU."""
        return self._calling("cuda", *args, **kwargs)

    def detach(self: Element) -> Element:
        """A new element whose tensors are cut off from the autograd graph."""
        return self._calling("detach")

    def numpy(self: Element) -> Element:
        """A new element whose tensors became arrays (from any device, cut off from the graph)."""

        def convert(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.detach().cpu().numpy()
            return value.numpy() if isinstance(value, BaseDataElement) else value

        return self._converted(convert)

    def to_tensor(self: Element) -> Element:
        """A new element whose arrays became tensors that share their memory."""

        def convert(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return torch.from_numpy(value)
            return value.to_tensor() if isinstance(value, BaseDataElement) else value

        return self._converted(convert)

    def to_dict(self) -> dict[str, Any]:
        """All fields as a plain dict, nested elements included."""
        return {k: v.to_dict() if isinstance(v, BaseDataElement) else v for k, v in self.all_items()}

    def __repr__(self) -> str:
        def lines(items: Iterator[tuple[str, Any]]) -> list[str]:
            return [f"    {name}: " + repr(value).replace("\n", "\n    ") for name, value in items]

        body = ["  META INFORMATION", *lines(self.metainfo_items()), "  DATA FIELDS", *lines(self.items())]
        return f"<{type(self).__name__}(\n" + "\n".join(body) + f"\n) at {hex(id(self))}>"
