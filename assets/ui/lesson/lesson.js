// The lesson in the browser: no model, no server. Pictures come from sheets (a column a step, a row
// a prompt), numbers from props.data, both made by sage/ui/lesson/precompute.py.
const data = props.data, steps = data.conditions.steps;
for (const [name, color] of Object.entries(data.palette)) element.style.setProperty(`--${name}`, color);
const get = (id) => element.querySelector("#" + id);
const words = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const percent = (share) => `${Math.round(100 * share)} %`;
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const short = (n) => data.prompts[n].replace(/^an? /, "").split(" ").slice(0, data.heads[n]).join(" ");

/** An element with attributes, classes and children; text is never parsed as HTML. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(svg, tag, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  svg.append(node);
  return node;
}

// --- pictures ---------------------------------------------------------------------------------

const sheets = {};
function sheet(name) {
  if (!sheets[name]) {
    const image = new Image(), { root, api_prefix } = window.gradio_config;
    sheets[name] = { image, waiting: new Set() };
    image.onload = () => sheets[name].waiting.forEach(paint);
    image.src = `${root}${api_prefix ?? "/gradio_api"}/file=${data.folder}/${name}.webp?${data.version}`;
  }
  return sheets[name];
}

function paint(canvas) {
  const { name, row, column } = canvas.cell, { image } = sheet(name), side = data.side;
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, side, side);
  pen.drawImage(image, column * side, row * side, side, side, 0, 0, side, side);
}

/** Shows one cell of a sheet on a canvas; waits for the sheet if it must. */
function show(canvas, name, row, column, alt) {
  canvas.cell = { name, row, column };
  canvas.setAttribute("aria-label", alt);
  const { image, waiting } = sheet(name);
  Object.values(sheets).forEach((other) => other.waiting.delete(canvas));
  if (image.complete && image.naturalWidth) paint(canvas);
  waiting.add(canvas);
  return canvas;
}

const picture = (...cell) => {
  const canvas = make("canvas", { width: data.side, height: data.side, role: "img" });
  return cell.length ? show(canvas, ...cell) : canvas;
};
const quoted = (n) => `“${data.prompts[n]}”`;

// --- controls ---------------------------------------------------------------------------------

/** Colours a range input up to its thumb. */
const fill = (input) => input.style.setProperty("--fill", (input.value - input.min) / (input.max - input.min));

/** A range input with its output; `act` runs now, on every move, and on `refresh`. */
function slider(id, text, act) {
  const input = get(id + (get(id + "-step") ? "-step" : "")), out = get(id + "-out");
  const run = () => {
    const value = Number(input.value);
    out.textContent = text(value);
    input.setAttribute("aria-valuetext", text(value));
    fill(input);
    act(value);
  };
  input.addEventListener("input", run);
  return { input, refresh: run, get value() { return Number(input.value); } };
}

/** Buttons of which one is on: a radio group that arrow keys walk through. */
function choice(id, labels, act) {
  const box = get(id);
  const buttons = labels.map((label) => make("button", { type: "button", role: "radio" }, label));
  const pick = (chosen) => {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-checked", i === chosen);
      button.tabIndex = i === chosen ? 0 : -1;
    });
    act(chosen);
  };
  buttons.forEach((button, i) => button.addEventListener("click", () => pick(i)));
  box.append(...buttons);
  walkable(buttons, (i) => buttons[i].click());
  return pick;
}

/** Arrow keys, Home and End move the focus in a row of controls. */
function walkable(items, act = () => {}) {
  items.forEach((item, i) => item.addEventListener("keydown", (event) => {
    const jump = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? items.length - 1 : i + jump;
    if (!(to >= 0 && to < items.length)) return;
    event.preventDefault();
    items[to].focus();
    act(to);
  }));
}

// --- charts -----------------------------------------------------------------------------------

/**
 * Curves over the steps, drawn at the box's own width.
 * series: [{ values, kind, label }]; cursor: a step; mark: a step or null; y: what is measured.
 */
