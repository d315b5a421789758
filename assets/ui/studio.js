// The page's own JavaScript: addresses of tabs, linked highlighting, scrubbing, the closer look.
// Gradio runs it once when the page has loaded. Nothing here asks the server for anything.
() => {
  const OWN_TABS = ["studio", "lesson", "explore", "evidence"];
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  // -- tabs: #lesson (or ?tab=lesson) opens the lesson; a change of tab changes the address -----
  const wantedTab = () => {
    const name = location.hash.slice(1) || new URLSearchParams(location.search).get("tab") || OWN_TABS[0];
    return name.toLowerCase().split("/")[0]; // "#lesson/3" is a step of the lesson
  };
  const openTab = () => {
    const name = wantedTab();
    const tab = all("#sage-tabs [role=tab]").find((each) => each.dataset.tabId === name);
    if (tab?.getAttribute("aria-selected") !== "true") tab?.click();
  };
  document.addEventListener("click", (event) => {
    const tab = event.target.closest("#sage-tabs [role=tab]");
    if (!OWN_TABS.includes(tab?.dataset.tabId) || wantedTab() === tab.dataset.tabId) return;
    // Whole, for "#..." alone would be read against the page's <base> and lose the query.
    history.pushState(null, "", location.pathname + location.search + "#" + tab.dataset.tabId);
  });
  // Also fired for an address that was typed. An entry of before a change holds the form of then.
  window.addEventListener("popstate", () => { openTab(); followForm(); });
  openTab();

  // -- the pictures come into view when they are rendered, as far as "Stop" stays in view ---------
  document.addEventListener("click", (event) => {
    const button = event.target.closest("#render, #look");
    const card = one("#card-compare");
    if (!button || button.disabled || !card) return;
    const lowest = button.getBoundingClientRect().bottom + 60 - innerHeight; // the row of "Stop"
    const hidden = Math.max(card.getBoundingClientRect().top, lowest);
    if (hidden >= 0) return; // all there is room for is seen
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    scrollBy({ top: hidden, behavior: calm ? "instant" : "smooth" });
  });

  // -- linked highlighting: data-p names the prompts that an element stands for ------------------
  const STUDIO = "#tab-studio";
  const promptsOf = (element) => element.dataset.p.split(" ");
  // The prompts of what was clicked and of what pointer or focus is on, or null.
  let pinned = null, near = null, pointer = "";

  const light = () => {
    const studio = one(STUDIO), prompts = near ?? pinned;
    if (!studio) return;
    let any = false; // other prompts may be on the page by now
    for (const element of all("[data-p]", studio)) {
      // A cell of the matrix stands for a pair: with one prompt, its row and column light up.
      const lit = Boolean(prompts) && promptsOf(element).some((p) => prompts.includes(p));
      element.classList.toggle("sage-lit", lit);
      any ||= lit;
    }
    studio.classList.toggle("sage-linked", any);
    for (const name of all("button.sage-name", studio)) {
      name.setAttribute("aria-pressed", String(Boolean(pinned?.includes(name.dataset.p))));
    }
  };
  const linkable = (event) => event.target.closest?.(`${STUDIO} [data-p]`);
  const pinnable = (event) => event.target.closest?.(`${STUDIO} button[data-p], ${STUDIO} th[data-p]`);
  document.addEventListener("pointerover", (event) => {
    // A finger points at nothing once it is lifted; nor does a pointer that rests while the page
    // moves beneath it, as when rendering brings the pictures into view.
    const at = `${event.screenX} ${event.screenY}`, points = event.pointerType !== "touch" && at !== pointer;
    const element = points && linkable(event);
    pointer = at;
    near = element ? promptsOf(element) : null;
    light();
  });
  document.addEventListener("focusin", (event) => {
    const element = linkable(event);
    if (!element?.matches(":focus-visible")) return;
    near = promptsOf(element);
    light();
  });
  document.addEventListener("focusout", (event) => {
    if (!linkable(event)) return;
    near = null;
    light();
  });
  document.addEventListener("click", (event) => {
    const element = pinnable(event);
    if (!element) return;
    if (element.dataset.why !== undefined) explainPair(element);
    const prompts = promptsOf(element);
    pinned = pinned?.join() === prompts.join() ? null : prompts;
    light();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !pinned) return;
    pinned = near = null;
    light();
  });

  // -- one stop for the tab key in matrix and plan; arrow keys move inside ------------------------
  const STEPS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  const stopsOf = (group) =>
    all("tr, li", group).map((row) => all("button", row)).filter((row) => row.length);
  const enterable = (group) => {
    const stops = all("button", group);
    if (stops.length && !stops.some((stop) => stop.tabIndex === 0)) stops[0].tabIndex = 0;
  };
  document.addEventListener("keydown", (event) => {
    const group = event.target.closest?.("[data-roving]");
    if (!group || !STEPS[event.key]) return;
    const rows = stopsOf(group);
    const row = rows.findIndex((stops) => stops.includes(event.target));
    const [down, right] = STEPS[event.key];
    const column = rows[row].indexOf(event.target) + right;
    const next = rows[row + down]?.[Math.min(column, rows[row + down].length - 1)];
    if (!next || column < 0) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  // -- a cell of the matrix: both prompts, with the words in which they differ marked ------------
  const marked = (text, other) => {
    const line = document.createDocumentFragment();
    const theirs = new Set(other.toLowerCase().split(/\s+/));
    // Neighbours that are both shared or both not become one piece.
    const runs = [];
    for (const word of text.split(/\s+/)) {
      const same = theirs.has(word.toLowerCase());
      if (runs.at(-1)?.same === same) runs.at(-1).words.push(word);
      else runs.push({ same, words: [word] });
    }
    for (const { same, words } of runs) {
      const piece = document.createElement(same ? "span" : "mark");
      piece.textContent = words.join(" ");
      line.append(piece, " ");
    }
    return line;
  };
  const explainPair = (cell) => {
    const matrix = cell.closest(".sage-matrix");
    const prompts = JSON.parse(matrix.dataset.prompts);
    const { a, b, why } = cell.dataset;
    const place = one(".sage-pair-words", matrix);
    place.replaceChildren();
    for (const [mine, other] of [[a, b], [b, a]]) {
      const line = document.createElement("p");
      const name = document.createElement("b");
      name.textContent = `P${Number(mine) + 1} `;
      line.append(name, marked(prompts[mine], prompts[other]));
      place.append(line);
    }
    const reason = document.createElement("p");
    reason.className = "sage-why";
    reason.textContent = why;
    place.append(reason);
    for (const button of all("button[data-why]", matrix)) button.classList.toggle("sage-picked", button === cell);
  };

  // -- pictures at every branch point: the sheet holds a row for each that is ready ---------------
  let strip = null; // what the page holds now: sheet, tile, points, and the tiles cut so far
  const readStrip = () => {
    const sheet = one("#pictures .sage-sheet");
    if (!sheet) return (strip = null);
    // The element may be the old one with a new sheet in it.
    if (strip?.sheet === sheet && strip.source === sheet.src) return strip;
    all("#pictures .sage-shot").forEach((shot) => delete shot.dataset.row);
    strip = { sheet, source: sheet.src, ...JSON.parse(sheet.dataset.strip), cut: new Map() };
    strip.ready = Object.keys(strip.points).map(Number);
    const trunks = one("#pictures .sage-trunks");
    strip.trunks = trunks && { sheet: trunks, ...JSON.parse(trunks.dataset.strip), cut: new Map() };
    return strip;
  };
  const tile = (from, row, column) => {
    const key = `${row},${column}`;
    if (!from.cut.has(key)) {
      const size = from.tile;
      const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
      const part = [column * size, row * size, size, size];
      canvas.getContext("2d").drawImage(from.sheet, ...part, 0, 0, size, size);
      from.cut.set(key, canvas.toDataURL());
    }
    return from.cut.get(key);
  };
  const nearest = (point) =>
    strip.ready.reduce((best, p) => (Math.abs(p - point) < Math.abs(best - point) ? p : best));
  // Pictures of earlier settings stay as they are: another form's steps are no branch point of theirs.
  const isStale = () => one("#banner .sage-banner") || Number(slider()?.max) !== strip.steps || plan?.steps !== strip.steps;
  const scrub = (point) => {
    if (!readStrip()) return;
    if (isStale()) {
      if (strip.drawn) return;
      point = strip.at; // as the labels say that came with the sheet
    }
    if (!strip.sheet.complete) return strip.sheet.decode().then(refreshPoint, () => {});
    strip.drawn = true;
    const shown = strip.points[nearest(point)];
    for (const pair of all("#pictures .sage-pair")) {
      const column = Number(pair.dataset.p), alone = one(".sage-independent img", pair);
      if (alone && alone.dataset.cut !== strip.source) {
        alone.src = tile(strip, 0, column); // the first row of the sheet
        alone.dataset.cut = strip.source;
      }
      for (const side of ["shared", "fewer"]) {
        const shot = one(`.sage-${side}`, pair);
        if (!shot) continue;
        shot.classList.toggle("sage-absent", !shown[side]);
        if (shown[side]) showTile(shot, shown[side], column);
      }
    }
    const place = one("#outcome [data-point]"); // what is only expected is not of these pictures
    if (!place || !shown.outcome || place.dataset.shown === shown.outcome) return;
    place.dataset.shown = shown.outcome;
    const told = document.createElement("template");
    told.innerHTML = shown.outcome;
    place.innerHTML = told.content.firstElementChild.innerHTML;
  };
  const showTile = (shot, frame, column) => {
    if (shot.dataset.row === String(frame.row)) return;
    shot.dataset.row = frame.row;
    one("img", shot).src = tile(strip, frame.row, column);
    const [done, scores] = all("p", shot);
    one("span", done).textContent = frame.done[column];
    scores.innerHTML = frame.scores[column];
  };

  // -- the tree: lines, previews and the handle; the real slider of the form is hidden ------------
  const { sageTree } = window;
  const LATE = 0.7; // of all steps: from here on there are too few left to become oneself
  let plan = null, planText = null, preview = null; // preview: a point that is only shown
  let live = { key: "", step: 0, seen: new Map() }; // previews of trunks, gathered while rendering
  const slider = () => one("#branch-step input[type=range]");
  // A budget chooses the point itself, in steps of its own plan: the form's slider does not follow.
  // While the steps change, slider and plan are of different lengths for a moment; the plan is whole.
  const fits = () => slider() && Number(slider().max) === plan?.steps;
  const pointNow = () => preview ?? (leads ? Number(knob().ariaValueNow) : plan?.planned || !fits() ? plan?.point ?? 0 : Number(slider().value));
  const knob = () => one("#branch .sage-knob");
  const readPlan = () => {
    const text = one("#plan [data-plan]")?.dataset.plan ?? null;
    if (text !== planText) [planText, plan] = [text, text && JSON.parse(text)];
    return plan;
  };
  const image = (src) => Object.assign(new Image(), { src, alt: "" });
  const seenKey = (members, step) => `${members.join()}@${step}`;
  const gather = () => {
    const pairs = one("#pictures .sage-pairs[data-state=live]");
    if (!pairs || !plan) return;
    const step = Number(pairs.dataset.step);
    if (step < live.step || live.key !== planText) live = { key: planText, seen: new Map() };
    live.step = step;
    for (const { members, start, stop } of plan.segments) {
      const at = `.sage-pair[data-p="${members[0]}"]`;
      const shot = members.length > 1 && start < step && step <= stop && (one(`${at} .sage-expected img`, pairs) ?? one(`${at} .sage-shared img`, pairs));
      if (shot) live.seen.set(seenKey(members, step), shot.src);
    }
  };
  const pictureAt = (segment, step, shown) => {
    const { members } = segment;
    if (step === 0) return sageTree.noise(members[0] + 1);
    if (strip?.trunks) {
      const row = strip.trunks.groups.findIndex((group) => group.join() === members.join());
      if (row < 0 || !strip.trunks.sheet.complete) return null;
      return image(tile(strip.trunks, row, step - 1));
    }
    const fork = plan.previews[shown.segments.indexOf(segment)];
    if (fork && step === segment.stop) return image(fork);
    const seen = live.key === planText && live.seen.get(seenKey(members, step));
    return seen ? image(seen) : null;
  };
  let drawnAs = "";
  const drawTree = (point) => {
    const host = one("#plan .sage-plan");
    if (!host || !readPlan() || !host.clientWidth) return;
    const pairs = one("#pictures .sage-pairs"), state = pairs?.dataset.state;
    const grown = ["live", "look", "unfinished"].includes(state) ? Number(pairs.dataset.step ?? 0) : plan.steps;
    const finished = (pairs?.dataset.finished ?? "").split(" ").filter(Boolean).map(Number);
    const { groups, steps, sharing } = plan;
    const local = sharing === "groups" && point !== plan.point;
    const segments = local ? sageTree.groupsPlan(groups, steps, point) : plan.segments;
    const sheets = [one("#pictures .sage-trunks")?.complete, one("#pictures .sage-sheet")?.src.length];
    const as = [planText, point, grown, host.clientWidth, host.clientHeight, state, finished, ...sheets, live.seen.size].join("|");
    arrange(pairs);
    if (as === drawnAs && one("svg", host).childElementCount) return;
    drawnAs = as;
    const shown = { ...plan, segments };
    sageTree.drawLines(one("svg", host), shown, grown, finished);
    const size = parseFloat(getComputedStyle(host).getPropertyValue("--thumb")) || 44;
    sageTree.placeThumbs(one(".sage-thumbs", host), shown, (segment, step) => pictureAt(segment, step, shown), { size, grown });
    if (pairs?.matches(".sage-table")) nameEnds(host);
    const guide = one(".sage-guide", host);
    guide.hidden = sharing === "tree";
    guide.style.left = `${(100 * point) / steps}%`;
  };
  /** Where pictures stand in a table, each line says at its end whose it is. */
  const nameEnds = (host) => {
    plan.order.forEach((n, k) => {
      const end = document.createElement("span");
      end.className = "sage-end";
      end.dataset.p = n;
      end.textContent = `P${n + 1}`;
      end.style.top = `${(100 * (k + 0.5)) / plan.order.length}%`;
      one(".sage-thumbs", host).append(end);
    });
  };
  /** The pictures stand in the order of the branches. */
  const arrange = (pairs) => {
    if (!pairs) return;
    const rows = all(".sage-pair", pairs), wanted = plan.order;
    if (rows.length !== wanted.length || rows.every((row, k) => Number(row.dataset.p) === wanted[k])) return;
    pairs.append(...wanted.map((n) => rows.find((row) => Number(row.dataset.p) === n)));
  };
  const listed = (numbers) => numbers.join(", ").replace(/, (\d+)$/, " and $1");
  const pointWords = (point) => {
    const { steps, best } = plan;
    const stops = plan.segments.filter(({ members }) => members.length > 1).map(({ stop }) => stop);
    const most = Math.max(0, ...stops); // the guard may part the groups earlier than asked for
    if (plan.sharing === "tree") {
      const every = [...new Set(stops)].sort((a, b) => a - b);
      return every.length ? `branch points after ${listed(every)} of ${steps} steps` : "nothing shared: each prompt on its own";
    }
    if (plan.sharing === "adaptive")
      return most < point ? `${most} of ${steps} steps shared, of up to ${point}` : `up to ${point} of ${steps} steps shared: decided while sampling`;
    const alike = plan.groups.some((group) => group.length > 1);
    if (plan.sharing === "groups" && alike && point === plan.point && most < point)
      return `${most || "no"} of ${steps} steps shared: ${point} would change the pictures too much`;
    const shared = point ? `${point} of ${steps} steps shared` : "nothing shared: each prompt on its own";
    if (plan.planned && point === plan.point) return `${shared}: chosen within the budget`;
    if (point && point === best) return `${shared}: recommended`;
    return point >= LATE * steps ? `${shared}: too late to branch` : shared;
  };
  const placeKnob = (point) => {
    const handle = knob(), rail = one("#branch .sage-rail");
    if (!handle || !plan) return;
    one("#branch").classList.toggle("sage-none", plan.sharing === "tree");
    const { steps, best } = plan, words = pointWords(point);
    rail.style.setProperty("--at", point / steps);
    one(".sage-best", rail).hidden = best === null;
    rail.style.setProperty("--best", (best ?? 0) / steps);
    const told = { "aria-valuemax": steps, "aria-valuenow": point, "aria-valuetext": words };
    for (const [name, value] of Object.entries(told))
      if (handle.getAttribute(name) !== String(value)) handle.setAttribute(name, value);
    const output = one("#branch output");
    if (output.textContent !== words) output.textContent = words;
    output.classList.toggle("sage-warn", point >= LATE * steps);
  };
  const refreshPoint = () => {
    if (!readPlan()) return;
    const point = pointNow();
    gather();
    readStrip();
    placeKnob(point);
    drawTree(point);
    scrub(point);
    drawCurve(point);
  };
  // While the handle moves it leads: an answer to an earlier move would set it back.
  let leads = 0;
  const moveTo = (point) => {
    const real = slider();
    if (!real || !plan) return;
    stopPlaying();
    const next = Math.min(Math.max(Math.round(point), 0), plan.steps);
    clearTimeout(leads);
    leads = setTimeout(() => {
      leads = 0;
      refreshPoint();
    }, 900);
    knob().setAttribute("aria-valuenow", next);
    if (real.value !== String(next)) {
      real.value = next;
      for (const kind of ["input", "change"]) real.dispatchEvent(new Event(kind, { bubbles: true }));
    }
    refreshPoint();
  };
  const KEYS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 };
  document.addEventListener("keydown", (event) => {
    if (!event.target.closest?.("#branch .sage-knob") || !plan) return;
    const to = { Home: 0, End: plan.steps }[event.key] ?? (event.key in KEYS ? pointNow() + KEYS[event.key] : null);
    if (to === null) return;
    event.preventDefault();
    moveTo(to);
  });
  let dragging = null; // the rail or the lines that the pointer moves along
  const pointAt = (event) => {
    const box = dragging.getBoundingClientRect();
    return (plan.steps * (event.clientX - box.left)) / box.width;
  };
  document.addEventListener("pointerdown", (event) => {
    const rail = event.target.closest?.("#branch .sage-rail");
    const lines = event.target.closest?.("#plan .sage-plan");
    if (!(rail || lines) || !plan || plan.sharing === "tree" || event.button) return;
    dragging = rail ?? lines;
    moveTo(pointAt(event));
    if (rail) knob().focus({ preventScroll: true });
    event.preventDefault();
  });
  document.addEventListener("pointermove", (event) => dragging && moveTo(pointAt(event)));
  for (const end of ["pointerup", "pointercancel"])
    document.addEventListener(end, () => (dragging = null));
  window.addEventListener("resize", () => requestAnimationFrame(refreshPoint));

  // -- on arrival the handle plays once: nothing shared, too late, the recommended point ----------
  let playing = 0;
  const stopPlaying = () => {
    cancelAnimationFrame(playing);
    playing = 0;
    preview = null;
  };
  const SCENES = [[0, 0, 700], [0, 1, 2300], [1, 1, 900], [1, null, 1300]]; // from, to, milliseconds
  const play = () => {
    const rest = Number(slider()?.value ?? plan.point), { steps } = plan, begun = performance.now();
    const length = SCENES.reduce((sum, [, , time]) => sum + time, 0);
    const frame = (now) => {
      let time = now - begun;
      if (time >= length || !playing) {
        stopPlaying();
        return refreshPoint();
      }
      const [from, to, span] = SCENES.find(([, , each]) => time < each || ((time -= each), false));
      const end = to === null ? rest / steps : to, share = time / span;
      const eased = share * share * (3 - 2 * share);
      const next = Math.round(steps * (from + (end - from) * eased));
      if (next !== preview) {
        preview = next;
        refreshPoint();
      }
      playing = requestAnimationFrame(frame);
    };
    preview = 0;
    playing = requestAnimationFrame(frame);
    refreshPoint();
  };
  let arrived = false;
  const arrive = () => {
    if (arrived || !readPlan() || !readStrip() || !slider()) return;
    arrived = true;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const onStudio = one(STUDIO)?.offsetParent !== null;
    if (!still && onStudio && !/[?&](prompt|set)=/.test(location.search) && plan.sharing === "groups" && document.visibilityState === "visible") play();
  };
  for (const kind of ["pointerdown", "keydown"])
    document.addEventListener(kind, () => { if (playing) { stopPlaying(); refreshPoint(); } }, true);

  // -- distance over branch point, beside the equal-NFE baseline ----------------------------------
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const drawCurve = (point) => {
    const box = one("#curve .sage-curve");
    if (!box) return;
    box.classList.toggle("sage-none", !strip);
    const width = box.clientWidth;
    if (!strip || !width || !plan) return;
    const together = plan.groups.filter((group) => group.length > 1).flat();
    if (!together.length) return;
    const height = 220, pad = { left: 58, right: 96, top: 14, bottom: 40 };
    const curves = ["shared", "fewer"].map((side) => strip.ready
      .filter((p) => strip.points[p][side])
      .map((p) => [p, p ? mean(together.map((n) => strip.points[p][side].twin[n])) : 0]));
    const { top, marks } = sageTree.axisMarks(Math.max(...curves.flat().map(([, value]) => value), 1e-6));
    const x = (p) => pad.left + (p / plan.steps) * (width - pad.left - pad.right);
    const y = (value) => height - pad.bottom - (value / top) * (height - pad.top - pad.bottom);
    const svg = one("svg", box);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const parts = [];
    for (const { value, text } of marks) {
      parts.push(`<line class="sage-grid-line" x1="${x(0)}" x2="${x(plan.steps)}" y1="${y(value)}" y2="${y(value)}"/>`);
      parts.push(`<text x="${pad.left - 8}" y="${y(value) + 4}" text-anchor="end">${text}</text>`);
    }
    for (const p of [0, Math.round(plan.steps / 2), plan.steps])
      parts.push(`<text x="${x(p)}" y="${height - pad.bottom + 18}" text-anchor="middle">${p}</text>`);
    parts.push(`<text x="${(x(0) + x(plan.steps)) / 2}" y="${height - 6}" text-anchor="middle">shared steps</text>`);
    parts.push(`<text transform="translate(14 ${(pad.top + height - pad.bottom) / 2}) rotate(-90)" text-anchor="middle">distance</text>`);
    parts.push(`<line class="sage-now" x1="${x(point)}" x2="${x(point)}" y1="${pad.top}" y2="${y(0)}"/>`);
    curves.forEach((curve, k) => {
      if (!curve.length) return;
      const line = curve.map(([p, value]) => `${x(p).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
      const [end, value] = curve.at(-1);
      parts.push(`<polyline class="sage-curve-${k ? "fewer" : "shared"}" points="${line}"/>`);
      parts.push(`<text x="${x(end) + 6}" y="${y(value) + 4}">${k ? "fewer steps" : "shared"}</text>`);
    });
    svg.innerHTML = parts.join("");
    const at = nearest(point);
    const said = curves.map((curve) => curve.find(([p]) => p === at)?.[1].toFixed(3) ?? "none");
    svg.setAttribute("aria-label", `Mean distance to the independent pictures by shared steps. ` +
      `At ${at}: shared ${said[0]}, fewer steps at the same cost ${said[1]}.`);
    one(".sage-note", box).textContent = `At ${at} shared steps: ${said[0]}; fewer steps at the same cost: ${said[1]}. 0 is the same picture.`;
  };

  // -- the closer look: both pictures of one prompt, with a line between them ---------------------
  const closer = () => one("#closer .sage-look");
  const cutAt = (value) => one(".sage-wipe")?.style.setProperty("--cut", `${value}%`);
  const lookCloser = (pair) => {
    const look = closer(), wipe = one(".sage-wipe", look);
    const first = one(".sage-expected", pair) ? "expected" : "independent"; // of a look, or of both sides
    const ends = all(".sage-ends span", look);
    for (const [k, layer, side] of [[1, "under", "shared"], [0, "over", first]]) {
      ends[k].textContent = one(`.sage-${side} b`, pair)?.textContent ?? "";
      const from = one(`.sage-${side} img`, pair), to = one(`.sage-${layer}`, wipe);
      to.hidden = !from;
      if (from) [to.src, to.alt] = [from.src, from.alt];
    }
    one("h2", look).textContent = `${one(".sage-name b", pair).textContent} ${one(".sage-prompt", pair).textContent}`;
    one(".sage-scores", look).textContent = all(".sage-shot", pair)
      .map((shot) => all("p", shot).map((p) => p.textContent.trim()).filter(Boolean).join(", ")).join(" · ");
    wipe.style.setProperty("--group", pair.style.getPropertyValue("--group"));
    look.showModal();
  };
  document.addEventListener("input", (event) => {
    if (event.target.closest(".sage-wipe")) cutAt(event.target.value);
  });
  document.addEventListener("click", (event) => {
    const picture = event.target.closest?.("#pictures .sage-frame");
    if (picture && one("img", picture)) lookCloser(picture.closest(".sage-pair"));
    if (event.target.matches?.("#closer dialog")) event.target.close(); // a click beside it
  });

  // -- which one is shared? counted here and nowhere else ------------------------------------------
  let game = null;
  const startGuess = () => {
    const pairs = all("#pictures .sage-pair")
      .filter((pair) => plan.groups.some((group) => group.length > 1 && group.includes(Number(pair.dataset.p))))
      .filter((pair) => one(".sage-shared img", pair) && one(".sage-independent img", pair));
    if (!pairs.length || !pointNow()) return say("Nothing is shared here; move the branch point or render first.");
    game = { pairs, at: 0, right: 0 };
    nextGuess();
    one("#closer .sage-guess").showModal();
  };
  const say = (words) => { one("#branch output").textContent = words; };
  const nextGuess = () => {
    const box = one("#closer .sage-guess"), place = one(".sage-guess-pair", box), pair = game.pairs[game.at];
    place.replaceChildren();
    const tally = one(".sage-guess-tally", box);
    if (!pair) {
      one(".sage-guess-prompt", box).textContent = `${game.right} of ${game.pairs.length} right; by chance it would be about ${game.pairs.length / 2}.`;
      return (tally.textContent = game.right > game.pairs.length / 2 ? "You can tell: try an earlier branch point." : "You could not tell them apart: sharing passes.");
    }
    one(".sage-guess-prompt", box).textContent = `${game.at + 1} of ${game.pairs.length}: ${one(".sage-prompt", pair).textContent}`;
    const sides = Math.random() < 0.5 ? ["shared", "independent"] : ["independent", "shared"];
    sides.forEach((side, k) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      const picture = image(one(`.sage-${side} img`, pair).src);
      picture.alt = k ? "Right picture" : "Left picture";
      button.append(picture);
      button.addEventListener("click", () => {
        const right = side === "shared";
        game.right += right;
        game.at += 1;
        tally.textContent = right ? "Right." : "No, it was the other one.";
        nextGuess();
      });
      place.append(button);
    });
  };

  // -- a picture to share: pairs, prompts and the saving ------------------------------------------
  const shareCard = () => {
    const pairs = all("#pictures .sage-pair").filter((pair) => one(".sage-shared img", pair));
    if (!pairs.length) return say("There are no pictures yet.");
    const side = pairs.length > 8 ? 110 : 150, columns = Math.min(pairs.length, 4), gap = 14, pad = 36;
    const rows = Math.ceil(pairs.length / columns), cell = 2 * side + 6;
    const width = Math.max(2 * pad + columns * (cell + gap) - gap, 720), height = 150 + rows * (side + 46) + 40;
    const canvas = Object.assign(document.createElement("canvas"), { width: 2 * width, height: 2 * height });
    const pen = canvas.getContext("2d");
    pen.scale(2, 2);
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, width, height);
    const write = (words, x, y, font, color = "#1f2530", most = width - 2 * pad) => {
      pen.font = `${font} "Sage Sans", sans-serif`;
      pen.fillStyle = color;
      pen.fillText(words, x, y, most);
    };
    const tagline = one("#sage-title h1 small").textContent.trim();
    write(tagline[0].toUpperCase() + tagline.slice(1), pad, 56, "700 26px");
    const result = one("#outcome .sage-result")?.textContent.split(",")[0] ?? "";
    write(result, pad, 88, "400 17px", "#5b6473");
    write(`Left shared, right independent, ${one("#branch output").textContent}`, pad, 114, "400 15px", "#5b6473");
    pairs.forEach((pair, k) => {
      const x = pad + (k % columns) * (cell + gap), y = 136 + Math.floor(k / columns) * (side + 46);
      ["shared", "independent"].forEach((kind, j) => {
        const shot = one(`.sage-${kind} img`, pair);
        if (shot?.naturalWidth) pen.drawImage(shot, x + j * (side + 6), y, side, side);
      });
      write(one(".sage-prompt", pair).textContent, x, y + side + 20, "400 14px", "#1f2530", cell);
    });
    write("SAGE Studio · shared-trajectory diffusion", pad, height - 18, "400 13px", "#5b6473");
    const link = Object.assign(document.createElement("a"), { download: "sage.png", href: canvas.toDataURL("image/png") });
    link.click();
  };

  // -- the tree's own buttons ----------------------------------------------------------------------
  const toggle = (button, name) => {
    const on = one("#card-compare").classList.toggle(name);
    button.setAttribute("aria-pressed", String(on));
    requestAnimationFrame(refreshPoint);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-do]");
    if (!button) return;
    const acts = {
      guess: startGuess,
      share: shareCard,
      numbers: () => toggle(button, "sage-numbers"),
      rival: () => toggle(button, "sage-rivals"),
      present: () => present(!presenting()),
    };
    acts[button.dataset.do]?.();
  });

  // -- a product's table shows one side at a time ---------------------------------------------------
  let tableSide = "shared";
  const showSide = () => {
    const table = one("#pictures .sage-table");
    if (!table) return;
    const buttons = all(".sage-switch button", table);
    if (!buttons.some((button) => button.dataset.side === tableSide)) tableSide = buttons[0].dataset.side;
    if (table.dataset.shown !== tableSide) table.dataset.shown = tableSide;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.side === tableSide));
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("#pictures [data-side]:is(button)");
    if (!button) return;
    tableSide = button.dataset.side;
    showSide();
  });

  // -- ticks on the pictures of a look: which prompts are to be finished ---------------------------
  document.addEventListener("change", (event) => {
    const box = one("#chosen textarea, #chosen input");
    if (!event.target.matches?.("#pictures [data-tick]") || !box) return;
    box.value = all("#pictures [data-tick]:checked").map((tick) => tick.dataset.tick).join(" ");
    box.dispatchEvent(new Event("input", { bubbles: true }));
    followForm();
  });

  // -- words of the vocabulary are tapped into the prompts ------------------------------------------
  document.addEventListener("click", (event) => {
    const word = event.target.closest?.("#known [data-word]");
    const text = one("#prompts textarea");
    if (!word || !text) return;
    const next = word.dataset.word;
    const joint = !text.value || /[\s{|]$/.test(text.value) || /^[|}\n]/.test(next) ? "" : " ";
    text.value += joint + next;
    keepField(text);
    text.dispatchEvent(new Event("input", { bubbles: true }));
  });

  // -- what a control refuses is said beside that control, wherever else it is said too --------------
  const tellRefusals = () => {
    const told = new Map(all("[data-of]").map((note) => [note.dataset.of, note.textContent.replace(/^Cannot render yet: /, "")]));
    for (const line of all(".sage-refusal")) if (told.get(line.dataset.about) !== line.textContent) line.remove();
    for (const [id, words] of told) {
      const control = id !== "seed" && document.getElementById(id); // the seed stands beside Render
      if (!control || one(".sage-refusal", control)) continue;
      const line = Object.assign(document.createElement("p"), { className: "sage-note sage-error sage-refusal", textContent: words });
      line.dataset.about = id;
      control.append(line);
    }
  };

  // -- what a visitor changes while a link or a record opens is put back when that is open ----------
  let opening = location.search !== "";
  const kept = new Map(); // by the control's id: what puts back what the visitor did
  const keep = (id, putBack) => opening && kept.set(id, putBack);
  const keepField = (field) => {
    const id = field.closest("div[id]")?.id, kind = field.matches("textarea") ? "textarea" : `input[type=${field.type}]`;
    const name = field.type === "checkbox" ? "checked" : "value", held = field[name];
    if (!id || field.matches("[role=combobox], [type=file]")) return;
    keep(id, () => {
      const now = one(`#${CSS.escape(id)} ${kind}`); // it may have been made anew
      if (!now || now[name] === held) return;
      now[name] = held;
      for (const event of ["input", "change", "blur"]) now.dispatchEvent(new Event(event, { bubbles: true }));
    });
  };
  document.addEventListener("input", (event) => {
    if (event.isTrusted && event.target.closest?.("#sage-main, #sage-folds")) keepField(event.target);
  });
  const choices = (id) => one(`#${CSS.escape(id)} [role=combobox]`);
  const keepChoice = (event) => {
    if (!opening || !event.isTrusted) return;
    const id = event.target.closest?.("#sage-main div[id], #sage-folds div[id]")?.id;
    const before = id && choices(id)?.value; // its box shows the title of what is chosen
    if (!before) return;
    setTimeout(() => {
      const held = choices(id)?.value;
      if (held !== before) keep(id, () => choose(id, held));
    });
  };
  /** Chooses by title: a list is there once its box has the focus, and hears the mouse. */
  const choose = async (id, title) => {
    const box = choices(id);
    if (!box || box.value === title) return;
    box.focus();
    await new Promise(requestAnimationFrame);
    const option = all(`#${CSS.escape(id)} [role=option]`).find((each) => each.ariaLabel === title);
    option?.dispatchEvent(new MouseEvent("mousedown", { bubbles: true }));
    box.blur();
  };
  document.addEventListener("mousedown", keepChoice, true);
  document.addEventListener("keydown", keepChoice, true);
  document.addEventListener("click", (event) => {
    const example = event.isTrusted && event.target.closest?.("#sage-examples button");
    if (example) keep("prompts", () => example.click());
  });
  window.addEventListener("sage-opening", () => (opening = true));
  window.addEventListener("sage-opened", () => {
    opening = false;
    kept.forEach((putBack) => putBack());
    kept.clear();
    followForm();
  });

  // -- the address follows the form ------------------------------------------------------------------
  const holdsPrompts = (query) => query.has("prompt") || query.has("set");
  const VIEW = ["__theme", "present", "view", "tab"]; // of an address, what is not of the form
  const TICKS = "tick", EXPLORE = "x-"; // prompts of a look to finish; the other tab's form
  const promptsIn = (query) => JSON.stringify([query.getAll("prompt"), query.getAll("set")]);
  /** The ticks of a look where they are not as they were at first; those of a link until it is looked. */
  const ticksFor = (next, now) => {
    const ticks = all("#pictures [data-tick]"), on = ticks.filter((tick) => tick.checked);
    if (ticks.length) return on.length === ticks.length ? null : on.map((tick) => Number(tick.dataset.tick) + 1).join(",");
    return promptsIn(next) === promptsIn(now) ? now.get(TICKS) : null;
  };
  let first = null; // the form as the page is served: it needs no address of its own
  const followForm = () => {
    const told = one("#address [data-query]")?.dataset.query;
    if (!told) return;
    first ??= told;
    const now = new URLSearchParams(location.search);
    if (opening) return;
    const next = new URLSearchParams(told === first && !holdsPrompts(now) ? "" : told);
    const ticks = ticksFor(next, now);
    if (ticks !== null) next.set(TICKS, ticks);
    const explored = one("#explore-address [data-query]")?.dataset.query;
    for (const [name, value] of explored === undefined ? now : new URLSearchParams(explored))
      if (name.startsWith(EXPLORE)) next.append(name, value);
    for (const name of VIEW) if (now.has(name)) next.set(name, now.get(name));
    const query = next.size ? `?${next}` : "";
    if (query !== location.search) history.replaceState(null, "", location.pathname + query + location.hash);
  };

  // -- in a classroom: large type and keys -----------------------------------------------------------
  const present = (on) => {
    document.documentElement.classList.toggle("sage-present", on);
    const button = one("[data-do=present]");
    button?.setAttribute("aria-pressed", String(on));
    const query = new URLSearchParams(location.search);
    if (query.has("present") !== on) {
      if (on) query.set("present", "1");
      else query.delete("present");
      history.replaceState(null, "", `${location.pathname}?${query}${location.hash}`);
    }
    window.dispatchEvent(new Event("resize")); // what is drawn is drawn anew
  };
  const presenting = () => document.documentElement.classList.contains("sage-present");
  if (new URLSearchParams(location.search).has("present")) present(true);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, [role=slider], [role=radio], [contenteditable]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!presenting() || one("dialog[open]") || event.target.closest("[data-roving], [role=tab], [role=grid], .handle")) return;
    const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key], up = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    const panel = all("#tab-lesson .lesson-panel").find((each) => each.offsetParent);
    const range = panel && one("input[type=range]", panel);
    if (along && panel) one(`.lesson-go[data-go="${along}"]`)?.click();
    else if (along && one(STUDIO)?.offsetParent) moveTo(pointNow() + along);
    else if (up && range) {
      range.value = Number(range.value) + up;
      range.dispatchEvent(new Event("input", { bubbles: true }));
    } else return;
    event.preventDefault();
  });

  // -- after every update from the server, what the browser added is put back ---------------------
  const refresh = () => {
    all("[data-roving]").forEach(enterable);
    showSide();
    refreshPoint();
    followForm();
    tellRefusals();
    arrive();
    if (near ?? pinned) light(); // what was drawn anew is not lit yet
  };
  // An update may change nothing but an attribute: how far a run is, or what the address is.
  const OWN_DATA = ["data-step", "data-state", "data-finished", "data-plan", "data-query", "data-strip", "data-point", "data-of", "max"];
  let due = false;
  new MutationObserver((changes) => {
    const studio = one(STUDIO);
    const ours = (node) => node.closest?.("#pictures, #similarity, #plan, #chips, #branch-step, #address, #curve, #outcome, #explore-address, #explore-cost, #scrub-note");
    if (due || !studio || !changes.some((change) => ours(change.target))) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      refresh();
    });
  }).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: OWN_DATA });
  refresh();
}
