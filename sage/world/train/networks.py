"""The built-in model's networks: one function for each, made to the sizes that are asked for.

Everything is an ordinary diffusers or transformers class, so that the saved folder is an ordinary
Stable Diffusion folder. This file knows shapes only: nothing of scenes, training or files.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from sage.sd.foreign import Network


@dataclass(frozen=True)
class Sizes:
    """How large everything is; a test trains with small ones.

    Attributes:
        image: Pixels of a picture's side.
        channels: Of a latent; its side is `image` halved as often as `vae` has entries less one.
        vae: Channels of the autoencoder at each scale, finest first.
        text: Width of the text tower, and of the states that condition the UNet.
        text_layers: Of the text tower.
        vision: Width of the image tower.
        vision_layers: Of the image tower.
        patch: Pixels of the side of the image tower's patches.
        tokens: Longest caption, start and end included.
        vocabulary: Entries of the tokenizer.
        unet: Channels of the UNet at each scale, finest first.
        heads: Attention heads of the UNet at each scale.
        projection: Numbers in which both towers meet.
    """

    image: int = 128
    channels: int = 12
    vae: tuple[int, ...] = (32, 64, 128, 128)
    text: int = 192
    text_layers: int = 4
    vision: int = 192
    vision_layers: int = 5
    patch: int = 16
    tokens: int = 32
    vocabulary: int = 3000
    unet: tuple[int, ...] = (160, 192, 128)
    heads: tuple[int, ...] = (5, 6, 4)
    projection: int = 128

    @property
    def latent(self) -> int:
        """Side of a latent."""
        return self.image // 2 ** (len(self.vae) - 1)


TINY = Sizes(
    vae=(8, 8, 8, 8), text=32, text_layers=1, vision=32, vision_layers=1, vocabulary=600,
    unet=(16, 16, 16), heads=(1, 1, 1), projection=16, channels=4,
)  # fmt: skip

START, END = "<|startoftext|>", "<|endoftext|>"
# How CLIP's tokenizer splits text into words (openai/CLIP, simple_tokenizer.py).
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def tokenizer(captions: Iterable[str], size: int, tokens: int = 32) -> CLIPTokenizer:
    """A byte-level BPE tokenizer in CLIP's format, learnt from ``captions``.

    All 256 bytes are in the vocabulary, inside a word and at its end, so any text tokenises.

    Args:
        captions: texts to count pairs in.
        size: number of entries, the two special tokens included; at least 514.
        tokens: longest caption, start and end included.

    Raises:
        ValueError: if ``size`` has no room for the bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    if size < len(symbols) + 2:
        raise ValueError(f"size is {size}; the bytes alone need {len(symbols) + 2}")
    merges = _merges(captions, size - 2, alphabet)
    merges = merges[: size - 2 - len(symbols)]
    words = dict.fromkeys([*symbols, *(a + b for a, b in merges), START, END])
    vocab = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=cast(Any, merges), model_max_length=tokens)


def _merges(captions: Iterable[str], size: int, alphabet: list[str]) -> list[tuple[str, str]]:
    """The pairs that byte-pair encoding joins, most useful first."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    return [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]


def clip(words: CLIPTokenizer, sizes: Sizes) -> CLIPModel:
    """Two towers, of captions and of pictures, that meet in `sizes.projection` numbers.

    The text tower's hidden states, [N, tokens, text], condition the UNet.
    """
    text = {
        "vocab_size": len(words),
        "hidden_size": sizes.text,
        "intermediate_size": 4 * sizes.text,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.text // 32,
        "max_position_embeddings": sizes.tokens,
        "projection_dim": sizes.projection,
        "bos_token_id": words.bos_token_id,
        # CLIP reads a caption's meaning at its first end token, whatever padding follows.
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    vision = {
        "image_size": sizes.image,
        "patch_size": sizes.patch,
        "hidden_size": sizes.vision,
        "intermediate_size": 3 * sizes.vision,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.vision // 32,
        "projection_dim": sizes.projection,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes.projection)
    config._attn_implementation = "eager"
    return CLIPModel(config)


def autoencoder(sizes: Sizes) -> AutoencoderKL:
    """Pictures [B, 3, H, W] in [-1, 1] to latents [B, C, H/8, W/8] and back."""
    scales = len(sizes.vae)
    vae = AutoencoderKL(
        # As many as there are scales; diffusers' annotations say tuples of one.
        down_block_types=cast(Any, ("DownEncoderBlock2D",) * scales),
        up_block_types=cast(Any, ("UpDecoderBlock2D",) * scales),
        block_out_channels=cast(Any, sizes.vae),
        layers_per_block=1,
        latent_channels=sizes.channels,
        norm_num_groups=8,
        sample_size=sizes.image,
        # Latents leave the encoder with zero mean and unit spread: see ``standardise``.
        scaling_factor=1.0,
        force_upcast=False,
    )
    return eager(vae)


def unet(sizes: Sizes) -> UNet2DConditionModel:
    """The denoiser: latents [R, C, h, w] and text states [R, tokens, text] to v.

    Beside cross-attention, the pooled text is added to the time embedding, which scales and shifts
    every block (``addition_embed_type="text"``): scenes are learnt in a fraction of the steps.
    """
    model = UNet2DConditionModel(
        sample_size=sizes.latent,
        in_channels=sizes.channels,
        out_channels=sizes.channels,
        layers_per_block=1,
        block_out_channels=sizes.unet,
        # Attention where there is something to place: on 16×16 and 8×8 positions.
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=sizes.text,
        attention_head_dim=cast(Any, sizes.heads),  # diffusers means the number of heads
        norm_num_groups=8 if min(sizes.unet) < 64 else 16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=sizes.text // 32,
    )
    return eager(model)


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule, rescaled so that the last step is pure noise.

    Source: Lin et al. 2023 (arXiv 2305.08891): zero terminal SNR, v-prediction, trailing steps.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def eager(model: Network) -> Network:
    """The same model with plain matrix attention: bfloat16 SDPA is ten times slower on a CPU."""
    model.set_attn_processor(AttnProcessor())
    return model


@torch.no_grad()
def standardise(vae: Network, mean: torch.Tensor, spread: torch.Tensor) -> None:
    """Fold ``(z - mean) / spread`` into the autoencoder's two 1×1 convolutions, in place.

    The UNet then works on latents of zero mean and unit spread in every channel, and the folder
    needs no scaling factor.

    Args:
        vae: changed so that its latents are standardised and its pictures stay the same.
        mean: [C] mean of the latents before.
        spread: [C] standard deviation of the latents before.
    """
    C = len(mean)
    out, back = vae.quant_conv, vae.post_quant_conv
    out.bias[:C] = (out.bias[:C] - mean) / spread
    out.weight[:C] /= spread[:, None, None, None]
    out.bias[C:] -= 2 * spread.log()  # the other half of the channels is the log variance
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= spread[None, :, None, None]
