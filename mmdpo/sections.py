"""The sections of a training run's configuration and their types; :mod:`mmdpo.config` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator


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
    """How the reference is kept: computed in every step, or once (``cached``), in the folder ``cache``."""

    kind: Literal["auto", "adapter_off", "copy", "cached"] = "auto"
    cache: str | None = None

    @model_validator(mode="after")
    def _cache_is_read(self) -> Self:
        if self.cache is not None and self.kind != "cached":
            raise ValueError(f"cache names a folder, and kind is {self.kind}: it is read with kind: cached alone")
        return self


class EvalSection(Section):
    """One benchmark to run before and after training.

    ``limit`` counts images (clips), each with all questions about it. With ``every`` it is also run while training, at
    every so many optimizer steps, on the first ``every_limit`` images.
    """

    data: str
    images: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 16
    answer_by: Literal["generation", "logits", "both"] = "generation"
    every: Annotated[int, Field(ge=1)] | None = None
    every_limit: Annotated[int, Field(ge=2)] = 100
    options: dict[str, Any] = {}

    @property
    def while_training(self) -> Self:
        """The same on fewer images."""
        return self.model_copy(update={"limit": min(self.limit or self.every_limit, self.every_limit)})


class StopSection(Section):
    """When training stops early, and which checkpoint is the best one (docs/training.md).

    ``metric`` is one of a benchmark of ``eval:`` that has ``every``. Training stops when it has not become better by
    more than ``min_delta`` in ``patience`` evaluations. An evaluation counts as better only while no metric of ``keep``
    is worse than before training by more than its tolerance.
    """

    metric: str
    patience: Annotated[int, Field(ge=1)] = 3
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    keep: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}


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
        stop: When to stop early by them; null trains all steps.
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
    stop: StopSection | None = None
    plugins: list[str] = []