function chart(box, { series, cursor, mark = null, y, x = "shared steps", height = 150, axis = null }) {
  const width = box.clientWidth;
  if (!width) return;
  // With an axis { left, width } the steps lie as in the drawing above.
  const pad = { left: Math.max(axis?.left ?? 0, 38), right: axis ? width - axis.left - axis.width : 10, top: 12, bottom: 24 };
  const { top, marks } = window.sageTree.axisMarks(Math.max(...series.flatMap((s) => s.values), 1e-6));
  const digits = top <= 0.3 ? 3 : 2;
  const px = (i) => pad.left + (i / steps) * (width - pad.left - pad.right);
  const py = (v) => height - pad.bottom - (v / top) * (height - pad.top - pad.bottom);
  const legend = make("p", { class: "lesson-key" });
  series.forEach((s) => {
    legend.append(make("span", {}, make("i", { class: `k-${s.kind}` }), `${s.label} `,
      make("b", {}, s.values[cursor].toFixed(digits))));
  });
  const told = series.map((s) => `${s.label}: ${s.values[cursor].toFixed(digits)}`).join("; ");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const alt = `${y} over ${x}, rising from ${series[0].values[0].toFixed(2)} to ` +
    `${series[0].values[steps].toFixed(2)}. At ${cursor}: ${told}.`;
  for (const [k, v] of Object.entries({ width, height, role: "img", "aria-label": alt }))
    svg.setAttribute(k, v);
  draw(svg, "line", { class: "axis", x1: px(0), x2: px(steps), y1: py(0), y2: py(0) });
  draw(svg, "line", { class: "axis", x1: px(0), x2: px(0), y1: py(0), y2: pad.top - 4 });
  for (const { value, text } of marks)
    draw(svg, "text", { x: px(0) - 5, y: py(value) + 4, "text-anchor": "end" }, text);
  for (const i of width < 420 ? [0, steps / 2, steps] : [0, steps / 3, (2 * steps) / 3, steps])
    draw(svg, "text", { x: px(i), y: height - 8, "text-anchor": i ? (i === steps ? "end" : "middle") : "start" },
      i === steps ? `${i} ${x}` : String(i));
  if (mark !== null) {
    draw(svg, "line", { class: "mark", x1: px(mark), x2: px(mark), y1: pad.top - 4, y2: py(0) });
  }
  draw(svg, "line", { class: "cursor", x1: px(cursor), x2: px(cursor), y1: pad.top - 4, y2: py(0) });
  series.forEach((s) => {
    const path = s.values.map((v, i) => `${px(i).toFixed(1)},${py(v).toFixed(1)}`).join(" ");
    draw(svg, "polyline", { class: `c-${s.kind}`, points: path });
    draw(svg, "circle", { class: `d-${s.kind}`, cx: px(cursor), cy: py(s.values[cursor]), r: 4 });
  });
  box.replaceChildren(make("h3", {}, y), legend, svg);
}

// --- a group's trunk and branches with their pictures ------------------------------------------

/**
 * Draws trunk, branches and end pictures of a group.
 * trunkRow: the trunk's row in guess.webp; sheetName: the group's shared pictures.
 */
function tree(box, { group, trunkRow, sheetName, branch }) {
  const width = box.clientWidth, { sageTree } = window;
  if (!width) return;
  const wide = width > 640, order = group.map((_, k) => k);
  const plan = { steps, segments: sageTree.groupsPlan([order], steps, branch), order,
    colors: group.map(() => data.palette.shared) };
  const after = `after ${words(branch, "shared step")}`;
  const rows = group.map((n, k) => {
    const one = picture(sheetName, k, branch, `${quoted(n)}, ${after} of ${steps}`);
    one.classList.add("is-shared");
    return make("li", {}, one, picture("noisy", n, steps, `${quoted(n)}, independent`),
      make("span", {}, data.prompts[n]));
  });
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const thumbs = make("div", { class: "sage-thumbs" }), guide = make("i", { class: "sage-guide" });
  guide.style.left = `${(100 * branch) / steps}%`;
  const lines = make("div", { class: "sage-plan" }, svg, thumbs, guide);
  const heads = make("p", { class: "sage-heads" }, make("b", {}, "shared"), make("b", {}, "independent"));
  box.style.setProperty("--n", group.length);
  box.replaceChildren(lines, make("div", {}, heads, make("ol", {}, ...rows)),
    make("p", { class: "sage-point" }, branch ? `branch point T* = ${branch}` : "nothing shared"));
  sageTree.drawLines(svg, plan);
  const pictureAt = ({ members }, step) => {
    if (!step) return picture("noisy", group[members[0]], 0, "noise, where it starts");
    return members.length > 1 ? picture("guess", trunkRow, step, `the trunk’s guess ${after}`) : null;
  };
  sageTree.placeThumbs(thumbs, plan, pictureAt, { size: wide ? 48 : 32 });
  return wide ? { left: lines.offsetLeft, width: lines.clientWidth } : null;
}

