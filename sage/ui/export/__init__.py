"""What leaves the page and comes back: links, records, lines of Python, sheets."""
