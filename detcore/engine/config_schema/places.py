"""The top level of a run's config: what may stand under each key, and what must without a base."""

from collections.abc import Callable
from typing import Any, get_type_hints

from detcore.data.loader_config import COLLATES, START_METHODS
from detcore.engine.config_schema.definitions import Definitions
from detcore.engine.config_schema.shapes import shape_of
from detcore.engine.config_schema.values import REFERENCE, WHOLE, Schema, reference, value_schema
from detcore.engine.settings import HOOK_TYPES, Settings
from detcore.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATORS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISUALIZERS,
    Registry,
)
from detcore.registry.signatures import slot_of

LOADER = "dataloader"
DESCRIPTIONS = {
    "_base_": "A config that this one is laid over, or several: paths beside this file, or detcore::file.",
    "auto_scale_lr": "The batch size that the learning rate was chosen for; run --auto-scale-lr uses it.",
    "custom_hooks": "Hooks besides the default ones.",
    "custom_imports": "Modules of yours to import before anything is built; needs --trust-config.",
    "default_hooks": "The hooks of every run, by name; null leaves one out.",
    "default_scope": "Scope in which names of components are looked up first.",
    "env_cfg": "Processes, threads, and how machines talk to one another.",
    "load_from": "Weights to start from: a file, an address, or a name.",
    "log_processor": "How values are averaged for the log.",
    "model": "The detector.",
    "optim_wrapper": "The optimiser, clipping and precision.",
    "param_scheduler": "Schedules of the learning rate and the momentum, one or several.",
    "plugins": "Python files of yours to run before anything is built; needs --trust-config.",
    "randomness": "The seed, and whether results must be the same every time.",
    "resume": "Go on from a checkpoint: of load_from, or the newest in the work folder.",
    "test_cfg": "The loop that tests.",
    "test_dataloader": "The data to test on.",
    "test_evaluator": "The metrics of a test.",
    "train_cfg": "The loop that trains, and for how long.",
    "train_dataloader": "The data to train on.",
    "tta_model": "Merges the predictions of several views of an image.",
    "tta_pipeline": "Makes several views of each test image.",
    "val_cfg": "The loop that validates.",
    "val_dataloader": "The data to validate on.",
    "val_evaluator": "The metrics of a validation.",
    "vis_backends": "Where curves and pictures go.",
    "visualizer": "Draws, and hands curves and pictures on.",
    "work_dir": "Folder of checkpoints and logs.",
}
PIPELINES = ("train_pipeline", "val_pipeline", "test_pipeline")
"""Variables that configs share between dataloaders, by names that all of them use."""
_FLAG: Schema = {"type": ["boolean", "null", "string"], "pattern": REFERENCE}
_COUNT: Schema = {"type": ["integer", "null", "string"], "pattern": REFERENCE}


def top_level(definitions: Definitions) -> tuple[Schema, Schema]:
    """The properties of a config's top level: what may be there, and what must where no base completes it."""
    definitions.made[LOADER], definitions.made[WHOLE + LOADER] = _loader(definitions)
    may, must = _settings(definitions)
    for key, place in _places().items():
        may[key], must[key] = place(definitions)
    for key, text in DESCRIPTIONS.items():
        may[key] = {"description": text, **may.get(key, {})}
    return dict(sorted(may.items())), dict(sorted(must.items()))


def _settings(definitions: Definitions) -> tuple[Schema, Schema]:
    """The keys whose annotation tells what they are."""
    may: Schema = {"_base_": {"type": ["array", "string"], "items": {"type": "string"}}}
    for key, hint in get_type_hints(Settings, include_extras=True).items():
        may[key] = value_schema(shape_of(hint), slot_of(hint), definitions.names)
    return may, {}


Place = Callable[[Definitions], tuple[Schema, Schema]]


def _places() -> dict[str, Place]:
    """The keys whose parts are built with what only the run knows."""
    loaders = dict.fromkeys(("train_dataloader", "val_dataloader", "test_dataloader"), _loader_place)
    evaluation = {"val_cfg": _part(LOOPS, "ValLoop"), "test_cfg": _part(LOOPS, "TestLoop")}
    return {
        **loaders,
        **evaluation,
        **dict.fromkeys(PIPELINES, _list_of(TRANSFORMS)),
        "amp": _amp,
        "custom_hooks": _list_of(HOOKS),
        "default_hooks": _default_hooks,
        "log_processor": _part(LOG_PROCESSORS, "LogProcessor"),
        "model": _part(MODELS),
        "optim_wrapper": _part(OPTIM_WRAPPERS, "OptimWrapper"),
        "param_scheduler": _one_or_several(PARAM_SCHEDULERS),
        "test_evaluator": _evaluator,
        "train_cfg": _train_loop,
        "val_evaluator": _evaluator,
        "visualizer": _part(VISUALIZERS),
    }


def _dict_or_null(**more: Any) -> Schema:
    return {"type": ["null", "object", "string"], "pattern": REFERENCE, **more}


def _part(registry: Registry, default: str = "") -> Place:
    """One part; where it has a default type, that one's arguments may stand without a type."""

    def place(definitions: Definitions) -> tuple[Schema, Schema]:
        name = definitions.parts(registry)
        return _dict_or_null(**reference(name)), _whole(definitions, registry, default)

    return place


