"""Nothing is shown before it is checked, where the model has a safety checker."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil

from sage.jobs.compare import Comparison, compare
from sage.jobs.job import prepare
from sage.jobs.models import LoadedModel, builtin_model
from sage.jobs.request import parse_request
from sage.sd.pipeline import SagePipeline
from tests.conftest import build_tiny_pipeline

PROMPTS = ["a fox", "a dog", "a pizza"]
HOW = {"groups": [(0, 1), (2,)], "num_inference_steps": 4}


def flags(*which):
    """A checker that flags pictures by their place and leaves their pixels to the pipeline."""
    return lambda pixels, *_: (pixels, [n in which for n in range(len(pixels))])


def with_real_checker(threshold):
    """A pipeline with diffusers' own checker; one concept, of which anything is so close."""
    torch.manual_seed(0)
    base = build_tiny_pipeline()
    config = CLIPConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        projection_dim=8,
    )
    checker = StableDiffusionSafetyChecker(config).eval()
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(2.0)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
    parts = base.components | {"safety_checker": checker, "feature_extractor": processor}
    base = StableDiffusionPipeline(**parts)
    base.set_progress_bar_config(disable=True)
    return base, SagePipeline.from_pipe(base)


def is_plain(picture):
    return len(picture.getcolors()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_flagged_pictures_are_black_and_are_said_to_be(tiny, kind):
    before = tiny(PROMPTS, output_type=kind, **HOW)
    tiny.run_safety_checker = flags(1)
    after = tiny(PROMPTS, output_type=kind, **HOW)
    assert before.flagged == (False,) * 3
    assert after.flagged == (False, True, False)
    assert after.nsfw_content_detected == [False, True, False]
    assert not np.any(np.asarray(after.images[1]))
    for n in (0, 2):
        assert np.array_equal(np.asarray(after.images[n]), np.asarray(before.images[n]))


@pytest.mark.slow
def test_previews_are_withheld_where_there_is_a_checker(tiny):
    *steps, _ = tiny.stream(PROMPTS, **HOW)
    assert not any(step.withheld for step in steps)
    assert not any(map(is_plain, steps[-1].previews()))
    tiny.run_safety_checker = flags()
    *steps, output = tiny.stream(PROMPTS, **HOW)
    for step in steps:
        assert step.withheld
        assert len(step.previews()) == 3
        assert all(map(is_plain, step.previews()))
        assert all(picture.size == (16, 16) for picture in step.previews())
        assert all(map(is_plain, tiny.preview(step.state.x)))
    assert not any(map(is_plain, output.images))


@pytest.mark.parametrize(("threshold", "flagged"), [(-2.0, True), (2.0, False)])
def test_diffusers_own_checker_gives_what_it_gives_there(threshold, flagged):
    base, pipe = with_real_checker(threshold)
    assert pipe.safety_checker is base.safety_checker
    assert pipe.has_checker
    *steps, ours = pipe.stream(
        PROMPTS[:2], share_ratio=0.0, num_inference_steps=3, guidance_scale=3
    )
    theirs = base(
        PROMPTS[:2],
        num_inference_steps=3,
        guidance_scale=3.0,
        latents=pipe.starting_noise([0, 1]),
    )
    assert ours.flagged == tuple(theirs.nsfw_content_detected) == (flagged,) * 2
    for a, b in zip(ours.images, theirs.images, strict=True):
        assert np.abs(np.asarray(a, float) - np.asarray(b, float)).max() <= 1
    assert all(is_plain(picture) for step in steps for picture in step.previews())


def test_a_checker_without_its_feature_extractor_is_refused_before_a_run(tiny):
    _, with_checker = with_real_checker(2.0)
    tiny.safety_checker = with_checker.safety_checker
    with pytest.raises(ValueError, match="needs a feature_extractor"):
        tiny.stream(PROMPTS, **HOW)
    tiny.feature_extractor = with_checker.feature_extractor
    assert tiny(PROMPTS, **HOW).flagged == (False,) * 3


def test_a_checker_that_judges_fewer_pictures_shows_none(tiny):
    tiny.run_safety_checker = lambda pixels, *_: (pixels, [False])
    with pytest.raises(ValueError, match="judged 1 of 3 pictures"):
        tiny(PROMPTS, **HOW)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x,
        lambda x: (x, []),
        lambda x: (x.numpy(), [False] * len(x)),
        lambda x: (x[:, :, :4, :4], [False] * len(x)),
        lambda x: (x.to(torch.uint8), [False] * len(x)),
        lambda x: (x, [False] * len(x), "more"),
        lambda x: None,
    ],
)
def test_a_checker_that_answers_in_another_way_shows_nothing(tiny, answer):
    tiny.run_safety_checker = lambda pixels, *_: answer(pixels)
    with pytest.raises(ValueError, match=r"safety checker (gave a|judged 0 of)"):
        tiny(PROMPTS, **HOW)


