"""The page's longer texts. Knows only words."""

TITLE = (
    "<h1>SAGE <small>shared-trajectory diffusion</small></h1>"
    "<p>Prompts that mean similar things share the <b>early</b> steps of their denoising, "
    "then each goes its own way: fewer evaluations, nearly the same pictures.</p>"
)
NOTHING_YET = "Nothing rendered yet."
STOPPING = "Stopping …"
LEGEND = (
    "CLIP: how well a picture fits its words (cosine, higher is better). Twin: how far a picture "
    "is from the independent one (0 is the same). The last row is independent sampling with only "
    "as many steps as sharing could have paid for."
)
TRAINED = (
    "A small add-on to the model (an adapter, LoRA) that was trained on shared steps. It works on "
    "the shared pictures only; their distance to the independent ones says whether it helps."
)
IN_TURN = "In our measurements the prompts in turn did better than the mean, at the same cost."
NEARBY = """
<label>Shared steps <output></output>
<input type="range" min="0" max="30" step="1"></label>
"""
CLOSER = """
<p class="sage-closer-name">Look closer</p>
<div class="sage-wipe"><img alt="" class="sage-under"><img alt="" class="sage-over">
<input type="range" min="0" max="100" value="50" aria-label="Line between the two pictures"></div>
<p class="sage-ends"><span>independent</span><span>shared</span></p>
"""
HOW_IT_WORKS = """
A picture is made in **steps** that turn noise into an image. The first steps only settle what goes
where, so prompts that mean similar things do nearly the same work in them. SAGE
([arXiv 2509.15865](https://arxiv.org/abs/2509.15865)) does that work once for a group:

1. **Similarity.** A text encoder (CLIP) turns each prompt into a vector; two prompts are as similar
   as the cosine of their vectors.
2. **Groups.** Every pair inside a group lies between a lower and an upper bound
   (τ<sub>min</sub>, τ<sub>max</sub>). Above the upper bound prompts are near-duplicates: sharing
   would make them almost the same picture.
3. **Branch point, T\\*.** Until it, each group runs one *trunk* on the mean of its prompts; from it
   on, each prompt *branches* and runs on its own.
4. **Saving.** `share ratio × (1 − groups / prompts)` of the evaluations, when all groups share the
   same number of steps. An evaluation is one pass of the denoiser for one trajectory and one step.

Seconds are measured on this machine, both sides in turn; FLOPs are counted, never estimated from
time. Both sides use the same seeds: the first prompt has the seed above, the others count up. A
group's trunk starts from the noise of its first prompt, so that prompt's two pictures are the
closest twins. Sharing loses something when prompts differ or the trunk is long: look at the
dissimilar pair, which is forced together here, or move the branch point far to the right.
"""
