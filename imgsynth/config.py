"""The one door: raw configuration in, checked ``Config`` out, or *all* that is wrong with it in one error.

Behind this door nobody imports omegaconf. Closed sections become the dataclasses of ``imgsynth.schema``; ``_target_``
is read in two places only, the model and further MONAI transforms.
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import re
import shutil
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import imgsynth.models
from imgsynth.cohort.transforms import acts_on
from imgsynth.config_rules import is_train, range_faults, rule_faults
from imgsynth.files import read_json, write_text
from imgsynth.models.adapt import restrict
from imgsynth.models.base import GenerativeModel, queries_of, the_private
from imgsynth.privacy.refuse import check_networks
from imgsynth.release.paint import painter_of
from imgsynth.schema import Config, SelectionConfig
from imgsynth.training.fit import refuse_misfit
from imgsynth.types import Fault, InputError, nearest_name

NEED_A_RUN = ("sample", "evaluate", "explain", "audit", "audit_canaries", "report")
# A command that names one of these groups describes a whole configuration; one that names none goes on with the run's.
HYDRA_ERRORS = (HydraException, OmegaConfBaseException)
TRAINING_GROUPS = ("experiment", "data", "preprocess", "model", "privacy", "trainer")

# Registered without types: Hydra refuses unknown keys on its command line, the door reports everything else together.
ConfigStore.instance().store(name="schema", node=OmegaConf.create(dataclasses.asdict(Config())))


class UsersConfigs(SearchPathPlugin):
    """A ``configs/`` folder where the user works is searched before imgsynth's own, and before it one with an
    experiment file that the command line names by its path."""

    experiment: Path | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        own = Path.cwd() / "configs"
        for name, folder in (("imgsynth-user", own), ("imgsynth-experiment", self.experiment)):
            if folder is not None and folder.is_dir():
                search_path.prepend(name, f"file://{folder}")


Plugins.instance().register(UsersConfigs)


def config_folder() -> Path:
    """The configs that come with imgsynth: inside an installed wheel, or beside the package in a clone."""
    package = Path(__file__).parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def compose(verb: str, overrides: list[str]) -> DictConfig:
    """Hydra's composition of ``configs/<verb>.yaml`` and overrides; ``./configs`` of the user is searched first.

    Values are upserted, so that unknown keys reach the door and are reported with everything else.
    """
    GlobalHydra.instance().clear()
    try:
        with (
            _experiment_file(_parse(overrides)) as named,
            hydra.initialize_config_dir(str(config_folder()), version_base="1.3", job_name=verb),
        ):
            return hydra.compose(verb, [_upsert(override) for override in named])
    except yaml.MarkedYAMLError as error:
        mark, said = error.problem_mark, " ".join(f"{error.context or ''} {error.problem or ''}".split())
        where = "" if mark is None else f", {Path(mark.name).name}, line {mark.line + 1}, column {mark.column + 1}"
        remedy = "quotes around text that holds [ ] { } : # or *, and one entry a line, each after a hyphen"
        raise InputError(Fault(f"config file{where}", said, "YAML", remedy)) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise InputError(
            Fault(
                "command line",
                " ".join(overrides) or "no override",
                "names of files in configs/ and key=value",
                " ".join(str(error).split()),
            )
        ) from error


def from_overrides(verb: str, overrides: list[str]) -> Config:
    """The checked configuration of a command: a new one, or the run's in ``output=`` with overrides on top.

    Verbs that need a run take the latest in ``runs/`` where ``output`` is not given.
    """
    latest = max(Path("runs").glob("*/config.json"), key=lambda path: path.stat().st_mtime, default=None)
    if verb in NEED_A_RUN and latest is not None and not any(o.startswith("output=") for o in overrides):
        overrides = [*overrides, f"output={latest.parent}"]
    parsed = _parse(overrides)
    if any(o.key_or_group == "sweep" for o in parsed):
        raise InputError(
            Fault(
                "sweep", "a sweep for one run", "a Hydra main", f"python scripts/{verb}.py -m, with the same overrides"
            )
        )
    values = {o.key_or_group: o.value() for o in parsed}
    saved = Path(str(values["output"])) / "config.json" if values.get("output") else None  # there from a run's start
    if saved is None or not saved.is_file() or set(values) & set(TRAINING_GROUPS):
        return check(compose(verb, overrides))
    raw = OmegaConf.create(read_json(saved))
    for override in parsed:
        key = override.key_or_group
        if key in ("encoder", "audit"):
            OmegaConf.update(raw, key, compose(verb, [str(override.input_line)])[key], merge=False)
        else:
            OmegaConf.update(raw, key, override.value(), force_add=True)
    return check(raw)


def keys_of(overrides: list[str]) -> list[tuple[str, str]]:
    """(key or group, the override as it was given) of each. Raises InputError for what is none."""
    return [(str(o.key_or_group), str(o.input_line)) for o in _parse(overrides)]


def selection_of(overrides: list[str]) -> tuple[SelectionConfig, Path]:
    """The settings of ``imgsynth select`` and the folder that it writes into. Raises InputError with all faults: other
    keys than selection.* and output, values out of range, no output."""
    raw: DictConfig = OmegaConf.create({})
    faults: list[Fault] = []
    for override in _parse(overrides):
        if override.key_or_group != "output" and not override.key_or_group.startswith("selection."):
            faults.append(Fault(override.key_or_group, "a setting of imgsynth select", "selection.<key> or output; all "
                                "else is as the runs have it", "leave it out"))  # fmt: skip
            continue
        OmegaConf.update(raw, override.key_or_group, override.value(), force_add=True)
    config: Config = _build(Config, typing.cast(dict[str, Any], OmegaConf.to_container(raw)), "", faults)
    faults += [fault for fault in rule_faults(config) if fault.where not in {known.where for known in faults}]
    if config.output is None:
        faults.append(Fault("output", "nothing", "a folder for the choice, which is made in it once", "output=DIR"))
    if faults:
        raise InputError(*faults)
    return config.selection, Path(str(config.output))


def check(raw: DictConfig | ListConfig | dict[str, Any]) -> Config:
    """Resolve, coerce, range-check and bind. Raises ``InputError`` with every fault that was found.

    A run that lacks ``output`` gets ``runs/<date>-<experiment>``, and as a job of a sweep the job's own folder.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(
            Fault(
                "configuration", " ".join(str(error).split()), "interpolations that resolve", "mend the ${…} named here"
            )
        ) from error
    assert isinstance(plain, dict)
    faults: list[Fault] = []
    config = _build(Config, {str(k): v for k, v in plain.items()}, "", faults)
    unreadable = {fault.where for fault in faults}
    faults += [fault for fault in range_faults(config) if fault.where not in unreadable]
    faults += _mask_faults(config) or model_faults(config)
    faults += _transform_faults(config)
    if faults:
        raise InputError(*faults)
    if config.output is None:
        config.output = f"runs/{datetime.date.today().isoformat()}-{config.experiment}"
        if in_sweep():
            config.output = str(HydraConfig.get().runtime.output_dir)
    return config


