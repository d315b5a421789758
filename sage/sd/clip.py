"""CLIP as two functions: texts to unit vectors, pictures to unit vectors.

Text vectors give the similarity matrix, both together the CLIP score.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from sage.sd.building import BUILDING
from sage.sd.foreign import Network
from sage.sd.identity import fingerprint

Padding = Literal["max_length", "longest"]


class ClipEncoder:
    """A CLIP model with its tokenizer and picture preparation."""

    def __init__(
        self, model: Network, tokenizer: CLIPTokenizer, image_processor: CLIPImageProcessorPil
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | Path,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        local_files_only: bool = False,
    ) -> "ClipEncoder":
        """Loads a CLIPModel, its tokenizer and its preprocessor from one folder or repository."""
        where = {"revision": revision, "local_files_only": local_files_only}
        with BUILDING:
            model = CLIPModel.from_pretrained(
                folder_or_repo, dtype=dtype, use_safetensors=True, **where
            )
        return cls(
            model,
            CLIPTokenizer.from_pretrained(folder_or_repo, **where),
            CLIPImageProcessorPil.from_pretrained(folder_or_repo, **where),
        )

    def to(self, device: torch.device | str) -> "ClipEncoder":
        """Moves the model; returns itself."""
        self.model.to(device)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes what `from_pretrained` reads; safetensors only."""
        for part in (self.model, self.tokenizer, self.image_processor):
            part.save_pretrained(folder)

    def tokenize(
        self, texts: Sequence[str], padding: Padding = "max_length"
    ) -> tuple[Tensor, Tensor]:
        """Token ids and mask of texts, [N, L] each, on the CPU."""
        tokens = self.tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt")
        return tokens.input_ids, tokens.attention_mask

    def identity(self) -> str:
        """A text that changes when the text half of the model does."""
        model: Any = getattr(self.model, "_orig_mod", self.model)
        return fingerprint(model.text_model, model.text_projection, type(self.model))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], padding: Padding = "max_length") -> Tensor:
        """Projected text embeddings [N, D], float32 on the CPU, unit length.

        Args:
            texts: N texts.
            padding: "longest" is several times faster for many short texts, and equal but for
                rounding: what stands after a text has no effect on it.
        """
        ids, mask = self.tokenize(texts, padding)
        device = self.model.device
        features = self.model.get_text_features(
            input_ids=ids.to(device), attention_mask=mask.to(device)
        )
        return _unit(features)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Projected image embeddings [N, D], float32 on the CPU, unit length."""
        pixels = self.image_processor(list(images), return_tensors="pt")["pixel_values"]
        features = self.model.get_image_features(
            pixel_values=pixels.to(self.model.device, self.model.dtype)
        )
        return _unit(features)


def _unit(features: Any) -> Tensor:
    # transformers 5 wraps the projected embedding; older ones return the tensor itself.
    projected = getattr(features, "pooler_output", features)
    return unit_rows(projected)


def unit_rows(features: Tensor) -> Tensor:
    """Rows of unit length, float32 on the CPU.

    Raises:
        FloatingPointError: If a value is not a number; it would be kept, and compared for ever.
    """
    rows = torch.nn.functional.normalize(features.float().cpu(), dim=-1)
    if not bool(torch.isfinite(rows).all()):
        raise FloatingPointError("The encoder for similarity gave a value that is not a number.")
    return rows