/** Evaluations of one group of `count` prompts. */
const spent = (count, branch) => branch + count * (steps - branch);

function bars(box, count, branch) {
  const all = steps * count, part = (kind, amount, text) => {
    const piece = make("i", { class: `b-${kind}` }, text);
    piece.style.width = `${(100 * amount) / all}%`;
    return piece;
  };
  const line = (name, total, ...pieces) => make("div", {}, make("span", {}, name),
    make("div", { class: "track" }, ...pieces), make("b", {}, String(total)));
  const own = count * (steps - branch);
  box.replaceChildren(
    make("h3", {}, "evaluations"),
    line("independent", all, part("alone", all, "")),
    line("shared", spent(count, branch), ...(branch ? [part("trunk", branch, "")] : []),
      ...(own ? [part("branch", own, "")] : [])),
  );
}

/** The saving as a formula with the numbers of the moment, shared terms in the group's colour. */
function savingMath(box, count, branch) {
  const saved = percent(1 - spent(count, branch) / (steps * count));
  const frac = (top, bottom, kind = "") => make("span", { class: "frac" },
    make("span", { class: kind }, String(top)), make("span", {}, String(bottom)));
  const line = (told, ...parts) => make("p", { class: "lesson-math", role: "math", "aria-label": told }, ...parts);
  box.replaceChildren(
    line("saved is beta times 1 minus G over N", "saved =", make("b", { class: "t-shared" }, "β"), "(1 −", frac("G", "N"), ")"),
    line(`saved is ${branch} over ${steps} times 1 minus 1 over ${count}, ${saved}`,
      "=", frac(branch, steps, "t-shared"), "(1 −", frac(1, count), ") =", make("b", {}, saved)));
}

// --- the steps --------------------------------------------------------------------------------

const refresh = {}; // by step: draws what depends on the width of its panel

refresh[0] = () => {
  const group = data.alike, branch = 12, all = steps * group.length, now = spent(group.length, branch);
  tree(get("overview-tree"), { group, trunkRow: data.trunks.alike, sheetName: "alike", branch });
  get("overview-say").replaceChildren(
    `${branch} of ${steps} steps are shared by ${group.length} prompts: `,
    make("b", {}, `${now} instead of ${all}`), " evaluations of the network, ",
    make("b", {}, `${percent(1 - now / all)} saved`), ".");
};

{
  let prompt = 0;
  const noisy = picture(), guess = picture();
  get("film-noisy").append(noisy);
  get("film-guess").append(guess);
  const hints = [
    [0, "Pure noise. The first guess is a soft average of all the pictures that would fit."],
    [1, "The guess has colours and places, but soft edges. The picture itself still looks like noise."],
    [11, "The subject emerges from the noise, and the guess grows sharp."],
    [20, "Now the details. The guess hardly changes any more; the picture catches up with it."],
    [steps, "Finished: no noise is left, picture and guess are the same."],
  ];
  const film = slider("film", (i) => `${i} of ${steps}`, (i) => {
    show(noisy, "noisy", prompt, i, `${quoted(prompt)} after ${i} of ${steps} steps, still noisy`);
    show(guess, "guess", prompt, i, `The denoiser’s guess for ${quoted(prompt)} after ${i} steps`);
    get("film-hint").textContent = hints.filter(([from]) => i >= from).at(-1)[1];
  });
  const shown = [0, 3, 5];
  choice("film-prompt", shown.map(short), (k) => { prompt = shown[k]; film.refresh(); })(0);
  const button = get("film-play");
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (film.value === steps) film.input.value = 0;
    button.textContent = "Pause";
    timer = setInterval(() => {
      film.input.value = film.value + 1;
      film.refresh();
      if (film.value >= steps) stop();
    }, 160);
  });
  film.input.addEventListener("pointerdown", stop);
  refresh[1] = film.refresh;
}

