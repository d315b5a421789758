"""The built-in model's networks: one function for each, with its sizes.

Everything is an ordinary diffusers or transformers class, so that the saved folder is an ordinary
Stable Diffusion folder. This file knows shapes only: nothing of scenes, training or files.
"""

import json
from collections.abc import Iterable
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

Model = TypeVar("Model", bound=nn.Module)

IMAGE_SIZE = 64
LATENT_CHANNELS = 4
LATENT_SIZE = 16  # the autoencoder halves the image twice
TEXT_WIDTH = 128
MAX_TOKENS = 32
VOCABULARY = 1500

START, END = "<|startoftext|>", "<|endoftext|>"
# How CLIP's tokenizer splits text into words (openai/CLIP, simple_tokenizer.py).
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def tokenizer(captions: Iterable[str], size: int = VOCABULARY) -> CLIPTokenizer:
    """A byte-level BPE tokenizer in CLIP's format, learnt from ``captions``.

    All 256 bytes are in the vocabulary, inside a word and at its end, so any text tokenises.

    Args:
        captions: texts to count pairs in.
        size: number of entries, the two special tokens included; at least 514.

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
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


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


def clip(words: CLIPTokenizer) -> CLIPModel:
    """Two towers that meet in 128 numbers: captions of 32 tokens and pictures of 64×64.

    The text tower's hidden states, [N, 32, 128], condition the UNet.
    """
    text = {
        "vocab_size": len(words),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": 128,
        "bos_token_id": words.bos_token_id,
        # CLIP reads a caption's meaning at its first end token, whatever padding follows.
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    vision = {
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "projection_dim": 128,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
    config._attn_implementation = "eager"
    return CLIPModel(config)


def autoencoder() -> AutoencoderKL:
    """64×64 pictures in [-1, 1] to 16×16 latents of 4 channels and back."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        # Latents leave the encoder with zero mean and unit spread: see ``standardise``.
        scaling_factor=1.0,
        force_upcast=False,
    )
    return eager(vae)


def unet() -> UNet2DConditionModel:
    """The denoiser: latents [R, 4, 16, 16] and text states [R, 32, 128] to v, 20 M parameters.

    Beside cross-attention, the pooled text is added to the time embedding, which scales and shifts
    every block (``addition_embed_type="text"``): scenes are learnt in a fraction of the steps.
    """
    model = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(128, 192, 224),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(4, 6, 7),  # diffusers means the number of heads: 32 channels each
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
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


def eager(model: Model) -> Model:
    """The same model with plain matrix attention: bfloat16 SDPA is ten times slower on a CPU."""
    model.set_attn_processor(AttnProcessor())
    return model


@torch.no_grad()
def standardise(vae: AutoencoderKL, mean: torch.Tensor, spread: torch.Tensor) -> None:
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
