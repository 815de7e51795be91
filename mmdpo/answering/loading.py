"""A model ready to answer, by the path of a run, an adapter, a model folder or a hub name; and its encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from mmdpo.config import ModelSection
from mmdpo.encoding.example import Encoder
from mmdpo.errors import DataError
from mmdpo.jsonfiles import read_json
from mmdpo.models.families import facts_of
from mmdpo.models.load import load_pretrained
from mmdpo.policy import encode_once, inner_of


def encoder_of(model: Any, processor: Any, root: Path | None) -> Encoder:
    """The encoder of a loaded model, wrapped or not."""
    inner = inner_of(model)
    stop = inner.generation_config.eos_token_id
    stop = [] if stop is None else [stop] if isinstance(stop, int) else list(stop)
    return Encoder(processor, facts_of(inner), stop, root)


def load_to_score(path: str, settings: ModelSection | None = None) -> tuple[Any, Any]:
    """As :func:`load_any`, ready to score too."""
    model, processor = load_any(path, settings)
    encode_once(inner_of(model), encoder_of(model, processor, None).facts)
    return model, processor


def load_any(path: str, settings: ModelSection | None = None) -> tuple[Any, Any]:
    """Loads a run's trained model, an adapter with its base, a model folder or a hub model, ready to answer.

    Args:
        path: Where it is.
        settings: How to load it (precision, quantization, attention); by default a run, and an adapter or model inside
            one, as its own configuration says, anything else as it is stored.

    Raises:
        MMDPOError: Nothing loadable is there.
    """
    folder = Path(path)
    base: str | None = None
    if (folder / "manifest.json").is_file():
        trained = next((folder / name for name in ("adapter", "model") if (folder / name).is_dir()), None)
        if trained is None:
            raise DataError(
                f"run {path!r} has no trained model yet (neither adapter/ nor model/)",
                why="It was interrupted or failed before it saved one.",
                fix="Go on with mmdpo train CONFIG --resume.",
            )
        folder, path = trained, str(trained)
    own = settings_of_run(folder.parent) if folder.is_dir() else None
    if (folder / "adapter_config.json").is_file():
        named = read_json(folder / "adapter_config.json")["base_model_name_or_path"]
        base = own.base(folder.parent) if own else named
    settings = settings or own
    how: dict[str, Any] = settings.model_dump(include={"dtype", "quantize", "attention"}) if settings else {}
    model, processor = load_pretrained(base or path, **how)
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder))
    return _placed(model), processor


def settings_of_run(run: Path) -> ModelSection | None:
    """The model section of a run's configuration; None where the folder is no run."""
    if not (run / "manifest.json").is_file():
        return None
    values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return ModelSection.model_validate(values["model"])


def _placed(model: Any) -> Any:
    if not getattr(model, "is_quantized", False):  # quantized weights are on their device since they were loaded
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval()