{
  const pairOf = (i, j) => `${Math.min(i, j)}-${Math.max(i, j)}`;
  const home = data.prompts.map((_, n) => data.groups.findIndex((group) => group.includes(n)));
  const cells = [];
  const table = make("table", { role: "grid", "aria-label": "Similarity of each pair of prompts" });
  const head = make("tr", { role: "row" }, make("td", { role: "gridcell" }));
  data.prompts.forEach((_, n) => head.append(make("th", { scope: "col", role: "columnheader" },
    picture("noisy", n, steps, quoted(n)))));
  table.append(head);
  data.prompts.forEach((text, i) => {
    const row = make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" },
      picture("noisy", i, steps, ""), make("span", {}, text)));
    data.prompts.forEach((other, j) => {
      const cell = make("td", { role: "gridcell" });
      row.append(cell);
      if (i === j) return cell.append(make("span", { class: "self" }, "1"));
      const value = data.similarity[i][j], together = home[i] === home[j];
      const button = make("button", { type: "button", tabindex: -1, "aria-pressed": "false",
        "aria-label": `${text} and ${other}: ${value.toFixed(2)}, ${together ? "same group" : "not together"}` },
        value.toFixed(2).replace("-", "−"));
      button.style.setProperty("--strength", Math.max(0, value));
      if (together) button.style.setProperty("--group", data.colors[home[i]]);
      button.classList.toggle("together", together);
      button.addEventListener("click", () => pick(i, j));
      button.addEventListener("keydown", (event) => {
        const [di, dj] = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key] ?? [];
        if (di === undefined) return;
        event.preventDefault();
        let [a, b] = [i + di, j + dj];
        if (a === b) [a, b] = [a + di, b + dj]; // over the diagonal
        const next = cells.find((c) => c.i === a && c.j === b);
        if (next) { next.button.focus(); pick(a, b); }
      });
      cell.append(button);
      cells.push({ i, j, button });
    });
    table.append(row);
  });
  get("matrix").append(table);
  const side = (n, pieces) => make("figure", {}, picture("noisy", n, steps, `${quoted(n)}, independent`),
    make("figcaption", {}, ...pieces.flatMap(([text, differs]) => [differs ? make("mark", {}, text) : text, " "])));
  function pick(i, j) {
    cells.forEach((cell) => {
      const here = cell.i === i && cell.j === j;
      cell.button.tabIndex = here ? 0 : -1;
      cell.button.setAttribute("aria-pressed", here);
    });
    const value = data.similarity[i][j], [one, two] = data.words[pairOf(i, j)];
    const verdict = value < data.tau_min ? `below ${data.tau_min}: too different to share`
      : value > data.tau_max ? `above ${data.tau_max}: nearly the same prompt`
        : `between ${data.tau_min} and ${data.tau_max}: they may share`;
    const scale = make("div", { class: "lesson-scale", "aria-hidden": "true" }, make("i", {}), make("b", {}));
    scale.style.setProperty("--low", Math.max(0, data.tau_min));
    scale.style.setProperty("--high", data.tau_max);
    scale.style.setProperty("--at", Math.max(0, value));
    get("matrix-pair").replaceChildren(
      side(i, i < j ? one : two), side(j, i < j ? two : one),
      make("div", { class: "lesson-verdict" }, make("p", {}, "similarity ",
        make("b", {}, value.toFixed(2).replace("-", "−"))), scale, make("p", {}, verdict)));
  }
  pick(data.alike[0], data.alike[1]);
}

{
  const pairs = [[data.alike[0], data.alike[1]], data.unlike];
  let chosen = 0;
  const boxes = ["so far", "guess"].flatMap((kind) => [0, 1].map((k) => {
    const canvas = picture(), caption = make("figcaption", {});
    get("early-pictures").append(make("figure", {}, canvas, caption));
    return { kind, k, canvas, caption };
  }));
  const curve = ([i, j]) => data.difference[`${Math.min(i, j)}-${Math.max(i, j)}`];
  const early = slider("early", (i) => `${i} of ${steps}`, (i) => {
    const pair = pairs[chosen];
    boxes.forEach(({ kind, k, canvas, caption }) => {
      const n = pair[k], name = kind === "guess" ? "guess" : "noisy";
      show(canvas, name, n, i, `${quoted(n)}, ${kind === "guess" ? "the guess" : "the picture so far"}, after ${i} steps`);
      caption.textContent = `${short(n)}, ${kind}`;
    });
    const values = curve(pair), part = values[i] / values[steps];
    get("early-hint").textContent = i === 0 ? "Both start from the very same noise."
      : `After ${i} of ${steps} steps they are ${values[i].toFixed(2)} apart, ` +
        `${percent(part)} of their final distance. The noise they started from has size 1.`;
    chart(get("early-chart"), {
      cursor: i, x: "steps", y: "How far apart the two are",
      series: [0, 1].map((p) => ({ values: curve(pairs[p]), kind: p ? "unlike" : "trunk",
        label: pairs[p].map(short).join(" and ") })),
    });
  });
  choice("early-pair", ["similar", "dissimilar"].map((kind, p) => `${kind}: ${pairs[p].map(short).join(", ")}`),
    (p) => { chosen = p; early.refresh(); })(0);
  refresh[3] = early.refresh;
}

