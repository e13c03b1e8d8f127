"""Which plugins are installed and which of them may load; imports none of them."""
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from detcore.plugins.memory import Memory, memory_file
from detcore.plugins.reading import Unreadable, read_distributions

ENVIRONMENT = ("DETCORE_PLUGINS", "DETCORE_DISABLE_PLUGINS", "DETCORE_STRICT_PLUGINS")

# Scope -> the distribution that brings it, for hints in error messages.
KNOWN_DISTRIBUTIONS = {
    "models": "det-models",
    "backbones": "det-backbones",
    "datasets": "det-datasets",
    "mmdet": "det-mmdet",
    "mmengine": "det-mmdet",
    "mmcv": "det-mmdet",
    "mmcls": "det-mmdet",
    "mmpretrain": "det-mmdet",
    "timm": "det-timm",
    "semi": "det-semi",
}

# Packages whose classes stand in weight files -> the scope whose plugin knows them.
KNOWN_PACKAGES = {"addict": "mmdet", "mmcv": "mmdet", "mmdet": "mmdet", "mmengine": "mmdet"}

# Names that configs often write without their scope -> that scope.
KNOWN_NAMES = {
    "CocoDataset": "datasets",
    "CocoMetric": "datasets",
    "FPN": "models",
    "FasterRCNN": "models",
    "MaskRCNN": "models",
    "ResNet": "backbones",
    "RetinaNet": "models",
    "SemiBaseDetector": "semi",
    "SoftTeacher": "semi",
    "SwinTransformer": "backbones",
    "TIMMBackbone": "timm",
    "VOCDataset": "datasets",
}

# What stands before "://" in names of weights -> the scope that knows the addresses.
KNOWN_SCHEMES = {"jhu": "mmdet", "mmcls": "mmdet", "open-mmlab": "mmdet", "openmmlab": "mmdet"}


@dataclass(frozen=True, slots=True)
class Claim:
    """An entry point: a distribution offers a module for a scope.

    Attributes:
        scope: Name of the entry point.
        module: The plugin's module, for example ``"det_timm.plugin"``.
        distribution: Name of the distribution.
        version: Its version.
        named: Hooks, but for components, whose names stand in the module's source, and its ways to tell of
            names that are not its own (see ``detcore.plugins.sources``); None where the source does not tell.
    """

    scope: str
    module: str
    distribution: str
    version: str
    named: frozenset[str] | None = field(default=None, compare=False)

    @property
    def owner(self) -> str:
        """``"det-timm 0.3.0"``."""
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Installed:
    """What the metadata of the installed distributions says.

    Attributes:
        claims: Scope -> who claims it; both sorted.
        unreadable: One line for each distribution whose metadata is broken, be it a plugin or not.
        repeated: One line for each plugin that lies on the path several times: only the first counts.
    """

    claims: dict[str, list[Claim]]
    unreadable: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def find_installed() -> Installed:
    """Read the metadata of all distributions on the path, or remember it where nothing has changed."""
    claims: dict[str, list[Claim]] = {}
    places: dict[str, list[str]] = {}
    unreadable = set()
    for found in read_distributions(Memory(memory_file())):
        if isinstance(found, Unreadable):
            unreadable.add(found.reason)
            continue
        known = places.setdefault(_normalised(found.name), [])
        place = f"{found.version} in {found.folder}"  # a folder may stand on the path twice
        known += [place] if place not in known else []
        if known == [place]:
            for scope, module, named in found.points:
                claims.setdefault(scope, []).append(Claim(scope, module, found.name, found.version, named))
    repeated = [f"{name} is installed {len(known)} times, and the first counts: {'; '.join(known)}"
                for name, known in sorted(places.items()) if len(known) > 1]
    ordered = {scope: _without_repeats(claims[scope]) for scope in sorted(claims)}
    return Installed(ordered, sorted(unreadable), repeated)


def _without_repeats(claims: list[Claim]) -> list[Claim]:
    return claims if len(claims) == 1 else sorted({*claims}, key=lambda claim: claim.owner)


def _normalised(name: str) -> str:
    """A distribution's name, of which case and separators do not count."""
    plain = name.lower().replace("_", "-").replace(".", "-")
    return re.sub("-+", "-", plain) if "--" in plain else plain


def pip_line(scope: str) -> str:
    """How to install what brings a scope, or an empty string if no known package does."""
    known = KNOWN_DISTRIBUTIONS.get(scope)
    return f"pip install {known}" if known else ""


@dataclass(frozen=True)
class Permissions:
    """What the environment lets load.

    Attributes:
        allowed: ``DETCORE_PLUGINS``: only these scopes; None if it is not set, which allows all.
        disabled: ``DETCORE_DISABLE_PLUGINS``: not these; ``__all__`` disables every plugin.
        strict: ``DETCORE_STRICT_PLUGINS=1``: a plugin that fails is an error at once.
    """

    allowed: frozenset[str] | None = None
    disabled: frozenset[str] = frozenset()
    strict: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Permissions":
        """Read the three variables."""
        allowed = environment.get("DETCORE_PLUGINS")
        return cls(
            None if allowed is None else _names(allowed),
            _names(environment.get("DETCORE_DISABLE_PLUGINS", "")),
            environment.get("DETCORE_STRICT_PLUGINS", "") not in ("", "0"),
        )

    def refusal(self, scope: str) -> str:
        """Why a scope may not load, or an empty string if it may."""
        if scope in self.disabled or "__all__" in self.disabled:
            return "disabled by DETCORE_DISABLE_PLUGINS"
        if self.allowed is not None and scope not in self.allowed:
            return "not listed in DETCORE_PLUGINS"
        return ""

    def unknown(self, installed: Iterable[str], *, disabled: bool = True) -> list[str]:
        """One line for each listed name that is not installed, with the nearest installed names.

        Args:
            installed: The scopes that are.
            disabled: Whether names in ``DETCORE_DISABLE_PLUGINS`` count, too.
        """
        scopes = list(installed)
        lines = []
        listed = [("DETCORE_PLUGINS", self.allowed or frozenset())]
        if disabled:
            listed.append(("DETCORE_DISABLE_PLUGINS", self.disabled))
        for variable, names in listed:
            for name in sorted(names - {*scopes, "detcore", "__all__"}):
                close = difflib.get_close_matches(name, scopes, n=3, cutoff=0.5)
                near = f"; did you mean {' or '.join(close)}?" if close else ""
                lines.append(f"{variable} names {name!r}, which is not installed{near}")
        return lines


def _names(text: str) -> frozenset[str]:
    return frozenset(name for name in re.split(r"[,\s]+", text) if name)
