"""The page's longer texts. Knows only words."""

TITLE = """
<h1>SAGE <small>prompts that mean alike share their start</small></h1>
<p class="sage-classroom"><span>← → branch point or step, ↑ ↓ slider of the lesson</span>
<button type="button" data-do="present" aria-pressed="false">Classroom view</button></p>
"""
NOTHING_YET = "Nothing rendered yet."
STOPPING = "Stopping …"
LEGEND = (
    "CLIP: how well a picture fits its words (cosine, higher is better). Twin: how far a picture "
    "is from the independent one (0 is the same). The last column is independent sampling with "
    "only as many steps as sharing could have paid for."
)
TRAINED = (
    "A small add-on to the model (an adapter, LoRA) that was trained on shared steps. It works on "
    "the shared pictures only; their distance to the independent ones says whether it helps."
)
IN_TURN = "In our measurements the prompts in turn did better than the mean, at the same cost."
HANDLE = """
<div class="sage-axis"><div class="sage-rail"><i class="sage-best"></i>
<div class="sage-knob" role="slider" tabindex="0" aria-label="Branch point: shared steps"
aria-valuemin="0" aria-valuemax="30" aria-valuenow="0"><i></i></div></div>
<p class="sage-axis-ends"><span>noise</span><span>pictures</span></p></div>
<p class="sage-point"><output></output></p>
"""
TOOLS = """
<p class="sage-tools"><button type="button" data-do="guess">Which one is shared?</button>
<button type="button" data-do="share">Share picture</button>
<button type="button" data-do="numbers" aria-pressed="false">Numbers</button>
<button type="button" data-do="rival" aria-pressed="false">Same cost</button></p>
"""
NO_FILES = "Files are handed out once Render has finished here; precomputed pictures have none."
NO_GRID_FILES = "Files are handed out once a grid is finished."
BARS = "Solid: shared steps, pale: own steps, grey: reading the prompts and drawing the pictures."
CURVE = """
<div class="sage-curve"><svg role="img" aria-label="Nothing to show yet"></svg>
<p class="sage-note">Appears where the pictures of several branch points are ready.</p></div>
"""
CLOSER = """
<dialog class="sage-look" aria-labelledby="sage-look-title">
<form method="dialog"><h2 id="sage-look-title">Look closer</h2>
<button aria-label="Close">✕</button></form>
<div class="sage-wipe"><img alt="" class="sage-under"><img alt="" class="sage-over">
<input type="range" min="0" max="100" value="50" aria-label="Line between the two pictures"></div>
<p class="sage-ends"><span>alone</span><span>shared</span></p>
<p class="sage-scores"></p></dialog>
<dialog class="sage-guess" aria-labelledby="sage-guess-title">
<form method="dialog"><h2 id="sage-guess-title">Which one is shared?</h2>
<button aria-label="Close">✕</button></form>
<p class="sage-guess-prompt" aria-live="polite"></p>
<div class="sage-guess-pair"></div><p class="sage-guess-tally" aria-live="polite"></p></dialog>
"""
HOW_IT_WORKS = """
<p>A picture is made in <b>steps</b> that turn noise into an image. The first steps only settle what
goes where, so prompts that mean similar things do nearly the same work in them. SAGE
(<a href="https://arxiv.org/abs/2509.15865">arXiv 2509.15865</a>) does that work once for a
group:</p>
<ol><li><b>Similarity.</b> A text encoder (CLIP) turns each prompt into a vector; two prompts are as
similar as the cosine of their vectors.</li>
<li><b>Groups.</b> Every pair inside a group lies between a lower and an upper bound
(τ<sub>min</sub>, τ<sub>max</sub>). Above the upper bound prompts are near-duplicates: sharing would
make them almost the same picture.</li>
<li><b>Branch point, T*.</b> Until it, each group runs one <i>trunk</i> on the mean of its prompts;
from it on, each prompt <i>branches</i> and runs on its own.</li>
<li><b>Saving.</b> <code>share ratio × (1 − groups / prompts)</code> of the evaluations, when all
groups share the same number of steps. An evaluation is one look of the denoiser at one trajectory
in one step; with guidance it looks twice, with the prompt and without, and both together count as
one.</li></ol>
<p>Seconds are measured on this machine, both sides in turn; FLOPs are counted, never estimated from
time. Both sides use the same seeds: the first prompt has the seed above, the others count up. A
group's trunk starts from the noise of its first prompt, so that prompt's two pictures are the
closest twins. Sharing loses something when prompts differ or the trunk is long: look at the
dissimilar pair, which is forced together here, or move the branch point far to the right.</p>
"""