{
  const svg = get("toy-plane"), reach = 2.5; // the plane shows -reach..reach
  // The prompts lie to one side, as alike prompts do: they differ less from each other than from all.
  const shapes = { 2: [[0.3, 1.45], [1.7, 0.15]], 3: [[-0.15, 1.45], [1.35, 1.65], [1.7, 0.1]] };
  const far = ([x, y]) => Math.hypot(x, y);
  // Starts that lie on the map, those far from the prompts first: there the way can be seen.
  const starts = data.toy.noises.filter((z) => far(z) < 2).sort((a, b) => a[0] + a[1] - b[0] - b[1]);
  let means = [], seed = 0, held = null, scale = 1;
  const mixture = () => ({ means, std: data.toy.std });
  const centre = () => [0, 1].map((axis) => mean(means.map((m) => m[axis])));
  /** Mean distance of the modes from their middle, in tenths: what the slider shows. */
  const apart = () => 10 * mean(means.map((m) => Math.hypot(m[0] - centre()[0], m[1] - centre()[1])));
  const to = ([x, y]) => [(x / reach + 1) * scale, (1 - y / reach) * scale];
  const line = (kind, points) => draw(svg, "polyline", { class: `c-${kind}`,
    points: points.map((p) => to(p).map((v) => v.toFixed(1)).join(",")).join(" ") });
  const dot = (kind, p, r) => {
    const [cx, cy] = to(p);
    return draw(svg, "circle", { class: `d-${kind}`, cx, cy, r });
  };

  function render() {
    const width = svg.parentElement.clientWidth;
    if (!width) return;
    const b = branch.value, noise = starts[seed];
    scale = width / 2;
    svg.setAttribute("width", width);
    svg.setAttribute("height", width);
    const focused = means.findIndex((_, k) => document.activeElement === handles[k]?.node);
    svg.replaceChildren();
    const sigma = (data.toy.std / reach) * scale;
    handles = means.map((m, k) => handle(m, k, sigma));
    let missed = 0;
    for (const z of data.toy.noises) {
      SageToy.ends(mixture(), steps, 0, z).forEach((end) => dot("alone-end", end, 1.6));
      SageToy.ends(mixture(), steps, b, z).forEach((end, k) => {
        dot("shared-end", end, 2.2);
        missed += far([end[0] - means[k][0], end[1] - means[k][1]]) > 3 * data.toy.std;
      });
    }
    const alone = SageToy.run(mixture(), steps, 0, noise).branches;
    const { trunk, branches } = SageToy.run(mixture(), steps, b, noise);
    alone.forEach((path) => line("alone", path));
    branches.forEach((path) => line("branch", path));
    line("trunk", trunk);
    [...trunk.slice(1, -1), ...branches.flatMap((path) => path.slice(1, -1))].forEach((p) => dot("step", p, 1.7));
    alone.forEach((path) => dot("alone", path.at(-1), 3.5));
    branches.forEach((path) => dot("branch", path.at(-1), 5));
    if (b > 0) dot("fork", trunk.at(-1), 5);
    dot("noise", noise, 5);
    const [nx, ny] = to(noise);
    draw(svg, "text", { x: nx, y: ny + 21, "text-anchor": "middle" }, "noise");
    if (focused >= 0) handles[focused].node.focus();
    tell(b, missed / (means.length * data.toy.noises.length));
  }

  let handles = [];
  function handle(m, k, sigma) {
    const [cx, cy] = to(m), low = m[1] < centre()[1], edge = 3 * sigma;
    const node = draw(svg, "g", { class: "handle", tabindex: 0, role: "button",
      "aria-roledescription": "movable patch", "aria-label": `Prompt ${k + 1} at ` +
      `${m[0].toFixed(1)}, ${m[1].toFixed(1)}; arrow keys move it` });
    [3, 2, 1].forEach((times) => draw(node, "circle", { class: "d-mode", cx, cy, r: times * sigma }));
    draw(node, "circle", { class: "ring", cx, cy, r: edge });
    draw(node, "text", { x: cx, y: cy + (low ? edge + 19 : -edge - 9), "text-anchor": "middle" }, `prompt ${k + 1}`);
    return { node };
  }

  const limit = (v) => Math.min(2.4, Math.max(-2.4, v));
  const move = (k, x, y) => { means[k] = [limit(x), limit(y)]; changed(); };
  svg.addEventListener("pointerdown", (event) => {
    held = handles.findIndex(({ node }) => node.contains(event.target));
    if (held < 0) return;
    event.preventDefault();
    svg.setPointerCapture(event.pointerId);
    handles[held].node.focus();
  });
  svg.addEventListener("pointermove", (event) => {
    if (held === null || held < 0) return;
    const box = svg.getBoundingClientRect();
    move(held, ((event.clientX - box.left) / scale - 1) * reach, (1 - (event.clientY - box.top) / scale) * reach);
  });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => { held = null; });
  svg.addEventListener("keydown", (event) => {
    const k = handles.findIndex(({ node }) => node === document.activeElement);
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (k < 0 || !way) return;
    event.preventDefault();
    const far = event.shiftKey ? 0.3 : 0.06;
    move(k, means[k][0] + far * way[0], means[k][1] + far * way[1]);
  });

  let curve = [], moment = null;
  function changed() {
    curve = SageToy.distances(mixture(), steps, data.toy.noises);
    moment = SageToy.speciation(mixture(), steps);
    const mark = get("toy-mark");
    mark.hidden = moment === null;
    mark.style.setProperty("--at", (moment ?? 0) / steps);
    mark.title = moment === null ? "" : `classes separate at step ${moment.toFixed(1)}`;
    get("toy-apart").value = Math.round(apart());
    fill(get("toy-apart"));
    get("toy-apart-out").textContent = (2 * apart() / 10).toFixed(1);
    render();
  }

  function tell(b, missed) {
    const count = means.length, saved = 1 - spent(count, b) / (steps * count);
    const when = moment === null ? "The patches overlap: the paths never split."
      : `The paths split at step ${moment.toFixed(1)}.`;
    get("toy-say").replaceChildren(make("b", {}, `${percent(saved)} saved`), `; ${percent(missed)} of the ends `,
      `miss their patch (by more than 3 σ). ${when}`);
    chart(get("toy-chart"), { cursor: b, mark: moment, height: 120,
      y: "Distance to the independent end, in σ",
      series: [{ values: curve, kind: "trunk", label: `mean of ${data.toy.noises.length} starts` }] });
  }

  const branch = slider("toy-branch", (b) => `${b} of ${steps}`, render);
  get("toy-apart").addEventListener("input", (event) => {
    const [cx, cy] = centre(), grow = Number(event.target.value) / apart();
    means = means.map(([x, y]) => [limit(cx + grow * (x - cx)), limit(cy + grow * (y - cy))]);
    changed();
  });
  get("toy-seed").addEventListener("click", () => { seed = (seed + 1) % starts.length; render(); });
  choice("toy-count", ["2", "3"], (k) => {
    means = shapes[k + 2].map((m) => [...m]);
    changed();
  })(0);
  refresh[4] = () => { changed(); branch.refresh(); };
}

