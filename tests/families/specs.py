"""What is known of each family before any test: what it takes, where its parts lie, what is worth telling a user.

Nothing here is read from `mmdpo.models.families`: module names are those of the model classes of transformers 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmdpo.models.load import Trainable
from tiny import FAMILIES

Part = Literal["encoder", "projector", "llm"]

PRESETS: dict[Trainable, set[Part]] = {
    "llm": {"llm"},
    "projector": {"projector"},
    "llm+projector": {"llm", "projector"},
    "all": {"llm", "projector", "encoder"},
}
"""What each value of `trainable` means."""


@dataclass(frozen=True)
class Spec:
    """One family.

    Args:
        encoders: The encoder of each modality that the family takes, by its path in the model.
        projectors: What stands between encoder and language model; it may lie inside an encoder.
        llm: The language model without its head.
        video: Whether it takes lists of frames, through the encoder of images.
        equal_films: Whether the videos of a prompt must have equally many frames of one size.
        needs_media: Whether its processor refuses a prompt without media.
        neighbours: Whether what the encoder makes of an item depends on the other items of its prompt.
        one_a_row: Whether records cannot share a row.
        single: Whether its processor refuses a prompt with two items.
        checkpoints: Whether its class has activation checkpointing.
    """

    encoders: dict[str, str]
    projectors: tuple[str, ...] = ("model.multi_modal_projector",)
    llm: str = "model.language_model"
    video: bool = False
    equal_films: bool = False
    needs_media: bool = False
    neighbours: bool = False
    one_a_row: bool = False
    single: bool = False
    checkpoints: bool = True

    @property
    def kinds(self) -> tuple[str, ...]:
        """The modalities but for video, which has a column of its own."""
        return tuple(self.encoders)

    @property
    def takes(self) -> tuple[str, ...]:
        """The modalities, video last."""
        return (*self.encoders, *(("video",) if self.video else ()))

    def part(self, name: str) -> Part:
        """The part that a parameter or module belongs to; the longest path counts.

        Raises:
            KeyError: It lies in none of them.
        """
        parts: dict[str, Part] = {path: "encoder" for path in self.encoders.values()}
        parts |= {path: "projector" for path in self.projectors} | {self.llm: "llm", "lm_head": "llm"}
        fitting = [path for path in parts if f"{name}.".startswith(f"{path}.")]
        if not fitting:
            raise KeyError(name)
        return parts[max(fitting, key=len)]


TOWER = {"image": "model.vision_tower"}
VISUAL = {"image": "model.visual"}
MERGER = ("model.visual.merger",)
DEEPSTACK = (*MERGER, "model.visual.deepstack_merger_list")
EARS = {"audio": "model.audio_tower"}
IDEFICS: dict[str, str] = {"image": "model.vision_model"}
NEWLINE = ("model.multi_modal_projector", "model.image_newline")

SPECS: dict[str, Spec] = {
    "llava": Spec(TOWER),
    "llava_next": Spec(TOWER, NEWLINE),
    "llava_onevision": Spec(TOWER, NEWLINE, video=True, equal_films=True, neighbours=True),
    "vipllava": Spec(TOWER),
    "qwen2_vl": Spec(VISUAL, MERGER, video=True),
    "qwen2_5_vl": Spec(VISUAL, MERGER, video=True),
    "qwen3_vl": Spec(VISUAL, DEEPSTACK, video=True),
    "qwen3_vl_moe": Spec(VISUAL, DEEPSTACK, video=True),
    "qwen3_5": Spec(VISUAL, MERGER, video=True),
    "glm4v": Spec(VISUAL, MERGER, video=True, one_a_row=True),
    "internvl": Spec(TOWER, video=True, equal_films=True),
    "idefics2": Spec(IDEFICS, ("model.connector",), "model.text_model"),
    "idefics3": Spec(IDEFICS, ("model.connector",), "model.text_model"),
    "smolvlm": Spec(IDEFICS, ("model.connector",), "model.text_model", video=True),
    "paligemma": Spec(TOWER, needs_media=True),
    "paligemma2": Spec(TOWER, needs_media=True),
    "gemma3": Spec(TOWER),
    "gemma4": Spec(TOWER, ("model.embed_vision",), video=True),
    "gemma4_moe": Spec(TOWER, ("model.embed_vision",), video=True),
    "mistral3": Spec(TOWER),
    "aya_vision": Spec(TOWER),
    "mllama": Spec({"image": "model.vision_model"}, one_a_row=True),
    "lfm2_vl": Spec(TOWER),
    "ovis2": Spec(TOWER, ("model.visual_embeddings_table",)),
    "qwen2_audio": Spec(EARS),
    "voxtral": Spec(EARS),
    "granite_speech": Spec({"audio": "model.encoder"}, ("model.projector",), neighbours=True, checkpoints=False),
    "audioflamingo3": Spec(EARS, single=True),
    "qwen2_5_omni": Spec(EARS | VISUAL, (*MERGER, "model.audio_tower.proj"), video=True),
    "qwen3_omni_moe": Spec(
        EARS | VISUAL,
        ("model.visual.merger", "model.visual.merger_list", "model.audio_tower.proj1", "model.audio_tower.proj2"),
        video=True,
        neighbours=True,
    ),
}

FAILING: dict[tuple[str, str], str] = {}
"""Why a check of a family fails, by check and family: the test must fail, and the table says why."""

EVERY = tuple(FAMILIES)
"""All families that there are tiny models of."""
VIDEO = tuple(name for name in EVERY if name in SPECS and SPECS[name].video)
"""Those that take video."""
