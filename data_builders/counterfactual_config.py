"""Configuration of `mmdpo build counterfactual`."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from data_builders.base import BuilderConfig
from mmdpo.media import MAX_PIXELS
from mmdpo.records.files import open_split
from mmdpo.views import CLEAN, NONE, SWAP

Similar = Literal["words", "objects", "look", "clip", "given"]


class CounterfactualConfig(BuilderConfig):
    """Configuration of `mmdpo build counterfactual`; docs/data.md explains each key.

    Args:
        data: A data set of records.
        split: Its split.
        mode: `partner` gives every record another one whose media are similar and of which its answer is not true;
            `corrupted` keeps the records whose media a variant really changes.
        similar: What makes two pictures similar: `words` of their answers, `objects` that are in them, their `look`
            (perceptual hash), `clip` embeddings, or `given`: pairs of a table.
        min_rating: Worst rating of an answer that is right, on the scale of the records; those without one count as
            right.
        min_similarity: Smallest cosine of two pictures that are partners.
        neighbours: How many of the most similar pictures are tried for each.
        max_shared: Largest share of an answer's words, rare ones counting more, that may be said of the partner, too.
        one_way: Whether a picture that is left over takes a partner that has another one already.
        annotations: Which objects are in the pictures, as for `objects`.
        categories: Names of the numbers in detections and labels, as for `objects`.
        min_score: Smallest score of a detection that counts, as for `objects`.
        synonyms: Names of the objects, as for `objects`.
        model: Architecture of the CLIP.
        weights: Its weights, a safetensors file.
        pairs: Table with the pairs of `similar: given`.
        pair_columns: Its two columns: paths or names of pictures, or ids of records.
        variant: The media variant of `mode: corrupted`, as docs/variants.md lists them.
        min_change: Smallest mean change of the media's values, of their range, that counts as one.
        media: `optional` also uses records whose files are absent.
        media_root: Folder of the media; by default what the data set says.
        max_pixels: Largest image that is decoded.
    """

    data: Path
    split: str = "train"
    mode: Literal["partner", "corrupted"] = "partner"
    similar: Similar = "words"
    min_rating: float | None = None
    min_similarity: float = Field(0.1, ge=-1.0, le=1.0)
    neighbours: int = Field(50, ge=1)
    max_shared: float = Field(0.5, ge=0.0, lt=1.0)
    one_way: bool = False
    annotations: Path | None = None
    categories: Path | None = None
    min_score: float = Field(0.5, ge=0.0, le=1.0)
    synonyms: Path | None = None
    model: str = "ViT-B-32"
    weights: Path | None = None
    pairs: Path | None = None
    pair_columns: tuple[str, str] = ("image", "partner")
    variant: str = "crop"
    min_change: float = Field(0.02, ge=0.0, le=1.0)
    media: Literal["required", "optional"] = "required"
    media_root: Path | None = None
    max_pixels: int = Field(MAX_PIXELS, ge=1)

    @cached_property
    def opened(self) -> tuple[list[Path], Path | None]:
        """The files of the records, and the folder of their media."""
        return open_split(self.data, self.split, self.media_root)

    @field_validator("variant")
    @classmethod
    def _changes_media(cls, value: str) -> str:
        if value in (CLEAN, NONE, SWAP):
            raise ValueError(f"{value!r} is no corruption; for swap say mode=partner")
        return value

    @model_validator(mode="after")
    def _has_what_it_compares(self) -> CounterfactualConfig:
        for similar, setting in (("objects", "annotations"), ("clip", "weights"), ("given", "pairs")):
            if self.mode == "partner" and self.similar == similar and getattr(self, setting) is None:
                raise ValueError(f"similar={similar} needs {setting}")
        if self.pair_columns[0] == self.pair_columns[1]:
            raise ValueError("pair_columns are two different columns")
        return self