const averages = (table) => table.map(mean);
{
  const group = data.alike, found = data.sharing.alike, distance = averages(found.distance);
  const at = slider("branch", (b) => `${b} of ${steps}`, (b) => {
    const axis = tree(get("branch-tree"), { group, trunkRow: data.trunks.alike, sheetName: "alike", branch: b });
    if (axis) { // the slider lies under the steps: half a thumb sticks out at either end
      at.input.style.marginLeft = `${axis.left - 8}px`;
      at.input.style.width = `${axis.width + 16}px`;
    }
    bars(get("branch-bars"), group.length, b);
    savingMath(get("branch-math"), group.length, b);
    chart(get("branch-chart"), { cursor: b, height: 120, axis, y: "Distance to the independent picture",
      series: [{ values: distance, kind: "trunk", label: "mean of the group, pixels" }] });
  });
  refresh[5] = at.refresh;
}

/** Rows of pictures of a group: made alone, and with so many shared steps by each sheet. */
function gallery(group, rows, b) {
  const grid = make("div", { class: "lesson-gallery" });
  grid.style.setProperty("--count", group.length);
  rows.forEach(({ name, title }) => {
    grid.append(make("p", {}, title));
    group.forEach((n, k) => {
      const alone = name === null;
      const canvas = picture(alone ? "noisy" : name, alone ? n : k, alone ? steps : b,
        `${quoted(n)}, ${title}${alone ? "" : `, ${words(b, "shared step")}`}`);
      canvas.classList.toggle("is-shared", !alone);
      grid.append(canvas);
    });
  });
  return grid;
}

