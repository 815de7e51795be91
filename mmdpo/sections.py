"""The sections of a training run's configuration and their types; :mod:`mmdpo.config` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, and not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_no_boolean)]
"""A whole number; true is not 1."""
Count = Annotated[Whole, Field(ge=1)]
Number = Annotated[float, BeforeValidator(_no_boolean)]


class Section(BaseModel):
    """A section whose unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class LoraSection(Section):
    """LoRA adapter; ``lora: null`` trains the parts themselves."""

    r: Count = 64
    alpha: Annotated[Number, Field(gt=0)] = 128
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    targets: str | list[str] = "auto"
    init: bool | str = True


class ModelSection(Section):
    """Which model, and which of its parts train: one that is there (``path``), or one made of parts (``compose``)."""

    path: str | None = None
    compose: dict[str, Any] | None = None
    trainable: Literal["llm", "projector", "llm+projector", "all"] = "llm"
    adapter: str | None = None
    quantize: Literal["4bit"] | None = None
    attention: Literal["auto", "sdpa", "eager", "flex", "flash_attention_2"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    lora: LoraSection | None = LoraSection()
    router_aux_loss_coef: Annotated[Number, Field(ge=0)] | None = None

    def base(self, run: Path) -> str:
        """Where the model is that a run starts from; one that it composed lies in the run itself."""
        return self.path if self.path is not None else str(run / "base")

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        if (self.path is None) == (self.compose is None):
            raise ValueError("give either path, a model that is there, or compose, the parts to make one of")
        return self

    @model_validator(mode="after")
    def _quantized_weights_stay(self) -> Self:
        if self.quantize is not None and self.lora is None and self.adapter is None:
            raise ValueError("weights of 4 bits cannot be trained themselves; train an adapter on them (model.lora)")
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
    max_length: Count | None = None
    marks: Literal["given", "difference", "first_difference", "first_hallucinated"] = "given"
    variants: Literal["fixed", "fresh"] = "fixed"
    limit: Count | None = None

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

    def folder(self, data: str) -> Path:
        """Where the numbers are kept; by default beside the data.

        Args:
            data: Path of the data set.
        """
        return Path(self.cache or f"{data.rstrip('/')}.reference")

    @model_validator(mode="after")
    def _cache_is_read(self) -> Self:
        if self.cache is not None and self.kind != "cached":
            raise ValueError(f"cache names a folder, and kind is {self.kind}: it is read with kind: cached alone")
        return self


class BatchesSection(Section):
    """How micro-batches are made (docs/memory.md): which records an optimizer step has, ``train:`` says.

    ``max_tokens``: padded tokens of a micro-batch (rows x its longest row), in place of a number of records; ``auto``
    finds the most that fits on a GPU. ``bucket``: records of similar length come in the same batch.
    """

    max_tokens: Count | Literal["auto"] | None = None
    bucket: bool = False


class FeaturesSection(Section):
    """Whether the features of frozen encoders are kept from step to step (docs/feature_cache.md).

    ``auto`` keeps them where the encoders are a tenth of a step or more; in memory up to ``memory_gb``, else on disk in
    ``folder`` (by default beside the data) up to ``disk_gb``. ``dtype``: ``bfloat16`` halves what is computed in
    float32; ``as_computed`` is exact.
    """

    cache: Literal["auto", "memory", "disk", "off"] = "auto"
    folder: str | None = None
    memory_gb: Annotated[Number, Field(gt=0)] = 2.0
    disk_gb: Annotated[Number, Field(gt=0)] = 50.0
    dtype: Literal["as_computed", "bfloat16"] = "as_computed"

    @field_validator("cache", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _folder_is_read(self) -> Self:
        if self.folder is not None and self.cache in ("memory", "off"):
            raise ValueError(f"folder names a place on disk, and cache is {self.cache}: it would not be read")
        return self


class EvalSection(Section):
    """One benchmark to run before and after training.

    ``limit`` counts images (clips), each with all questions about it. With ``every`` it is also run while training, at
    every so many optimizer steps, on the first ``every_limit`` images.
    """

    data: str
    images: str | None = None
    limit: Count | None = None
    max_new_tokens: Count | None = None
    batch_size: Count = 16
    answer_by: Literal["generation", "logits", "both"] = "generation"
    every: Count | None = None
    every_limit: Annotated[Whole, Field(ge=2)] = 100
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
    patience: Count = 3
    min_delta: Annotated[Number, Field(ge=0, allow_inf_nan=False)] = 0.0
    keep: dict[str, Annotated[Number, Field(ge=0, allow_inf_nan=False)]] = {}


class RunConfig(Section):
    """Everything a training run depends on.

    Args:
        seed: Seed of sampling order, media variants, adapters and splits.
        model: Model section.
        data: Data section.
        reference: Reference section.
        features: Whether the features of frozen encoders are kept from step to step.
        loss: The name of a loss, or names with their fields; null switches one off (mmdpo ls losses).
        layout: ``auto`` decides by the start-up check; ``plain`` gives every answer a row of its own.
        two_pass: Evaluate the objective once per optimizer step (exact, less memory, one more forward).
        branches_per_row: How many answers of a record share a row; all by default.
        records_per_row: How many records share a row: so many, or ``fit``, as many as find room beside each other in
            rows no longer than the longest record of the batch.
        rows_per_chunk: Rows scored with gradient at a time (takes the two-pass step): memory of one chunk, any K.
        batches: Micro-batches by tokens, and of records of similar length.
        train: Any field of ``transformers.TrainingArguments`` that does not break the objective.
        eval: Benchmarks by name.
        stop: When to stop early by them; null trains all steps.
        plugins: Python files beside the configuration that register extensions.
    """

    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0
    model: ModelSection
    data: DataSection
    reference: ReferenceSection = ReferenceSection()
    features: FeaturesSection = FeaturesSection()
    loss: str | dict[str, dict[str, Any] | None] = {"dpo": {"beta": 0.1}}
    layout: Literal["auto", "shared", "plain"] = "auto"
    two_pass: bool = False
    branches_per_row: Count | None = None
    records_per_row: Count | Literal["fit"] = 1
    rows_per_chunk: Count | None = None
    batches: BatchesSection = BatchesSection()
    train: dict[str, Any] = {}
    eval: dict[str, EvalSection] = {}
    stop: StopSection | None = None
    plugins: list[str] = []