def _whole(definitions: Definitions, registry: Registry, default: str) -> Schema:
    whole = reference(WHOLE + definitions.parts(registry))
    if not default:
        return whole
    return {"if": {"required": ["type"]}, "then": whole, "else": _as_if(definitions, registry, default)}


def _as_if(definitions: Definitions, registry: Registry, kind: str, *, whole: bool = True) -> Schema:
    """A dict without type that is one of this type."""
    components = definitions.components(registry).items()
    name = next((each for each, names in components if kind in names), None)
    if name is None:  # a user's own module has taken its place, or it cannot be imported
        return {"required": ["type"]}
    must = [reference(WHOLE + name)] if whole and definitions.made[WHOLE + name] else []
    return {"if": {"type": "object"}, "then": {"allOf": [reference(name), *must]}}


def _train_loop(definitions: Definitions) -> tuple[Schema, Schema]:
    may, _ = _part(LOOPS)(definitions)
    by_steps = {
        "anyOf": [
            {"properties": {"by_epoch": {"const": False}}, "required": ["by_epoch"]},
            {"required": ["max_iters"], "not": {"required": ["by_epoch"]}},
        ]
    }
    untyped = {
        "if": by_steps,
        "then": _as_if(definitions, LOOPS, "IterBasedTrainLoop"),
        "else": _as_if(definitions, LOOPS, "EpochBasedTrainLoop"),
    }
    whole = reference(WHOLE + definitions.parts(LOOPS))
    return may, {"if": {"required": ["type"]}, "then": whole, "else": untyped}


def _one_or_several(registry: Registry) -> Place:
    def place(definitions: Definitions) -> tuple[Schema, Schema]:
        part, whole = reference(definitions.parts(registry)), reference(WHOLE + definitions.parts(registry))
        items = _dict_or_null(allOf=[part, whole])
        return {
            "type": ["array", "null", "object", "string"],
            "pattern": REFERENCE,
            "items": items,
            **part,
        }, whole

    return place


def _evaluator(definitions: Definitions) -> tuple[Schema, Schema]:
    may, must = _one_or_several(METRICS)(definitions)
    metric = {"$ref": may.pop("$ref")}
    evaluator = reference(definitions.parts(EVALUATORS))
    several = {"required": ["metrics"]}
    return (
        {**may, "if": several, "then": evaluator, "else": metric},
        {"if": several, "then": _whole(definitions, EVALUATORS, "Evaluator"), "else": must},
    )


def _list_of(registry: Registry) -> Place:
    def place(definitions: Definitions) -> tuple[Schema, Schema]:
        name = definitions.parts(registry)
        items = _dict_or_null(allOf=[reference(name), reference(WHOLE + name)])
        return {"type": ["array", "null", "string"], "pattern": REFERENCE, "items": items}, {}

    return place


def _amp(definitions: Definitions) -> tuple[Schema, Schema]:
    """A switch, or arguments of the wrapper that it stands for."""
    wrapper = _as_if(definitions, OPTIM_WRAPPERS, "AmpOptimWrapper", whole=False)
    return {"type": ["boolean", "null", "object", "string"], "pattern": REFERENCE, **wrapper}, {}


def _default_hooks(definitions: Definitions) -> tuple[Schema, Schema]:
    hook = _dict_or_null(**reference(definitions.parts(HOOKS)))
    known = {name: _whole(definitions, HOOKS, kind) for name, kind in HOOK_TYPES.items()}
    may = _dict_or_null(
        properties=dict.fromkeys(HOOK_TYPES, hook) | {"_delete_": {"type": "boolean"}},
        additionalProperties=hook,
    )
    return may, {"properties": known, "additionalProperties": _whole(definitions, HOOKS, "")}


def _loader_place(_: Definitions) -> tuple[Schema, Schema]:
    return _dict_or_null(**reference(LOADER)), reference(WHOLE + LOADER)


def _loader(definitions: Definitions) -> tuple[Schema, Schema]:
    """The keys of a dataloader; see :mod:`detcore.data.loader_config`."""
    name = {"type": ["null", "object", "string"]}
    parts = {"batch_sampler": DATA_SAMPLERS, "dataset": DATASETS, "sampler": DATA_SAMPLERS}
    places = {key: _part(registry)(definitions) for key, registry in parts.items()}
    may = {
        **{key: may for key, (may, _) in places.items()},
        "batch_size": {**_COUNT, "description": "Images of a batch on one device."},
        "collate_fn": {**name, "examples": list(COLLATES)},
        "drop_last": _FLAG,
        "multiprocessing_context": {
            "anyOf": [{"enum": [*START_METHODS, None]}, {"type": "string", "pattern": REFERENCE}]
        },
        "num_batch_per_epoch": {**_COUNT, "description": "End an epoch after so many batches."},
        "num_workers": {**_COUNT, "description": "Processes that load; 0 loads in the training process."},
        "persistent_workers": _FLAG,
        "pin_memory": _FLAG,
        "prefetch_factor": {**_COUNT, "description": "Batches that each worker loads ahead."},
        "timeout": {"type": ["null", "number", "string"], "pattern": REFERENCE},
        "worker_init_fn": name,
        "_delete_": {"type": "boolean"},
    }
    must = {"required": ["dataset"], "properties": {key: must for key, (_, must) in places.items()}}
    return {"title": "dataloader", "properties": may, "additionalProperties": False}, must