{
  const trained = data.sharing.trained, stage = get("train-stage");
  if (!trained) {
    get("train-hint").textContent = "No adapter comes with this version: all pictures of this lesson " +
      "are made without one.";
    const group = data.alike, figures = [...group.map((n) => `${short(n)}’s own guess`), "their mean: the soft target", "the trunk’s guess"];
    const canvases = figures.map((text) => {
      const canvas = picture();
      stage.querySelector(".lesson-five").append(make("figure", {}, canvas, make("figcaption", {}, text)));
      return canvas;
    });
    /** The mean of several cells, pixel by pixel, on one canvas. */
    const blend = (canvas, rows, column, alt) => {
      show(canvas, "guess", rows[0], column, alt);
      const pen = canvas.getContext("2d"), { image } = sheet("guess");
      rows.slice(1).forEach((row, k) => {
        pen.globalAlpha = 1 / (k + 2);
        pen.drawImage(image, column * data.side, row * data.side, data.side, data.side, 0, 0, data.side, data.side);
      });
      pen.globalAlpha = 1;
    };
    const at = slider("train", (i) => `${i} of ${steps}`, (i) => {
      group.forEach((n, k) => show(canvases[k], "guess", n, i, `${quoted(n)}, its own guess after ${i} steps`));
      blend(canvases.at(-2), group, i, `the mean of the prompts’ guesses after ${i} steps`);
      show(canvases.at(-1), "guess", data.trunks.alike, i, `the trunk’s guess after ${i} steps`);
    });
    sheet("guess").image.addEventListener("load", at.refresh);
    refresh[6] = at.refresh;
  } else {
    const box = make("div", {}), plot = make("div", { class: "lesson-chart" });
    stage.querySelector(".lesson-five").replaceWith(box);
    stage.querySelector("label span").firstChild.textContent = "Shared steps ";
    get("train-step").value = 18;
    get("train-note").replaceWith(plot);
    const plain = averages(data.sharing.alike.distance), tuned = averages(trained.distance);
    const at = slider("train", (b) => `${b} of ${steps}`, (b) => {
      box.replaceChildren(gallery(data.alike, [{ name: null, title: "independent" },
        { name: "alike", title: "shared" }, { name: "trained", title: "shared, trained" }], b));
      const change = 1 - tuned[b] / plain[b];
      get("train-hint").textContent = !b ? "Nothing is shared: training has nothing to do here."
        : `With ${b} of ${steps} steps shared, the distance to the independent pictures is ` +
          `${tuned[b].toFixed(3)} with the adapter, ${plain[b].toFixed(3)} without: ` +
          `${percent(Math.abs(change))} ${change >= 0 ? "smaller" : "larger"}. A few prompts prove nothing: the tab Evidence ` +
          "has the measurement over many pictures.";
      chart(plot, { cursor: b, y: "Distance to the independent picture", series: [
        { values: plain, kind: "alone", label: "without" }, { values: tuned, kind: "trunk", label: "with the adapter" }] });
    });
    refresh[6] = at.refresh;
  }
}

