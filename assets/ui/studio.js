// The page's own JavaScript: addresses of tabs, linked highlighting, scrubbing, the closer look.
// Gradio runs it once when the page has loaded. Nothing here asks the server for anything.
() => {
  const OWN_TABS = ["studio", "lesson", "explore"];
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  // -- tabs: #lesson (or ?tab=lesson) opens the lesson; a change of tab changes the address -----
  const wanted = () =>
    location.hash.slice(1) || new URLSearchParams(location.search).get("tab") || "";
  const openTab = () => {
    const name = wanted().toLowerCase();
    all("#sage-tabs [role=tab]").find((tab) => tab.dataset.tabId === name)?.click();
  };
  document.addEventListener("click", (event) => {
    const tab = event.target.closest("#sage-tabs [role=tab]");
    if (!OWN_TABS.includes(tab?.dataset.tabId)) return;
    // Whole, for "#..." alone would be read against the page's <base> and lose the query.
    history.replaceState(null, "", location.pathname + location.search + "#" + tab.dataset.tabId);
  });
  window.addEventListener("hashchange", openTab);
  openTab();

  // -- linked highlighting: data-p names the prompts that an element stands for ------------------
  const STUDIO = "#tab-studio";
  const promptsOf = (element) => element.dataset.p.split(" ");
  let pinned = null; // the prompts of what was clicked, or null

  const light = (prompts) => {
    const studio = one(STUDIO);
    if (!studio) return;
    studio.classList.toggle("sage-linked", Boolean(prompts));
    for (const element of all("[data-p]", studio)) {
      const mine = promptsOf(element);
      // A cell of the matrix stands for a pair: with one prompt, its row and column light up.
      element.classList.toggle("sage-lit", Boolean(prompts) && mine.some((p) => prompts.includes(p)));
    }
    for (const name of all("button.sage-name", studio)) {
      name.setAttribute("aria-pressed", String(Boolean(pinned?.includes(name.dataset.p))));
    }
  };
  const linkable = (event) => event.target.closest?.(`${STUDIO} [data-p]`);
  document.addEventListener("pointerover", (event) => {
    const element = linkable(event);
    light(element ? promptsOf(element) : pinned);
  });
  document.addEventListener("focusin", (event) => {
    const element = linkable(event);
    if (element?.matches(":focus-visible")) light(promptsOf(element));
  });
  document.addEventListener("focusout", (event) => linkable(event) && light(pinned));
  document.addEventListener("click", (event) => {
    const element = linkable(event);
    if (!element) return;
    if (element.dataset.why !== undefined) explainPair(element);
    const prompts = promptsOf(element);
    pinned = pinned?.join() === prompts.join() ? null : prompts;
    light(pinned ?? prompts);
    if (prompts.length === 1) lookCloser(prompts[0]);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && pinned) light((pinned = null));
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

  // -- scrubbing: the sheet holds a row of pictures for each branch point that is ready -----------
  let strip = null; // what the page holds now: sheet, tile, points, and the tiles cut so far
  const readStrip = () => {
    const sheet = one("#pictures .sage-sheet");
    if (!sheet) return (strip = null);
    // The element may be the old one with a new sheet in it.
    if (strip?.sheet === sheet && strip.source === sheet.src) return strip;
    all("#pictures .sage-shot").forEach((shot) => delete shot.dataset.row);
    strip = { sheet, source: sheet.src, ...JSON.parse(sheet.dataset.strip), cut: new Map() };
    strip.ready = Object.keys(strip.points).map(Number);
    return strip;
  };
  const tile = (row, column) => {
    const key = `${row},${column}`;
    if (!strip.cut.has(key)) {
      const size = strip.tile;
      const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
      const from = [column * size, row * size, size, size];
      canvas.getContext("2d").drawImage(strip.sheet, ...from, 0, 0, size, size);
      strip.cut.set(key, canvas.toDataURL());
    }
    return strip.cut.get(key);
  };
  const nearest = (point) =>
    strip.ready.reduce((best, p) => (Math.abs(p - point) < Math.abs(best - point) ? p : best));
  const scrub = () => {
    const slider = one("#branch-step input[type=range]");
    if (!slider || !readStrip()) return;
    if (!strip.sheet.complete) return strip.sheet.decode().then(scrub, () => {});
    const shown = strip.points[nearest(Number(slider.value))];
    all("#pictures .sage-pair").forEach((pair, column) => {
      for (const side of ["shared", "fewer"]) {
        const shot = one(`.sage-${side}`, pair);
        if (!shot) continue;
        shot.classList.toggle("sage-absent", !shown[side]);
        if (shown[side]) showTile(shot, shown[side], column);
      }
    });
    fillCloser();
  };
  const refreshPoint = () => {
    followSlider();
    scrub();
  };
  const showTile = (shot, frame, column) => {
    if (shot.dataset.row === String(frame.row)) return;
    shot.dataset.row = frame.row;
    one("img", shot).src = tile(frame.row, column);
    const [done, scores] = all("p", shot);
    one("span", done).textContent = frame.done[column];
    scores.innerHTML = frame.scores[column];
  };
  // On a phone a second slider stands at the pictures; it moves the real one and follows it. While
  // it is being moved it leads: an answer to an earlier move would set it back under the finger.
  let leads = 0;
  const followSlider = () => {
    const [real, near] = [one("#branch-step input[type=range]"), one("#nearby input")];
    if (!near) return;
    one("#nearby").classList.toggle("sage-none", !real);
    if (!real) return;
    if (near.max !== real.max) near.max = real.max;
    if (near.value !== real.value && !leads) near.value = real.value;
    const words = `${near.value} of ${near.max}`;
    near.setAttribute("aria-valuetext", words);
    near.style.setProperty("--fill", near.value / near.max);
    if (one("#nearby output").textContent !== words) one("#nearby output").textContent = words;
  };
  const moveSlider = (near) => {
    clearTimeout(leads);
    leads = setTimeout(() => {
      leads = 0;
      followSlider();
    }, 600);
    const real = one("#branch-step input[type=range]");
    real.value = near.value;
    for (const kind of ["input", "change"]) real.dispatchEvent(new Event(kind, { bubbles: true }));
    followSlider();
  };
  document.addEventListener("input", (event) => {
    if (event.target.matches("#nearby input")) return moveSlider(event.target);
    // A number that is typed reaches the slider a moment later.
    if (event.target.closest("#branch-step")) requestAnimationFrame(refreshPoint);
    if (event.target.closest(".sage-wipe")) cutAt(event.target.value);
  });

  // -- the closer look: both pictures of one prompt, with a line between them ---------------------
  let chosen = "0";
  const cutAt = (value) => one(".sage-wipe")?.style.setProperty("--cut", `${value}%`);
  const lookCloser = (prompt) => {
    chosen = prompt;
    fillCloser();
  };
  const fillCloser = () => {
    const wipe = one(".sage-wipe");
    const pairs = all("#pictures .sage-pair");
    if (!wipe || !pairs.length) return;
    const pair = pairs[chosen] ?? pairs[0];
    for (const [layer, side] of [["under", "shared"], ["over", "independent"]]) {
      const from = one(`.sage-${side} img`, pair);
      const to = one(`.sage-${layer}`, wipe);
      to.hidden = !from;
      if (!from) continue;
      if (to.src !== from.src) to.src = from.src;
      to.alt = from.alt;
    }
    const name = one(".sage-name", pair);
    const title = `${one("b", name).textContent} ${one(".sage-prompt", name).textContent}`;
    const place = one(".sage-closer-name");
    if (place.textContent !== title) place.textContent = title;
    wipe.style.setProperty("--group", pair.style.getPropertyValue("--group"));
  };

  // -- after every update from the server, what the browser added is put back ---------------------
  const refresh = () => {
    all("[data-roving]").forEach(enterable);
    refreshPoint();
    fillCloser();
    if (pinned) light(pinned);
  };
  let due = false;
  new MutationObserver((changes) => {
    const studio = one(STUDIO);
    const ours = (node) => node.closest?.("#pictures, #similarity, #plan, #chips, #closer");
    if (due || !studio || !changes.some((change) => ours(change.target))) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      refresh();
    });
  }).observe(document.body, { childList: true, subtree: true });
  refresh();
}
