"""Pages in headless Chromium, and what the browser tests do on them in few words."""

import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect, sync_playwright

# The shell is the same engine without windows and menus, and takes a tenth less of the processor.
EXECUTABLES = ("chromium-headless-shell", "chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# Console errors that gradio 6.31 itself causes, with the reason; all others fail the test.
# One test cuts the connection; a request that was on its way then says so.
ALLOWED_ERRORS = ("net::ERR_INTERNET_DISCONNECTED",)
PROMPTS = "a fox in the snow\na dog in the snow\na whale under water\na pizza"
STUDIO = ("#similarity table", "#plan svg")  # what stands on a page that has arrived
HANDLE = "#branch-step"  # the form's slider is hidden; the handle on the tree moves it
PATIENCE = 30_000  # milliseconds; a loaded machine is slow, a broken page is slower
expect.set_options(timeout=PATIENCE)


@contextmanager
def launched():
    """The browser; a test that needs it is skipped where there is none."""
    executable = next(filter(None, map(shutil.which, EXECUTABLES)), None)
    if executable is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium-headless-shell)")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


class Pages:
    """Lends pages of one browser; those handed back are lent again and remember no visitor.

    A page that has shown Gradio before has its scripts read and compiled: it shows it again in
    three fifths of the processor's time.
    """

    def __init__(self, browser):
        self.browser = browser
        self._free = []  # (settings of the context, its page)

    @contextmanager
    def lent(self, origin):
        """Gives pages by size and settings of their context; for visits of one address."""
        lent = []

        def lend(width=1440, height=900, **settings):
            size = {"width": width, "height": height}
            entry = next((one for one in self._free if one[0] == settings), None)
            if entry:
                self._free.remove(entry)
            else:
                context = self.browser.new_context(viewport=size, **settings)
                entry = settings, context.new_page()
            lent.append(entry)
            entry[1].set_viewport_size(size)
            return entry[1]

        yield lend
        for settings, page in lent:
            if not page.is_closed():
                _forget(page, origin)
                self._free.append((settings, page))


def _forget(page, origin):
    """Leaves nothing of a visit; the page stays in its process, with the scripts it compiled."""
    context = page.context
    context.set_offline(False)
    context.clear_permissions()
    for other in context.pages:
        if other is not page:
            other.close()
    page.unroute_all()
    page.goto(f"{origin}/robots.txt")
    page.evaluate("sessionStorage.clear(), window.name = ''")
    page.mouse.move(0, 0)
    session = context.new_cdp_session(page)
    kinds = "cookies,local_storage,indexeddb,service_workers,cache_storage"
    session.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": kinds})
    session.send("Page.resetNavigationHistory")
    session.detach()


@contextmanager
def listening(page, **listeners):
    """Calls a listener for each event of its name while the block runs."""
    for event, listener in listeners.items():
        page.on(event, listener)
    yield
    for event, listener in listeners.items():
        page.remove_listener(event, listener)


@contextmanager
def visits(pages, origin, ready=()):
    """Opens addresses of a page; nothing may go wrong in the browser meanwhile.

    `ready` are selectors that stand in the page before it is handed out.
    """
    problems, visited = [], []

    def on_console(message):
        if message.type == "error":
            problems.append(message.text)

    def on_request(request):
        if not request.url.startswith((origin, "data:", "blob:")):
            problems.append(f"request to {request.url}")

    def on_response(response):
        if response.status >= 500:
            problems.append(response.url)

    listeners = {
        "console": on_console,
        "pageerror": lambda error: problems.append(str(error)),
        "request": on_request,
        "response": on_response,
    }

    def open_page(width=1440, height=900, theme="light", address="", permissions=(), **settings):
        still = {"reduced_motion": "reduce"}  # else the handle plays once on arrival
        page = lend(width, height, **(still | settings))
        page.context.grant_permissions(list(permissions), origin=origin)
        page.set_default_timeout(PATIENCE)
        for event, listener in listeners.items():
            page.on(event, listener)
        visited.append(page)
        page.goto(f"{origin}/?__theme={theme}{address}")
        for selector in ready:
            page.wait_for_selector(selector, state="attached")
        return page

    with pages.lent(origin) as lend:
        yield open_page
        for page in visited:
            for event, listener in listeners.items():
                page.remove_listener(event, listener)
    assert not [p for p in problems if not any(known in p for known in ALLOWED_ERRORS)]


def until(page, condition):
    """Waits for something that the test itself can tell, while the page goes on."""
    for _ in range(PATIENCE // 50):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not happen")


def find(page, selector):
    return page.locator(selector)


def shows(page, selector, text):
    expect(find(page, selector)).to_contain_text(text)


def type_prompts(page, text=PROMPTS):
    find(page, "#prompts textarea").fill(text)
    last = text.split("\n")[-1]
    shows(page, "#pictures", last)


def unfold(page, name):
    """Opens one of the sections beneath the tree."""
    find(page, f"#{name} button").first.click()


def set_number(page, slider, value):
    """Types a value; an accordion that has just opened may put its own back once."""
    box = find(page, f"{slider} input[type=number]")
    for _ in range(10):
        box.fill(str(value))
        box.press("Enter")
        page.wait_for_timeout(300)
        if box.input_value() == str(value):
            return


def check_accessibility(page, context=None):
    """axe finds nothing of ours."""
    from axe_playwright_python.sync_playwright import Axe

    # A button that fades in is pale on its way; what counts is where it arrives.
    page.wait_for_function("document.getAnimations().every(a => !(a instanceof CSSTransition))")
    violations = Axe().run(page, context=context).response["violations"]
    # Gradio's own: footer icons repeat their text; boxes of plots carry a label without a role.
    gradios = {"image-redundant-alt", "aria-prohibited-attr"}
    ours = [v for v in violations if v["id"] not in gradios]
    assert not [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in ours]


def drag_by_keys(page, slider, key, times=1):
    handle = "#branch .sage-knob" if slider == HANDLE else f"{slider} input[type=range]"
    for _ in range(times):
        find(page, handle).press(key)


def render(page):
    find(page, "#render").click()
    expect(find(page, ".sage-pairs[data-state=done]")).to_be_visible()


def pick(page, dropdown, title):
    find(page, f"{dropdown} input").click()
    page.get_by_role("option", name=title, exact=True).click()