{
  const good = averages(data.sharing.alike.distance), bad = averages(data.sharing.unlike.distance);
  const at = slider("limits", (b) => `${b} of ${steps}`, (b) => {
    const rows = (name) => [{ name: null, title: "independent" }, { name, title: "shared" }];
    get("limits-pictures").replaceChildren(
      make("div", {}, make("h3", {}, "similar: a group"), gallery(data.alike.slice(0, 2), rows("alike"), b)),
      make("div", { class: "is-unlike" }, make("h3", {}, "dissimilar: forced together"), gallery(data.unlike, rows("unlike"), b)));
    const same = good.findIndex((v) => v >= bad[b]);
    get("limits-hint").textContent = !b ? "Nothing is shared: every picture is its own."
      : b === steps ? "All steps shared: one picture for all, and nobody’s own."
        : `With ${words(b, "shared step")}, the dissimilar pair ends ${bad[b].toFixed(2)} from its independent ` +
          `pictures, the similar group ${good[b].toFixed(2)}` +
          (same > b ? `: it would have to share ${same} steps to end as far off.` : ".");
    chart(get("limits-chart"), { cursor: b, y: "Distance to the independent picture", series: [
      { values: bad, kind: "unlike", label: "dissimilar" }, { values: good, kind: "trunk", label: "similar" }] });
  });
  refresh[7] = at.refresh;
}

// --- going through the steps --------------------------------------------------------------------

const panels = [...element.querySelectorAll(".lesson-panel")];
const tabs = panels.map((panel, i) => {
  const tab = make("button", { type: "button", role: "tab", id: `lesson-tab-${i}`,
    "aria-controls": `lesson-panel-${i}` });
  if (i) tab.append(make("i", {}, String(i)));
  tab.append(make("span", {}, panel.dataset.title));
  panel.id = `lesson-panel-${i}`;
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", tab.id);
  tab.addEventListener("click", () => go(i));
  return tab;
});
element.querySelector(".lesson-tabs").append(...tabs);
walkable(tabs, (i) => go(i));

let now = 0;
/** The step in the address, "#lesson/3"; null if it is another tab's. */
const addressed = () => location.hash.match(/^#lesson\/(\d+)$/)?.[1] ?? null;
function go(to, keep = true) {
  now = Math.min(Math.max(to, 0), panels.length - 1);
  panels.forEach((panel, i) => { panel.hidden = i !== now; });
  tabs.forEach((tab, i) => {
    tab.setAttribute("aria-selected", i === now);
    tab.tabIndex = i === now ? 0 : -1;
    tab.classList.toggle("done", i < now);
  });
  const title = panels[now].dataset.title;
  element.querySelector(".lesson-where").textContent = now ? `Step ${now} of ${panels.length - 1}: ${title}` : title;
  const [back, next] = element.querySelectorAll(".lesson-go");
  back.disabled = now === 0;
  next.disabled = now === panels.length - 1;
  const whole = element.closest("#lesson");
  if (whole) whole.dataset.step = now;
  document.getElementById("quiz-feedback")?.setAttribute("aria-live", "polite");
  refresh[now]?.();
  if (keep && addressed() !== String(now))
    history.pushState(null, "", `${location.pathname}${location.search}#lesson/${now}`);
}
window.addEventListener("popstate", () => { if (addressed() !== null) go(Number(addressed()), false); });
element.querySelectorAll("[data-go]").forEach((button) =>
  button.addEventListener("click", () => go(now + Number(button.dataset.go))));
element.querySelectorAll(".lesson-map [data-step]").forEach((button) =>
  button.addEventListener("click", () => { go(Number(button.dataset.step)); tabs[now].focus(); }));

get("to-studio").addEventListener("click", () => {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.find((tab) => tab.textContent.trim() === "Studio")?.click();
});

const c = data.conditions;
get("lesson-conditions").textContent = `Precomputed: ${c.model}, ${c.scheduler.replace("Scheduler", "")}, ` +
  `${c.steps} steps, guidance ${c.guidance_scale}. Pictures: seed ${c.picture_seed} for every prompt. ` +
  `Curves: means over seeds ${c.seeds.join(", ")}; distances are root mean squares.`;

let seen = 0; // redraw when the width changes, which it also does when the tab comes into view
new ResizeObserver(([entry]) => {
  const width = Math.round(entry.contentRect.width);
  if (width && width !== seen) { seen = width; refresh[now]?.(); }
}).observe(element);
go(Number(addressed() ?? new URLSearchParams(location.search).get("step") ?? 0) || 0, false);