@pytest.mark.parametrize("kind", [np.array, torch.tensor, iter, tuple])
def test_flags_of_any_kind_are_flags(tiny, kind):
    tiny.run_safety_checker = lambda pixels, *_: (pixels, kind([True, False, True]))
    assert tiny(PROMPTS, **HOW).flagged == (True, False, True)


@pytest.mark.parametrize("word", [None, False, True])
def test_one_word_for_all_pictures(tiny, word):
    """As people switch a checker off."""
    tiny.run_safety_checker = lambda pixels, *_: (pixels, word)
    assert tiny(PROMPTS, **HOW).flagged == (bool(word),) * 3


@pytest.mark.slow
def test_numbers_that_are_none_are_shown_by_nobody(tiny):
    """Neither by a checker, nor as a preview, nor as colours of previews."""
    latents = torch.full((1, 4, 8, 8), float("nan"))
    with pytest.raises(FloatingPointError, match="denoiser"):
        tiny.preview(latents)
    tiny.run_safety_checker = lambda pixels, *_: (pixels * float("nan"), None)
    with pytest.raises(FloatingPointError, match="safety checker"):
        tiny(PROMPTS, **HOW)
    del tiny.run_safety_checker
    torch.nn.init.constant_(tiny.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="decoder"):
        tiny.preview(torch.zeros(1, 4, 8, 8))
    torch.nn.init.constant_(tiny.text_encoder.get_input_embeddings().weight, float("nan"))
    with pytest.raises(FloatingPointError, match="encoder for similarity"):
        tiny.embed(PROMPTS)
    assert not tiny._embeddings._known


def test_a_checker_of_a_subclass_counts(tiny):
    class Checked(SagePipeline):
        def run_safety_checker(self, image, device, dtype):
            return image, [True] * len(image)

    pipe = Checked.from_pipe(tiny)
    assert pipe.has_checker
    assert pipe(PROMPTS, **HOW).flagged == (True,) * 3


@pytest.fixture
def compared(request):
    spec = builtin_model()
    pipe = SagePipeline.from_pretrained(spec.source)
    pipe.run_safety_checker = flags(*request.param)
    asked = parse_request("a fox in the snow\na rabbit in the snow", steps=4, defaults=spec)
    *steps, last = compare(prepare(LoadedModel(spec, pipe), asked), measure=False)
    assert isinstance(last, Comparison)
    return steps, last


@pytest.mark.slow
@pytest.mark.parametrize("compared", [(0, 1)], indirect=True)
def test_a_comparison_shows_nothing_unchecked_and_scores_nothing_flagged(compared):
    steps, last = compared
    assert all(is_plain(p) for step in steps for p in (*step.shared, *step.independent))
    assert all(map(is_plain, last.forks.values()))
    black = Image.new("RGB", last.shared.images[0].size)
    assert all(picture.tobytes() == black.tobytes() for picture in last.shared.images)
    assert last.report["flagged"] == {"shared": [True, True], "independent": [True, True]}
    assert last.report["twin_distance"] == [None, None]
    assert last.report["clip_score"] == {"shared": [None, None], "independent": [None, None]}


@pytest.mark.slow
@pytest.mark.parametrize("compared", [(1,)], indirect=True)
def test_what_is_not_flagged_is_scored(compared):
    _, last = compared
    (twin, no_twin), clips = last.twin_distance, last.report["clip_score"]
    assert twin > 0
    assert no_twin is None
    assert clips["shared"][0] > 0
    assert clips["shared"][1] is None
