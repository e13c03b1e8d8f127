"""The table of subcommands that plugins add to ``detcore``."""
from dataclasses import dataclass, field

from detcore.errors import PluginError
from detcore.registry.scopes import Reference


@dataclass(slots=True)
class CommandTable:
    """Commands of one plugin; what its ``detcore_commands`` hook fills.

    Attributes:
        scope: The plugin's scope.
        owner: The distribution, for example ``"det-serve 0.2.0"``.
        commands: Name -> reference to a click command.
        helps: Name -> one line of help.
    """

    scope: str
    owner: str
    commands: dict[str, Reference] = field(default_factory=dict)
    helps: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, target: str, help_line: str = "") -> None:
        """Name a command.

        Args:
            name: What the user types after ``detcore``.
            target: ``"module:attribute"`` of a click command; imported when the command is used.
            help_line: One line that says what it does.

        Raises:
            PluginError: The plugin names a command twice.
        """
        if name in self.commands:
            raise PluginError(f"scope {self.scope!r} ({self.owner}) names the command {name!r} twice")
        self.commands[name] = Reference(target, self.scope, self.owner)
        self.helps[name] = help_line