def save(config: Config, path: Path) -> Path:
    """The resolved configuration as YAML, for people (a run goes on from its config.json)."""
    return write_text(path, OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))))


def extra_transforms(config: Config) -> list[Callable[[Any], Any]]:
    """The further MONAI transforms, instantiated."""
    return [hydra.utils.instantiate(entry, _convert_="all") for entry in config.preprocess.extra]


def in_sweep() -> bool:
    """Whether this is a job of a Hydra sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


# ---------------------------------------------------------------------------------------------------------------------


def _parse(overrides: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise InputError(
            Fault("command line", " ".join(overrides), "key=value", " ".join(str(error).split()))
        ) from error


@contextmanager
def _experiment_file(overrides: list[Override]) -> Iterator[list[Override]]:
    """``experiment=PATH.yaml`` as ``experiment=NAME``, with a copy of the file where Hydra finds it by that name."""
    named = [o for o in overrides if o.key_or_group == "experiment" and str(o.value()).endswith(".yaml")]
    if not named:
        yield overrides
        return
    path = Path(str(named[-1].value()))
    if not path.is_file():
        raise InputError(
            Fault("experiment", f"{path}, which is no file", "a name in configs/experiment, or a file's path",
                  "imgsynth inspect writes such a file")
        )  # fmt: skip
    with TemporaryDirectory() as folder:
        (Path(folder) / "experiment").mkdir()
        shutil.copyfile(path, Path(folder) / "experiment" / path.name)
        UsersConfigs.experiment = Path(folder)
        try:
            yield [*(o for o in overrides if o not in named), *_parse([f"experiment={path.stem}"])]
        finally:
            UsersConfigs.experiment = None


def _upsert(override: Override) -> str:
    """``a.b=c`` as ``++a.b=c``; group choices (no dot, a folder in configs) and Hydra's own prefixes stay."""
    line, key = override.input_line or "", override.key_or_group
    is_group = (config_folder() / key).is_dir() or (Path.cwd() / "configs" / key).is_dir()
    return line if is_group or line[0] in "+~" or key.startswith("hydra") else f"++{line}"


