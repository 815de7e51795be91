"""CLIP towers for images: one token for each patch, from ``transformers`` or from ``open_clip``.

Features are the patch tokens that the second-last layer gives, without the class token, as LLaVA-1.5 uses CLIP (Liu et
al. 2023, "Improved Baselines with Visual Instruction Tuning"; its configuration says ``vision_feature_layer: -2``).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmdpo.errors import ConfigError
from mmdpo.modalities.encoders import MediaEncoder


@dataclass(frozen=True, kw_only=True)
class ClipPatches(MediaEncoder):
    """Patch tokens of a CLIP tower of ``transformers``. An item is a PIL image.

    Args:
        config: Fields of a ``transformers.CLIPVisionConfig``; read from ``path`` when empty.
        path: Folder or hub name of a pretrained CLIP, for :meth:`load`.
        layer: Which hidden state; -1 is the last layer's, -2 the one before.
        processor: Fields of a ``transformers.CLIPImageProcessor`` that differ from its defaults for this image size;
            read from ``path`` when ``config`` is empty.
    """

    inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)

    config: dict[str, Any] = field(default_factory=dict)
    path: str | None = None
    layer: int = -2
    processor: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from transformers import CLIPImageProcessor, CLIPVisionConfig

        if not self.config:
            if self.path is None:
                raise ConfigError(
                    "clip: neither config nor path is given",
                    why="The size of the encoder is not known.",
                    fix="Give path: with a pretrained CLIP, or config: with fields of a CLIPVisionConfig.",
                )
            pretrained = CLIPVisionConfig.from_pretrained(self.path).to_diff_dict()
            object.__setattr__(self, "config", {k: v for k, v in pretrained.items() if k not in _NOT_SIZES})
            settings = CLIPImageProcessor.from_pretrained(self.path).to_dict()
            object.__setattr__(self, "processor", {k: settings[k] for k in _PREPARATION if k in settings})

    @functools.cached_property
    def _clip(self) -> Any:
        from transformers import CLIPVisionConfig

        return CLIPVisionConfig(**self.config)

    @functools.cached_property
    def _image_processor(self) -> Any:
        from transformers import CLIPImageProcessor

        side = self._clip.image_size
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        return CLIPImageProcessor(**sizes | self.processor)

    @property
    def width(self) -> int:
        """The tower's width."""
        return int(self._clip.hidden_size)

    def tokens(self, item: Any) -> int:
        """One for each patch: the same for every image."""
        del item
        return int((self._clip.image_size // self._clip.patch_size) ** 2)

    def prepare(self, item: Any) -> dict[str, Tensor]:
        """``pixel_values`` [1, 3, side, side]."""
        return {"pixel_values": self._image_processor(images=item, return_tensors="pt")["pixel_values"]}

    def build(self) -> nn.Module:
        """A fresh tower."""
        from transformers import CLIPVisionModel

        return ClipTower(CLIPVisionModel(self._clip), self.layer)

    def load(self) -> nn.Module:
        """The tower of the pretrained CLIP at ``path``; a fresh one without ``path``."""
        from transformers import CLIPVisionModel

        if self.path is None:
            return self.build()
        return ClipTower(CLIPVisionModel.from_pretrained(self.path, use_safetensors=True), self.layer)


class ClipTower(nn.Module):
    """A CLIP tower of ``transformers``, patch tokens of one layer.

    Args:
        encoder: ``transformers.CLIPVisionModel``.
        layer: Which hidden state.
    """

    def __init__(self, encoder: nn.Module, layer: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.layer = layer

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """[n, 3, side, side] to a list of n [patches, width]."""
        hidden = self.encoder(pixel_values, output_hidden_states=True).hidden_states[self.layer]
        return list(hidden[:, 1:])


@dataclass(frozen=True, kw_only=True)
class OpenClipPatches(MediaEncoder):
    """Patch tokens of a vision transformer of ``open_clip``. An item is a PIL image.

    Args:
        model: Architecture, as ``open_clip.list_models()`` names it (``ViT-B-32``).
        path: Safetensors file with the weights of the whole CLIP, for :meth:`load`.
        layer: Which layer's output; -1 is the last one's, -2 the one before.
        mean: Mean of the three colours that the weights were trained with; by default OpenAI's.
        std: Their standard deviation.
    """

    inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)

    model: str
    path: str | None = None
    layer: int = -2
    mean: list[float] | None = None
    std: list[float] | None = None

    def __post_init__(self) -> None:
        import open_clip

        if self.path is not None and not self.path.endswith(".safetensors"):
            raise ConfigError(
                f"open_clip: path is {self.path!r}",
                why="Only safetensors files are read; other weight files can run code when opened.",
                fix="Give a .safetensors file, or convert the weights first.",
            )
        config = open_clip.get_model_config(self.model)
        vision = (config or {}).get("vision_cfg", {})
        if not vision.get("patch_size") or not isinstance(vision.get("layers"), int):
            known = "It is no vision transformer of open_clip itself." if config else "open_clip does not know it."
            raise ConfigError(
                f"open_clip model {self.model!r} gives no patch tokens",
                why=known,
                fix="Use one such as ViT-B-32 or ViT-L-14; for others use kind: clip, or write an encoder.",
            )

    @functools.cached_property
    def _vision(self) -> dict[str, Any]:
        import open_clip

        vision: dict[str, Any] = open_clip.get_model_config(self.model)["vision_cfg"]
        return vision

    @functools.cached_property
    def _transform(self) -> Any:
        import open_clip

        mean, std = self.mean or open_clip.OPENAI_DATASET_MEAN, self.std or open_clip.OPENAI_DATASET_STD
        return open_clip.image_transform(self._vision["image_size"], is_train=False, mean=tuple(mean), std=tuple(std))

    @property
    def width(self) -> int:
        """The tower's width."""
        return int(self._vision["width"])

    def tokens(self, item: Any) -> int:
        """One for each patch: the same for every image."""
        del item
        return int((self._vision["image_size"] // self._vision["patch_size"]) ** 2)

    def prepare(self, item: Any) -> dict[str, Tensor]:
        """``pixel_values`` [1, 3, side, side]."""
        return {"pixel_values": self._transform(item)[None]}

    def build(self) -> nn.Module:
        """A fresh tower."""
        return self._tower(None)

    def load(self) -> nn.Module:
        """The tower with the weights of ``path``; a fresh one without ``path``."""
        return self._tower(self.path)

    def _tower(self, weights: str | None) -> nn.Module:
        import open_clip

        clip = open_clip.create_model(self.model, pretrained=weights, pretrained_text=False)
        return OpenClipTower(clip.visual, self.layer % int(self._vision["layers"]))


class OpenClipTower(nn.Module):
    """A vision transformer of ``open_clip``, patch tokens of one layer.

    Args:
        encoder: ``open_clip``'s ``VisionTransformer``.
        layer: Which layer, counted from 0.
    """

    def __init__(self, encoder: nn.Module, layer: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.layer = layer

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """[n, 3, side, side] to a list of n [patches, width]."""
        intermediates: Any = self.encoder.forward_intermediates(  # type: ignore[operator]
            pixel_values, indices=[self.layer], stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        return list(torch.unbind(intermediates["image_intermediates"][0]))


_NOT_SIZES = {"_name_or_path", "architectures", "dtype", "model_type", "transformers_version"}
_PREPARATION = ("size", "crop_size", "resample", "image_mean", "image_std", "do_center_crop", "do_resize")
