"""The page's longer texts. Knows only words."""

TITLE = """
<h1>SAGE <small>similar prompts share their first steps</small></h1>
<p class="sage-classroom"><span>← → branch point or step, ↑ ↓ slider of the lesson</span>
<button type="button" data-do="present" aria-pressed="false">Classroom view</button></p>
"""
NOTHING_YET = "Nothing rendered yet."
STOPPING = "Stopping …"
LEGEND = (
    "CLIP: how well a picture fits its prompt (cosine similarity, higher is better). Distance: how "
    "far a picture is from the independent one (0 is the same). Fewer steps: independent sampling "
    "with only as many steps as cost what sharing costs."
)
TRAINED = (
    "An adapter (LoRA) trained on shared steps. It is applied to the shared side only; the "
    "distance to the independent pictures shows whether it helps."
)
IN_TURN = "In our measurements, the prompts in turn did better than their mean at the same cost."
HANDLE = """
<div class="sage-axis"><div class="sage-rail"><i class="sage-best"></i>
<div class="sage-knob" role="slider" tabindex="0" aria-label="Branch point: shared steps"
aria-valuemin="0" aria-valuemax="30" aria-valuenow="0"><i></i></div></div>
<p class="sage-axis-ends"><span>noise</span><span>pictures</span></p></div>
<p class="sage-point"><output></output></p>
"""
TOOLS = """
<p class="sage-tools"><button type="button" data-do="guess">Which one is shared?</button>
<button type="button" data-do="share">Save as image</button>
<button type="button" data-do="numbers" aria-pressed="false">Scores</button>
<button type="button" data-do="rival" aria-pressed="false">Fewer steps</button></p>
"""
NO_FILES = "Downloads are ready once you have rendered; precomputed pictures have none."
NO_GRID_FILES = "Downloads are ready once a grid is finished."
BARS = "Solid: shared steps. Pale: separate steps. Grey: encoding prompts and decoding pictures."
CURVE = """
<div class="sage-curve"><svg role="img" aria-label="Nothing to show yet"></svg>
<p class="sage-note">Shown once pictures at several branch points are ready.</p></div>
"""
CLOSER = """
<dialog class="sage-look" aria-labelledby="sage-look-title">
<form method="dialog"><h2 id="sage-look-title">Look closer</h2>
<button aria-label="Close">✕</button></form>
<div class="sage-wipe"><img alt="" class="sage-under"><img alt="" class="sage-over">
<input type="range" min="0" max="100" value="50" aria-label="Line between the two pictures"></div>
<p class="sage-ends"><span>independent</span><span>shared</span></p>
<p class="sage-scores"></p></dialog>
<dialog class="sage-guess" aria-labelledby="sage-guess-title">
<form method="dialog"><h2 id="sage-guess-title">Which one is shared?</h2>
<button aria-label="Close">✕</button></form>
<p class="sage-guess-prompt" aria-live="polite"></p>
<div class="sage-guess-pair"></div><p class="sage-guess-tally" aria-live="polite"></p></dialog>
"""
HOW_IT_WORKS = """
<p>A diffusion model makes a picture in <b>steps</b> that turn noise into an image. The first steps
only settle what goes where, so similar prompts need nearly the same work there. SAGE
(<a href="https://arxiv.org/abs/2509.15865">arXiv 2509.15865</a>) does that work once per group:</p>
<ol><li><b>Similarity.</b> A text encoder (CLIP) turns each prompt into a vector; the similarity of
two prompts is the cosine of the angle between their vectors.</li>
<li><b>Groups.</b> Every pair inside a group lies between a lower and an upper bound
(τ<sub>min</sub>, τ<sub>max</sub>). Above the upper bound, prompts are near-duplicates: sharing
would give almost the same picture twice.</li>
<li><b>Branch point, T*.</b> Up to it, each group runs one <i>trunk</i> on the mean of its prompts;
after it, each prompt follows its own <i>branch</i>.</li>
<li><b>Saving.</b> <code>share ratio × (1 − groups / prompts)</code> of the evaluations, when all
groups share the same number of steps. An evaluation is one run of the denoiser on one picture, for
one step; with guidance it runs twice, with the prompt and without, and the two count as
one.</li></ol>
<p>Seconds are measured on this machine, both sides in turn; FLOPs are counted, never estimated from
time. Both sides use the same seeds: the first prompt has the seed above, the others count up. A
group's trunk starts from the noise of its first prompt, so that prompt's two pictures are the
closest. Sharing hurts where prompts differ or the trunk is long: try the dissimilar pair, which is
forced to share here, or move the branch point far to the right.</p>
"""
