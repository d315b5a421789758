"""Prompts to numbers: the conditions of the denoiser, and embeddings for the similarity of prompts.

Encodes as `StableDiffusionPipeline.encode_prompt` does, textual inversions of several vectors
included, for prompts of which several may be averaged later.
"""

from collections.abc import Hashable, Sequence

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from sage.sd.clip import ClipEncoder, unit_rows
from sage.sd.identity import arithmetic, fingerprint

KEPT = 4096  # embeddings; about 10 MB, and a visitor's session is far smaller


def tokenize(
    pipe: StableDiffusionPipeline, prompts: Sequence[str], device: torch.device | None = None
) -> tuple[Tensor, Tensor | None]:
    """Token ids [N, L] and, where the text encoder uses one, the mask [N, L]; for `encode`."""
    # A textual inversion of several vectors is one word here and several tokens there.
    texts = pipe.maybe_convert_prompt(list(prompts), pipe.tokenizer)
    tokens = pipe.tokenizer(
        texts,
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).to(pipe._execution_device if device is None else device)
    use_mask = getattr(pipe.text_encoder.config, "use_attention_mask", False)
    return tokens.input_ids, tokens.attention_mask if use_mask else None


def truncated(pipe: StableDiffusionPipeline, prompts: Sequence[str]) -> tuple[int, ...]:
    """Prompts that are longer than the tokenizer reads; their end is ignored."""
    texts = pipe.maybe_convert_prompt(list(prompts), pipe.tokenizer)
    lengths = [len(ids) for ids in pipe.tokenizer(texts).input_ids]
    return tuple(n for n, length in enumerate(lengths) if length > pipe.tokenizer.model_max_length)


def encode(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    clip_skip: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Text-encoder hidden states c_n of prompts [N, L, D].

    Args:
        pipe: Its tokenizer and text encoder are used.
        prompts: N texts.
        clip_skip: How many of the last layers are left out; None and 0 leave out none.
        device: Where the text encoder runs, if the caller has found out: the pipeline looks for
            offloading hooks in every layer of every network, each time it is asked.
    """
    ids, mask = tokenize(pipe, prompts, device)
    if not clip_skip:
        return pipe.text_encoder(ids, attention_mask=mask)[0]
    hidden = pipe.text_encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    # Older transformers keep the layers of a text encoder in a `text_model`.
    layers = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    return layers.final_layer_norm(hidden[-(clip_skip + 1)])


@torch.inference_mode()
def similarity_vectors(
    pipe: StableDiffusionPipeline, clip: ClipEncoder | None, prompts: Sequence[str]
) -> Tensor:
    """Unit vectors [N, D], float32 on the CPU, whose cosine is the similarity of prompts.

    From CLIP's projection; without one, from the pooled output of the text encoder, which is a
    different scale.
    """
    if clip is not None:
        return clip.embed_texts(prompts)
    ids, mask = tokenize(pipe, prompts)
    return unit_rows(pipe.text_encoder(ids, attention_mask=mask).pooler_output)


class EmbeddingCache:
    """Embeddings by what they were computed from: the encoder by value, and the prompt's tokens.

    So nothing that changes a model leaves an old value behind: other weights, another tokenizer, a
    textual inversion, an adapter.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, Tensor] = {}

    def keys(
        self, pipe: StableDiffusionPipeline, clip: ClipEncoder | None, prompts: Sequence[str]
    ) -> list[Hashable]:
        """What the embedding of each prompt depends on."""
        if clip is None:
            network, device = fingerprint(pipe.text_encoder), pipe._execution_device
            ids, mask = tokenize(pipe, prompts, device)
        else:
            network, device = clip.identity(), clip.model.device
            ids, mask = clip.tokenize(prompts)
        rows = torch.stack([ids, torch.ones_like(ids) if mask is None else mask]).cpu()
        everywhere = (network, str(device), arithmetic())
        return [(everywhere, tuple(row.flatten().tolist())) for row in rows.unbind(1)]

    def get(self, keys: Sequence[Hashable]) -> dict[Hashable, Tensor]:
        """Those that are known; a copy, as other visitors' threads may clear the cache."""
        known = self._known
        return {key: value for key in keys if (value := known.get(key)) is not None}

    def update(self, fresh: dict[Hashable, Tensor]) -> None:
        """Keeps embeddings; forgets all others where there are too many."""
        if len(self._known) > KEPT:
            self._known = {}
        self._known.update(fresh)
