"""The table of what plugins know about weight files of other programs."""
from dataclasses import dataclass, field

from detcore.errors import PluginError
from detcore.registry.scopes import Reference


@dataclass(slots=True)
class CheckpointTable:
    """What one plugin knows about foreign weight files; what its ``detcore_checkpoints`` hook fills.

    Attributes:
        scope: The plugin's scope.
        owner: The distribution, for example ``"det-mmdet 0.1.0"``.
        stand_ins: ``"module.Name"`` as a pickle writes it -> the inert class that is made instead.
        schemes: What stands before ``://`` -> function that turns such a name into addresses.
        zoos: What stands before ``::`` -> function that turns a model's name into addresses.
        upgrades: Functions that turn content in an older layout into today's.
    """

    scope: str
    owner: str
    stand_ins: dict[str, Reference] = field(default_factory=dict)
    schemes: dict[str, Reference] = field(default_factory=dict)
    zoos: dict[str, Reference] = field(default_factory=dict)
    upgrades: list[Reference] = field(default_factory=list)

    def stand_in(self, name: str, target: str) -> None:
        """Name an inert class for a class that old files hold.

        Args:
            name: The class as the file writes it: ``"mmengine.logging.history_buffer.HistoryBuffer"``.
            target: ``"module:Class"``; an instance must hold data and do nothing.

        Raises:
            PluginError: The plugin names it twice.
        """
        self._add(self.stand_ins, "stand-in", name, target)

    def scheme(self, name: str, target: str) -> None:
        """Name who knows the addresses of ``name://...``.

        Args:
            name: What stands before ``://``.
            target: ``"module:function"``; ``function("open-mmlab://resnet50")`` gives the addresses where the
                file lies, the preferred first, or raises CheckpointError.

        Raises:
            PluginError: The plugin names it twice.
        """
        self._add(self.schemes, "scheme", name, target)

    def zoo(self, name: str, target: str) -> None:
        """Name who knows the published weights of ``name::model``; as for :meth:`scheme`."""
        self._add(self.zoos, "zoo", name, target)

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
