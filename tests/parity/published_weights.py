"""Reads which weights MMDetection and mmengine publish, and writes plugins/det_mmdet/{addresses,zoo}.json.

    python tests/parity/published_weights.py MMDET_PACKAGE MMENGINE_PACKAGE

Both are folders of unpacked wheels (``.../mmdet``, ``.../mmengine``); nothing in them is imported.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HOST = "https://download.openmmlab.com/"
TARGET = Path(__file__).resolve().parents[2] / "plugins" / "det_mmdet"


def read_addresses(mmengine: Path) -> dict[str, dict[str, str]]:
    """Scheme -> name -> path below the host, and old names of models -> new ones."""
    read = {path.stem: json.loads(path.read_text()) for path in (mmengine / "hub").glob("*.json")}
    tables = {
        name: {key: _shortened(value) for key, value in read[name].items()} for name in ("openmmlab", "mmcls")
    }
    return {**tables, "deprecated": read["deprecated"]}


def read_zoo(mmdet: Path) -> dict[str, dict[str, str]]:
    """Config -> path of its weights, and other names of models -> config."""
    root = mmdet / ".mim"
    configs = {path.stem: path for path in sorted((root / "configs").glob("[!_]*/**/*.py"))}
    models: dict[str, str] = {}
    names: dict[str, str] = {}
    for metafile in sorted((root / "configs").glob("*/metafile.yml")):
        read = yaml.safe_load(metafile.read_text(encoding="utf-8"))
        for model in read if isinstance(read, list) else read.get("Models") or ():
            if not model.get("Weights"):
                continue
            config = _config_of(model, configs, root)
            models[config] = _shortened(_first(model["Weights"]))
            others = [model["Name"].removesuffix(".py"), *_listed(model.get("Alias"))]
            names |= {other: config for other in others if other != config.rpartition("/")[2]}
    return {"models": dict(sorted(models.items())), "names": dict(sorted(names.items()))}


def _config_of(model: dict[str, Any], configs: dict[str, Path], root: Path) -> str:
    """``folder/name``: some metafiles name a folder where the config is not, or none."""
    stated = root / model["Config"]
    path = stated if stated.is_file() else configs.get(stated.stem)
    if path is None:
        return str(Path(model["Config"].replace("%2B", "+")).with_suffix("")).removeprefix("configs/")
    return str(path.relative_to(root / "configs").with_suffix(""))


def _first(weights: str | list[str]) -> str:
    """Of a tracker that needs several files it is the detector."""
    return weights if isinstance(weights, str) else weights[0]


def _listed(alias: str | list[str] | None) -> list[str]:
    return [alias] if isinstance(alias, str) else list(alias or ())


def _shortened(address: str) -> str:
    return address.strip().removeprefix(HOST)


if __name__ == "__main__":
    mmdet, mmengine = map(Path, sys.argv[1:])
    for name, facts in {"zoo": read_zoo(mmdet), "addresses": read_addresses(mmengine)}.items():
        text = json.dumps(facts, indent=0)
        (TARGET / f"{name}.json").write_text(text + "\n", encoding="utf-8")
