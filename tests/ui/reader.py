"""Reads the page's HTML as a browser does."""

import json
from html.parser import HTMLParser

HOSTILE = """<img src=x onerror=alert(1)> "quoted" 'single' <script>1</script> &amp;"""
VOID = ("img", "br", "input")


class Reader(HTMLParser):
    """Tags, attributes and text; fails on tags left open."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(source)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, **wanted):
        """Attributes of the elements of a tag that have these values."""
        pairs = zip(self.tags, self.attributes, strict=True)
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in wanted.items()}
        return [a for t, a in pairs if t == tag and wanted.items() <= a.items()]

    @property
    def is_safe(self):
        """Whether nothing in it could run."""
        handlers = [name for found in self.attributes for name in found if name.startswith("on")]
        return "script" not in self.tags and not handlers


def plan_data(source):
    """What a plan gives the script to draw."""
    (host,) = Reader(source).all("div", class_="sage-plan")
    return json.loads(host["data-plan"])
