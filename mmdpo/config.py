"""The configuration of a training run: YAML merged with ``a.b=c`` overrides, every error reported at once."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from mmdpo.errors import ConfigError, MMDPOError, did_you_mean


class Section(BaseModel):
    """A section whose unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class LoraSection(Section):
    """LoRA adapter; ``lora: null`` trains the parts themselves."""

    r: Annotated[int, Field(ge=1)] = 64
    alpha: Annotated[float, Field(gt=0)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | list[str] = "auto"
    init: bool | str = True


class ModelSection(Section):
    """Which model, and which of its parts train: one that is there (``path``), or one made of parts (``compose``)."""

    path: str | None = None
    compose: dict[str, Any] | None = None
    trainable: Literal["llm", "projector", "llm+projector", "all"] = "llm"
    adapter: str | None = None
    quantize: Literal["4bit"] | None = None
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    lora: LoraSection | None = LoraSection()
    router_aux_loss_coef: Annotated[float, Field(ge=0)] | None = None

    def base(self, run: Path) -> str:
        """Where the model is that a run starts from; one that it composed lies in the run itself."""
        return self.path if self.path is not None else str(run / "base")

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        if (self.path is None) == (self.compose is None):
            raise ValueError("give either path, a model that is there, or compose, the parts to make one of")
        return self

    @field_validator("adapter")
    @classmethod
    def _trains_itself(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("trainable", "llm") != "llm":
            raise ValueError("an existing adapter trains what it was made for; remove model.trainable")
        return value


class DataSection(Section):
    """Which records; ``validation`` is a share of the media, or a path to other records.

    ``marks``: which stretches of the answers are marked (docs/marks.md); ``variants``: media variants are drawn once
    for all, or ``fresh`` in every epoch (docs/variants.md).

    The media roots are needed only where a data set does not say its own: it was moved, or is a bare Parquet file.
    """

    path: str
    media_root: str | None = None
    validation: float | str = 0.05
    validation_media_root: str | None = None
    max_length: Annotated[int, Field(ge=1)] | None = None
    marks: Literal["given", "difference", "first_difference", "first_hallucinated"] = "given"
    variants: Literal["fixed", "fresh"] = "fixed"
    limit: Annotated[int, Field(ge=1)] | None = None

    @field_validator("validation")
    @classmethod
    def _is_share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 <= value < 1:
            raise ValueError("a share is at least 0 and less than 1")
        return value


class ReferenceSection(Section):
    """How the reference is kept."""

    kind: Literal["auto", "adapter_off", "copy"] = "auto"

    @field_validator("kind", mode="before")
    @classmethod
    def _is_live(cls, value: Any) -> Any:
        if value == "cached":
            raise ValueError(
                "the reference is computed in every step, not cached; losses that read token_kl (tdpo2, chip) could "
                "not use a cache of log-probabilities at all, since they need its whole distributions"
            )
        return value


class EvalSection(Section):
    """One benchmark to run after training."""

    data: str
    images: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    options: dict[str, Any] = {}


class RunConfig(Section):
    """Everything a training run depends on.

    Args:
        seed: Seed of sampling order, media variants, adapters and splits.
        model: Model section.
        data: Data section.
        reference: Reference section.
        loss: The name of a loss, or names with their fields; null switches one off (mmdpo ls losses).
        layout: ``auto`` decides by the start-up check; ``plain`` gives every answer a row of its own.
        two_pass: Evaluate the objective once per optimizer step (exact, less memory, one more forward).
        branches_per_row: How many answers of a record share a row; all by default.
        rows_per_chunk: Rows scored with gradient at a time (takes the two-pass step): memory of one chunk, any K.
        train: Any field of ``transformers.TrainingArguments`` that does not break the objective.
        eval: Benchmarks by name.
        plugins: Python files beside the configuration that register extensions.
    """

    seed: int = 0
    model: ModelSection
    data: DataSection
    reference: ReferenceSection = ReferenceSection()
    loss: str | dict[str, dict[str, Any] | None] = {"dpo": {"beta": 0.1}}
    layout: Literal["auto", "shared", "plain"] = "auto"
    two_pass: bool = False
    branches_per_row: Annotated[int, Field(ge=1)] | None = None
    rows_per_chunk: Annotated[int, Field(ge=1)] | None = None
    train: dict[str, Any] = {}
    eval: dict[str, EvalSection] = {}
    plugins: list[str] = []


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a configuration and applies ``a.b=c`` overrides (defaults < file < shell).

    Raises:
        ConfigError: Listing every problem, with near names for unknown keys.
    """
    return parse_config(read_yaml(path, overrides), str(path))


def read_yaml(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file (or nothing) merged with overrides, as plain dictionaries.

    Raises:
        ConfigError: The file is missing or not YAML, or an override is not of the form ``a.b=c``.
    """
    if path is not None and not path.is_file():
        raise ConfigError(
            f"configuration file {str(path)!r} does not exist",
            why="There is nothing to run.",
            fix="See what ships with the package: mmdpo ls configs; copy one: mmdpo cp NAME",
        )
    for override in overrides:
        if "=" not in override:
            raise ConfigError(
                f"override {override!r} has no '='",
                why="It does not say which value to set.",
                fix="Write it as section.key=value, for example train.learning_rate=1e-5",
            )
    try:
        loaded = OmegaConf.create({}) if path is None else OmegaConf.load(path)
        if isinstance(loaded, DictConfig):
            loaded = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
        plain = OmegaConf.to_container(loaded, resolve=True)
    except (OmegaConfBaseException, ValueError, OSError) as error:
        raise ConfigError(
            f"cannot read the configuration {str(path)!r}: {str(error).splitlines()[0]}",
            why="It is not valid YAML, or an interpolation does not resolve.",
            fix="Correct the line that is named.",
        ) from error
    except Exception as error:  # PyYAML's own errors share no base with OmegaConf's
        if type(error).__module__.split(".")[0] != "yaml":
            raise
        raise ConfigError(
            f"configuration {str(path)!r} is not valid YAML: {error}",
            why="Nothing of it could be read.",
            fix="Correct the line that is named.",
        ) from error
    if not isinstance(plain, dict):
        raise ConfigError(
            f"configuration {str(path)!r} is not a mapping of sections",
            why="Its settings have no names.",
            fix="Start from one that ships with the package: mmdpo cp start",
        )
    return {str(key): value for key, value in plain.items()}


def parse_config(values: Mapping[str, Any], origin: str = "the configuration") -> RunConfig:
    """Validates plain values.

    Raises:
        ConfigError: Listing every problem at once.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise problems_error(origin, [describe_problem(problem, RunConfig) for problem in error.errors()]) from error


def problems_error(origin: str, problems: Sequence[str]) -> ConfigError:
    """One error that lists every problem of a configuration."""
    return ConfigError(
        f"{origin} has {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n  " + "\n  ".join(problems),
        why="Nothing was started.",
        fix="Correct them all at once; mmdpo check CONFIG shows the result.",
    )


def together(origin: str, errors: Sequence[MMDPOError]) -> MMDPOError:
    """One error for several: itself if it is alone, else a list of what is wrong and why."""
    if len(errors) == 1:
        return errors[0]
    return problems_error(origin, [f"{error.what}. {error.why}" for error in errors])


def describe_problem(problem: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One line for one validation problem: where, what, and near names for an unknown key."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _fields_at(root, problem["loc"][:-1])
        return f"{where}: unknown key. {did_you_mean(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"{where}: required, but not given"
    return f"{where}: {problem['msg']} (got {problem['input']!r})"


def _fields_at(root: type[BaseModel], path: Iterable[Any]) -> list[str]:
    """Names of the fields of the section at a path."""
    current: Any = root
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            continue  # union tags and list indices
        current = next(
            (a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(a, "model_fields")),
            current,
        )
    return list(current.model_fields)


def shipped_configs() -> dict[str, Path]:
    """Configurations that ship with the package, by name; found in a wheel, a checkout and an editable install."""
    installed = Path(str(importlib.resources.files("mmdpo"))) / "_configs"
    folder = installed if installed.is_dir() else Path(__file__).resolve().parent.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def copy_shipped(name: str, to: Path) -> Path:
    """Copies a shipped configuration.

    Raises:
        ConfigError: There is none of that name, or the target exists.
    """
    configs = shipped_configs()
    if name not in configs:
        raise ConfigError(
            f"no configuration {name!r} ships with the package",
            why=did_you_mean(name, configs),
            fix="See: mmdpo ls configs",
        )
    if to.exists():
        raise ConfigError(
            f"{str(to)!r} exists", why="It is not overwritten.", fix="Give another name: mmdpo cp NAME OTHER.yaml"
        )
    to.write_text(configs[name].read_text(encoding="utf-8"), encoding="utf-8")
    return to