def _build(cls: type, values: dict[str, Any], where: str, faults: list[Fault]) -> Any:
    """An instance of the dataclass ``cls``; unknown keys and wrong types go to ``faults`` and the default stays."""
    hints = typing.get_type_hints(cls)
    known: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        if key not in hints:
            near = nearest_name(key, hints)
            faults.append(
                Fault(
                    path,
                    "an unknown key",
                    f"one of {', '.join(sorted(hints))}",
                    f"{near!r}?" if near else "remove it",
                )
            )
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                known[key] = _build(typing.cast(type, hints[key]), value, path, faults)
            else:
                faults.append(Fault(path, repr(value), "a group of keys", f"{path}.<key>=<value>"))
        else:
            try:
                known[key] = _coerce(hints[key], value)
            except (TypeError, ValueError):
                faults.append(Fault(path, f"{value!r} ({type(value).__name__})", _say(hints[key]), f"{path}=<value>"))
    return cls(**known)


def _coerce(hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint``; raises TypeError or ValueError. Numbers written as text are numbers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _coerce(next(a for a in arguments if a is not type(None)), value)
    if origin is list:
        if not isinstance(value, list):
            raise TypeError
        return [_coerce(arguments[0], item) for item in value]
    if value is None or isinstance(value, (dict, list)) or (isinstance(value, bool) and hint is not bool):
        raise TypeError
    if hint is bool and not isinstance(value, bool):
        raise TypeError
    if hint is int and isinstance(value, float) and value != int(value):
        raise ValueError
    return hint(value)


def _say(hint: Any) -> str:
    return re.sub(r"typing\.|<class '|'>", "", str(hint)).replace("Optional[", "null or [")


def _locate(target: str) -> Any:
    try:
        return hydra.utils.get_object(target)
    except Exception as error:  # hydra wraps whatever the import raised
        raise ImportError(str(error)) from error


def model_faults(config: Config) -> list[Fault]:
    """Bind the model's arguments, build it once on the declared grid, and refuse networks that break the guarantee."""
    model = config.model
    if not isinstance(model, dict) or "_target_" not in model:
        return [Fault("model", repr(model), "a model with a _target_", "model=vae or model=gan")]
    try:
        target = _locate(model["_target_"])
    except ImportError as error:
        return [Fault("model._target_", model["_target_"], "an importable class", str(error).splitlines()[0])]
    if not (inspect.isclass(target) and issubclass(target, GenerativeModel)):
        return [
            Fault("model._target_", model["_target_"], "a subclass of imgsynth.models.GenerativeModel", "model=vae")
        ]
    arguments = {k: v for k, v in model.items() if k != "_target_"}
    allowed = [p for p in inspect.signature(target).parameters if p not in ("shape", "classes")]
    unknown = [
        Fault(
            f"model.{k}",
            "an unknown argument",
            f"one of {', '.join(allowed)}",
            nearest_name(k, allowed) or "remove it",
        )
        for k in arguments
        if k not in allowed
    ]
    if unknown:
        return unknown
    try:
        built = target(shape=tuple(config.preprocess.shape), classes=len(config.data.classes or ["all"]), **arguments)
    except InputError as error:
        return list(error.faults)
    except (TypeError, ValueError) as error:
        return [Fault("model", str(arguments), "arguments that build a model", str(error))]
    try:
        if config.init.run is not None and is_train(config.init.train) and config.init.rank >= 0:
            restrict(built, config.init.train, config.init.rank)
        if config.sample.masks is not None or config.sample.edits:
            painter_of(built)
        objectives = built.objectives()
        private = the_private(objectives)
        refuse_misfit(objectives, config.privacy, config.trainer, config.selection)
        if config.privacy.mode == "dp":
            for query in queries_of(built.objectives()):
                check_networks(query.module)
            joint = private.fakes is not None and config.privacy.fakes == "joint"
            check_networks(private.module, beside=built if joint else None)
    except InputError as error:
        return list(error.faults)
    return []


def _mask_faults(config: Config) -> list[Fault]:
    """Tell the model how many structures ``data.masks`` has; faults where it can make none or was told otherwise."""
    model, asked = config.model, len(config.data.masks or ())
    if not isinstance(model, dict) or "_target_" not in model:
        return []
    told = model.get("structures", asked)
    if told != asked:
        return [Fault("model.structures", repr(told), f"{asked}, which data.masks says", "leave model.structures out")]
    target = _model_class(model["_target_"])
    if not asked or target is None:
        return []
    if not _makes_masks(target):
        able = [name for name, found in vars(imgsynth.models).items() if inspect.isclass(found) and _makes_masks(found)]
        return [Fault("data.masks", f"masks, with {target.__name__}, which makes images alone",
                      f"a model that makes pairs: {', '.join(able)}", "model=vae, or data.masks=null")]  # fmt: skip
    config.model = {**model, "structures": asked}
    return []


def _model_class(target: str) -> type | None:
    """None for what is no model; ``model_faults`` says why."""
    try:
        found = _locate(target)
    except ImportError:
        return None
    return found if inspect.isclass(found) and issubclass(found, GenerativeModel) else None


def _makes_masks(found: type) -> bool:
    return issubclass(found, GenerativeModel) and "structures" in inspect.signature(found).parameters


def _transform_faults(config: Config) -> list[Fault]:
    faults = []
    for index, entry in enumerate(config.preprocess.extra):
        where = f"preprocess.extra[{index}]"
        if not isinstance(entry, dict) or "_target_" not in entry:
            faults.append(Fault(where, repr(entry), "{_target_: monai.transforms.…, …}", "name the transform"))
            continue
        try:
            arguments = {k: v for k, v in entry.items() if k != "_target_"}
            transform = _locate(entry["_target_"])
            inspect.signature(transform).bind(**arguments)
            if config.data.masks is not None and acts_on(transform) is None:
                faults.append(Fault(where, f"{entry['_target_']}, with data.masks",
                                    "MONAI's spatial or intensity transforms: of others it is not known how a mask "
                                    "follows", "leave it out, or data.masks=null"))  # fmt: skip
        except (ImportError, TypeError) as error:
            faults.append(Fault(where, str(entry), "a MONAI transform and its arguments", str(error).splitlines()[0]))
    return faults
