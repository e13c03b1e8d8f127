"""The table of what plugins know about weight files of other programs."""

from dataclasses import dataclass, field
from typing import NamedTuple

from detcore.errors import PluginError
from detcore.registry.scopes import Reference


class PublishedModel(NamedTuple):
    """A model whose weights somebody published.

    Attributes:
        config: The name of its config, for example ``"mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"``.
        addresses: Where its weights lie, the preferred address first.
    """

    config: str
    addresses: list[str]


@dataclass(slots=True)
class CheckpointTable:
    """What one plugin knows about foreign weight files; what its ``detcore_checkpoints`` hook fills.

    Attributes:
        scope: The plugin's scope.
        owner: The distribution, for example ``"det-mmdet 0.1.0"``.
        stand_ins: ``"module.Name"`` as a pickle writes it -> the inert class that is made instead.
        schemes: What stands before ``://`` -> function that turns such a name into addresses.
        prefixes: What stands before ``://`` -> which part of such a file is meant: ``"backbone."``.
        zoos: What stands before ``::`` -> function that finds a published model.
        mirrors: Groups of addresses below which the same files lie.
        upgrades: Functions that turn content in an older layout into today's.
    """

    scope: str
    owner: str
    stand_ins: dict[str, Reference] = field(default_factory=dict)
    schemes: dict[str, Reference] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    zoos: dict[str, Reference] = field(default_factory=dict)
    mirrors: list[tuple[str, ...]] = field(default_factory=list)
    upgrades: list[Reference] = field(default_factory=list)

    def stand_in(self, name: str, target: str) -> None:
        """Name an inert class for a class that old files hold.

        Args:
            name: The class as the file writes it: ``"mmengine.logging.history_buffer.HistoryBuffer"``.
            target: ``"module:Class"``; it extends ``StandIn`` or ``MappingStandIn`` of the weights' reader.

        Raises:
            PluginError: The plugin names it twice.
        """
        self._add(self.stand_ins, "stand-in", name, target)

    def scheme(self, name: str, target: str, *, prefix: str = "") -> None:
        """Name who knows the addresses of ``name://...``.

        Args:
            name: What stands before ``://``.
            target: ``"module:function"``; ``function("open-mmlab://resnet50")`` gives the addresses where the
                file lies, the preferred first, or raises CheckpointError.
            prefix: What is meant of the file where it holds more: only names that begin so, without it.

        Raises:
            PluginError: The plugin names it twice.
        """
        self._add(self.schemes, "scheme", name, target)
        if prefix:
            self.prefixes[name] = prefix

    def zoo(self, name: str, target: str) -> None:
        """Name who knows the published models ``name::model``.

        Args:
            name: What stands before ``::``.
            target: ``"module:function"``; ``function("mmdet::retinanet_r50_fpn_1x_coco")`` gives a
                :class:`PublishedModel`, or raises CheckpointError.

        Raises:
            PluginError: The plugin names it twice.
        """
        self._add(self.zoos, "zoo", name, target)

    def mirror(self, *bases: str) -> None:
        """Name places that hold the same files, for example ``https://a.org/files/``, ``https://b.org/``.

        Whatever address begins with one of them is also looked for below the others, in this order.

        Raises:
            PluginError: One is no http(s) address that ends in a slash.
        """
        wrong = [base for base in bases if not (base.startswith(("http://", "https://")) and base[-1] == "/")]
        if wrong:
            raise PluginError(f"scope {self.scope!r} ({self.owner}): mirrors must be folders, got {wrong}")
        self.mirrors.append(bases)

    def upgrade(self, target: str) -> None:
        """Name a function for content in an older layout.

        Args:
            target: ``"module:function"``; ``function(content)`` gets the whole content of a file that
                detcore did not write, and returns it, changed or not. It must not change what it was given.
        """
        self.upgrades.append(Reference(target, self.scope, self.owner))

    def _add(self, names: dict[str, Reference], what: str, name: str, target: str) -> None:
        if name in names:
            raise PluginError(f"scope {self.scope!r} ({self.owner}) names the {what} {name!r} twice")
        names[name] = Reference(target, self.scope, self.owner)
