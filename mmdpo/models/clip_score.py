"""CLIP score of a caption for an image, with a CLIP of ``open_clip``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmdpo.errors import ConfigError

PROMPT = "A photo depicts "
"""What stands before every caption."""
WEIGHT = 2.5


class ClipScore:
    """``2.5 max(cos, 0)`` of image and "A photo depicts " + caption.

    Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", section 3. Captions longer
    than CLIP's context (77 tokens) are cut off there, as CLIP's own tokenizer does it.

    Args:
        model: A model of ``open_clip``.
        transform: From a PIL image to [3, side, side].
        tokenizer: From a list of n texts to [n, context].
    """

    def __init__(self, model: Any, transform: Any, tokenizer: Any) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.transform, self.tokenizer = model.to(self.device).eval(), transform, tokenizer

    @classmethod
    def load(cls, name: str, weights: str | Path) -> ClipScore:
        """A CLIP by its architecture and a file of weights.

        Args:
            name: Architecture, as ``open_clip.list_models()`` names it (``ViT-B-32``).
            weights: Safetensors file of the whole CLIP.

        Raises:
            ConfigError: The architecture is unknown, or the file is absent or of another kind.
        """
        import open_clip

        if open_clip.get_model_config(name) is None:
            raise ConfigError(
                f"open_clip does not know the model {name!r}",
                why="Its size is not known, so the weights cannot be read.",
                fix="Use a name such as ViT-B-32 or ViT-L-14.",
            )
        if Path(weights).suffix != ".safetensors" or not Path(weights).is_file():
            raise ConfigError(
                f"{str(weights)!r} is no safetensors file",
                why="CLIP scores of a model without its weights are noise; other weight files can run code.",
                fix="Download the model.safetensors of that CLIP, or convert its weights first.",
            )
        model, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(weights))
        return cls(model, transform, open_clip.get_tokenizer(name))

    def __call__(self, image: Image.Image, texts: Sequence[str]) -> list[float]:
        """The score of each text for one image."""
        return [WEIGHT * max(0.0, cosine) for cosine in self.cosines(image, texts)]

    @torch.no_grad()
    def cosines(self, image: Image.Image, texts: Sequence[str]) -> list[float]:
        """The cosine of one image and "A photo depicts " + each text, -1 to 1."""
        said = self.model.encode_text(self._tokens(texts), normalize=True)
        values: list[float] = (said @ self._seen(image)).tolist()
        return values

    @torch.no_grad()
    def picture(self, image: Image.Image) -> list[float]:
        """The embedding of an image, of length 1: the product of two is their cosine."""
        values: list[float] = self._seen(image).tolist()
        return values

    def _seen(self, image: Image.Image) -> torch.Tensor:
        pixels = self.transform(image)[None].to(self.device)
        seen: torch.Tensor = self.model.encode_image(pixels, normalize=True)[0]
        return seen

    def fills_context(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text reaches the end of CLIP's context; what is behind it is not seen."""
        filled: list[bool] = (self._tokens(texts)[:, -1] != 0).tolist()
        return filled

    def _tokens(self, texts: Sequence[str]) -> Any:
        return self.tokenizer([PROMPT + text for text in texts]).to(self.device)
